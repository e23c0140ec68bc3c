"""Measured memory: the system's own figures, and a model loaded in a process of its own."""

import os
import sys

import pytest

from baichuan2.bench import memory
from baichuan2.bench.memory import LoadMemory, ProcessMemory, measure_load, process_memory, reset_peak
from baichuan2.errors import CheckpointError
from baichuan2.settings import LoadSettings

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

STATUS = "Name:\tpython\nVmPeak:\t 900 kB\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\nRssAnon:\t 150 kB\nRssFile:\t 50 kB\n"


def test_the_fields_of_the_system() -> None:
    parsed = memory._parse_status(STATUS)
    assert parsed == ProcessMemory(resident=204_800, anonymous=153_600, file_backed=51_200, peak=307_200)
    assert memory._parse_status("") == ProcessMemory(resident=None, anonymous=None, file_backed=None, peak=None)


def test_a_process_that_is_gone_has_no_figures() -> None:
    assert process_memory(2**22 + 1).resident is None


@linux_only
def test_what_is_allocated_is_seen_and_so_is_the_peak() -> None:
    size = 64 << 20
    assert reset_peak()
    before = process_memory(os.getpid())
    block = bytearray(os.urandom(1 << 20) * 64)
    during = process_memory()
    assert len(block) == size
    del block
    after = process_memory()
    assert None not in vars(before).values()
    assert during.anonymous - before.anonymous == pytest.approx(size, rel=0.1)
    assert during.resident - before.resident == pytest.approx(size, rel=0.1)
    assert after.resident - before.resident < size / 4
    assert after.peak - before.resident >= 0.9 * size
    assert reset_peak()
    assert process_memory().peak < after.peak - size / 2


@linux_only
def test_the_embedded_model_in_a_process_of_its_own() -> None:
    plain = measure_load("demo-chat", max_new_tokens=3)
    assert plain.num_tokens == 3
    assert plain.weight_bytes == pytest.approx(17.05e6, rel=0.01)
    assert plain.before.resident < plain.loaded.resident <= plain.generated.peak
    wide = measure_load(settings=LoadSettings(model="demo-chat", dtype="float32"), max_new_tokens=1)
    assert wide.weight_bytes == pytest.approx(34.1e6, rel=0.01)
    assert wide.loaded.anonymous - plain.loaded.anonymous > 20e6
    assert LoadMemory.from_dict(wide.to_dict()) == wide


@linux_only
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config.json|is empty") as caught:
        measure_load(tmp_path)
    assert "\n" not in str(caught.value)
