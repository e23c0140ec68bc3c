"""One run at a time writes a file or folder: a lock that ends with the process, however it ends."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from baichuan2.errors import SettingsError

__all__ = ["one_run"]


@contextlib.contextmanager
def one_run(path: Path) -> Iterator[None]:
    """Keeps other runs out of `path`, an existing file or folder. Windows has no such locks.

    Raises:
        SettingsError: another run holds it.
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(f"another run is writing {path}: wait for it, or give another TARGET") from None
        yield
    finally:
        os.close(descriptor)
