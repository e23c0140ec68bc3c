import io
import stat
import sys
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from baichuan2.cli.keyboard import LineReader, TerminalReader, history_path, open_reader, read_prompt, starts_next_line
from baichuan2.cli.text import ENGLISH
from baichuan2.errors import SettingsError


def all_messages(reader: LineReader | TerminalReader) -> list[str]:
    messages = []
    while (message := reader.read()) is not None:
        messages.append(message)
    return messages


@pytest.fixture
def state_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def typed(keys: str) -> list[str]:
    """The messages that a terminal reader makes of key presses, ended by Ctrl-D."""
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys + "\x04")
        return all_messages(TerminalReader(ENGLISH))


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("一\n二\r\n\n三", ["一", "二", "", "三"]),
        ("first \\\nsecond\\\nthird\nnext\n", ["first \nsecond\nthird", "next"]),
        ("path C:\\\\\n", ["path C:\\\\"]),
        ("open \\", ["open "]),
        ("", []),
        ("a\udce6b\n", ["a\ufffdb"]),
    ],
)
def test_lines_of_standard_input(text, messages, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert all_messages(LineReader(ENGLISH)) == messages


def test_one_backslash_continues_and_two_are_text():
    assert starts_next_line("a\\")
    assert not starts_next_line("a\\\\")
    assert not starts_next_line("a")


@pytest.mark.parametrize(("stdin", "stdout"), [(False, True), (True, False), (False, False)])
def test_a_pipe_on_either_side_means_plain_lines(stdin, stdout, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: stdin, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: stdout, raising=False)
    assert isinstance(open_reader(ENGLISH), LineReader)


def test_an_editor_needs_a_terminal(capsys):
    assert LineReader(ENGLISH).read_in_editor() is None
    assert capsys.readouterr().err == ENGLISH.editor_needs_terminal + "\n"


def test_terminal_lines_and_both_ways_to_write_several(state_folder):
    assert typed("望岳\r") == ["望岳"]
    assert typed("one\\\rtwo\rnext\r") == ["one\ntwo", "next"]
    assert typed("one\x1b\rtwo\r") == ["one\ntwo"]  # Alt-Enter


def test_ctrl_c_throws_away_what_was_typed(state_folder, capsys):
    assert typed("first part\\\rtypo\x03good\r") == ["good"]
    assert ENGLISH.leave_hint in capsys.readouterr().err


def test_history_outlives_the_program_and_is_private(state_folder):
    typed("remember me\r")
    path = state_folder / "baichuan2" / "history"
    assert "remember me" in path.read_text(encoding="utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_earlier_input_comes_back_with_the_up_key(state_folder):
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        reader = TerminalReader(ENGLISH)
        pipe.send_text("earlier\r")
        assert reader.read() == "earlier"
        pipe.send_text("\x1b[A\r")
        assert reader.read() == "earlier"


def test_a_history_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert typed("works\r") == ["works"]
    assert capsys.readouterr().err.count("is not kept") == 1


def test_history_path_follows_the_xdg_rules():
    assert history_path({"XDG_STATE_HOME": "/s"}) == Path("/s/baichuan2/history")
    default = Path.home() / ".local" / "state" / "baichuan2" / "history"
    assert history_path({}) == history_path({"XDG_STATE_HOME": "relative"}) == default


@pytest.fixture
def terminal_reader(state_folder):
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield TerminalReader(ENGLISH)


def write_editor(folder: Path, body: str) -> Path:
    path = folder / "my editor"
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{body}\n")
    path.chmod(0o755)
    return path


def test_editor_writes_a_message_of_several_lines(terminal_reader, tmp_path, monkeypatch):
    editor = write_editor(tmp_path, "Path(sys.argv[2]).write_text(f'{sys.argv[1]}\\n第二行\\n', encoding='utf-8')")
    monkeypatch.setenv("EDITOR", f"'{editor}' --wait")
    assert terminal_reader.read_in_editor() == "--wait\n第二行"


def test_editor_is_never_given_to_a_shell(terminal_reader, tmp_path, monkeypatch, capsys):
    victim = tmp_path / "victim"
    editor = write_editor(tmp_path, "Path(sys.argv[-1]).write_text('|'.join(sys.argv[1:-1]))")
    monkeypatch.setenv("EDITOR", f"'{editor}' ; touch {victim} $(touch {victim})")
    assert terminal_reader.read_in_editor() == f";|touch|{victim}|$(touch|{victim})"
    assert not victim.exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit(3)", "ended with code 3"),
        ("pass", ENGLISH.editor_empty),
        ("Path(sys.argv[1]).unlink()", ENGLISH.editor_empty),
        ("Path(sys.argv[1]).unlink(); Path(sys.argv[1]).mkdir()", ENGLISH.editor_empty),
        ("import shutil; shutil.rmtree(Path(sys.argv[1]).parent)", ENGLISH.editor_empty),
    ],
)
def test_an_editor_that_gives_nothing(body, message, terminal_reader, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EDITOR", f"'{write_editor(tmp_path, body)}'")
    assert terminal_reader.read_in_editor() is None
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("editor", ["no-such-editor-here", "'unbalanced"])
def test_an_editor_that_is_not_there(editor, terminal_reader, monkeypatch, capsys):
    monkeypatch.setenv("EDITOR", editor)
    assert terminal_reader.read_in_editor() is None
    assert editor in capsys.readouterr().err


def test_default_editor_is_vim(terminal_reader, tmp_path, monkeypatch):
    editor = write_editor(tmp_path, "Path(sys.argv[1]).write_text('from vim')")
    editor.rename(tmp_path / "vim")
    monkeypatch.delenv("EDITOR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert terminal_reader.read_in_editor() == "from vim"


def test_prompt_flag(monkeypatch):
    assert read_prompt(None) is None
    assert read_prompt("你好") == "你好"
    monkeypatch.setattr(sys, "stdin", io.StringIO("line one\nline two\n"))
    assert read_prompt("-") == "line one\nline two"


@pytest.mark.parametrize("prompt", ["", "  ", "-"])
def test_an_empty_prompt_is_refused(prompt, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(SettingsError, match="--prompt is empty"):
        read_prompt(prompt)
