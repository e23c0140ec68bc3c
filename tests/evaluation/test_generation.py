"""Texts written side by side are those that each prompt gets alone, and end where they should."""

import threading

import pytest

from baichuan2.chat.reply import collect, stream_completion
from baichuan2.errors import ContextLengthError
from baichuan2.evaluation import generation
from baichuan2.evaluation.generation import TextRequest, generate_texts
from baichuan2.settings import SamplingSettings
from tests.chat.talkers import TOKENIZER, golden, talker
from tests.engine.golden_cases import CASES

EXAMPLE = "Question: one and two?\nAnswer: three\n\n"
ENDINGS = ("Question: a", "Question: 七", "Q", "x = [1,", "Question: a b c d")
PROMPTS = [EXAMPLE + ending for ending in ENDINGS]


def asked(text, *, max_new_tokens=12, **rest):
    return TextRequest(prompt_ids=TOKENIZER.encode_text(text), max_new_tokens=max_new_tokens, **rest)


def alone(loaded, text, max_new_tokens=12, stop=()):
    sampling = SamplingSettings(max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.0)
    return collect(stream_completion(loaded, text, sampling, stop=stop))


@pytest.mark.parametrize("case", CASES)
def test_each_text_is_the_one_that_its_prompt_gets_alone(case):
    loaded, _ = golden(case)
    requests = [asked(prompt, max_new_tokens=4 + index) for index, prompt in enumerate(PROMPTS)]
    written = dict(generate_texts(loaded, requests, at_once=3))
    assert sorted(written) == list(range(len(PROMPTS)))
    for index, prompt in enumerate(PROMPTS):
        expected = alone(loaded, prompt, 4 + index)
        assert written[index].text == expected.text
        assert written[index].finish_reason == expected.finish_reason
        assert written[index].num_new_tokens == expected.usage.completion_tokens


def test_what_prompts_begin_with_is_computed_once():
    loaded, _ = golden("rope_h4")
    beginning = EXAMPLE * 3  # 64 tokens at least: fewer are not waited for
    requests = [asked(beginning + ending, max_new_tokens=2) for ending in ENDINGS]
    written = dict(generate_texts(loaded, requests))
    shared = len(TOKENIZER.encode_text(beginning)) - 2  # the last piece may reach into what follows
    assert [written[index].num_reused_tokens >= shared for index in range(5)] == [False, True, True, True, True]


def test_a_text_ends_before_a_stop_string_and_says_so():
    loaded, _ = golden(CASES[0])
    whole = alone(loaded, PROMPTS[0]).text
    stop = whole[3:5]
    [(_, ended)] = generate_texts(loaded, [asked(PROMPTS[0], stop=(stop,))])
    assert ended.text == whole[: whole.index(stop)]
    assert (ended.finish_reason, ended.num_new_tokens < 12) == ("stop", True)
    [(_, cut)] = generate_texts(loaded, [asked(PROMPTS[0])])
    assert (cut.text, cut.finish_reason) == (whole, "length")


def test_nothing_is_computed_once_the_answer_is_settled(monkeypatch):
    monkeypatch.setattr(generation, "cache_memory", lambda *_, **__: None)  # a talker has no layers to count
    loaded = talker("So it is 5.\nAnd it is 6.\nAnd it is 7.")
    request = asked("a b", max_new_tokens=60, is_settled=lambda text: "6" in text)
    [(_, written)] = generate_texts(loaded, [request])
    assert written.text.strip() == "So it is 5.\nAnd it is 6."
    assert written.finish_reason == "stop"


def test_a_prompt_that_fills_the_context_is_refused_and_leaves_no_thread_behind():
    loaded, _ = golden(CASES[0])
    with pytest.raises(ContextLengthError, match=r"context"):
        list(generate_texts(loaded, [asked("好" * 3000)]))
    texts = generate_texts(loaded, [asked(prompt) for prompt in PROMPTS])
    next(texts)
    texts.close()
    assert "scheduler" not in {thread.name for thread in threading.enumerate()}


def test_nothing_asked_nothing_written():
    assert list(generate_texts(None, [])) == []


def test_prompts_are_made_as_there_is_room_for_them():
    loaded, _ = golden("rope_h4")
    made: list[int] = []

    def requests():
        for number in range(8):
            made.append(number)
            yield asked(f"Question: {number}", max_new_tokens=2)

    texts = generate_texts(loaded, requests(), at_once=2)
    next(texts)
    assert len(made) <= 5  # two that run, two that wait, and one in the place of the first that ended
    assert len([*texts]) == 7
