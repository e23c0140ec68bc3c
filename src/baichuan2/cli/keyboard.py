"""Where a chat message comes from: a terminal with line editing, or lines of standard input.

Both readers give one message at a time and None at the end. prompt_toolkit is imported only for a terminal.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from baichuan2.cli.screen import notice, without_surrogates
from baichuan2.cli.text import Words
from baichuan2.errors import SettingsError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import History


class Reader(Protocol):
    """The source of messages."""

    is_terminal: bool

    def read(self) -> str | None:
        """The next message, None when there is no more."""

    def read_in_editor(self) -> str | None:
        """A message written in the user's editor; None when there is none, after saying why."""

    def clear_screen(self) -> None:
        """Empties the screen, if there is one."""


def open_reader(words: Words) -> Reader:
    """Line editing when both standard input and output are terminals, else plain lines."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return TerminalReader(words)
    return LineReader(words)


def read_prompt(prompt: str | None) -> str | None:
    """The text that --prompt stands for: `-` is all of standard input, None stays None.

    Raises:
        SettingsError: the text is empty.
    """
    if prompt is None:
        return None
    text = without_surrogates(sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt)
    if not text.strip():
        raise SettingsError("--prompt is empty: " + ("standard input held no text" if prompt == "-" else "give a text"))
    return text


def starts_next_line(line: str) -> bool:
    """Whether the message goes on below: the line ends with one backslash (two are text)."""
    return line.endswith("\\") and not line.endswith("\\\\")


class LineReader:
    """One message a line from standard input, for pipes and files; a backslash at the end joins the next line."""

    is_terminal = False

    def __init__(self, words: Words) -> None:
        self.words = words

    def read(self) -> str | None:
        """The next message, None at the end of the input."""
        lines: list[str] = []
        while line := sys.stdin.readline():
            line = line.rstrip("\r\n")
            if not starts_next_line(line):
                return without_surrogates("\n".join([*lines, line]))
            lines.append(line[:-1])
        return without_surrogates("\n".join(lines)) if lines else None

    def read_in_editor(self) -> str | None:
        """Always None: an editor would fight for the same input."""
        notice(self.words.editor_needs_terminal)
        return None

    def clear_screen(self) -> None:
        """Does nothing: there is no screen."""


class TerminalReader:
    """A prompt with line editing, wide characters, several lines and a history that outlives the program."""

    is_terminal = True

    def __init__(self, words: Words) -> None:
        self.words = words
        self.session = self._open_session()

    def read(self) -> str | None:
        """The next message, None after Ctrl-D; Ctrl-C throws away what was typed."""
        lines: list[str] = []
        while True:
            try:
                line = self.session.prompt([("ansigreen bold", "" if lines else self.words.user_label)])
            except EOFError:
                return None
            except KeyboardInterrupt:
                notice(self.words.leave_hint)
                lines = []
                continue
            if not starts_next_line(line):
                return without_surrogates("\n".join([*lines, line]))
            lines.append(line[:-1])

    def read_in_editor(self) -> str | None:
        """What the user writes in $EDITOR; None, with a notice, when the editor fails or nothing is written."""
        editor = os.environ.get("EDITOR") or "vim"
        with tempfile.TemporaryDirectory(prefix="baichuan2-") as folder:
            path = Path(folder) / "message.txt"
            path.touch(mode=0o600)
            try:
                # EDITOR may hold arguments ("code --wait"); it is split here and never given to a shell
                code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
            except (OSError, ValueError):
                notice(self.words.editor_missing.format(editor=editor))
                return None
            if code != 0:
                notice(self.words.editor_failed.format(editor=editor, code=code))
                return None
            try:
                text = path.read_text(encoding="utf-8", errors="replace").strip()
            except OSError:  # the editor took the file away
                text = ""
        if not text:
            notice(self.words.editor_empty)
            return None
        return text

    def clear_screen(self) -> None:
        """Empties the screen."""
        from prompt_toolkit.shortcuts import clear

        clear()

    def _open_session(self) -> "PromptSession[str]":
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        bindings = KeyBindings()

        @bindings.add("escape", "enter")  # what terminals send for Alt-Enter
        def _start_new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        return PromptSession(history=self._open_history(), key_bindings=bindings)

    def _open_history(self) -> "History":
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        path = history_path(os.environ)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)  # messages are private
            with path.open("ab"):
                pass
        except OSError:
            notice(self.words.history_unavailable.format(path=path))
            return InMemoryHistory()
        return FileHistory(str(path))


def history_path(environment: Mapping[str, str]) -> Path:
    """The file of past input: under $XDG_STATE_HOME, by default ~/.local/state."""
    state = environment.get("XDG_STATE_HOME", "")
    # the XDG rules: a relative path is to be ignored
    folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return folder / "baichuan2" / "history"
