"""The one file of an official 4-bit folder, `pytorch_model.bin`, put together out of the shards of this package."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from baichuan2.convert.output import PartialFolder, read_shard, same_bytes
from baichuan2.errors import CheckpointError
from baichuan2.quantization.bnb_layout import read_nf4
from baichuan2.quantization.freed_memory import release_pages
from baichuan2.quantization.official_4bits import CODES_SUFFIX, STATE_SUFFIX, read_quant_state, write_quant_state

__all__ = ["BIN_FILE", "quantized_bits", "write_official_bin"]

BIN_FILE = "pytorch_model.bin"
STATE_MARK = ".quant_state.bitsandbytes__nf4"
RELEASE_EVERY = 1 << 26  # bytes


def write_official_bin(partial: PartialFolder, shards: Sequence[str], is_written: bool) -> None:
    """Writes the file from the shards, compares it with them, takes over their notes, and removes them.

    `is_written`: an earlier run has, so only shards that it left behind are removed.

    Raises:
        CheckpointError: what was written is not what was meant.
    """
    if not is_written:
        content: dict[str, Any] = {}
        for name in shards:
            content |= _content(_mapped(partial.path / name))
        content = dict(sorted(content.items()))
        errors = {key: error for name in shards for key, error in partial.notes[name]["errors"].items()}

        def verify(path: Path) -> dict[str, float]:
            _compare(path, content)
            return errors

        partial.write_file(BIN_FILE, lambda path: _save(content, path), verify)
    for name in shards:
        partial.remove(name)


def quantized_bits(path: Path) -> int:
    """Bits that the quantised weights take in the file, their scales included."""
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    parts = [value for key, value in content.items() if key.endswith((CODES_SUFFIX, STATE_SUFFIX))]
    return sum(8 * tensor.nbytes for tensor in _tensors_in(parts))


def _content(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The entries of a shard in the official layout, as they stand in a pickle: plain parameters, codes and lists."""
    entries: dict[str, Any] = {}
    weights = [name.removesuffix(STATE_MARK) for name in tensors if name.endswith(STATE_MARK)]
    parts = {name for weight in weights for name in tensors if name == weight or name.startswith(weight + ".")}
    for name in tensors.keys() - parts:
        entries[name] = nn.Parameter(tensors[name], requires_grad=False)
    for weight in weights:
        stored = read_nf4(tensors, weight)
        entries[weight + CODES_SUFFIX] = stored.codes.view(-1, 1)
        entries[weight + STATE_SUFFIX] = write_quant_state(stored)
    return entries


def _mapped(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, each with a storage of its own: torch.save writes whole storages."""
    found = read_shard(path)
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    start = min(tensor.data_ptr() for tensor in found.values())
    header = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, tensor in found.items():
        offset = header + tensor.data_ptr() - start
        values = torch.frombuffer(content, dtype=torch.uint8, count=tensor.nbytes, offset=offset)
        tensors[name] = values.view(tensor.dtype).view(tensor.shape)
    return tensors


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors_in(item)] if isinstance(value, list) else []


class _ReleasingFile:
    """A file for `torch.save` that gives back the memory of the tensors that have been written to it."""

    def __init__(self, file: IO[bytes], tensors: Sequence[Tensor]) -> None:
        self._file = file
        self._tensors = tensors
        self._num_bytes = 0

    def write(self, data: Any) -> int:
        """Writes bytes."""
        written = self._file.write(data)
        self._num_bytes += written
        if self._num_bytes >= RELEASE_EVERY:
            self._num_bytes = 0
            for tensor in self._tensors:
                release_pages(tensor)
        return written

    def flush(self) -> None:
        """Hands what is buffered to the system."""
        self._file.flush()


def _save(content: dict[str, Any], path: Path) -> None:
    # only what is mapped from a file may be released: the small parts lie in ordinary memory
    large = [value for value in content.values() if isinstance(value, Tensor)]
    with path.open("wb") as file:
        torch.save(content, cast(IO[bytes], _ReleasingFile(file, large)))


def _compare(path: Path, content: dict[str, Any]) -> None:
    """Raises CheckpointError where the file holds something else than `content`."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if found.keys() != content.keys():
        raise CheckpointError(f"{path} holds other tensors than were written: the disk is damaged")
    for key, meant in content.items():
        pairs = list(zip(_tensors_in(found[key]), _tensors_in(meant), strict=True))
        if key.endswith(STATE_SUFFIX):
            weight = key.removesuffix(STATE_SUFFIX)
            read_quant_state(found[key], found[weight + CODES_SUFFIX], f"{path}: {weight}")
        if not all(same_bytes(one.detach(), other.detach()) for one, other in pairs):
            raise CheckpointError(f"{path}: {key} differs from what was written: the disk is damaged")
        if isinstance(meant, Tensor):
            release_pages(found[key].detach())
            release_pages(meant.detach())
