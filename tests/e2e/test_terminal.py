"""The chat in a pseudo terminal: keys in, screen out."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from tests.e2e.conftest import write_model_folder

SECONDS = 120.0  # a busy machine imports torch slowly


class Terminal:
    """A process on a pseudo terminal, with everything it has shown."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait_for(self, pattern: str) -> str:
        """What was shown up to the first match; the rest stays for the next call."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} never came: {self.shown!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.shown += os.read(self.master, 65536).decode("utf-8", "replace")
        seen, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return seen


@pytest.fixture
def terminal(tmp_path):
    """The chat on a tiny model whose replies are long."""
    # no stop token: nothing but the length limit or Ctrl-C ends a reply
    folder = write_model_folder(tmp_path / "model", "7b", eos_token_id=300, max_new_tokens=2000, model_max_length=4096)
    environment = os.environ | {"TERM": "xterm", "XDG_STATE_HOME": str(tmp_path / "state"), "LC_ALL": "C.UTF-8"}
    arguments = [sys.executable, "-m", "baichuan2", "chat", "--model", str(folder), "--temperature", "0"]
    opened = Terminal([*arguments, "--language", "en"], environment)
    yield opened
    if opened.process.poll() is None:
        opened.process.kill()
        opened.process.wait()
    os.close(opened.master)


def test_a_dialogue_with_ctrl_c_and_the_official_words(terminal, tmp_path):
    terminal.wait_for("You: ")
    terminal.type("你好\r")
    terminal.wait_for("Model: ..")
    os.killpg(terminal.process.pid, signal.SIGINT)  # what the terminal does for Ctrl-C in the foreground
    terminal.wait_for(r"\[stopped; what was said stays")
    terminal.wait_for("You: ")
    terminal.type("stream\r")
    terminal.wait_for("written: off")
    terminal.wait_for("You: ")
    terminal.type("clear\r")
    terminal.wait_for("forgotten")
    terminal.wait_for("You: ")
    terminal.type("abc\x03")
    terminal.wait_for("Ctrl-D to leave")
    terminal.wait_for("You: ")
    terminal.type("exit\r")
    assert terminal.process.wait(timeout=SECONDS) == 0
    assert "你好" in (tmp_path / "state" / "baichuan2" / "history").read_text(encoding="utf-8")


def test_ctrl_c_while_loading_leaves_quietly(terminal):
    terminal.wait_for("loading ")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.process.wait(timeout=SECONDS) == 130
    time.sleep(0.1)
    rest = terminal.shown
    while select.select([terminal.master], [], [], 0.2)[0]:
        try:
            rest += os.read(terminal.master, 65536).decode("utf-8", "replace")
        except OSError:  # the other side is closed
            break
    assert "Traceback" not in rest
    assert "error" not in rest
