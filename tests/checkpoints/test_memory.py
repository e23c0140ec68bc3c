"""How much memory there is, read from a machine that is played by files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from baichuan2.checkpoints import device as device_module
from baichuan2.checkpoints import memory
from baichuan2.checkpoints.memory import Place, accelerator, main_memory, places

KIB = 1024
MEMINFO = "MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable:  600 kB\nSwapFree: 50 kB\n"
MACHINE = Place("cpu", "main", 1000 * KIB, 600 * KIB, 50 * KIB)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUP_MOUNT", tmp_path / "cgroup")
    monkeypatch.setattr(memory.platform, "system", lambda: "Linux")
    write(tmp_path, "proc/meminfo", MEMINFO)
    return tmp_path


def write(root: Path, name: str, text: object) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(text))


def test_a_machine_without_limits(root: Path) -> None:
    assert main_memory() == MACHINE
    write(root, "proc/self/cgroup", "0::/some/where\n")
    assert main_memory() == MACHINE
    write(root, "cgroup/some/where/memory.max", "max\n")
    assert main_memory() == MACHINE


def test_a_limit_of_version_2(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/box/inner\n")
    write(root, "cgroup/box/memory.max", 500 * KIB)  # the group around it
    write(root, "cgroup/box/memory.current", 300 * KIB)
    write(root, "cgroup/box/memory.stat", f"anon 1\ninactive_file {60 * KIB}\nactive_file {40 * KIB}\nshmem 7\n")
    write(root, "cgroup/box/memory.swap.max", 0)
    assert main_memory() == Place("cpu", "main", 500 * KIB, 300 * KIB, 0)  # files in memory can be dropped
    write(root, "cgroup/box/inner/memory.max", 400 * KIB)
    write(root, "cgroup/box/inner/memory.current", 399 * KIB)
    write(root, "cgroup/box/memory.swap.max", "max")
    assert main_memory() == Place("cpu", "main", 400 * KIB, 1 * KIB, 50 * KIB)


def test_a_limit_of_version_1_and_the_path_of_the_host(root: Path) -> None:
    write(root, "proc/self/cgroup", "5:devices:/x\n4:memory:/host/only\n0::/\n")
    write(root, "cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)
    assert main_memory() == MACHINE
    write(root, "cgroup/memory/memory.limit_in_bytes", 200 * KIB)
    write(root, "cgroup/memory/memory.usage_in_bytes", 150 * KIB)
    write(root, "cgroup/memory/memory.stat", f"total_inactive_file {10 * KIB}\ntotal_active_file {5 * KIB}\n")
    assert main_memory() == Place("cpu", "main", 200 * KIB, 65 * KIB, 50 * KIB)


def test_what_cannot_be_told_is_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "proc" / "meminfo").write_bytes(b"MemTotal: many\n\xff")
    assert main_memory() == Place("cpu", "main", None, None)
    monkeypatch.setattr(memory.platform, "system", lambda: "Darwin")
    place = main_memory()
    assert place.free is None
    assert place.total is None or place.total > 0


def test_this_machine() -> None:
    place = places()[-1]
    assert place.name == "cpu"
    assert place.free is None or place.total is None or 0 < place.free <= place.total


def test_accelerators_with_and_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SimpleNamespace(
        mem_get_info=lambda device: (500, 2000), memory_reserved=lambda _: 300, memory_allocated=lambda _: 100
    )
    monkeypatch.setattr(torch, "cuda", backend)
    # what this process has freed, but keeps in reserve, can be used again
    assert accelerator("cuda:0") == Place("cuda:0", "accelerator", 2000, 700)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(mem_get_info=lambda device: (500, 2000)))
    assert accelerator("cuda:0") == Place("cuda:0", "accelerator", 2000, 500)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace())
    assert accelerator("cuda:0") == Place("cuda:0", "accelerator", None, None)
    assert device_module._free_bytes(torch.device("cuda:0")) == float("inf")
