"""A conversation: what is remembered, above all when a reply ends early."""

import pytest

from baichuan2.chat.messages import Message
from baichuan2.chat.session import ChatSession
from baichuan2.errors import ContextLengthError, GenerationError
from baichuan2.settings import SamplingSettings
from tests.chat.talkers import TOKENIZER, talker


def said(session):
    return [(message.role, message.content) for message in session.messages]


def test_the_earlier_turns_are_in_the_next_prompt():
    loaded = talker("好的", "四十")
    session = ChatSession(loaded, system="你是谁")
    assert session.ask("记住这个").text == "好的"
    assert "".join(chunk.text for chunk in session.send("再说")) == "四十"
    assert said(session) == [
        ("system", "你是谁"),
        ("user", "记住这个"),
        ("assistant", "好的"),
        ("user", "再说"),
        ("assistant", "四十"),
    ]
    assert loaded.model.prompt_texts[1] == (
        "你是谁<reserved_106>记住这个<reserved_107>好的<reserved_106>再说<reserved_107>"
    )


def test_the_sampling_is_the_sessions():
    session = ChatSession(talker("一二三四五"), sampling=SamplingSettings(max_new_tokens=2))
    assert session.ask("数").finish_reason == "length"
    assert len(TOKENIZER.encode_text(session.messages[-1].content)) == 2


def test_messages_is_a_copy_and_clear_keeps_the_system_text():
    session = ChatSession(talker("好"), system="系统")
    session.messages.clear()
    session.ask("你好")
    assert said(session) == [("system", "系统"), ("user", "你好"), ("assistant", "好")]
    session.clear()
    assert session.messages == [Message("system", "系统")]
    assert ChatSession(talker("好"), system="").messages == []


@pytest.mark.parametrize("ends", ["close", "abandon", "Ctrl-C"])
def test_what_an_interrupted_reply_said_stays(ends):
    loaded = talker("好的没问题", "是")
    session = ChatSession(loaded)
    chunks = session.send("你好")
    heard = next(chunks).text + next(chunks).text
    if ends == "close":
        chunks.close()
    elif ends == "Ctrl-C":
        with pytest.raises(KeyboardInterrupt):
            chunks.throw(KeyboardInterrupt)
    assert said(session) == [("user", "你好"), ("assistant", heard)]
    session.ask("还在吗")
    assert f"<reserved_107>{heard}<reserved_106>还在吗" in loaded.model.prompt_texts[1]


def test_a_cancelled_reply_stays_as_far_as_it_came():
    loaded = talker("好的没问题")
    session = ChatSession(loaded)
    text = "".join(chunk.text for chunk in session.send("你好", cancelled=lambda: loaded.model.num_said == 2))
    assert text
    assert said(session) == [("user", "你好"), ("assistant", text)]


def test_a_round_without_a_word_of_reply_leaves_no_trace():
    loaded = talker("好的没问题", fails_after=0)
    session = ChatSession(loaded)
    with pytest.raises(GenerationError):
        session.ask("你好")
    assert session.messages == []
    session.send("不听")  # never iterated
    assert list(session.send("不", cancelled=lambda: True))[-1].finish_reason == "cancelled"
    assert session.messages == []
    loaded.model.fails_after = None
    loaded.model.prompts.clear()
    assert session.ask("你好").text == "好的没问题"


def test_a_model_that_fails_on_the_way_leaves_what_it_said():
    session = ChatSession(talker("好的没问题", fails_after=2))
    with pytest.raises(GenerationError):
        session.ask("你好")
    assert said(session) == [("user", "你好"), ("assistant", "好的")]


def test_an_empty_reply_is_a_reply():
    session = ChatSession(talker(""))
    assert session.ask("你好").text == ""
    assert said(session) == [("user", "你好"), ("assistant", "")]


def test_a_reply_that_outlives_clear_cannot_come_back():
    session = ChatSession(talker("好的没问题"))
    chunks = session.send("你好")
    next(chunks)
    session.clear()
    list(chunks)
    assert session.messages == []


def test_a_message_that_never_fits_is_refused_and_forgotten():
    session = ChatSession(talker("好", "好", context=40, max_new_tokens=20))
    session.ask("你好")
    before = session.messages
    with pytest.raises(ContextLengthError):
        session.send("很长" * 30)
    assert session.messages == before


def test_old_rounds_leave_the_prompt_but_not_the_history():
    session = ChatSession(talker(*["好"] * 12, context=40, max_new_tokens=10))
    dropped = [session.ask("你好你好").usage.dropped_messages for _ in range(12)]
    assert dropped[0] == 0
    assert dropped == sorted(dropped)
    assert dropped[-1] > 0
    assert len(session.messages) == 24
