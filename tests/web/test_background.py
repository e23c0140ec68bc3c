"""A reply beside the page: it goes on between two looks, and stops when it is no longer wanted."""

import threading
import time

from baichuan2.chat.reply import ReplyChunk
from baichuan2.errors import ContextLengthError, GenerationError
from baichuan2.settings import SamplingSettings
from baichuan2.web.background import BackgroundReply
from tests.web.scripted import ScriptedModel


def start(model, **options):
    return BackgroundReply(lambda cancelled: model.stream_reply([], SamplingSettings(), cancelled), **options)


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def follow(reply):
    text = ""
    while not reply.is_done:
        text = reply.wait(5, len(text))
    return reply.wait(0, 0)


def test_the_whole_reply_arrives():
    reply = start(ScriptedModel("你好，世界。"))
    assert follow(reply) == "你好，世界。"
    assert (reply.finish_reason, reply.usage.prompt_tokens, reply.error) == ("stop", 50, None)


def test_waiting_ends_with_the_first_new_text():
    model = ScriptedModel("一二三四五六")
    model.may_go_on.clear()
    reply = start(model)
    assert reply.wait(20, 0) == "一二三"
    before = time.monotonic()
    assert reply.wait(0.05, 3) == "一二三"  # no more for now: the page gets a chance to look around
    assert time.monotonic() - before < 5
    model.may_go_on.set()
    assert follow(reply) == "一二三四五六"


def test_cancelling_stops_the_model_and_keeps_what_was_said():
    model = ScriptedModel("一二三" * 1000)
    model.may_go_on.clear()
    reply = start(model)
    text = reply.wait(20, 0)
    reply.cancel()
    model.may_go_on.set()
    wait_until(lambda: model.num_stopped == 1 and reply.is_done)
    assert reply.text == text


def test_a_reply_that_nobody_looks_at_stops():
    model = ScriptedModel("一" * 10_000, piece=1, pause=0.01)
    reply = start(model, patience=0.3)
    wait_until(lambda: reply.is_done)
    assert reply.finish_reason == "cancelled"
    assert 0 < len(reply.text) < 10_000


def test_looking_at_it_keeps_it_going():
    model = ScriptedModel("一" * 60, piece=1, pause=0.02)
    reply = start(model, patience=0.5)  # in all it takes longer than that
    assert follow(reply) == "一" * 60
    assert reply.finish_reason == "stop"


def test_users_mistakes_and_our_own_are_errors_of_the_reply():
    reply = start(ScriptedModel(ContextLengthError("too long")))
    assert follow(reply) == ""
    assert isinstance(reply.error, ContextLengthError)
    reply = start(ScriptedModel(ZeroDivisionError("secret")))
    follow(reply)
    assert isinstance(reply.error, GenerationError)
    assert str(reply.error) == "the reply failed: ZeroDivisionError"


def test_the_stream_is_closed_in_its_own_thread():
    closed_by = []

    def chunks(cancelled):
        try:
            while True:  # never asks
                yield ReplyChunk("a")
                time.sleep(0.001)
        finally:
            closed_by.append(threading.current_thread().name)

    reply = BackgroundReply(chunks)
    reply.wait(20, 0)
    reply.cancel()
    wait_until(lambda: reply.is_done)
    assert closed_by == ["reply"]
