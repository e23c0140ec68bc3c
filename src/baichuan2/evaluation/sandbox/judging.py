"""Does a generated program pass its tests? Asked from outside: each program in a process of its own, many at once.

Nothing of a generated program is ever run, imported or unpickled in the process that asks.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

from baichuan2.errors import SettingsError

__all__ = [
    "Isolation",
    "Judges",
    "Limits",
    "Program",
    "Verdict",
    "default_workers",
    "find_isolation",
    "judge",
    "judge_all",
]

Outcome = Literal["passed", "failed", "error", "timeout", "memory", "crashed", "exited", "unknown"]

# the modules beside this one, without baichuan2 around them: the launcher needs no package, and gets none
START = """\
import sys, types
package = types.ModuleType("sandbox")
package.__path__ = [sys.argv[1]]
sys.modules["sandbox"] = package
from sandbox.launcher import main
main()
"""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1"}  # the latter: threads reserve no address space each
GRACE = 30.0  # seconds beyond a program's own limit after which its whole sandbox is given up
LAYERS = {
    "namespaces": "namespaces of its own (files, processes, network)",
    "seccomp": "a filter of system calls",
    "landlock": "Landlock",
    "user": "a user without rights",
}
DEMANDED = ("namespaces", "seccomp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one program. Bytes and seconds; `wall_seconds` is for programs that wait, the others reach `cpu_seconds`."""

    cpu_seconds: int = 5
    wall_seconds: int = 20
    memory: int = 1 << 30
    file_bytes: int = 16 << 20
    threads: int = 64


@dataclass(frozen=True, slots=True)
class Program:
    """Definitions as a model wrote them, and the statements that fail where they are wrong."""

    text: str
    tests: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a program.

    `outcome`: passed; failed: an assertion of the tests; error: any other exception, bad syntax included; timeout;
    memory; crashed: by a signal; exited: it ended before its tests did; unknown: the sandbox itself failed, twice.
    `error`: in one line what Python said; at most 300 characters, as the program wrote them.
    """

    outcome: Outcome
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What this machine keeps programs apart with. `missing`: layers that it has not, and why."""

    missing: dict[str, str] = field(default_factory=dict)
    by_user_namespace: bool = False


def find_isolation(policy: str) -> Isolation:
    """The strongest isolation of this machine, tried out on a small program.

    `policy`: refuse: none is looked for; sandbox: at least namespaces and a filter of system calls; weaker: whatever
    there is.

    Raises:
        SettingsError: generated programs are not to be run, or cannot be kept apart well enough; it says how to go on.
    """
    if policy == "refuse":
        raise SettingsError(
            "this suite runs programs that the model writes: pass --generated-code sandbox to run them in a sandbox"
        )
    if sys.platform != "linux":
        raise SettingsError(f"programs that a model wrote are run on Linux alone, got {sys.platform}")
    found = Isolation()
    for _ in range(len(LAYERS) + 1):
        answer = _ask(Program("", ""), found, Limits(), _Running())
        if not answer.get("missing"):
            break
        found = Isolation(missing={**found.missing, **answer["missing"]})
    if answer.get("outcome") != "passed":
        raise SettingsError(f"the sandbox for generated programs cannot be set up: {answer}")
    if {"landlock", "user"} <= set(found.missing):
        raise SettingsError(
            f"generated programs would run as root beside your files ({_words(found)}): run this as another user"
        )
    if policy == "sandbox" and any(layer in found.missing for layer in DEMANDED):
        raise SettingsError(
            f"this machine lacks what keeps generated programs apart ({_words(found)}): allow it, or pass "
            "--generated-code weaker to run them without"
        )
    return found


def judge(program: Program, isolation: Isolation, limits: Limits, *, running: "_Running | None" = None) -> Verdict:
    """What became of one program; never raises, never takes longer than its limits and a short time for the sandbox."""
    answer: dict[str, Any] = {}
    for _ in range(2):
        answer = _ask(program, isolation, limits, running or _Running())
        if "outcome" in answer:
            return Verdict(answer["outcome"], str(answer["error"])[:300])
    return Verdict("unknown", json.dumps(answer)[:300])


def default_workers(num_processes: int = 1) -> int:
    """Programs that each of `num_processes` judges at once: in all one for each core, of each at most 16."""
    return max(1, min(16, len(os.sched_getaffinity(0)) // num_processes))


class Judges:
    """Programs judged side by side, each in a sandbox of its own. Leaving the `with` block ends those that still run.

    `workers`: how many at once; None: as `default_workers`.
    """

    def __init__(self, isolation: Isolation, *, limits: Limits | None = None, workers: int | None = None) -> None:
        self._isolation, self._limits, self._running = isolation, limits or Limits(), _Running()
        count = workers or default_workers()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="judge")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._running.end()

    def submit(self, program: Program) -> "Future[Verdict]":
        """The verdict on a program, when it is there."""
        return self._pool.submit(judge, program, self._isolation, self._limits, running=self._running)


def judge_all(
    programs: Iterable[Program], isolation: Isolation, *, limits: Limits | None = None, workers: int | None = None
) -> Iterator[Verdict]:
    """A verdict for each program, in their order; see `Judges`."""
    with Judges(isolation, limits=limits, workers=workers) as judges:
        waiting = [judges.submit(program) for program in programs]
        yield from (verdict.result() for verdict in waiting)


class _Running:
    """Sandboxes that are at work, to be ended together, after which none can be added."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._is_over = False

    def add(self, process: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._processes.add(process)
            if self._is_over:
                process.kill()

    def remove(self, process: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            for process in self._processes:
                process.kill()


def _ask(program: Program, isolation: Isolation, limits: Limits, running: _Running) -> dict[str, Any]:
    """The launcher's answer, or `{"failure": why}`."""
    request = {
        **asdict(limits),
        "parent": os.getpid(),
        "without": list(isolation.missing),
        "by_user_namespace": isolation.by_user_namespace,
        "work_dir": None,
    }
    with ExitStack() as stack:
        if "namespaces" in isolation.missing:
            folder = tempfile.TemporaryDirectory(prefix="baichuan2-sandbox-", ignore_cleanup_errors=True)
            request["work_dir"] = stack.enter_context(folder)
        parts = [json.dumps(request), program.text, program.tests]
        frames = [part.encode("utf-8", "surrogatepass") for part in parts]
        message = b"".join(len(frame).to_bytes(8, "big") + frame for frame in frames)
        # like -I, but for the variable that makes the order of sets the same every time
        command = [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", START, str(Path(__file__).parent)]
        command.append(f"judge {os.getpid()}")  # for who looks at a list of processes
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return {"failure": str(error)}
        running.add(process)
        try:
            return _answer(process, message, limits.wall_seconds + GRACE)
        finally:
            running.remove(process)


def _answer(process: "subprocess.Popen[bytes]", message: bytes, seconds: float) -> dict[str, Any]:
    try:
        told, complaints = process.communicate(message, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failure": f"no answer in {seconds:g} seconds"}
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    try:
        answer: dict[str, Any] = json.loads(told)
    except ValueError:
        return {"failure": complaints[-300:].decode(errors="replace").strip() or f"exit code {process.returncode}"}
    return answer


def _words(isolation: Isolation) -> str:
    return ", ".join(f"{LAYERS[layer]}: {reason}" for layer, reason in isolation.missing.items())
