"""How much memory there is: main memory with the limits that containers set, and that of accelerators.

What cannot be told is None, which the reader must take as "any amount": a guess here would turn a model away wrongly.
"""

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from baichuan2.devices import available_devices, device_memory
from baichuan2.settings import parse_bytes

__all__ = ["Place", "accelerator", "given_places", "main_memory", "places"]

PROC = Path("/proc")
CGROUP_MOUNT = Path("/sys/fs/cgroup")
# without a limit version 1 of the kernel's control groups reports a number near 2^63
NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Place:
    """Memory that can hold a model, in bytes; None: cannot be told.

    `free`: what could be taken now, files that the system merely keeps in memory included. `swap`: free room on disk
    that the system uses as memory. `is_live`: looked at just now, so that what this program itself takes is no longer
    free; not so where somebody merely gave a size.
    """

    name: str
    kind: Literal["main", "accelerator"]
    total: int | None
    free: int | None
    swap: int = 0
    is_live: bool = True


def places() -> list[Place]:
    """The accelerators of this machine, the preferred one first, then its main memory."""
    return [accelerator(name) for name in available_devices() if name != "cpu"] + [main_memory()]


def given_places(*, gpu: str | None, memory: str | None) -> list[Place]:
    """An accelerator and main memory of the given sizes, such as `24GB`; without either what this machine has."""
    sizes: tuple[tuple[str, Literal["main", "accelerator"], str | None], ...] = (
        ("gpu", "accelerator", gpu),
        ("cpu", "main", memory),
    )
    where = []
    for name, kind, text in sizes:
        if text is not None:
            size = parse_bytes(text)
            where.append(Place(name, kind, size, size, is_live=False))
    return where or places()


def accelerator(name: str) -> Place:
    """The memory of the accelerator called `name`, such as `cuda:0`."""
    memory = device_memory(torch.device(name))
    free, total = memory if memory is not None else (None, None)
    return Place(name, "accelerator", total, free)


def main_memory() -> Place:
    """The memory that this process may use: the machine's, or less where a control group sets a limit."""
    system = platform.system()
    if system == "Linux":
        return _linux_memory()
    if system == "Windows":
        return _windows_memory()
    try:  # macOS: what other programs hold cannot be told without running one
        return Place("cpu", "main", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None)
    except (ValueError, OSError):
        return Place("cpu", "main", None, None)


def _linux_memory() -> Place:
    values = _table(PROC / "meminfo")
    total, free = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or free is None:
        return Place("cpu", "main", None, None)
    total, free, swap = total * 1024, free * 1024, values.get("SwapFree", 0) * 1024
    for folder in _control_groups():
        limit, used, free_swap = _limit(folder)
        if limit is not None and limit < NO_LIMIT:
            total = min(total, limit)
            free = min(free, max(0, limit - used))
            swap = min(swap, free_swap)
    return Place("cpu", "main", total, free, swap)


def _control_groups() -> list[Path]:
    """The folders of the control groups that limit this process, its own first, then those around it."""
    folders: list[Path] = []
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mount = CGROUP_MOUNT / controllers
        folder = mount / path.lstrip("/")
        # inside a container the path may be that of the host, which does not exist here; the mount itself does
        folders += [place for place in (folder, *folder.parents) if place == mount or mount in place.parents]
    return folders


def _limit(folder: Path) -> tuple[int | None, int, int]:
    """Limit and use of one control group, files in memory left out of the use, and the room that it has in swap."""
    statistics = _table(folder / "memory.stat")
    if (folder / "memory.max").is_file():  # version 2
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current") or 0
        files = statistics.get("inactive_file", 0) + statistics.get("active_file", 0)
        most_swap = _number(folder / "memory.swap.max")
        free_swap = NO_LIMIT if most_swap is None else most_swap - (_number(folder / "memory.swap.current") or 0)
        return limit, max(0, used - files), max(0, free_swap)
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes") or 0
    files = statistics.get("total_inactive_file", 0) + statistics.get("total_active_file", 0)
    return limit, max(0, used - files), NO_LIMIT


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or it says `max`."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Name -> number of a file with lines such as `MemTotal:  24684084 kB`; empty where there is no file."""
    try:
        rows = [line.replace(":", " ").split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


class _WindowsStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [  # the name and form that ctypes asks for
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        *((name, ctypes.c_ulonglong) for name in ("total", "free", "total_page", "free_page")),
        *((name, ctypes.c_ulonglong) for name in ("total_virtual", "free_virtual", "free_extended")),
    ]


def _windows_memory() -> Place:
    status = _WindowsStatus()
    status.length = ctypes.sizeof(status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  # typed on Windows only
    if not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return Place("cpu", "main", None, None)
    total, free, free_page = (int(getattr(status, name)) for name in ("total", "free", "free_page"))
    return Place("cpu", "main", total, free, max(0, free_page - free))
