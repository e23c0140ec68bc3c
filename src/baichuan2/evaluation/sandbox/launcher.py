"""The process in which one generated program is judged, from its start to one line of JSON.

It is a fresh interpreter without packages, environment or open files, and does not know the rest of baichuan2: the
judge starts it, and writes what it asks to its standard input. It leaves the machine's namespaces, and forks one
process that watches (the first of its namespace, so that its end is the end of all others) and, from that, one that
runs the program. If the judge ends, so do they.
"""

import fcntl
import json
import os
import re
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .guest import RESULTS, TESTS, run_guest
from .namespaces import GUEST_ID, WORK_DIR, build_root, leave_namespaces, library_paths
from .restrictions import become_nobody, unused_id
from .system import prctl
from .watching import Watch

__all__ = ["main"]

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    """Reads a request and a program, writes `{"outcome": ..., "error": ...}`, or `{"missing": {layer: reason}}`."""
    request: dict[str, Any] = json.loads(read_frame())
    program = read_frame().decode("utf-8", "surrogatepass")
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != request["parent"]:
        return
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    libraries = library_paths()
    try:
        work_dir, user = _leave(request, libraries)
    except _MissingLayerError as error:
        _tell({"missing": {error.layer: error.reason}})
        return
    if "namespaces" not in request["without"]:
        watcher = os.fork()
        if watcher:
            os.waitpid(watcher, 0)
            return
    try:
        if user is not None:
            become_nobody(user)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of user clears it
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        if user is None and ("namespaces" in request["without"] or _kernel() < (5, 14)):
            request["threads"] = None  # they would be counted with those of the same user elsewhere
        _tell(_judge(request, program, libraries, work_dir))
    except OSError as error:
        _tell({"failure": str(error)})
    os._exit(0)


class _MissingLayerError(Exception):
    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(reason)
        self.layer, self.reason = layer, reason


def _leave(request: Mapping[str, Any], libraries: list[str]) -> tuple[str, int | None]:
    """The folder that the program may write to, and the user to become; None: the present one."""
    is_root = os.geteuid() == 0
    if "namespaces" in request["without"]:
        work_dir: str = request["work_dir"]
        os.chdir(work_dir)
        if not is_root or "user" in request["without"]:
            return work_dir, None
        if closed := next((path for path in libraries if not _is_open_to_all(path)), None):
            raise _MissingLayerError("user", f"{closed} can be read by root alone")
        user = unused_id()
        if user is None:
            raise _MissingLayerError("user", "this container has no user but root")
        os.chown(work_dir, user, user)
        return work_dir, user
    nobody = unused_id()
    is_privileged = is_root and nobody is not None and not request["by_user_namespace"]
    try:
        try:
            leave_namespaces(is_privileged=is_privileged)
        except OSError:
            if not is_privileged:
                raise
            is_privileged = False
            leave_namespaces(is_privileged=False)
        user = nobody if is_privileged else None
        build_root(libraries, owner=GUEST_ID if user is None else user, work_bytes=request["file_bytes"])
    except OSError as error:
        raise _MissingLayerError("namespaces", error.strerror or str(error)) from error
    return WORK_DIR, user


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _is_open_to_all(path: str) -> bool:
    real = Path(path).resolve()
    needed = stat.S_IROTH | stat.S_IXOTH if real.is_dir() else stat.S_IROTH
    return real.stat().st_mode & needed == needed and all(up.stat().st_mode & stat.S_IXOTH for up in real.parents)


def _judge(request: Mapping[str, Any], program: str, libraries: list[str], work_dir: str) -> dict[str, Any]:
    results_end, results = os.pipe()
    tests, tests_end = os.pipe()
    guest = os.fork()
    if guest == 0:
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            _keep_only(results, tests)
            run_guest(request, program, libraries=libraries, work_dir=work_dir)
        finally:
            os._exit(1)
    os.close(results)
    os.close(tests)
    watch = Watch(guest, results_end, tests_end, float(request["wall_seconds"]))
    return watch.verdict(read_frame, cpu_seconds=request["cpu_seconds"])


def _keep_only(results: int, tests: int) -> None:
    """Leaves the guest its two pipes, and nothing to read from or write to in place of the standard streams."""
    high = [fcntl.fcntl(opened, fcntl.F_DUPFD, 32) for opened in (results, tests)]
    nothing = os.open("/dev/null", os.O_RDWR)
    high_nothing = fcntl.fcntl(nothing, fcntl.F_DUPFD, 32)
    for opened, place in [
        (high_nothing, 0),
        (high_nothing, 1),
        (high_nothing, 2),
        (high[0], RESULTS),
        (high[1], TESTS),
    ]:
        os.dup2(opened, place)
    os.closerange(TESTS + 1, 1 << 16)


def read_frame() -> bytes:
    """The next part of standard input: its length in eight bytes, then itself. Nothing after it is read."""
    return _read(int.from_bytes(_read(8), "big"))


def _read(count: int) -> bytes:
    parts = []
    while count:
        part = os.read(0, min(count, 1 << 16))
        if not part:
            raise OSError("the judge has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _tell(verdict: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(verdict).encode() + b"\n")
