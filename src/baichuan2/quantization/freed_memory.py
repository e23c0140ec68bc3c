"""Memory that replaced weights leave behind, given back to the system at once instead of some time later.

Linux only; elsewhere nothing happens. Neither call can lose data: a page that is still needed is read again.
"""

import ctypes
import functools
import mmap
import sys

import torch

__all__ = ["give_back"]

PAGE_OUT = 21  # MADV_PAGEOUT, since Linux 5.4; Python knows no name for it


def give_back(tensor: torch.Tensor) -> None:
    """Gives back the memory of `tensor`, which is not used any more, and what smaller ones before it left behind.

    A tensor mapped from a file counts as memory of this process until the last tensor of that file is gone, and the
    heap keeps freed blocks that lie between used ones.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    library = _c_library()
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE  # only pages that hold nothing else
    stop = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), ctypes.c_int(PAGE_OUT))
    if hasattr(library, "malloc_trim"):  # glibc
        library.malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)
