"""Watches one guest: hands over the tests, reads what it tells, ends it, and says what became of the program."""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Watch"]

MOST_BYTES = 1 << 16  # of what a guest tells
TICK = 0.05  # seconds between two looks at a guest that says nothing


class Watch:
    """A running guest: its process id, our ends of its two pipes, and the time that it may take at most."""

    def __init__(self, guest: int, results: int, tests: int, wall_seconds: float) -> None:
        self.guest, self.results, self.tests = guest, results, tests
        self.deadline = time.monotonic() + wall_seconds
        self.word = os.urandom(16).hex()
        self.missing: dict[str, str] = {}
        self.error: dict[str, str] | None = None
        self.is_restricted = self.has_tests = self.has_passed = self.is_late = self.was_cut_off = False
        self.outgoing = b""

    def verdict(self, read_tests: Callable[[], bytes], *, cpu_seconds: int) -> dict[str, Any]:
        """What became of the program, when it and all that it started have ended.

        `read_tests`: called when the definitions are there, as UTF-8. `cpu_seconds`: the guest's limit.
        """
        status, used = self._end(self._listen(read_tests))
        if self.missing:
            return {"missing": self.missing}
        if self.has_passed:
            return {"outcome": "passed", "error": ""}
        if self.error is not None:
            return _of_error(self.error, are_tests=self.has_tests)
        killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if self.is_late or (killed_by in (signal.SIGKILL, signal.SIGXCPU) and used > cpu_seconds - 0.5):
            return {"outcome": "timeout", "error": "waited" if self.is_late else "computed"}
        if killed_by and not self.was_cut_off:
            return {"outcome": "crashed", "error": signal.Signals(killed_by).name}
        return {"outcome": "exited", "error": "it ended before its tests did"}

    def _listen(self, read_tests: Callable[[], bytes]) -> tuple[int, float] | None:
        """Until the guest has told its end, was silent for too long, or ended; then how, and its seconds of CPU."""
        os.set_blocking(self.tests, False)
        heard, waiting = b"", select.poll()
        waiting.register(self.results, select.POLLIN)
        while not (self.has_passed or self.error or self.missing):
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.is_late = True
                return None
            ready = dict(waiting.poll(min(left, TICK) * 1000))
            if self.tests in ready:
                self._send(waiting)
            if self.results in ready:
                part = os.read(self.results, MOST_BYTES)
                heard += part
                if not part or len(heard) > MOST_BYTES:
                    return None
                *lines, heard = heard.split(b"\n")
                for line in lines:
                    self._hear(line, read_tests, waiting)
            elif not ready:
                process, status, usage = os.wait4(self.guest, os.WNOHANG)
                if process:  # ended, but something that it started holds the pipe
                    return status, usage.ru_utime + usage.ru_stime
        return None

    def _hear(self, line: bytes, read_tests: Callable[[], bytes], waiting: select.poll) -> None:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(told, dict):
            return
        if not self.is_restricted:  # until then it is our own code that speaks
            self.missing = told.get("missing", {})
            self.is_restricted = True
        elif isinstance(told.get("error"), str):  # ours always are; writing out deep lists takes long or fails
            message = told.get("message")
            self.error = {"error": told["error"][:300], "message": message[:300] if isinstance(message, str) else ""}
        elif told.get("phase") == "tests" and not self.has_tests:
            self.has_tests = True
            self.outgoing = read_tests() + b"\n" + self.word.encode()
            waiting.register(self.tests, select.POLLOUT)
        elif self.has_tests and told.get("word") == self.word:
            self.has_passed = True

    def _send(self, waiting: select.poll) -> None:
        try:
            self.outgoing = self.outgoing[os.write(self.tests, self.outgoing) :]
        except BlockingIOError:
            return
        except OSError:  # the guest does not listen
            self.outgoing = b""
        if not self.outgoing:
            waiting.unregister(self.tests)
            os.close(self.tests)

    def _end(self, ended: tuple[int, float] | None) -> tuple[int, float]:
        """Ends the guest and all that it started; its status and seconds of CPU."""
        if ended is None:
            # one that is about to end by itself gets the moment that this takes, as its status tells why
            for _ in range(20):
                process, status, usage = os.wait4(self.guest, os.WNOHANG)
                if process:
                    break
                time.sleep(0.001)
            else:
                self.was_cut_off = True
                os.kill(self.guest, signal.SIGKILL)
                process, status, usage = os.wait4(self.guest, 0)
            ended = status, usage.ru_utime + usage.ru_stime
        _end_descendants()
        return ended


def _of_error(error: dict[str, str], *, are_tests: bool) -> dict[str, Any]:
    kind, message = error["error"], error["message"]
    text = f"{kind}: {message}" if message else kind
    if kind == "MemoryError":
        return {"outcome": "memory", "error": text}
    if kind == "AssertionError" and are_tests:
        return {"outcome": "failed", "error": text}
    if kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        return {"outcome": "exited", "error": text}
    return {"outcome": "error", "error": text}


def _end_descendants() -> None:
    """Ends what double forks have left to this process. In a namespace of its own, its end does the same once more."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(100):
        with suppress(OSError):
            for process in path.read_text(encoding="ascii").split():
                os.kill(int(process), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)
