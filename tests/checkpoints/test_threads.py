"""Threads: one for each real core that may be used, and what a user chose stays."""

import os

import pytest
import torch

from baichuan2.checkpoints import threads
from baichuan2.checkpoints.load import load_model
from baichuan2.checkpoints.threads import num_usable_cores, use_threads
from baichuan2.settings import LoadSettings


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with the cores, allowed processors and quota that the test says; torch's threads are put back."""

    def make(siblings, allowed, cpu_max=None, quota=None):
        for processor, names in enumerate(siblings):
            folder = tmp_path / f"devices/system/cpu/cpu{processor}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(names + "\n")
        (tmp_path / "fs/cgroup/cpu").mkdir(parents=True)
        if cpu_max is not None:
            (tmp_path / "fs/cgroup/cpu.max").write_text(cpu_max + "\n")
        if quota is not None:
            (tmp_path / "fs/cgroup/cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
            (tmp_path / "fs/cgroup/cpu/cpu.cfs_period_us").write_text("100000\n")
        monkeypatch.setattr(threads, "SYSTEM", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: len(siblings))

    for name in threads.SET_BY_USER:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield make
    torch.set_num_threads(before)


FOUR_CORES = ["0,4", "1,5", "2,6", "3,7"] * 2


def test_second_threads_of_a_core_do_not_count(machine):
    machine(FOUR_CORES, range(8))
    assert num_usable_cores() == 4


@pytest.mark.parametrize(("allowed", "expected"), [([0, 4], 1), ([0, 1], 2), ([5, 6, 7, 1], 3)])
def test_only_allowed_processors_count(machine, allowed, expected):
    machine(FOUR_CORES, allowed)
    assert num_usable_cores() == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"cpu_max": "200000 100000"}, 2),
        ({"cpu_max": "350000 100000"}, 3),
        ({"cpu_max": "50000 100000"}, 1),
        ({"cpu_max": "max 100000"}, 4),
        ({"cpu_max": "9900000 100000"}, 4),
        ({"cpu_max": "nonsense"}, 4),
        ({"quota": 200000}, 2),
        ({"quota": -1}, 4),
    ],
)
def test_a_quota_counts(machine, limits, expected):
    machine(FOUR_CORES, range(8), **limits)
    assert num_usable_cores() == expected


def test_without_knowledge_of_cores_every_processor_is_one(machine):
    machine([], range(3))
    assert num_usable_cores() == 3


def test_a_default_that_counts_too_many_is_lowered(machine):
    machine(FOUR_CORES, range(8), cpu_max="200000 100000")
    for default in (8, 4):
        torch.set_num_threads(default)
        assert use_threads(None) == torch.get_num_threads() == 2


@pytest.mark.parametrize("chosen", [1, 3, 6])
def test_what_somebody_chose_in_torch_stays(machine, chosen):
    machine(FOUR_CORES, range(8))
    torch.set_num_threads(chosen)
    assert use_threads(None) == chosen


def test_what_the_environment_says_stays_and_a_wish_goes_before_it(machine, monkeypatch):
    machine(FOUR_CORES, range(8), cpu_max="100000 100000")
    torch.set_num_threads(8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert use_threads(None) == 8
    assert use_threads(3) == torch.get_num_threads() == 3


def test_loading_sets_them(machine):
    machine(FOUR_CORES, range(8))
    load_model("demo-chat", LoadSettings(device="cpu", threads=3))
    assert torch.get_num_threads() == 3
