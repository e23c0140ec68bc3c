"""Memory that weights leave behind, given back to the system at once instead of some time later.

Linux only; elsewhere nothing happens.
"""

import ctypes
import functools
import mmap
import sys
from pathlib import Path

import torch

__all__ = ["give_back", "is_mapped_from_file", "release_if_mapped", "release_pages"]

PAGE_OUT = 21  # MADV_PAGEOUT, since Linux 5.4; Python knows no name for it


def give_back(tensor: torch.Tensor) -> None:
    """Gives back the memory of `tensor`, which is not used any more, and what smaller ones before it left behind.

    It cannot lose data: a page that is needed again is read again. A tensor mapped from a file counts as memory of this
    process until the last tensor of that file is gone, and the heap keeps freed blocks that lie between used ones.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    _advise(tensor, PAGE_OUT)
    if hasattr(_c_library(), "malloc_trim"):  # glibc
        _c_library().malloc_trim(ctypes.c_size_t(0))


def release_pages(tensor: torch.Tensor) -> None:
    """Takes a tensor that is mapped from a file out of the memory of this process, while the system keeps the file.

    It is read from there again when it is used. Only for such tensors, see `release_if_mapped`, and for those that
    nobody uses again: the values of any other would be lost.
    """
    if sys.platform == "linux" and tensor.device.type == "cpu":
        _advise(tensor, mmap.MADV_DONTNEED)


def release_if_mapped(tensor: torch.Tensor) -> None:
    """`release_pages` where the values lie in a mapped file; else nothing happens."""
    if is_mapped_from_file(tensor):
        release_pages(tensor)


def is_mapped_from_file(tensor: torch.Tensor) -> bool:
    """Whether the values of `tensor` lie in a mapped file; False where the system does not tell."""
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return False
    first, last = tensor.data_ptr(), tensor.data_ptr() + max(tensor.nbytes, 1) - 1
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        start, stop = (int(part, 16) for part in addresses.split("-"))
        if start <= first < stop:
            return inode != "0" and last < stop
    return False


def _advise(tensor: torch.Tensor, advice: int) -> None:
    """Tells the system about the pages that hold values of `tensor` and nothing else."""
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        _c_library().madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ctypes.c_int(advice))


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
