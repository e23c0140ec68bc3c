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

from baichuan2.kernels import build

__all__ = ["LIMIT", "PATH", "Opened", "limit", "num_threads", "opened"]

LIMIT = "BAICHUAN2_KERNELS"
"""Environment variable: `off`, or the most of the instruction sets that may be used, by its number."""
PATH = "BAICHUAN2_KERNELS_LIBRARY"
"""Environment variable: a library in the place of the one beside the package, for tests of instrumented ones."""
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
    """The library, with its remark. Asked once: a process keeps what it found."""
    if os.environ.get(LIMIT) == "off":
        return Opened(None, f"switched off by {LIMIT}=off")
    return open_library(Path(os.environ.get(PATH) or build.LIBRARY))


@functools.cache
def limit(most: int) -> int:
    """The number of the last instruction set that may be used, `most` where nothing is said."""
    value = os.environ.get(LIMIT, "")
    return min(int(value), most) if value.isdecimal() else most


@dataclass
class _Threads:
    """Whether kernels have computed with several threads in this process, and whether it is a fork of one that had."""

    were_several: bool = False
    are_lost: bool = False

    def after_fork(self) -> None:
        self.are_lost = self.were_several
        if self.are_lost:  # torch would wait for the same threads, with the first large tensor
            torch.set_num_threads(1)


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork)


def num_threads() -> int:
    """How many threads kernels compute with: as many as torch.

    One where this process was forked from one that had several: OpenMP would wait for ever for threads that a fork
    does not copy.
    """
    number = 1 if _threads.are_lost else torch.get_num_threads()
    _threads.were_several |= number > 1
    return number


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
