"""Limits of one process: memory, time, files, threads; and who it is where it was started by root."""

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

__all__ = ["become_nobody", "limit_resources", "unused_id"]

FIRST_FREE_ID, FREE_IDS = 1_000_000_000, 1_000_000_000
NOBODY = 65534


def limit_resources(request: Mapping[str, Any]) -> None:
    """Sets the limits that `request` holds, hard ones, so that they can only be lowered; None: no such limit."""
    limits = {
        resource.RLIMIT_AS: request["memory"],
        resource.RLIMIT_CPU: request["cpu_seconds"],
        resource.RLIMIT_FSIZE: request["file_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_STACK: 8 << 20,
        resource.RLIMIT_NPROC: request["threads"],
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in limits.items():
        if value is None:
            continue
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def unused_id() -> int:
    """A user id that nobody has, another one for each process: the kernel counts threads by user."""
    return FIRST_FREE_ID + os.getpid() % FREE_IDS


def become_nobody(user: int) -> int:
    """Turns root into a user who owns nothing; the id that it got: `user`, or the machine's nobody.

    Raises:
        OSError: neither id exists in the container around this process.
    """
    os.setgroups([])
    for candidate in (user, NOBODY):
        with suppress(OSError):
            os.setresgid(candidate, candidate, candidate)
            os.setresuid(candidate, candidate, candidate)
            return candidate
    raise OSError("this container has no user without rights")
