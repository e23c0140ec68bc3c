"""The layout of the official 4-bit checkpoints (`Baichuan2-*-Chat-4bits`): a list beside the codes of each weight.

The file keeps `<weight>.data`, the codes, and `<weight>.quant_state`, a plain list as bitsandbytes held it in 2023.
What varied between its versions is read as long as it can mean one thing only; the rest is an error. Knows no files.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baichuan2.errors import CheckpointError
from baichuan2.quantization.nf4 import NF4_CODE, NF4Tensor, check_nf4

__all__ = ["CODES_SUFFIX", "STATE_SUFFIX", "read_quant_state", "stored_tensor", "write_quant_state"]

# what stands behind the name of the weight (`model.layers.0.mlp.up_proj.weight`) in the two keys
CODES_SUFFIX = ".data"
STATE_SUFFIX = ".quant_state"

GREATEST_SIZE = 2**31 - 1
LAYOUT = "[scales, shape, dtype, block size, offset and scales of the scales, 'nf4', code table]"


def read_quant_state(
    quant_state: object, codes: object, name: str, expected_shape: tuple[int, int] | None = None
) -> NF4Tensor:
    """The weight (N, K) that a list and its codes describe; `name` is that of the weight, for messages.

    Codes: uint8, n/2 of them, flat, as a column or as a row. List: the scales, shape (torch.Size, tuple or list),
    dtype, block size, the pair [offset, scales of the scales] or None where the scales are float32, "nf4", and in later
    versions the code table. The scales of the scales: themselves, their code table, their block size, and a tail that
    says that they are not compressed any further (False, a dtype, None), of any length. `expected_shape`: what shape
    the weight must have, where that is known; any other is refused before its parts are looked at.

    Raises:
        CheckpointError: anything else; one line that begins with `name`.
    """
    items = _items(quant_state, "the quant_state", name)
    if len(items) not in (6, 7):
        raise CheckpointError(f"{name}: the quant_state has 6 or 7 items, {LAYOUT}, got {len(items)}")
    absmax, shape, dtype, block_size, nested, quant_type = items[:6]
    if quant_type != "nf4" or not isinstance(quant_type, str):
        hint = ", which is not read: quantise the original weights anew" if quant_type == "fp4" else ""
        raise CheckpointError(f"{name}: the 4-bit type must be 'nf4', got {_shown(quant_type)}{hint}")
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"{name}: the third item of the quant_state must be a dtype, got {_shown(dtype)}")
    offset = nested_absmax = nested_code = None
    nested_block_size = 256
    if nested is not None:
        offset, (nested_absmax, nested_code, nested_block_size) = _read_nested(nested, name)
    sizes = _shape(shape, name)
    if expected_shape is not None and sizes != expected_shape:
        raise CheckpointError(f"{name} has the shape {sizes}, config.json wants {expected_shape}")
    packed = stored_tensor(codes, f"{name}: the codes")
    if packed.dim() > 2 or (packed.dim() == 2 and 1 not in packed.shape):
        raise CheckpointError(f"{name}: the codes must be one row or column, got the shape {tuple(packed.shape)}")
    tensor = NF4Tensor(
        codes=packed.reshape(-1),
        shape=sizes,
        dtype=dtype,
        absmax=stored_tensor(absmax, f"{name}: the scales"),
        offset=offset,
        nested_absmax=nested_absmax,
        nested_code=nested_code,
        code=stored_tensor(items[6], f"{name}: the code table") if len(items) == 7 else NF4_CODE,
        block_size=_integer(block_size, "the block size", name),
        nested_block_size=nested_block_size,
    )
    check_nf4(tensor, name)
    return tensor


def _read_nested(nested: object, name: str) -> tuple[Tensor, tuple[Tensor, Tensor, int]]:
    """The offset of compressed scales, and their own scales, code table and block size."""
    pair = _items(nested, "the fifth item of the quant_state", name)
    if len(pair) != 2:
        raise CheckpointError(
            f"{name}: the fifth item of the quant_state is a pair of offset and scales, got {len(pair)} items"
        )
    offset = stored_tensor(pair[0], f"{name}: the offset")
    if offset.numel() != 1:
        raise CheckpointError(f"{name}: the offset must be one number, got the shape {tuple(offset.shape)}")
    state = _items(pair[1], "the scales of the scales", name)
    if len(state) < 3:
        raise CheckpointError(
            f"{name}: the scales of the scales come with a code table and a block size, got {len(state)} items"
        )
    for item in state[3:]:
        if item is not None and item is not False and not isinstance(item, torch.dtype):
            raise CheckpointError(
                f"{name}: what follows the scales of the scales must say that they are not compressed further (False, "
                f"a dtype, None), got {_shown(item)}"
            )
    return offset.reshape(()), (
        stored_tensor(state[0], f"{name}: the scales of the scales"),
        stored_tensor(state[1], f"{name}: the code table of the scales"),
        _integer(state[2], "the block size of the scales", name),
    )


def write_quant_state(tensor: NF4Tensor) -> list[object]:
    """The list that describes a weight in an official 4-bit file; its codes stand beside it as uint8 (n/2, 1)."""
    nested: list[object] | None = None
    if tensor.is_double:
        tail = [tensor.nested_block_size, False, torch.float32, None, None]
        nested = [tensor.offset, [tensor.nested_absmax, tensor.nested_code, *tail]]
    shape = torch.Size(tensor.shape)
    return [tensor.absmax, shape, tensor.dtype, tensor.block_size, nested, "nf4", tensor.code]


def _items(value: object, what: str, name: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise CheckpointError(f"{name}: {what} must be a list, got {_shown(value)}")
    return value


def stored_tensor(value: object, what: str) -> Tensor:
    """The tensor, also where the file keeps it as a parameter; `what` it is, for messages.

    A pickle can describe a tensor without holding its values: a view that repeats one number any number of times, or
    one that has no memory at all. Those are refused, as the first look at them would fail or fill the memory.

    Raises:
        CheckpointError: no tensor, or none whose values all lie in the file; one line that begins with `what`.
    """
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{what} must be a tensor, got {_shown(value)}")
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise CheckpointError(f"{what} must be a plain tensor, got a {type(value).__name__}")
    if value.layout != torch.strided or value.is_quantized:
        raise CheckpointError(f"{what} must be a dense tensor, got {value.layout} of {value.dtype}")
    if value.device.type != "cpu":
        raise CheckpointError(f"{what} must hold values, got a tensor on the device {value.device.type!r}")
    if value.nbytes > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{what} must hold all its values, got {tuple(value.shape)} in {value.untyped_storage().nbytes()} bytes"
        )
    return value.detach()


def _integer(value: object, what: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{name}: {what} must be a whole number, got {_shown(value)}")
    if abs(value) > GREATEST_SIZE:  # a pickle can hold one of a million digits
        raise CheckpointError(f"{name}: {what} must be at most {GREATEST_SIZE}, got a greater number")
    return value


def _shape(value: object, name: str) -> tuple[int, int]:
    sizes = [_integer(size, "a size of the shape", name) for size in _items(value, "the shape", name)]
    if len(sizes) != 2:
        raise CheckpointError(f"{name}: a quantised weight has two sizes, got the shape {tuple(sizes)}")
    return sizes[0], sizes[1]


def _shown(value: object) -> str:
    """The value in a few words, on one line."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    try:
        shown = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a whole number of thousands of digits, a list in a list in a list ...
        return f"a {type(value).__name__}"
    return shown if len(shown) <= 40 else f"a {type(value).__name__}"
