"""The tensors under which bitsandbytes keeps quantised weights in safetensors files, read and written without it.

4 bits: the codes under the name of the weight, the rest under names that begin with it. 8 bits: int8 codes, and the
greatest magnitude of each row under `SCB`. Knows tensors and their names, no files.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from baichuan2.errors import CheckpointError, QuantizationError
from baichuan2.quantization.nf4 import NF4Tensor, check_nf4

__all__ = [
    "LIBRARY_FIELDS",
    "dequantize_int8_rows",
    "has_packed_scales",
    "quantize_int8_rows",
    "read_int8",
    "read_nf4",
    "repair_packed_scales",
    "write_int8",
    "write_nf4",
]

# behind the name of the weight
SCALES = ".absmax"
CODE_TABLE = ".quant_map"
NESTED_SCALES = ".nested_absmax"
NESTED_CODE_TABLE = ".nested_quant_map"
STATE = ".quant_state.bitsandbytes__"  # and the 4-bit type
# in place of the last word of that name, `weight`
ROW_SCALES = "SCB"
WEIGHT_FORMAT = "weight_format"
ROW_MAJOR = 0

# `quantization_config` of NF4 folders, as the library and the official ones write it; other settings at their defaults
LIBRARY_FIELDS = {
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
INT8_STEPS = 127
FLOAT32_MAX = torch.finfo(torch.float32).max
ROWS_AT_A_TIME = 256
PACKED_SCALES = (
    "the scales lie in the order of a processor kernel, rounded to bfloat16: bitsandbytes wrote them after the model "
    "had already been run, which spoils single quantisation; save the model again before its first reply, or with "
    "bnb_4bit_use_double_quant"
)


def read_nf4(tensors: Mapping[str, Tensor], name: str) -> NF4Tensor:
    """The weight `name` (N, K) out of the tensors of a file, which also hold its scales.

    Raises:
        CheckpointError: a part is missing, of another kind than NF4 or inconsistent, or its scales were spoilt by a
            run before saving (see `has_packed_scales`); one line that begins with `name`.
    """
    state = _read_state(tensors, name)
    if has_packed_scales(tensors, name):
        raise CheckpointError(f"{name}: {PACKED_SCALES}")
    tensor = _nf4_tensor(tensors, name, state)
    check_nf4(tensor, name)
    return tensor


def _nf4_tensor(tensors: Mapping[str, Tensor], name: str, state: Mapping[str, Any]) -> NF4Tensor:
    offset = nested_absmax = nested_code = None
    nested_block_size = 256
    if name + NESTED_SCALES in tensors:
        nested_absmax = _part(tensors, name, NESTED_SCALES)
        nested_code = _part(tensors, name, NESTED_CODE_TABLE)
        nested_block_size = _whole_number(state, "nested_blocksize", name)
        number = state.get("nested_offset")
        if not isinstance(number, float) or not abs(number) <= FLOAT32_MAX:
            raise CheckpointError(f"{name}: its description has no float32 number nested_offset, but {number!r:.40}")
        _dtype(state, "nested_dtype", name)  # in which the library rebuilds the scales; here it is always float32
        offset = torch.tensor(number, dtype=torch.float32, device=nested_absmax.device)
    codes = _part(tensors, name, "")
    if codes.dim() > 2 or (codes.dim() == 2 and 1 not in codes.shape):
        raise CheckpointError(f"{name}: 4-bit codes must be one row or column, got the shape {tuple(codes.shape)}")
    return NF4Tensor(
        codes=codes.reshape(-1).contiguous().view(torch.uint8),  # FSDP keeps the same bytes as other numbers
        shape=_state_shape(state, name),
        dtype=_dtype(state, "dtype", name),
        absmax=_part(tensors, name, SCALES),
        offset=offset,
        nested_absmax=nested_absmax,
        nested_code=nested_code,
        code=_part(tensors, name, CODE_TABLE),
        block_size=_whole_number(state, "blocksize", name),
        nested_block_size=nested_block_size,
    )


def _read_state(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The JSON object that a file keeps as bytes beside a weight."""
    if name + STATE + "fp4" in tensors:
        raise CheckpointError(f"{name}: it is quantised as FP4, which is not read: quantise the weights as NF4")
    key = STATE + "nf4"
    stored = _part(tensors, name, key)
    try:
        if stored.dtype != torch.uint8:
            raise ValueError(f"it is {stored.dtype}, not bytes")
        state = json.loads(bytes(stored.reshape(-1).tolist()).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}{key} is no JSON: {' '.join(str(error).split())}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{name}{key} must be a JSON object, got a {type(state).__name__}")
    if state.get("quant_type") != "nf4":
        raise CheckpointError(f"{name}{key} must describe the type 'nf4', got {state.get('quant_type')!r:.40}")
    return state


def has_packed_scales(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether the scales of the weight `name` were saved in the order of a processor kernel.

    bitsandbytes 0.50 does so on processors with AVX-512 bfloat16, where single quantisation is saved after the model
    ran: the codes come back in order, the scales do not. They are bfloat16 (K / block size, N), where a sound file has
    float32 (blocks,); the library loads that without a word, and computes garbage.
    """
    scales = tensors.get(name + SCALES)
    return scales is not None and scales.dim() == 2 and scales.is_floating_point()


def repair_packed_scales(tensors: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], bool]:
    """The tensors of the weight `name` with its scales in order again, and whether they are exactly the lost ones.

    They are where the weight was bfloat16 before it was quantised, as its scales are then bfloat16 numbers. Otherwise
    they were rounded to those, and lie within 1/256 of the lost ones. Only for files that were written by the model
    that was quantised: nothing tells one that was loaded from a spoilt file, run and saved again.

    Raises:
        CheckpointError: the scales are no such ones, or their sizes contradict those of the weight.
    """
    state = _read_state(tensors, name)
    if not has_packed_scales(tensors, name):
        raise CheckpointError(f"{name}: its scales are not in the order of a kernel: there is nothing to repair")
    num_rows, width = _state_shape(state, name)
    block_size = _whole_number(state, "blocksize", name)
    scales = tensors[name + SCALES]
    if block_size <= 0 or width % block_size or tuple(scales.shape) != (width // block_size, num_rows):
        raise CheckpointError(
            f"{name}: scales in the order of a kernel must have the shape {(width // max(block_size, 1), num_rows)}, "
            f"got {tuple(scales.shape)}"
        )
    ordered = scales.t().reshape(-1).float()  # (K / block size, N) -> (blocks,)
    tensor = replace(_nf4_tensor(tensors, name, state), absmax=ordered)
    check_nf4(tensor, name)
    return write_nf4(tensor, name), tensor.dtype == torch.bfloat16


def write_nf4(tensor: NF4Tensor, name: str) -> dict[str, Tensor]:
    """The tensors under which bitsandbytes keeps this weight, by their names; the same bytes as it writes."""
    # the tables are copied, as all weights share them and safetensors refuses shared tensors
    state: dict[str, object] = {
        "quant_type": "nf4",
        "blocksize": tensor.block_size,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
    }
    tensors = {name: tensor.codes.view(-1, 1), name + SCALES: tensor.absmax, name + CODE_TABLE: tensor.code.clone()}
    if tensor.nested_absmax is not None:
        assert tensor.nested_code is not None
        assert tensor.offset is not None
        state |= {
            "nested_blocksize": tensor.nested_block_size,
            "nested_dtype": "float32",
            "nested_offset": tensor.offset.item(),
        }
        tensors[name + NESTED_SCALES] = tensor.nested_absmax
        tensors[name + NESTED_CODE_TABLE] = tensor.nested_code.clone()
    stored = json.dumps(state).encode("utf-8")
    tensors[name + STATE + "nf4"] = torch.tensor(list(stored), dtype=torch.uint8)
    return tensors


def quantize_int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight (N, K) in 8 bits as LLM.int8 quantises it: int8 codes (N, K) and row scales, float32 (N,).

    weight = code · scale / 127. Rounded to float16 first, as the library does.

    Raises:
        QuantizationError: it is no matrix, or holds NaN or numbers beyond float16.
    """
    if weight.dim() != 2 or weight.numel() == 0 or not weight.is_floating_point():
        raise QuantizationError(f"int8 quantises a real matrix, got {weight.dtype}, shape {tuple(weight.shape)}")
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scales = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    for start in range(0, weight.shape[0], ROWS_AT_A_TIME):
        rows = weight[start : start + ROWS_AT_A_TIME].detach().to(torch.float16)
        greatest = rows.abs().amax(dim=1).float()
        if not bool(torch.isfinite(greatest).all()):
            raise QuantizationError("the weight holds NaN or numbers beyond 65504, which int8 quantisation cannot take")
        scales[start : start + len(rows)] = greatest
        inverse = torch.where(greatest == 0, 0.0, INT8_STEPS / greatest)
        codes[start : start + len(rows)] = (rows * inverse[:, None]).round_().to(torch.int8)
    return codes, scales


def dequantize_int8_rows(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight (N, K) in `dtype` of int8 codes (N, K) and row scales (N,)."""
    return (codes.float() * scales.float()[:, None] / INT8_STEPS).to(dtype)


def read_int8(tensors: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Codes int8 (N, K) and row scales float32 (N,) of the weight `name` out of the tensors of a file.

    Raises:
        CheckpointError: a part is missing, of another kind or in an order other than row-major.
    """
    layer = name.removesuffix("weight")
    codes = _part(tensors, name, "")
    if codes.dtype != torch.int8 or codes.dim() != 2 or codes.numel() == 0:
        raise CheckpointError(f"{name}: 8-bit codes are an int8 matrix, got {codes.dtype}, shape {tuple(codes.shape)}")
    scales = _part(tensors, layer, ROW_SCALES)
    if scales.dtype not in DTYPES.values() or scales.numel() != codes.shape[0]:
        raise CheckpointError(
            f"{layer}{ROW_SCALES} must hold {codes.shape[0]} numbers, one a row, got {scales.dtype}, shape "
            f"{tuple(scales.shape)}"
        )
    scales = scales.reshape(-1).float()
    if not bool((torch.isfinite(scales) & (scales >= 0)).all()):
        raise CheckpointError(f"{layer}{ROW_SCALES} must hold magnitudes, got NaN, infinite or negative ones")
    order = tensors.get(layer + WEIGHT_FORMAT)
    if order is not None and (order.numel() != 1 or order.item() != ROW_MAJOR):
        raise CheckpointError(
            f"{layer}{WEIGHT_FORMAT}: the codes lie in the order of an old GPU kernel, only row-major ones (0) are "
            "read: save the model again with a newer bitsandbytes"
        )
    return codes, scales


def write_int8(codes: Tensor, scales: Tensor, name: str) -> dict[str, Tensor]:
    """The tensors under which bitsandbytes keeps an 8-bit weight: int8 codes (N, K), row scales float32 (N,)."""
    layer = name.removesuffix("weight")
    order = torch.tensor(ROW_MAJOR, dtype=torch.uint8)
    return {name: codes, layer + ROW_SCALES: scales, layer + WEIGHT_FORMAT: order}


def _part(tensors: Mapping[str, Tensor], name: str, suffix: str) -> Tensor:
    if name + suffix not in tensors:
        raise CheckpointError(f"{name}{suffix} is missing: the file is incomplete, or not written by bitsandbytes")
    return tensors[name + suffix].detach()


def _whole_number(state: Mapping[str, Any], key: str, name: str) -> int:
    value = state.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{name}: its description has no whole number {key}")
    return value


def _dtype(state: Mapping[str, Any], key: str, name: str) -> torch.dtype:
    value = state.get(key)
    if not isinstance(value, str) or value not in DTYPES:
        raise CheckpointError(
            f"{name}: its description must have a {key} out of {', '.join(DTYPES)}, got {value!r:.40}"
        )
    return DTYPES[value]


def _state_shape(state: Mapping[str, Any], name: str) -> tuple[int, int]:
    shape = state.get("shape")
    is_pair = isinstance(shape, list) and len(shape) == 2
    if not is_pair or not all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape or ()
    ):
        raise CheckpointError(f"{name}: its description must have a shape of two positive sizes, got {shape!r:.40}")
    assert shape is not None
    return shape[0], shape[1]
