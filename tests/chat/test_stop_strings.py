"""Stop strings are found wherever the pieces of a text end, and nothing is held back longer than it must be."""

import random
from time import perf_counter

import pytest

from baichuan2.chat.stop_strings import StopStrings
from baichuan2.errors import SettingsError


def cut(text, strings):
    """What stands before the stop string that is complete first, the longest of those; slow and obvious."""
    ends = [(text.find(string) + len(string), -len(string)) for string in strings if string in text]
    if not ends:
        return text, False
    end, negative_length = min(ends)
    return text[: end + negative_length], True


def pieces_of(text, chance):
    """The text in pieces of random lengths, empty ones among them."""
    place = 0
    while place < len(text):
        length = chance.choice([0, 1, 1, 2, 3, 7])
        yield text[place : place + length]
        place += length


@pytest.mark.parametrize("seed", range(10))
def test_any_pieces_give_what_find_gives_on_the_whole(seed):
    chance = random.Random(seed)
    for _ in range(200):
        letters = chance.choice(["ab", "abc", "好吗?"])
        strings = ["".join(chance.choices(letters, k=chance.randint(1, 6))) for _ in range(chance.randint(0, 5))]
        text = "".join(chance.choices(letters, k=chance.randint(0, 40)))
        stops = StopStrings(strings)
        given, read = "", ""
        for piece in pieces_of(text, chance):
            given += stops.push(piece)
            read += piece
            before, is_found = cut(read, strings)
            assert stops.is_found == is_found
            if is_found:
                assert given == before
                continue
            # held back is what may become a stop string, and no character more
            may_grow = [n for n in range(1, len(read) + 1) if any(s.startswith(read[-n:]) for s in strings)]
            assert stops.num_held == max(may_grow, default=0)
            assert given == read[: len(read) - stops.num_held]
        given += stops.finish()
        assert (given, stops.is_found) == cut(text, strings)


def test_what_looked_like_a_stop_string_is_let_go():
    stops = StopStrings(["\nUser:"])
    assert [stops.push(piece) for piece in ("Hi", "\nUs", "e", "d", ".")] == ["Hi", "", "", "\nUsed", "."]
    assert [stops.push(piece) for piece in ("\n", "\nUser", ": x", "y")] == ["", "\n", "", ""]
    assert stops.is_found
    assert stops.finish() == ""


def test_without_stop_strings_all_passes():
    stops = StopStrings(())
    assert stops.push("abc") == "abc"
    assert stops.finish() == ""


def test_one_string_is_a_list_of_one():
    assert StopStrings("ab").push("xaxab") == "xax"


@pytest.mark.parametrize("strings", [[""], ["a", ""], [None], [5], [b"a"], 5, None, {"a": 1}])
def test_what_is_no_stop_string(strings):
    with pytest.raises(SettingsError, match="stop"):
        StopStrings(strings)


@pytest.mark.parametrize(
    ("strings", "text"),
    [
        (["a" * 20_000 + "b"], "a" * 200_000),  # held back from the first character to the last
        (["a" * n for n in range(3000, 2000, -1)] + ["b" * 50], "b" * 49 + "a" * 1999 + "c" * 200_000),
        (["ab" * 5000 + "c"] * 50, "ab" * 100_000),
    ],
)
def test_hostile_strings_cost_no_more_time_a_character(strings, text):
    stops = StopStrings(strings)
    started = perf_counter()
    given = "".join(stops.push(character) for character in text) + stops.finish()
    assert given == cut(text, strings)[0]
    assert perf_counter() - started < 5  # 0.2 s; a quadratic one takes minutes
