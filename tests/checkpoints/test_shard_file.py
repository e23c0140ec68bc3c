"""Files of weights that anyone may read, with their numbers where vector code can take them."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from baichuan2.checkpoints.shard_file import ALIGNMENT, DTYPE_NAMES, byte_pieces, save_shard
from tests.convert.test_quantize import small, written  # noqa: F401


def header_of(path: Path) -> tuple[int, dict[str, dict[str, list[int]]]]:
    """Where the data begins, and what the header says about each tensor."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    return 8 + length, header


@pytest.mark.parametrize("name", ["a", "ab", "abc" * 20])
def test_the_library_reads_every_number_format(name, tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-100, 100, (6, 32), generator=generator)
    tensors = {f"{name}.{dtype}": values.to(dtype) for dtype in DTYPE_NAMES}
    tensors |= {"0-odd": values[:1, :3].to(torch.uint8), "scalar": torch.tensor(2.5), "turned": values.float().T}
    save_shard(tensors, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(tensors)
        for key, meant in tensors.items():
            assert file.get_tensor(key).dtype == meant.dtype
            assert torch.equal(file.get_tensor(key), meant)
        aligned = [key for key in tensors if file.get_tensor(key).data_ptr() % ALIGNMENT == 0]
    assert set(aligned) >= set(tensors) - {"0-odd", "scalar"}


@pytest.mark.parametrize("format", ["int8", "int4", "nf4"])
def test_shards_begin_at_whole_lines_and_codes_too(format, small, tmp_path):  # noqa: F811
    folder = written(small, tmp_path / "out", format=format, method="nearest").folder
    for path in folder.glob("*.safetensors"):
        start, header = header_of(path)
        assert start % ALIGNMENT == 0
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            if (last - first) % ALIGNMENT == 0:
                assert (start + first) % ALIGNMENT == 0, name


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
@pytest.mark.parametrize("format", ["int4", "official-4bits"])
def test_files_have_the_mode_that_the_user_asked_for(format, mask, mode, small, tmp_path):  # noqa: F811
    before = os.umask(mask)
    try:
        folder = written(small, tmp_path / "out", format=format, method="nearest").folder
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        path.name: mode for path in folder.iterdir()
    }


def test_pieces_are_all_bytes_in_order():
    values = torch.arange(5000, dtype=torch.int32)
    assert torch.equal(torch.cat(list(byte_pieces(values))).view(torch.int32), values)
