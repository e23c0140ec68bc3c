"""The compiled library, opened once, or in one line why there is none; nobody else opens it.

A file that is damaged, made for another machine or compiled from headers of another version is left alone: every
caller has another way. Importing this loads torch first, so that both share one set of threads.
"""

import ctypes
import functools
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch  # its library of threads must be there first

from baichuan2.errors import SettingsError
from baichuan2.kernels import build

__all__ = ["INSTRUCTIONS", "LIMIT", "PATH", "Opened", "check_limit", "limit", "num_threads", "opened"]

LIMIT = "BAICHUAN2_KERNELS"
"""Environment variable: `off`, or the most of INSTRUCTIONS that may be used, by its number or its name."""
PATH = "BAICHUAN2_KERNELS_LIBRARY"
"""Environment variable: a library in the place of the one beside the package, for tests of instrumented ones."""
INSTRUCTIONS = ("plain C", "AVX2", "AVX-512", "AVX-512 BF16", "AMX BF16")
"""In the order of the library's numbers."""
PAUSE, PAUSE_SOFT = "omp_pause_resource_all", 1
"""Of OpenMP 5.0, which gcc has since version 9."""
COMPILE = "`python -m baichuan2.kernels.build`"
ELF_HEADER = struct.Struct("<4sB35xQ10xHHH")
"""Magic, class, offset of the section table, size and number of its entries, of a 64-bit file."""


@dataclass(frozen=True)
class Opened:
    """`library`, or None; `remark`: why there is none, or what is to be known about it, in one line."""

    library: ctypes.CDLL | None
    remark: str | None = None


@functools.cache
def opened() -> Opened:
    """The library, with its remark. Asked once: a process keeps what it found.

    Raises:
        SettingsError: the environment variable LIMIT names no instruction set.
    """
    if _chosen() == "off":
        return Opened(None, f"switched off by {LIMIT}=off")
    return open_library(Path(os.environ.get(PATH) or build.LIBRARY))


@functools.cache
def limit(most: int) -> int:
    """The number of the last instruction set that may be used, `most` where nothing is said."""
    chosen = _chosen()
    return most if chosen is None or chosen == "off" else min(int(chosen), most)


def check_limit() -> None:
    """Raises SettingsError where LIMIT names no instruction set; opens no library."""
    _chosen()


def _chosen() -> str | None:
    """What LIMIT says: `off`, a number, or None where it is not set; raises SettingsError where it is neither."""
    value = os.environ.get(LIMIT, "").strip()
    if not value:
        return None
    word = _plain(value)
    names = [_plain(name) for name in INSTRUCTIONS]
    if word == "off":
        chosen = word
    elif value.isdecimal():
        chosen = str(min(int(value), len(names) - 1))
    elif word in names:
        chosen = str(names.index(word))
    else:
        sets = ", ".join(f"{number} ({name})" for number, name in enumerate(INSTRUCTIONS))
        raise SettingsError(
            f"{LIMIT}={value}: not known; it must be off, or the number or name of the most that may be used: {sets}"
        )
    os.environ[LIMIT] = chosen  # C reads it as well, and knows numbers alone
    return chosen


def _plain(name: str) -> str:
    """`AVX-512 BF16` and `avx512_bf16` are one."""
    return "".join(filter(str.isalnum, name)).lower()


@dataclass
class _Threads:
    """What a fork does to the threads of OpenMP: it copies none, and the child would wait for them for ever."""

    were_ended: bool = False
    are_lost: bool = False

    def before_fork(self) -> None:
        self.were_ended = not self.are_lost and _end_threads()

    def after_fork(self) -> None:
        if not self.were_ended and torch.get_num_threads() > 1:
            self.are_lost = True
            torch.set_num_threads(1)  # torch waits for the same threads, with the first large tensor


def _end_threads() -> bool:
    """Ends the threads that wait for work of this one, torch's and ours; the next work starts others.

    False where they cannot be ended: torch is built with other threads than those of OpenMP, or an OpenMP before 5.0.
    """
    ours = opened().library if opened.cache_info().currsize else None
    pauses = [getattr(ctypes.CDLL(torch._C.__file__), PAUSE, None)]
    if hasattr(ours, PAUSE):  # else it is compiled without threads; where both have one OpenMP, the second ends nothing
        pauses.append(getattr(ours, PAUSE))
    return all(pause is not None and pause(PAUSE_SOFT) == 0 for pause in pauses)


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_threads.before_fork, after_in_child=_threads.after_fork)


def num_threads() -> int:
    """How many threads kernels compute with: as many as torch.

    One in a process that was forked, where threads could not be ended before.
    """
    return 1 if _threads.are_lost else torch.get_num_threads()


def open_library(path: Path) -> Opened:
    """The library of the file `path`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if build.find_compiler() is None:
            return Opened(None, f"not compiled, as no C compiler is here: install gcc or clang, then run {COMPILE}")
        return Opened(None, f"not compiled when this was installed; {COMPILE} does so, or says what is missing")
    except OSError as error:
        return Opened(None, f"{path} cannot be read: {error.strerror}")
    if not is_whole(content):  # the loader would crash on what is cut off
        return Opened(None, f"{path} is damaged: compile anew with {COMPILE}")
    if (build.MARK_OF_INTERFACE + build.interface()).encode() not in content:
        remark = f"{path} is of another version: compile anew with {COMPILE}"
        warnings.warn(f"the kernels are not used: {remark}", stacklevel=2)  # after `git pull`: else only slow
        return Opened(None, remark)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # for another machine, or without a library that it needs
        return Opened(None, f"{path} cannot be loaded: {' '.join(str(error).split())}")
    is_current = build.is_current(content)
    return Opened(library, None if is_current else f"compiled from other sources than these: anew with {COMPILE}")


def is_whole(content: bytes) -> bool:
    """Whether `content` is a library that is not cut off: the table of its sections comes last."""
    if len(content) < ELF_HEADER.size:
        return False
    magic, kind, table, size, number, _ = ELF_HEADER.unpack_from(content)
    return bool(magic == b"\x7fELF" and kind == 2 and table + size * number <= len(content))
