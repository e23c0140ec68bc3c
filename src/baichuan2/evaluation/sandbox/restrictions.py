"""Limits of one process: memory, time, files, threads; and who it is where it was started by root."""

import os
import resource
from collections.abc import Mapping
from pathlib import Path
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


def unused_id() -> int | None:
    """A user id that nobody has, another one for each process, as the kernel counts threads by user.

    The machine's nobody where a container has no such ids; None where it has not even that.
    """
    known = [_known_ids(kind) for kind in ("uid", "gid")]
    for candidate in (FIRST_FREE_ID + os.getpid() % FREE_IDS, NOBODY):
        if all(any(candidate in ids for ids in each) for each in known):
            return candidate
    return None


def _known_ids(kind: str) -> list[range]:
    """The ids that exist around this process: all, but in a user namespace only those that are mapped."""
    rows = (line.split() for line in Path(f"/proc/self/{kind}_map").read_text(encoding="ascii").splitlines())
    return [range(int(first), int(first) + int(count)) for first, _, count in rows]


def become_nobody(user: int) -> None:
    """Turns root into a user who owns nothing, for good. Raises OSError."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
