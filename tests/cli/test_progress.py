"""The bar of long work: on a terminal's standard error only, and not for what is done at once."""

import io
import sys
from types import SimpleNamespace

import pytest

from baichuan2.cli import progress
from baichuan2.cli.progress import bytes_bar, progress_bar


class Screen(io.StringIO):
    """Standard error that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Puts a terminal in the place of standard error; no fixture, whose change pytest would undo before the test."""
    found = Screen()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm-256color")
    return found


def test_the_bar_names_the_work_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with progress_bar("quantising") as show:
        show(0, 40)
        show(7, 40)
    assert "quantising" in screen.getvalue()
    assert "7/40" in screen.getvalue()


def test_bytes_are_told_as_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "120")
    with bytes_bar("fetching") as show:
        show(0, 15_000_000_000)
        show(7_500_000_000, 15_000_000_000)
    assert "7.5/15.0 GB" in screen.getvalue()


def test_quick_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    clock = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock))
    with progress_bar("quantising", delay=1.5) as show:
        show(0, 40)
        clock = 101.4
        show(20, 40)
        assert screen.getvalue() == ""
        clock = 101.5
        show(21, 40)
    assert "21/40" in screen.getvalue()

    screen.truncate(0)
    screen.seek(0)
    with progress_bar("quantising"):
        pass
    assert screen.getvalue() == ""


def test_the_cursor_comes_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)

    def fail() -> None:
        with progress_bar("quantising") as show:
            show(1, 2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("quantising") as show:
        show(1, 2)
    assert capsys.readouterr() == ("", "")
