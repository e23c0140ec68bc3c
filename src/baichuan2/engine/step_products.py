"""Products of a decode step on a GPU by `kernels.fused`: one row of inputs, or weights in few bits.

A library's matrix product reaches half of what memory gives when it has one row. Weights in few bits are multiplied as
they are stored, inputs are not rounded: for LLM.int8 that is closer to the 16-bit weights than its library's own way,
and needs no look at the inputs, for which the whole device would wait.
"""

import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baichuan2.quantization.linear import Int4Linear, Int8Linear
from baichuan2.quantization.scales import UNIT

__all__ = ["gated_times", "is_stored_in_few_bits", "library_layers", "library_scales", "times", "times_weight"]

ROW_PRODUCTS = True
"""Whether one row is multiplied here; else by torch."""
LARGEST_CODE = 127  # of LLM.int8, whose scales are the largest weights


def library_layers(*names: str) -> tuple[type, ...]:
    """The classes of these names by bitsandbytes, where somebody has imported them: else no model has any."""
    module = sys.modules.get("baichuan2.quantization.bnb")
    return () if module is None else tuple(getattr(module, name) for name in names)


def library_scales(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """What bitsandbytes' layers multiply by and keep beside their parameters and buffers: scales and codebooks."""
    in_8_bits, in_4_bits = library_layers("Linear8bitLt"), library_layers("Linear4bit")
    layer: Any
    for layer in modules:
        found: list[Any] = []
        if type(layer) in in_8_bits:
            found = [_row_scales(layer)]
        elif type(layer) in in_4_bits:
            state = getattr(layer.weight, "quant_state", None)
            for part in (state, getattr(state, "state2", None)):
                found += [getattr(part, name, None) for name in ("absmax", "code", "offset")]
        yield from (tensor for tensor in found if isinstance(tensor, Tensor))


def is_stored_in_few_bits(kind: type) -> bool:
    """Whether only products of this file can be recorded with layers of that kind."""
    return kind in (Int4Linear, Int8Linear, *library_layers("Linear8bitLt"))


def times(layer: Any, inputs: Tensor) -> Tensor:
    """`inputs` (M, K) times the weight of `layer`: (M, N)."""
    from baichuan2.kernels import fused

    if type(layer) is Int8Linear:
        return fused.times_int8(inputs, layer.weight_codes, layer.weight_scales, layer.group_size, 1 / UNIT)
    if type(layer) is Int4Linear:
        levels = _levels(layer.codebook, inputs.device)
        return fused.times_int4(inputs, layer.weight_codes, layer.weight_scales, levels, layer.group_size)
    if type(layer) in library_layers("Linear8bitLt") and layer.bias is None:
        return fused.times_int8(inputs, layer.weight.data, _row_scales(layer), 0, 1 / LARGEST_CODE)
    if _has_plain_weight(layer):
        return times_weight(layer.weight, inputs)
    product: Tensor = layer(inputs)
    return product


def times_weight(weight: Tensor, inputs: Tensor) -> Tensor:
    """`inputs` (M, K) times `weight` (N, K): (M, N)."""
    from baichuan2.kernels import fused

    if ROW_PRODUCTS and len(inputs) == 1 and weight.dtype == inputs.dtype and weight.is_contiguous():
        return fused.row_times(inputs, weight)
    return F.linear(inputs, weight)


def gated_times(mlp: Any, inputs: Tensor) -> Tensor:
    """silu(gate(`inputs`)) * up(`inputs`), (M, I), by the layers of `mlp`."""
    from baichuan2.kernels import fused

    gate, up = mlp.gate_proj, mlp.up_proj
    if ROW_PRODUCTS and len(inputs) == 1 and _has_plain_weight(gate) and _has_plain_weight(up):
        weights = (gate.weight, up.weight)
        if all(weight.dtype == inputs.dtype and weight.is_contiguous() for weight in weights):
            return fused.row_gated(inputs, *weights)
    return fused.gated(times(gate, inputs), times(up, inputs))


def _row_scales(layer: Any) -> Any:
    """Those of LLM.int8, (N,), which move from the weight to the state at the first pass."""
    return layer.weight.SCB if layer.state.SCB is None else layer.state.SCB


def _has_plain_weight(layer: Any) -> bool:
    return type(layer) is nn.Linear and getattr(layer, "bias", None) is None


@functools.cache
def _levels(codebook: tuple[int, ...], device: torch.device) -> Tensor:
    """What codes of 4 bits stand for, float32 (16,); made before anything is recorded, as it comes from elsewhere."""
    return torch.tensor(codebook, dtype=torch.float32, device=device) / UNIT
