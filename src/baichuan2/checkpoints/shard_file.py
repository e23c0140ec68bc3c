"""Safetensors files whose numbers lie where vector code can read them from the mapped file.

The safetensors library writes files that nobody else may read, and lets the numbers begin anywhere. Here the data
begins at a multiple of 64 bytes, and so does each tensor that comes before the first of an uneven size; those come
last. Where one is a multiple of 64 bytes, as in all published models, that is every tensor of the file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan2.quantization.freed_memory import is_mapped_from_file, release_pages

__all__ = ["ALIGNMENT", "StoredAs", "byte_pieces", "save_shard", "stored_pieces", "stream_shard"]

ALIGNMENT = 64  # bytes: a line of a processor's cache, and its widest vector
BYTES_AT_A_TIME = 1 << 26
METADATA_KEY = "__metadata__"
DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}


@dataclass(frozen=True)
class StoredAs:
    """Number format and shape of a tensor in a file, known before its values are."""

    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> "StoredAs":
        """Those of `tensor`, which may be empty (on the meta device)."""
        return cls(tensor.dtype, tensor.shape)

    @property
    def num_bytes(self) -> int:
        """What its values take."""
        return self.shape.numel() * self.dtype.itemsize


def save_shard(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes `tensors` as a safetensors file, a piece at a time: mapped ones take no memory afterwards.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    stream_shard({name: StoredAs.of(tensor) for name, tensor in tensors.items()}, tensors.__getitem__, path)


def stream_shard(layout: Mapping[str, StoredAs], make: Callable[[str], Tensor | Iterator[Tensor]], path: Path) -> str:
    """Writes a safetensors file whose tensors are made one after the other, each when its turn comes.

    `layout`: what each of them will be. `make`: the tensor of that name, or its rows in pieces, one after the other.

    Returns: the SHA-256 of what was meant to be written.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    # whole lines first, so that all of them begin at one; the order by name makes the bytes depend on nothing else
    names = sorted(layout, key=lambda name: (layout[name].num_bytes % ALIGNMENT != 0, name))
    header: dict[str, Any] = {METADATA_KEY: {"format": "pt"}}
    offset = 0
    for name in names:
        end = offset + layout[name].num_bytes
        header[name] = {
            "dtype": DTYPE_NAMES[layout[name].dtype],
            "shape": list(layout[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-(8 + len(content)) % ALIGNMENT)  # the format allows spaces behind the header
    content = len(content).to_bytes(8, "little") + content
    digest = hashlib.sha256(content)
    with path.open("wb") as file:
        file.write(content)
        for name in names:
            for piece in stored_pieces(layout[name], make(name)):
                file.write(piece)
                digest.update(piece)
    return digest.hexdigest()


def stored_pieces(stored: StoredAs, made: Tensor | Iterator[Tensor]) -> Iterator[memoryview]:
    """The bytes of a tensor that was made whole or in rows, which must be just those of `stored`."""
    num_bytes = 0
    for part in [made] if isinstance(made, Tensor) else made:
        assert part.dtype == stored.dtype
        for piece in byte_pieces(part):
            num_bytes += piece.nbytes
            yield piece.numpy().data
    assert num_bytes == stored.num_bytes


def byte_pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The bytes of `tensor` (uint8) in pieces; those mapped from a file leave memory when the next one is asked for."""
    is_mapped = is_mapped_from_file(tensor)
    for piece in torch.split(tensor.detach().contiguous().reshape(-1).view(torch.uint8), BYTES_AT_A_TIME):
        yield piece
        if is_mapped:
            release_pages(piece)
