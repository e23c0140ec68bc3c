import io
import sys
from collections.abc import Sequence

import pytest
from fake_session import FakeSession

from baichuan2.cli.conversation import Conversation
from baichuan2.cli.keyboard import LineReader
from baichuan2.cli.screen import ReplyPrinter
from baichuan2.cli.text import ENGLISH
from baichuan2.errors import ContextLengthError, GenerationError


class FakeTerminal:
    """A reader that calls itself a terminal and reads from a list."""

    is_terminal = True

    def __init__(self, messages: Sequence[str], edited: str | None = None) -> None:
        self.messages = list(messages)
        self.edited = edited
        self.num_clears = 0

    def read(self) -> str | None:
        return self.messages.pop(0) if self.messages else None

    def read_in_editor(self) -> str | None:
        return self.edited

    def clear_screen(self) -> None:
        self.num_clears += 1


def hold(session: FakeSession, reader: object, *, is_live: bool = True, is_json: bool = False) -> int:
    printer = ReplyPrinter("reply", is_live=is_live, is_json=is_json, speed_format=None)
    return Conversation(session, reader, printer, ENGLISH).run()


def pipe(text: str, monkeypatch) -> LineReader:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return LineReader(ENGLISH)


def test_piped_lines_are_answered_with_replies_alone_on_standard_output(monkeypatch, capsys):
    session = FakeSession()
    assert hold(session, pipe("你好\n\n   \n再见\n", monkeypatch)) == 0
    assert session.sent == ["你好", "再见"]
    assert capsys.readouterr() == ("echo:你好\necho:再见\n", "")


def test_official_words_work_in_a_pipe(monkeypatch, capsys):
    session = FakeSession()
    hold(session, pipe("一\nclear\nstream\n/help\nvim\n exit \n二\n", monkeypatch))
    assert session.sent == ["一"]
    assert session.events == ["closed 一", "clear"]
    out, err = capsys.readouterr()
    assert out == "echo:一\n"
    assert all(
        text in err for text in (ENGLISH.cleared, ENGLISH.stream_off, ENGLISH.help, ENGLISH.editor_needs_terminal)
    )


def test_a_word_inside_a_message_is_a_message(monkeypatch):
    session = FakeSession()
    hold(session, pipe("exit please\nclear it\nhelp\n", monkeypatch))
    assert session.sent == ["exit please", "clear it", "help"]


def test_clear_empties_history_and_screen(capsys):
    session, terminal = FakeSession(), FakeTerminal(["clear"])
    hold(session, terminal)
    assert session.events == ["clear"]
    assert terminal.num_clears == 1


def test_vim_sends_what_was_written_and_shows_it(capsys):
    session = FakeSession()
    hold(session, FakeTerminal(["vim"], edited="第一行\n第二行"))
    assert session.sent == ["第一行\n第二行"]
    assert "第一行\n第二行" in capsys.readouterr().err


def test_what_is_written_in_vim_is_no_command():
    session = FakeSession()
    hold(session, FakeTerminal(["vim", "after"], edited="exit"))
    assert session.sent == ["exit", "after"]


def test_vim_with_nothing_written_sends_nothing():
    session = FakeSession()
    hold(session, FakeTerminal(["vim"]))
    assert session.sent == []


def test_stream_switches_and_switches_back(capsys):
    hold(FakeSession(), FakeTerminal(["stream", "stream"]))
    assert capsys.readouterr().err.splitlines() == [ENGLISH.stream_off, ENGLISH.stream_on]


def test_stream_starts_as_the_settings_say(capsys):
    hold(FakeSession(), FakeTerminal(["stream"]), is_live=False)
    assert capsys.readouterr().err.splitlines() == [ENGLISH.stream_on]


def test_ctrl_c_in_a_terminal_stops_one_reply_and_the_dialogue_goes_on(capsys):
    session = FakeSession({"slow": KeyboardInterrupt()})
    hold(session, FakeTerminal(["slow", "next"]))
    assert session.sent == ["slow", "next"]
    out, err = capsys.readouterr()
    assert out == "Model: echo:\nModel: echo:next\n"
    assert err == ENGLISH.interrupted + "\n"


def test_ctrl_c_in_a_pipe_ends_the_program(monkeypatch):
    session = FakeSession({"slow": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        hold(session, pipe("slow\nnext\n", monkeypatch))
    assert session.sent == ["slow"]


def test_an_error_in_a_terminal_is_one_line_and_the_dialogue_goes_on(capsys):
    session = FakeSession({"big": ContextLengthError("too long\nby 3")})
    assert hold(session, FakeTerminal(["big", "next"])) == 0
    assert session.sent == ["big", "next"]
    assert capsys.readouterr().err == "error: too long by 3\n"


@pytest.mark.parametrize("last", ["next", "next\nexit"])
@pytest.mark.parametrize("error_class", [ContextLengthError, GenerationError])
def test_an_error_in_a_pipe_is_one_line_and_the_exit_code_and_the_dialogue_goes_on(
    error_class, last, monkeypatch, capsys
):
    session = FakeSession({"big": error_class("too long\nby 3")})
    assert hold(session, pipe(f"big\n{last}\n", monkeypatch)) == 2
    assert session.sent == ["big", "next"]
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "echo:next"
    assert err == "error: too long by 3\n"


def test_a_reply_cut_by_its_length_says_so_in_a_terminal_only(monkeypatch, capsys):
    hold(FakeSession(), FakeTerminal(["long"]))
    assert ENGLISH.length_limit in capsys.readouterr().err
    hold(FakeSession(), pipe("long\n", monkeypatch))
    assert capsys.readouterr().err == ""


def test_json_in_a_terminal_has_no_label(capsys):
    hold(FakeSession(), FakeTerminal(["x"]), is_json=True)
    assert capsys.readouterr().out.startswith('{"reply": "echo:x"')


def test_messages_that_no_longer_fit_are_told_when_their_number_grows(capsys):
    hold(FakeSession(), FakeTerminal(["1", "2", "3", "clear", "4"]))
    told = [line for line in capsys.readouterr().err.splitlines() if "oldest" in line]
    assert told == [ENGLISH.dropped.format(count=2), ENGLISH.dropped.format(count=4)]
