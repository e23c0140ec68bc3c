"""Memory that is given back: what the system counts goes down, and no value is lost."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baichuan2.quantization.freed_memory import give_back, is_mapped_from_file, release_if_mapped, release_pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and takes this advice")
NUM_BYTES = 64 << 20


def resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_a_mapped_tensor_leaves_memory_and_comes_back(tmp_path: Path) -> None:
    save_file({"a": torch.full((NUM_BYTES,), 7, dtype=torch.uint8)}, tmp_path / "file.safetensors")
    tensor = load_file(tmp_path / "file.safetensors")["a"]
    assert is_mapped_from_file(tensor)
    assert int(tensor.sum()) == 7 * NUM_BYTES
    for release in (release_pages, release_if_mapped):
        before = resident()
        release(tensor)
        assert before - resident() > NUM_BYTES * 0.9
        assert int(tensor.sum()) == 7 * NUM_BYTES


def test_other_tensors_are_not_mapped_and_keep_their_values() -> None:
    tensor = torch.full((1 << 20,), 3, dtype=torch.uint8)
    assert not is_mapped_from_file(tensor)
    release_if_mapped(tensor)
    give_back(tensor)
    assert int(tensor.sum()) == 3 << 20
    assert not is_mapped_from_file(torch.empty(0))


def test_released_pages_belong_to_no_neighbour() -> None:
    values = torch.arange(3 * 4096, dtype=torch.float32)  # three pages of 4096 bytes in each of three tensors
    left, middle, right = values.split(4096)
    release_pages(middle)
    assert torch.equal(left, torch.arange(4096.0))
    assert torch.equal(right, torch.arange(2 * 4096.0, 3 * 4096.0))
