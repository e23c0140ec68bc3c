"""What runs a generated program, in a process that can do no harm: definitions first, then the tests on them.

The program shares this process with the tests, as it does in the usual judges. So that it passes by its tests alone,
neither they nor the word that says "passed" are here while its definitions run: both come after them.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn

from .landlock import allow_files_alone
from .namespaces import DEVICES
from .restrictions import limit_resources
from .seccomp import forbid_all_but_computing
from .system import drop_capabilities, prctl

__all__ = ["RESULTS", "TESTS", "run_guest"]

RESULTS, TESTS = 3, 4  # file descriptors
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
SHOWN = 200
run, translate, read = exec, compile, os.read  # as they were before a program could put others in their place


def run_guest(request: Mapping[str, Any], program: str, *, libraries: list[str], work_dir: str) -> NoReturn:
    """Restricts this process for good, runs `program` and then the tests that arrive, and tells how it went.

    Of the lines in JSON that it writes, all but the last answer are the program's word as much as ours: they are
    believed where they tell of failure alone.
    """
    write, leave, dumps = os.write, os._exit, json.dumps

    def tell(**values: Any) -> None:
        write(RESULTS, dumps(values).encode() + b"\n")

    if missing := _restrict(request, libraries, work_dir):
        tell(missing=missing)
        leave(0)
    tell(phase="definitions")
    module = ModuleType("program")
    sys.modules["program"], sys.argv = module, ["program"]
    _be_repeatable(program)
    try:
        _execute(program, "program", module)
    except BaseException as error:
        tell(phase="definitions", **_failure(error))
        leave(0)
    tell(phase="tests")
    tests, _, word = _read_all(TESTS).rpartition("\n")
    try:
        _execute(tests, "tests", module)
    except BaseException as error:
        tell(**_failure(error))
        leave(0)
    tell(word=word)
    leave(0)


def _restrict(request: Mapping[str, Any], libraries: list[str], work_dir: str) -> dict[str, str]:
    """The layers that were asked for and cannot be had, each with the kernel's reason."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    drop_capabilities()
    limit_resources(request)
    layers: dict[str, Callable[[], None]] = {
        "landlock": lambda: allow_files_alone(libraries, [work_dir], DEVICES),
        "seccomp": forbid_all_but_computing,
    }
    missing = {}
    for name, apply in layers.items():
        if name in request["without"]:
            continue
        try:
            apply()
        except OSError as error:
            missing[name] = error.strerror or str(error)
    return missing


def _be_repeatable(program: str) -> None:
    if "random" in program:
        import random

        random.seed(0)


def _execute(text: str, name: str, module: ModuleType) -> None:
    run(translate(text, f"<{name}>", "exec"), module.__dict__)


def _read_all(opened: int) -> str:
    parts = []
    while part := read(opened, 65536):
        parts.append(part)
    return b"".join(parts).decode("utf-8", "surrogatepass")


def _failure(error: BaseException) -> dict[str, str]:
    try:
        text = str(error)[:SHOWN]
    except BaseException:
        text = ""
    return {"error": type(error).__name__[:SHOWN], "message": text.encode("utf-8", "backslashreplace").decode()}
