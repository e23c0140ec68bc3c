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

import torch  # noqa: F401  its library of threads must be there first

from baichuan2.kernels import build

__all__ = ["LIMIT", "PATH", "Opened", "limit", "opened"]

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


def open_library(path: Path) -> Opened:
    """The library of the file `path`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
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
