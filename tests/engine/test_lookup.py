"""Guesses: where they come from, how many are made, and that text without repetition gets none."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan2.engine.lookup import LONGEST_KEY, LONGEST_MATCH, Drafter

PASSAGE = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]


def after(token_ids):
    drafter = Drafter([])
    for token_id in token_ids:
        drafter.append(token_id)
    return drafter


def passes_over(text, most=15):
    """How many forward passes write `text`, and in how many of them something was guessed in vain."""
    drafter, place, num_passes, num_vain = Drafter([]), 0, 0, 0
    while place < len(text):
        draft = drafter.draft(min(most, len(text) - place - 1))
        num_right = 0
        while num_right < len(draft) and draft[num_right] == text[place + num_right]:
            num_right += 1
        for token_id in text[place : place + num_right + 1]:
            drafter.append(token_id)
        place += num_right + 1
        num_passes += 1
        num_vain += bool(draft) and not num_right
    return num_passes, num_vain


def test_a_passage_that_is_copied_is_guessed():
    assert Drafter([*PASSAGE, 99, *PASSAGE[:8]]).draft(5) == PASSAGE[8:13]
    assert after([*PASSAGE, 99, *PASSAGE]).draft(63)[:3] == [99, 11, 12]


def test_nothing_is_guessed_without_a_match_or_after_little_of_one():
    assert Drafter([]).draft(9) == []
    assert Drafter([1, 2, 3]).draft(9) == []
    assert Drafter([1, 2, 3, 4, 1]).draft(9) == []  # one equal token proves nothing yet
    assert Drafter([*PASSAGE, *PASSAGE[:8]]).draft(0) == []


def test_a_text_in_a_loop_is_guessed_beyond_its_own_end():
    assert after([7, 8] * 40).draft(9) == [7, 8, 7, 8, 7, 8, 7, 8, 7]
    assert after([5] * 40).draft(15) == [5] * 15


def test_the_longer_match_decides_then_the_later_one():
    text = [1, 2, 3, 4, 50, 9, 2, 3, 4, 60, 8]
    assert Drafter([*text, 1, 2, 3, 4]).draft(1) == [50]
    assert Drafter([*text, 9, 2, 3, 4]).draft(1) == [60]
    assert Drafter([1, 2, 3, 4, 50, 1, 2, 3, 4, 60, 1, 2, 3, 4]).draft(1) == [60]


def test_a_copy_goes_on_where_it_is_though_a_part_of_it_stood_later():
    source = [*PASSAGE, 1, 2, 3, 4, 70, 31, 32, 33, 1, 2, 3, 4, 80]
    drafter = after([*source, 99, *source[:-1]])
    assert drafter.draft(1) == [80]


def test_wrong_guesses_end_and_right_ones_bring_more():
    alternating = random.Random(0)
    drafter = after([*PASSAGE, 99])
    lengths = []
    for _ in range(30):  # four known tokens, and then something new each time
        for token_id in (*PASSAGE[:5], alternating.randrange(1000, 9999)):
            drafter.append(token_id)
        lengths.append(len(drafter.draft(15)))
        for token_id in PASSAGE[:4]:
            drafter.append(token_id)
        drafter.append(alternating.randrange(1000, 9999))
    assert Drafter([*PASSAGE, 99, *PASSAGE[:4]]).draft(15)
    for token_id in PASSAGE[:4]:
        drafter.append(token_id)
    assert drafter.draft(15) == []
    assert len(after(PASSAGE * 8).draft(15)) == 15


def test_text_without_repetition_is_not_slowed():
    numbers = random.Random(0)
    for vocabulary in (300, 125_696):
        text = [int(numbers.paretovariate(0.6)) % vocabulary for _ in range(3000)]
        num_passes, num_vain = passes_over(text)
        assert num_passes + 0.2 * num_vain < 1.005 * len(text)


def test_a_copy_saves_most_passes_and_one_with_errors_still_many():
    numbers = random.Random(1)
    document = [numbers.randrange(1000) for _ in range(500)]
    num_passes, _ = passes_over([*document, *document])
    assert num_passes < 500 + 60
    damaged = [token_id if numbers.random() > 0.05 else 5000 for token_id in document]
    num_passes, _ = passes_over([*document, *damaged])
    assert num_passes < 500 + 150


@given(st.lists(st.integers(0, 3), max_size=80), st.integers(1, 20))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_draft_is_what_followed_an_earlier_equal_passage(text, most):
    drafter = after(text)
    draft = drafter.draft(most)
    assert len(draft) <= most
    if draft:
        whole = [*text, *draft]
        sources = [
            place
            for place in range(1, len(text))
            if all(whole[place + step] == token_id for step, token_id in enumerate(draft))
        ]
        assert any(text[place - 1] == text[-1] for place in sources)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_match_is_at_least_as_long_as_any_that_is_looked_up(text):
    drafter = after(text)
    longest = max(
        (
            length
            for length in range(1, LONGEST_KEY + 1)
            for end in range(length, len(text))
            if text[end - length : end] == text[-length:] and length < len(text)
        ),
        default=0,
    )
    assert longest <= drafter._length <= LONGEST_MATCH
