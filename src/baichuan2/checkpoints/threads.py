"""How many threads compute on the processor: one for each real core that this process may use.

Two threads of one core share the units that multiply, and a container's quota stops threads beyond it in the middle of
their work, while all others wait for them.
"""

import os
from pathlib import Path

import torch

__all__ = ["num_usable_cores", "use_threads"]

SYSTEM = Path("/sys")
SET_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def use_threads(asked: int | None) -> int:
    """Makes torch, and our kernels with it, use `asked` threads; None: as many as are useful. How many they are now.

    Without a wish, what somebody chose stays: by an environment variable, or by torch.set_num_threads. Threads only
    ever become fewer then, and only when torch's own default counts cores that are not there.
    """
    if asked is not None:
        torch.set_num_threads(asked)
    elif not any(os.environ.get(name) for name in SET_BY_USER):
        useful, now = num_usable_cores(), torch.get_num_threads()
        defaults = (os.cpu_count(), len(_allowed()), len(_cores(_allowed())))
        if now > useful and now in defaults:
            torch.set_num_threads(useful)
    return torch.get_num_threads()


def num_usable_cores() -> int:
    """Real cores, not their second threads, that this process may run on, and that its quota pays for; at least 1."""
    cores = len(_cores(_allowed()))
    quota = _quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _allowed() -> set[int]:
    """The logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _cores(processors: set[int]) -> set[str]:
    """The cores of these logical processors: each by the list of its threads; unknown ones count as cores."""
    cores = set()
    for processor in processors:
        path = SYSTEM / f"devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        cores.add(_first_line(path) or str(processor))
    return cores


def _quota() -> float | None:
    """How many processors' time the container may use; None without a limit."""
    limit = _first_line(SYSTEM / "fs/cgroup/cpu.max").split()  # version 2: quota and period, or "max"
    if not limit:
        limit = [_first_line(SYSTEM / f"fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (int(number) for number in limit)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return ""
