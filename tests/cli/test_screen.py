import io
import json
import sys

import pytest
from fake_session import FakeChunk, FakeSession, FakeUsage

from baichuan2.cli.screen import (
    ReplyPrinter,
    accept_any_text,
    notice,
    one_line,
    print_json,
    printable,
    without_surrogates,
)

ATTACK = "好\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\x08了\n\t."


def printer(*, is_live: bool = True, is_json: bool = False, speed_format: str | None = None) -> ReplyPrinter:
    return ReplyPrinter("reply", is_live=is_live, is_json=is_json, speed_format=speed_format)


def test_printable_takes_out_every_control_character_but_newline_and_tab():
    assert printable(ATTACK) == "好]0;owned[2J31m了\n\t."
    kept = [chr(code) for code in range(0x300) if printable(chr(code))]
    assert [char for char in kept if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0] == ["\t", "\n"]


def test_printable_keeps_emoji_sequences():
    assert printable("👩‍👩‍👧 café é 𠮷") == "👩‍👩‍👧 café é 𠮷"


def test_one_line():
    assert one_line("a\n  b\r\n\x1b[31mc\t") == "a b [31mc"


@pytest.mark.parametrize("is_live", [True, False])
def test_reply_goes_to_standard_output_without_control_characters(is_live, capsys):
    chunks = iter([FakeChunk("\x1b[2J一"), FakeChunk("二\x07", "stop", FakeUsage())])
    assert printer(is_live=is_live).print_reply(chunks).finish_reason == "stop"
    assert capsys.readouterr() == ("[2J一二\n", "")


def test_live_text_appears_before_the_reply_is_complete(capsys):
    seen = []

    def chunks():
        yield FakeChunk("一")
        seen.append(capsys.readouterr().out)
        yield FakeChunk("二", "stop")

    printer().print_reply(chunks())
    printer(is_live=False).print_reply(chunks())
    assert seen == ["一", "二\n"]


def test_json_is_one_line_with_reply_finish_reason_and_usage(capsys):
    printer(is_json=True).print_reply(iter([FakeChunk("a\n"), FakeChunk("\x1b\x9b\x7f你", "length", FakeUsage())]))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert printable(out) == out
    assert "你" in out
    usage = {"prompt_tokens": 3, "completion_tokens": 20, "seconds_prefill": 0.5, "seconds_decode": 2.0}
    usage |= {"dropped_messages": 0}
    assert json.loads(out) == {"reply": "a\n\x1b\x9b\x7f你", "finish_reason": "length", "usage": usage}


def test_print_json_escapes_what_terminals_obey(capsys):
    print_json({"text": ATTACK})
    out = capsys.readouterr().out
    assert printable(out) == out
    assert json.loads(out) == {"text": ATTACK}


def test_speed_goes_to_standard_error(capsys):
    form = "{tokens}|{speed:.1f}|{prompt_tokens}|{prefill}"
    printer(speed_format=form).print_reply(iter([FakeChunk("x", "stop", FakeUsage())]))
    assert capsys.readouterr() == ("x\n", "20|9.5|3|0.5\n")


def test_speed_of_a_reply_that_took_no_time(capsys):
    usage = FakeUsage(completion_tokens=1, seconds_decode=0.0)
    printer(speed_format="{speed}").print_reply(iter([FakeChunk("x", "stop", usage)]))
    assert capsys.readouterr().err == "0.0\n"


@pytest.mark.parametrize("is_live", [True, False])
def test_an_interrupted_reply_keeps_its_text_and_ends_its_line(is_live, capsys):
    session = FakeSession({"x": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        printer(is_live=is_live).print_reply(session.send("x"))
    assert capsys.readouterr().out == "echo:\n"
    assert session.events == ["closed x"]


def test_an_interrupted_reply_in_json_says_so(capsys):
    with pytest.raises(KeyboardInterrupt):
        printer(is_json=True).print_reply(FakeSession({"x": KeyboardInterrupt()}).send("x"))
    assert json.loads(capsys.readouterr().out) == {"reply": "echo:", "finish_reason": "cancelled", "usage": None}


def test_an_interrupt_while_printing_closes_the_iterator(monkeypatch):
    session = FakeSession()

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            if text == "echo:":
                raise KeyboardInterrupt
            return super().write(text)

    monkeypatch.setattr(sys, "stdout", Interrupting())
    chunks = session.send("x")  # held here, so that no garbage collection closes it
    with pytest.raises(KeyboardInterrupt):
        printer().print_reply(chunks)
    assert session.events == ["closed x"]


def test_a_reply_that_fails_before_its_first_word_prints_nothing(capsys):
    def chunks():
        raise ValueError("no")
        yield

    with pytest.raises(ValueError, match="no"):
        printer().print_reply(chunks())
    assert capsys.readouterr().out == ""


def test_notice_is_on_standard_error_and_harmless(capsys):
    notice("loading \x1b[31mmodel")
    assert capsys.readouterr() == ("", "loading [31mmodel\n")


def test_streams_replace_what_they_cannot_carry(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    accept_any_text()
    print("好", file=sys.stdout, flush=True)
    assert out.buffer.getvalue() == b"?\n"
    assert sys.stdin.readline() == "\ufffd\n"


def test_undecodable_arguments_become_replacement_characters():
    assert without_surrogates(b"a\xff\xe4".decode("utf-8", "surrogateescape")) == "a\ufffd\ufffd"
    assert without_surrogates("正\udce5\udb81\udc80") == "正\ufffd\ufffd\ufffd"
    assert without_surrogates("\udce6\udc9c\udc9b") == "望"
    assert without_surrogates("正常") == "正常"
