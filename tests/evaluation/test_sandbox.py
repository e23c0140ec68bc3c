"""Programs that try to get out, to stay, to take all there is, or to pass without passing."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from baichuan2.errors import SettingsError
from baichuan2.evaluation.sandbox import judging
from baichuan2.evaluation.sandbox.judging import Isolation, Limits, Program, Verdict, find_isolation, judge, judge_all

LIMITS = Limits(cpu_seconds=1, wall_seconds=60, memory=192 << 20, file_bytes=1 << 20)
MARK = Path("/tmp/baichuan2_sandbox_mark")


def _first_isolation(policy: str) -> Isolation | None:
    try:
        return find_isolation(policy)
    except SettingsError:
        return None


FULL = _first_isolation("sandbox")
needs_sandbox = pytest.mark.skipif(FULL is None, reason="this machine has no namespaces or filters of system calls")

PASSES = "assert answer() == 42"
SOUND = "def answer():\n    return 42\n"
# name: (program, tests, outcome, what the error begins with)
CASES = {
    "right": (SOUND, PASSES, "passed", ""),
    "wrong": ("def answer():\n    return 41\n", PASSES, "failed", "AssertionError"),
    "absent": ("x = 1", PASSES, "error", "NameError: name 'answer' is not defined"),
    "bad syntax": ("def answer(:", PASSES, "error", "SyntaxError: "),
    "null byte": ("def answer(): return '\0'", PASSES, "error", ""),
    "half a character": ("def answer(): return '\ud800'", PASSES, "error", "UnicodeEncodeError: "),
    "assertion of its own": ("assert False", PASSES, "error", "AssertionError"),
    "main block": (SOUND + "if __name__ == '__main__':\n    raise SystemExit\n", PASSES, "passed", ""),
    "dataclass": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
        + SOUND,
        "assert A(1) == A(1)",
        "passed",
        "",
    ),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\ndef answer():\n"
        "    with ThreadPoolExecutor(4) as pool:\n        return sum(pool.map(int, ['20', '22']))\n",
        PASSES,
        "passed",
        "",
    ),
    "many threads": (
        "import threading, time\ndef answer():\n    wait = threading.Event()\n"
        "    threads = [threading.Thread(target=wait.wait) for _ in range(12)]\n"
        "    for thread in threads: thread.start()\n    wait.set()\n    return 42",
        PASSES,
        "passed",
        "",
    ),
    "too many threads": (
        "import threading\nthreading.stack_size(32768)\nwait = threading.Event()\nfor i in range(100):\n"
        "    threading.Thread(target=wait.wait, daemon=True).start()\n",
        PASSES,
        "error",
        "RuntimeError: can't start new thread",
    ),
    "event loop": (
        "import asyncio\nasync def late():\n    await asyncio.sleep(0)\n    return 42\n"
        "def answer():\n    return asyncio.run(late())\n",
        PASSES,
        "passed",
        "",
    ),
    "compiled modules": (
        "import ctypes, decimal, hashlib, sqlite3, ssl, zlib, zoneinfo\n" + SOUND,
        PASSES,
        "passed",
        "",
    ),
    "its own folder": (
        "import tempfile\ndef answer():\n    open('x', 'w').write('42')\n"
        "    with tempfile.TemporaryFile() as file:\n        file.write(b'a')\n    return int(open('x').read())\n",
        PASSES,
        "passed",
        "",
    ),
    "no input": (SOUND + "input()", PASSES, "error", "EOFError"),
    # ends before the tests, or pretends to have passed them
    "sys.exit": ("import sys\nsys.exit(0)", PASSES, "exited", "SystemExit: 0"),
    "os._exit": ("import os\nos._exit(0)", PASSES, "exited", ""),
    "exit while tested": ("def answer():\n    raise SystemExit", PASSES, "exited", "SystemExit"),
    "os._exit while tested": ("import os\ndef answer():\n    os._exit(0)", PASSES, "exited", ""),
    "exit by a thread": (
        "import os, threading, time\nthreading.Timer(0.05, os._exit, [0]).start()\ndef answer():\n    time.sleep(30)",
        PASSES,
        "exited",
        "",
    ),
    "channel closed": ("import os\nos.closerange(0, 64)\n" + SOUND, PASSES, "exited", ""),
    "says that it passed": (
        "import os\nfor fd in range(64):\n    try:\n"
        '        os.write(fd, b\'{"outcome": "passed"}\\n{"word": ""}\\n{"missing": {"a": "x"}}\\n\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
        PASSES,
        "exited",
        "",
    ),
    "guesses the word": (
        "import os\ndef answer():\n    for fd in range(64):\n        try:\n"
        '            os.write(fd, b\'{"word": "0"}\\n\')\n        except OSError:\n            pass\n',
        PASSES,
        "failed",
        "AssertionError",
    ),
    "garbage on every channel": (
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'[' * 60000 + b'\\n\\xff\\n7\\n')\n"
        "    except OSError:\n        pass\n",
        PASSES,
        "error",
        "NameError",
    ),
    "an error that is no text": (
        "import os\nos.write(3, b'{\"error\": ' + b'[' * 900 + b']' * 900 + b'}\\n')",
        PASSES,
        "error",
        "NameError",
    ),
    "other builtins": (
        "import builtins, os\nbuiltins.AssertionError = type('A', (), {})\nbuiltins.compile = builtins.exec = None\n"
        "os._exit = os.write = lambda *a: None\ndef answer():\n    return 0",
        PASSES,
        "failed",
        "AssertionError",
    ),
    "hostile exception": (
        "class E(BaseException):\n    def __str__(self):\n        raise KeyboardInterrupt\nraise E",
        PASSES,
        "error",
        "E",
    ),
    # takes all there is
    "endless loop": ("while True:\n    pass", PASSES, "timeout", "computed"),
    "endless output": ("while True:\n    print('x' * 10000)", PASSES, "timeout", "computed"),
    "signals ignored": (
        "import signal\nfor number in set(signal.Signals) - {9, 19}:\n    signal.signal(number, signal.SIG_IGN)\n"
        "while True:\n    pass",
        PASSES,
        "timeout",
        "computed",
    ),
    "too much memory": ("x = []\nwhile True:\n    x.append(bytearray(1 << 20))", PASSES, "memory", "MemoryError"),
    "too much memory at once": ("def answer():\n    return bytes(1 << 40)", PASSES, "memory", "MemoryError"),
    "recursion": ("def answer():\n    return answer()", PASSES, "error", "RecursionError: "),
    "crash": ("import ctypes\nctypes.string_at(0)", PASSES, "crashed", "SIGSEGV"),
    "abort": ("import os\nos.abort()", PASSES, "crashed", "SIGABRT"),
    "fork": ("import os\nwhile True:\n    os.fork()", PASSES, "error", "PermissionError: "),
    "daemon": ("import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n", PASSES, "error", "PermissionError: "),
    "subprocess": ("import subprocess\nsubprocess.run(['/bin/sh'])", PASSES, "error", "PermissionError: "),
    "exec": ("import os\nos.execv('/lib64/ld-linux-x86-64.so.2', ['x'])", PASSES, "error", ""),
    "file too large": ("open('x', 'wb').write(bytes(1 << 21))", PASSES, "error", "OSError: [Errno 27]"),
    "folder too full": (
        "for i in range(64):\n    open(str(i), 'wb').write(bytes(1 << 19))",
        PASSES,
        "error",
        "OSError: [Errno 28]",
    ),
    "limits raised": (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        PASSES,
        "error",
        "ValueError: ",
    ),
    # reaches for what is outside
    "passwd": ("open('/etc/passwd')", PASSES, "error", "FileNotFoundError: "),
    "this file": (f"open({__file__!r})", PASSES, "error", "FileNotFoundError: "),
    "home": (f"import os\nos.listdir({str(Path.home() / '.ssh')!r})", PASSES, "error", "FileNotFoundError: "),
    "link to the outside": (
        "import os\nos.symlink('/etc/passwd', 'x')\nopen('x')",
        PASSES,
        "error",
        "FileNotFoundError: ",
    ),
    "way up": ("open('../' * 20 + 'etc/passwd')", PASSES, "error", "FileNotFoundError: "),
    "root listed": ("import os\nos.listdir('/')", PASSES, "error", "PermissionError: "),
    "processes listed": ("import os\nos.listdir('/proc')", PASSES, "error", "FileNotFoundError: "),
    "written outside": (f"open({str(MARK)!r}, 'w')", PASSES, "error", ""),
    "library written": ("import os\nopen(os.__file__, 'a')", PASSES, "error", ""),
    "root written": ("open('/x', 'w')", PASSES, "error", ""),
    "packages": ("import numpy", PASSES, "error", "ModuleNotFoundError: "),
    "environment": (
        "import os\nassert set(os.environ) <= {'PYTHONHASHSEED', 'MALLOC_ARENA_MAX', 'LC_CTYPE'}\n" + SOUND,
        PASSES,
        "passed",
        "",
    ),
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', 22))", PASSES, "error", "PermissionError: "),
    "pair that sends to names": (
        "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        PASSES,
        "error",
        "PermissionError: ",
    ),
    "names": ("import socket\nsocket.getaddrinfo('example.org', 80)", PASSES, "error", ""),
    "parent killed": ("import os\nos.kill(os.getppid(), 9)", PASSES, "error", "PermissionError: "),
    "everybody killed": ("import os\nos.kill(-1, 9)", PASSES, "error", "PermissionError: "),
    "signals by files": (
        "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        PASSES,
        "error",
        "PermissionError: ",
    ),
    "root again": ("import os\nos.setuid(0)", PASSES, "error", "PermissionError: "),
    "world unshared": (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nassert c.unshare(0x10000000) == 0, ctypes.get_errno()",
        PASSES,
        "error",
        "AssertionError: 1",
    ),
}
WAITS = Program("import time\ntime.sleep(1000)", PASSES)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """All cases, judged in one go as an evaluation does it."""
    assert FULL is not None
    MARK.unlink(missing_ok=True)
    programs = [Program(text, tests) for text, tests, _, _ in CASES.values()]
    return dict(zip(CASES, judge_all(programs, FULL, limits=LIMITS), strict=True))


@needs_sandbox
@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_a_program(name: str, verdicts: dict[str, Verdict]) -> None:
    _, _, outcome, error = CASES[name]
    assert verdicts[name].outcome == outcome, verdicts[name]
    assert verdicts[name].error.startswith(error), verdicts[name]
    assert not MARK.exists()


@needs_sandbox
def test_one_that_waits_is_ended() -> None:
    assert FULL is not None
    assert judge(WAITS, FULL, Limits(cpu_seconds=1, wall_seconds=1)) == Verdict("timeout", "waited")


@needs_sandbox
@pytest.mark.parametrize(
    "isolation",
    [Isolation(by_user_namespace=True), Isolation(missing={"namespaces": "", "user": ""})],
    ids=["without root's rights", "without namespaces"],
)
def test_other_ways_to_keep_apart(isolation: Isolation) -> None:
    names = [
        "right",
        "wrong",
        "its own folder",
        "os._exit",
        "passwd",
        "this file",
        "library written",
        "written outside",
    ]
    names += ["fork", "socket", "parent killed", "threads"]
    programs = [Program(*CASES[name][:2]) for name in names]
    found = [verdict.outcome for verdict in judge_all(programs, isolation, limits=LIMITS)]
    assert found == [CASES[name][2] for name in names]
    assert not MARK.exists()


@needs_sandbox
@pytest.mark.parametrize(
    "start",
    [["sh", "-c", 'umask 077; exec "$@"', "sh"], ["unshare", "--user", "--map-root-user"]],
    ids=["files for their owner alone", "root where no other user exists"],
)
def test_other_surroundings(start: list[str]) -> None:
    """What a guest imports and opens is there under any umask; a container's root needs no second user id."""
    if subprocess.run([*start, "true"], check=False, capture_output=True).returncode:
        pytest.skip(f"this machine has no {start[0]}, or forbids it")
    program = "import fractions, sqlite3\nopen('/dev/null')\n" + SOUND
    code = (
        "from baichuan2.evaluation.sandbox.judging import *\n"
        f"print(judge(Program({program!r}, {PASSES!r}), find_isolation('sandbox'), Limits()))"
    )
    said = subprocess.run([*start, sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert said.stdout.strip() == str(Verdict("passed")), said


ALONE = {  # layer: what it stops by itself, and how Python tells
    "namespaces": {
        "passwd": "FileNotFoundError",
        "this file": "FileNotFoundError",
        "written outside": "FileNotFoundError",
        "library written": "OSError: [Errno 30]" if os.geteuid() == 0 else "PermissionError",
        "root written": "OSError: [Errno 30]",
        "processes listed": "FileNotFoundError",
        "socket": "OSError: [Errno 101] Network is unreachable",
        "folder too full": "OSError: [Errno 28]",
    },
    "seccomp": {
        "fork": "PermissionError",
        "subprocess": "PermissionError",
        "socket": "PermissionError",
        "parent killed": "PermissionError",
        "signals by files": "PermissionError",
    },
    "landlock": {
        "passwd": "PermissionError",
        "this file": "PermissionError",
        "written outside": "PermissionError",
        "library written": "PermissionError",
        "root listed": "PermissionError",
        "subprocess": "PermissionError",
    },
}


@needs_sandbox
@pytest.mark.parametrize("layer", ALONE)
def test_each_layer_holds_by_itself(layer: str) -> None:
    assert FULL is not None
    if layer in FULL.missing:
        pytest.skip(f"this machine has no {layer}")
    missing = {name: "" for name in (*ALONE, "user") if name != layer}
    isolation = Isolation(missing=missing, by_user_namespace=True)  # whoever asks stays the owner of the files
    programs = [Program(*CASES[name][:2]) for name in ALONE[layer]]
    for name, verdict in zip(ALONE[layer], judge_all(programs, isolation, limits=LIMITS), strict=True):
        assert verdict.outcome == "error", (name, verdict)
        assert verdict.error.startswith(ALONE[layer][name]), (name, verdict)


@needs_sandbox
def test_a_fork_bomb_stays_in_its_namespace() -> None:
    """Also where no filter of calls stops it: processes are counted, and all of them end with the first."""
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        break\n" + SOUND
    verdict = judge(Program(bomb, PASSES), Isolation(missing={"seccomp": ""}), LIMITS)
    assert verdict.outcome in ("passed", "exited"), verdict
    assert not _sandboxes_of(os.getpid())


@needs_sandbox
def test_nothing_stays() -> None:
    """No process and no folder of a sandbox is left, even where two layers are missing and daemons can be started."""
    isolation = Isolation(missing={"namespaces": "", "user": "", "seccomp": ""})
    daemon = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(77)\n"
        "    os._exit(0)\n"
    )
    folders, processes = _work_folders(), _descendants(os.getpid())
    assert judge(Program(daemon + SOUND, PASSES), isolation, LIMITS).outcome == "passed"
    assert judge(Program(daemon + "os._exit(0)", PASSES), isolation, LIMITS).outcome == "exited"
    assert _work_folders() == folders
    assert _descendants(os.getpid()) == processes
    assert not _sandboxes_of(os.getpid())


@needs_sandbox
def test_sandbox_ends_with_its_judge() -> None:
    """A judge that is killed leaves no program behind."""
    code = (
        "from baichuan2.evaluation.sandbox.judging import *\n"
        "judge(Program('import time\\ntime.sleep(1000)', ''), Isolation(), Limits(wall_seconds=500))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        _wait_until(lambda: len(_descendants(process.pid)) == 3)
        started = _descendants(process.pid)
    finally:
        process.kill()
        process.wait()
    _wait_until(lambda: not any(Path(f"/proc/{number}").exists() for number in started))


@needs_sandbox
def test_who_stops_early_waits_for_nobody() -> None:
    began = time.monotonic()
    verdicts = judge_all([Program(SOUND, PASSES), WAITS, WAITS, WAITS], Isolation(), limits=LIMITS, workers=2)
    assert next(verdicts).outcome == "passed"
    verdicts.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < LIMITS.wall_seconds / 2
    _wait_until(lambda: not _sandboxes_of(os.getpid()))


def test_a_sandbox_that_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after a while, and the others go on."""
    monkeypatch.setattr(judging, "START", "import time\ntime.sleep(1000)")
    monkeypatch.setattr(judging, "GRACE", 0.2)
    verdict = judge(Program(SOUND, PASSES), Isolation(), Limits(wall_seconds=0))
    assert verdict == Verdict("unknown", '{"failure": "no answer in 0.2 seconds"}')


def test_refused_unless_asked_for() -> None:
    with pytest.raises(SettingsError, match="pass --generated-code sandbox to run them in a sandbox"):
        find_isolation("refuse")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_refused_elsewhere(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(SettingsError, match=f"on Linux alone, got {platform}"):
        find_isolation("weaker")


@needs_sandbox
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of a system call")
def test_machine_that_forbids_namespaces() -> None:
    """As in most containers: the kernel's reason is told, and how to go on; `weaker` goes on."""
    code = """
from baichuan2.errors import SettingsError
from baichuan2.evaluation.sandbox import seccomp, system
from baichuan2.evaluation.sandbox.judging import find_isolation
system.prctl(38, 1)
unshare = 272
seccomp.install([(0x20, 0, 0, 0), (0x15, 0, 1, unshare), (6, 0, 0, seccomp.DENY), (6, 0, 0, seccomp.ALLOW)])
try:
    find_isolation("sandbox")
except SettingsError as error:
    print(error)
print(sorted(set(find_isolation("weaker").missing) - {"user"}))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("this machine lacks what keeps generated programs apart (namespaces of its own")
    assert "unshare: Operation not permitted" in said[0]
    assert said[0].endswith("or pass --generated-code weaker to run them without")
    assert said[1:] == ["['namespaces']"]


def _work_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("baichuan2-sandbox-*"))


def _descendants(process: int) -> set[int]:
    """Ids of all processes that a process started, and those that they started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {process}} - found:
        found |= more
    return found


def _sandboxes_of(judge: int) -> list[Path]:
    """Processes, wherever they hang, whose command line is that of a launcher of this judge."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if f"judge {judge}".encode() in path.read_bytes():
                found.append(path)
    return found


def _wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
