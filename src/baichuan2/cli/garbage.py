"""The garbage collector kept out of the way while a command starts."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["without_collection"]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Looks for no garbage inside; what is there at the end is left out of every later search as well.

    Modules and a vocabulary are a million objects that stay. Looking through them again and again while they are made
    is a tenth of the time until the first word. For the start of a process: garbage that is there at the end stays.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
