"""Safetensors files whose numbers lie where vector code can read them from the mapped file.

The safetensors library writes files that nobody else may read, and lets the numbers begin anywhere. Here the data
begins at a multiple of 64 bytes, and so does each tensor that comes before the first of an uneven size; those come
last. Where one is a multiple of 64 bytes, as in all published models, that is every tensor of the file.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan2.quantization.freed_memory import is_mapped_from_file, release_pages

__all__ = ["ALIGNMENT", "byte_pieces", "save_shard"]

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


def save_shard(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes `tensors` as a safetensors file, a piece at a time: mapped ones take no memory afterwards.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    # whole lines first, so that all of them begin at one; the order by name makes the bytes depend on nothing else
    names = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, name))
    header: dict[str, Any] = {METADATA_KEY: {"format": "pt"}}
    offset = 0
    for name in names:
        values = tensors[name]
        end = offset + values.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-(8 + len(content)) % ALIGNMENT)  # the format allows spaces behind the header
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for name in names:
            for piece in byte_pieces(tensors[name]):
                file.write(piece.numpy().data)


def byte_pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The bytes of `tensor` (uint8) in pieces; those mapped from a file leave memory when the next one is asked for."""
    is_mapped = is_mapped_from_file(tensor)
    for piece in torch.split(tensor.detach().contiguous().reshape(-1).view(torch.uint8), BYTES_AT_A_TIME):
        yield piece
        if is_mapped:
            release_pages(piece)
