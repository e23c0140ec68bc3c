"""Many conversations at once: the replies are those that each gets alone."""

import pytest

from baichuan2.chat.batch import chat_batch
from baichuan2.chat.reply import reply
from baichuan2.errors import ContextLengthError
from baichuan2.settings import SamplingSettings
from tests.chat.talkers import END, USER, golden, talker
from tests.engine.golden_cases import CASES


@pytest.mark.parametrize("case", CASES)
def test_each_reply_is_the_one_that_its_conversation_gets_alone(case):
    loaded, expected = golden(case)
    conversations = [
        expected["messages"],
        expected["messages2"],
        [{"role": "system", "content": "短"}, {"role": "user", "content": "一二三四五六七八九十"}],
        [{"role": "user", "content": "a"}],
    ]
    sampling = SamplingSettings(max_new_tokens=12, do_sample=False, repetition_penalty=1.1)
    alone = [reply(loaded, messages, sampling) for messages in conversations]
    together = chat_batch(loaded, conversations, sampling)
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.finish_reason for answer in together] == [answer.finish_reason for answer in alone]
    for batched, single in zip(together, alone, strict=True):
        assert batched.usage.prompt_tokens == single.usage.prompt_tokens
        assert batched.usage.completion_tokens == single.usage.completion_tokens
        assert batched.usage.seconds_prefill > 0
    assert len({answer.usage.seconds_decode for answer in together}) == 1


def test_with_a_seed_each_reply_is_the_one_that_its_conversation_gets_alone():
    loaded, expected = golden("rope_h4")
    conversations = [expected["messages"], [{"role": "user", "content": "a"}], expected["messages2"]]
    sampling = SamplingSettings(max_new_tokens=12, temperature=1.5, top_k=0, top_p=1.0, seed=4, presence_penalty=0.5)
    alone = [reply(loaded, messages, sampling).text for messages in conversations]
    assert [answer.text for answer in chat_batch(loaded, conversations, sampling)] == alone
    other = SamplingSettings(max_new_tokens=12, temperature=1.5, top_k=0, top_p=1.0, seed=5, presence_penalty=0.5)
    assert [answer.text for answer in chat_batch(loaded, conversations, other)] != alone


@pytest.mark.parametrize("end", [END, USER])
def test_stop_tokens_are_not_shown(end):
    [answer] = chat_batch(talker("好的", ending=[end]), [[{"role": "user", "content": "你好"}]])
    assert (answer.text, answer.finish_reason) == ("好的", "stop")


def test_nothing_to_answer():
    assert chat_batch(talker("好的"), []) == []


def test_one_conversation_that_does_not_fit_fails_the_batch_before_the_model_runs():
    loaded = talker("好的", context=20, max_new_tokens=10)
    with pytest.raises(ContextLengthError):
        chat_batch(loaded, [[{"role": "user", "content": text}] for text in ("好", "好" * 40)])
    assert loaded.model.num_calls == 0
