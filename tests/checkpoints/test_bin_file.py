"""Weight files as torch writes them, made one tensor after the other."""

import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan2.checkpoints.bin_file import is_whole_bin, stream_bin
from baichuan2.checkpoints.shard_file import StoredAs, stream_shard

TENSORS: dict[str, Tensor] = {
    "model.embed_tokens.weight": torch.arange(21.0).reshape(7, 3).bfloat16(),
    "model.norm.weight": torch.arange(5.0),
    "half": torch.arange(130).reshape(2, 65).half(),
    "a number": torch.tensor(3.0, dtype=torch.float64),
    "codes": torch.arange(6, dtype=torch.int8).reshape(2, 3),
}
LAYOUT = {name: StoredAs.of(tensor) for name, tensor in TENSORS.items()}


def written(folder: Path) -> Path:
    path = folder / "pytorch_model.bin"
    stream_bin(LAYOUT, TENSORS.__getitem__, path)
    return path


@pytest.mark.parametrize("is_mapped", [True, False])
def test_torch_reads_the_same_tensors_where_vector_code_can(tmp_path: Path, is_mapped: bool) -> None:
    found = torch.load(written(tmp_path), weights_only=True, mmap=is_mapped)
    assert list(found) == list(TENSORS)
    for name, tensor in found.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.data_ptr() % 64 == 0


def test_the_pickle_is_the_one_that_torch_writes(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "theirs.bin")
    with zipfile.ZipFile(written(tmp_path)) as ours, zipfile.ZipFile(tmp_path / "theirs.bin") as theirs:
        assert ours.read("archive/data.pkl") == theirs.read("theirs/data.pkl")
        assert ours.testzip() is None


def test_rows_may_come_in_pieces_and_the_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    stream_bin(LAYOUT, lambda name: iter(TENSORS[name].reshape(-1).split(2)), tmp_path / "pieces.bin")
    assert (tmp_path / "pieces.bin").read_bytes() == whole


def test_damage_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert is_whole_bin(path, LAYOUT)
    assert not is_whole_bin(path, {name: stored for name, stored in LAYOUT.items() if name != "half"})
    content = bytearray(path.read_bytes())
    place = content.index(TENSORS["half"].numpy().tobytes())
    content[place + 9] ^= 1
    path.write_bytes(content)
    assert not is_whole_bin(path, LAYOUT)
    path.write_bytes(content[:-70])
    assert not is_whole_bin(path, LAYOUT)


def test_too_few_rows_are_a_defect_and_no_file(tmp_path: Path) -> None:
    layout = {"half": LAYOUT["half"]}
    with pytest.raises(AssertionError):
        stream_shard(layout, lambda name: iter([TENSORS[name][:1]]), tmp_path / "short.safetensors")
