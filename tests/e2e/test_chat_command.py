"""`baichuan2 chat` and `generate` on a tiny model, through the front door."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT

from baichuan2.chat.reply import collect, stream_completion
from baichuan2.chat.session import ChatSession
from baichuan2.checkpoints.load import load_model
from baichuan2.cli.main import main
from baichuan2.cli.screen import printable
from baichuan2.settings import SamplingSettings

GREEDY = SamplingSettings(temperature=0, max_new_tokens=6)
GREEDY_FLAGS = ["--temperature", "0", "--max-new-tokens", "6", "--language", "en"]


@pytest.fixture(scope="module")
def loaded(model_folder):
    return load_model(str(model_folder))


@pytest.fixture
def run(model_folder, monkeypatch, capsys):
    """Runs a command on the tiny model with some standard input; (exit code, standard output, standard error)."""

    def run_command(name: str, *flags: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main([name, "--model", str(model_folder), *GREEDY_FLAGS, *flags])
        return code, *capsys.readouterr()

    return run_command


def session_replies(loaded, *messages: str, system: str | None = None) -> list[str]:
    session = ChatSession(loaded, system=system, sampling=GREEDY)
    return [printable(session.ask(message).text) for message in messages]


def test_piped_lines_are_one_conversation(run, loaded):
    code, out, err = run("chat", stdin="你好\n再来\n")
    first, second = session_replies(loaded, "你好", "再来")
    assert (code, out) == (0, f"{first}\n{second}\n")
    assert err.startswith("loading ")


def test_clear_makes_the_model_forget(run, loaded):
    _, out, _ = run("chat", stdin="你好\nclear\n再来\n")
    assert out == "".join(f"{session_replies(loaded, message)[0]}\n" for message in ("你好", "再来"))
    assert session_replies(loaded, "你好", "再来")[1] != session_replies(loaded, "再来")[0]


def test_prompt_answers_once_and_leaves_standard_input_alone(run, loaded):
    _, out, _ = run("chat", "--prompt", "你好", stdin="never read\n")
    assert out == session_replies(loaded, "你好")[0] + "\n"
    assert sys.stdin.read() == "never read\n"


def test_prompt_dash_is_all_of_standard_input(run, loaded):
    _, out, _ = run("chat", "--prompt", "-", stdin="你好\n再来\n")
    assert out == session_replies(loaded, "你好\n再来")[0] + "\n"


def test_system_text_changes_the_reply(run, loaded):
    _, out, _ = run("chat", "--system", "答", "--prompt", "你好")
    assert out == session_replies(loaded, "你好", system="答")[0] + "\n"
    assert out != session_replies(loaded, "你好")[0] + "\n"


def test_text_is_the_same_without_streaming(run):
    assert run("chat", "--prompt", "你好", "--no-stream")[1] == run("chat", "--prompt", "你好")[1]


def test_json_line(run, loaded):
    _, out, _ = run("chat", "--json", stdin="你好\n再来\n")
    replies = [json.loads(line) for line in out.splitlines()]
    session = ChatSession(loaded, sampling=GREEDY)
    for reply, message in zip(replies, ("你好", "再来"), strict=True):
        expected = session.ask(message)
        assert (reply["reply"], reply["finish_reason"]) == (expected.text, expected.finish_reason)
        assert reply["usage"]["completion_tokens"] == expected.usage.completion_tokens
        assert reply["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


def test_show_speed(run):
    _, _, err = run("chat", "--show-speed", "--prompt", "你好")
    assert "tokens/s" in err.splitlines()[-1]


def test_bytes_that_are_no_text_do_no_harm(run):
    code, out, err = run("chat", stdin=b"\xff\xfe\n".decode("utf-8", "surrogateescape"))
    assert code == 0, err
    assert out


def test_too_long_a_message_is_one_line_and_the_next_is_answered(run, loaded):
    code, out, err = run("chat", stdin="长" * 600 + "\n你好\n")
    assert (code, out) == (2, session_replies(loaded, "你好")[0] + "\n")
    assert [line.startswith("error: ") for line in err.splitlines()].count(True) == 1
    assert err.splitlines()[-1].startswith("error: ")


def test_generate_continues_the_text_and_leaves_it_out(run, loaded):
    expected = printable(collect(stream_completion(loaded, "夜雨寄北->", GREEDY)).text) + "\n"
    assert run("generate", "--prompt", "夜雨寄北->")[:2] == (0, expected)
    assert run("generate", stdin="夜雨寄北->\n")[1] == expected
    assert run("generate", "--prompt", "-", stdin="夜雨寄北->\n")[1] == expected


def test_generate_in_json(run, loaded):
    _, out, _ = run("generate", "--json", "--prompt", "夜雨寄北->")
    assert json.loads(out)["completion"] == collect(stream_completion(loaded, "夜雨寄北->", GREEDY)).text


def test_generate_in_a_terminal_asks_for_a_prompt(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(io, "StringIO", Terminal)
    code, _, err = run("generate")
    assert code == 2
    assert err.startswith("error: --prompt is missing")


def test_generate_uses_the_base_model_by_default(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        "baichuan2.checkpoints.load.load_for_replies", lambda name, settings, **_: asked.append(name) or 1 / 0
    )
    monkeypatch.delenv("BAICHUAN2_MODEL", raising=False)
    main(["generate", "--prompt", "x"])
    main(["chat", "--prompt", "x"])
    assert asked == ["demo-base", None]


def test_a_model_that_is_not_there_is_one_line(capsys):
    assert main(["chat", "--model", "/no/such/folder", "--prompt", "x"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("command", [["cli_demo.py"], ["-m", "baichuan2", "chat"]])
def test_a_process_prints_the_reply_and_nothing_else(command, model_folder, loaded, tmp_path):
    environment = os.environ | {"BAICHUAN2_MODEL": str(model_folder), "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command, *GREEDY_FLAGS],
        input="你好\n",
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, session_replies(loaded, "你好")[0] + "\n"), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []  # the history is for terminals


@pytest.mark.parametrize(
    ("command", "code", "has_reply", "error"),
    [
        ("chat <&-", 0, False, "ready after "),
        ("chat --prompt 你好 >&-", 0, False, "ready after "),
        ("chat --prompt 你好 <&- 2>&-", 0, True, ""),
        ("chat --prompt 你好 <&- >&- 2>&-", 0, False, ""),
        ("chat --prompt - <&-", 2, False, "error: --prompt is empty: standard input held no text"),
        ("generate <&-", 2, False, "error: --prompt is empty: standard input held no text"),
        ("nonsense 2>&-", 2, False, ""),
    ],
)
def test_a_closed_standard_stream_is_an_empty_one(command, code, has_reply, error, model_folder, loaded):
    name, *rest = command.split(" ", 1)
    flags = [] if name == "nonsense" else GREEDY_FLAGS
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m baichuan2 {name} "$@" {" ".join(rest)}', sys.executable, *flags],
        env=os.environ | {"BAICHUAN2_MODEL": str(model_folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    expected = session_replies(loaded, "你好")[0] + "\n" if has_reply else ""
    assert (done.returncode, done.stdout) == (code, expected), done.stderr
    assert (done.stderr.splitlines() or [""])[-1].startswith(error)
    assert "Error" not in done.stderr


def test_the_shim_is_short():
    lines = (ROOT / "cli_demo.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 10


def test_the_shim_without_the_package_says_what_to_type(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", str(Path(ROOT) / "cli_demo.py")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: baichuan2 is not installed: run  pip install -r requirements.txt\n"
