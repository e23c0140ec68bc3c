"""What a launcher such as torchrun tells each of the processes that it starts: who it is, and of how many.

Standard library only, so that even a wrong flag is told at once, and by one process.
"""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

from baichuan2.errors import SettingsError

__all__ = ["is_first", "local_rank", "num_processes", "one_report", "rank"]

SECONDS_FOR_THE_FIRST = 5.0
"""How long a process keeps a failure to itself: the first one meets most of them too, and then its launcher ends us."""


def num_processes() -> int:
    """How many processes share the work, on all machines; 1 without a launcher.

    Raises:
        SettingsError: the launcher's variable is no number.
    """
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """The number of this process, from 0. A process that shares with nobody is the first, whatever RANK says.

    Raises:
        SettingsError: the launcher's variable is no number.
    """
    number = _number("RANK", 0)
    return number if num_processes() > 1 else 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0.

    Raises:
        SettingsError: the launcher's variable is no number.
    """
    return _number("LOCAL_RANK", 0)


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return rank() == 0


@contextlib.contextmanager
def one_report() -> Iterator[None]:
    """What fails inside is reported by one process, not by each.

    A failure that the first process does not share is this one's own, so it is raised after a while, with its place.
    """
    try:
        yield
    except Exception as error:
        if is_first():
            raise
        time.sleep(SECONDS_FOR_THE_FIRST)
        error.args = (f"process {rank()} on {socket.gethostname()}: {error}", *error.args[1:])
        raise


def _number(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise SettingsError(f"environment variable {name} must be a whole number, as torchrun sets it, got {value!r}")
    return int(value)
