"""The number formats of a GGUF file: which tensor is stored in which, and its rows written in it, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from baichuan2.convert.gguf_layout import HEAD, GgufTensor
from baichuan2.errors import QuantizationError, SettingsError
from baichuan2.optional import require

__all__ = ["FILE_TYPES", "MIXED_TYPES", "check_type", "encoded_blocks", "num_bytes", "tensor_type"]

Bytes = npt.NDArray[np.uint8]

FILE_TYPES: Final = {
    "f32": ("F32", 0),
    "f16": ("F16", 1),
    "bf16": ("BF16", 32),
    "q8_0": ("Q8_0", 7),
    "q4_0": ("Q4_0", 2),
    "q4_1": ("Q4_1", 3),
    "q5_0": ("Q5_0", 8),
    "q5_1": ("Q5_1", 9),
}
"""What is written here: name of the format of matrices, and llama.cpp's number for such a file."""

MIXED_TYPES: Final = {
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
}
"""The k-quants, which llama.cpp itself writes, and its number for such a file."""

PLAIN_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK_WEIGHTS: Final = 1 << 22  # weights that are in the works at a time: 16 MB in float32
LARGEST_VALUE: Final = 65504.0  # of float16, in which scales are stored


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file and the format in which it is stored there."""

    tensor: GgufTensor
    type: str

    @property
    def num_bytes(self) -> int:
        """What it takes in the file."""
        return num_bytes(self.tensor.shape, self.type)


def check_type(name: str) -> None:
    """Raises SettingsError where there is no such --type."""
    if name not in FILE_TYPES and name not in MIXED_TYPES:
        known = ", ".join((*FILE_TYPES, *MIXED_TYPES))
        raise SettingsError(f"--type {name!r} is none that to-gguf writes: use one of {known}")


def tensor_type(file_type: str, tensor: GgufTensor) -> str:
    """The format of one tensor in a file of `file_type`, one of `FILE_TYPES`.

    As llama.cpp's own quantiser has it: norms keep 32 bits, rows that are no whole number of blocks 16, and the head
    gets more bits than the other matrices; q8_0 where llama.cpp takes its q6_k, which numpy cannot write.
    """
    if len(tensor.shape) == 1:
        return "F32"
    name = FILE_TYPES[file_type][0]
    if name in PLAIN_DTYPES:
        return name
    if tensor.shape[-1] % _block_size(name)[0]:
        return "F16"
    return "Q8_0" if tensor.name == HEAD else name


def num_bytes(shape: tuple[int, ...], type_name: str) -> int:
    """What a tensor of this shape takes in this format."""
    weights, size = _block_size(type_name)
    count = int(np.prod(shape, dtype=np.int64))
    assert count % weights == 0
    return count // weights * size


def encoded_blocks(tensor: GgufTensor, weight: Tensor, type_name: str) -> Iterator[Bytes]:
    """The bytes of a tensor of the file made of `weight`, some rows at a time.

    Raises:
        QuantizationError: a number is beyond what the format can hold, or is none.
    """
    weight = weight.reshape(-1, weight.shape[-1])  # (R, K), a norm as one row
    order = tensor.rows
    num_rows = weight.shape[0] if order is None else order.numel()
    step = max(1, BLOCK_WEIGHTS // weight.shape[1])
    for start in range(0, num_rows, step):
        stop = start + step
        rows = weight[start:stop] if order is None else weight[order[start:stop]]
        if tensor.is_normalized:
            rows = normalized_rows(rows, type_name)
        yield _encoded(rows, type_name, tensor.source)


def normalized_rows(rows: Tensor, type_name: str) -> Tensor:
    """Rows (R, K) of unit length.

    Where the file keeps the checkpoint's own 16 bits these are bit for bit the rows that inference in those multiplies
    with; else they are made in float32, as inference in float32 has them, and rounded once.
    """
    same = PLAIN_DTYPES.get(type_name) == rows.dtype
    return normalize((rows if same else rows.float()).contiguous())  # in the order in which a model sums its own


def _encoded(rows: Tensor, type_name: str, source: str) -> Bytes:
    dtype = PLAIN_DTYPES.get(type_name)
    values = rows.float() if dtype is None else rows.to(dtype)
    low, high = (float(value) for value in values.aminmax())
    limit = LARGEST_VALUE if dtype is None else torch.finfo(dtype).max
    if not (-limit <= low and high <= limit):  # NaN fails every comparison
        raise QuantizationError(
            f"{source} holds numbers that are none, or beyond what {type_name.lower()} can hold: look at the "
            "checkpoint, or give --type f32 or bf16"
        )
    if dtype is not None:
        return np.asarray(values.contiguous().view(torch.uint8).numpy().reshape(-1), dtype=np.uint8)
    gguf: Any = require("gguf", extra="gguf")
    codes = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType[type_name])
    return np.asarray(codes, dtype=np.uint8).reshape(-1)


def _block_size(type_name: str) -> tuple[int, int]:
    """Weights and bytes of a block."""
    gguf: Any = require("gguf", extra="gguf")
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]]
    return int(weights), int(size)
