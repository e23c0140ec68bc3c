"""Processes that hold an engine and take commands, so that engines can take turns within seconds.

A child reads one JSON object a line, `{"do": NAME, ...}`, and answers with one, `{"result": ...}` or `{"error": ...}`.
Standard library only: the children of other interpreters import this too.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Commands = Mapping[str, Callable[..., Any]]


class EngineError(Exception):
    """An engine failed or died: its rows are missing, the others go on."""


def serve(commands: Commands) -> None:
    """Answers commands until the input ends. What libraries print goes to standard error, never between answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": commands[request.pop("do")](**request)}
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Child:
    """The near end of a child: `child("decode", tokens=8)` is what its command gives back."""

    seconds: float = 600.0
    """Time for one command; a child that takes longer is ended."""

    def __init__(self, command: Sequence[object], *, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCHMARK_VERBOSE") else None,
            text=True,
            encoding="utf-8",
            env={**os.environ, **(environment or {})},
        )

    @property
    def pid(self) -> int:
        """The number of its process, for programs that look at it from outside."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can take another command."""
        return self._process.poll() is None

    def __call__(self, do: str, **arguments: Any) -> Any:
        """The result of one command.

        Raises:
            EngineError: it failed, took too long, or the process has died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            # an answer is one line, so none of it waits in a buffer here
            if not select.select([self._process.stdout], [], [], self.seconds)[0]:
                self._process.kill()
                self.close()
                raise EngineError(f"ended, as it took more than {self.seconds:g} s to {do}")
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            self.close()
            raise EngineError(f"the process ended with status {self._process.returncode} while it had to {do}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process; its memory is free afterwards."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
