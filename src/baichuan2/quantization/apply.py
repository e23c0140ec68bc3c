"""Puts quantised layers in the place of a module's linear layers."""

from collections.abc import Callable, Collection
from typing import Literal

import torch
from torch import Tensor, nn

from baichuan2.errors import QuantizationError
from baichuan2.quantization.blockwise import NONUNIFORM_CODEBOOK, UNIFORM_CODEBOOK, quantize_int4, quantize_int8
from baichuan2.quantization.linear import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    NF4Linear,
    QuantizedLinear,
    has_fast_products,
)
from baichuan2.quantization.nf4 import quantize_nf4
from baichuan2.quantization.scheme import (
    DEFAULT_CODEBOOK,
    DEFAULT_GROUP_SIZES,
    HEAD_SCHEMES,
    HeadFormat,
    QuantizationSpec,
)

__all__ = [
    "CODEBOOKS",
    "TABLE_GROUP_SIZE",
    "default_spec",
    "empty_embedding",
    "empty_head",
    "empty_linear",
    "quantized_head",
    "quantized_linear",
    "replace_modules",
]

CODEBOOKS = {"uniform": UNIFORM_CODEBOOK, "nonuniform": NONUNIFORM_CODEBOOK}

TABLE_GROUP_SIZE = 128
"""Inputs that share a scale in a quantised embedding."""


def default_spec(format: Literal["int8", "int4"]) -> QuantizationSpec:
    """Our own format of that name for weights that are quantised in memory, without calibration.

    Groups and values are those of `baichuan2 quantize`. Where our own kernels are missing the values of int4 are evenly
    spaced, for which torch has a fast product: it keeps a second copy of the weight, and more is lost.
    """
    codebook = _default_codebook() if format == "int4" and has_fast_products() else None
    return QuantizationSpec(format=format, group_size=DEFAULT_GROUP_SIZES[format], codebook=codebook)


def _default_codebook() -> tuple[int, ...]:
    return tuple(map(int, CODEBOOKS[DEFAULT_CODEBOOK].tolist()))


def empty_linear(spec: QuantizationSpec, in_features: int, out_features: int) -> QuantizedLinear:
    """A layer as `spec` stores the decoder's linear layers, with memory but no values yet."""
    if spec.format == "int8":
        return Int8Linear(in_features, out_features, spec.group_size)
    if spec.format == "int4":
        return Int4Linear(in_features, out_features, spec.group_size, spec.codebook)
    dtype = getattr(torch, spec.weight_dtype)
    return NF4Linear(
        in_features,
        out_features,
        is_compressed=spec.compressed_statistics,
        weight_dtype=dtype,
        as_released=spec.as_released,
    )


def quantized_linear(spec: QuantizationSpec, weight: Tensor) -> QuantizedLinear:
    """The layer that stores `weight` (N, K) as `spec` says, rounded to nearest; int4 with searched scales.

    For int8 a search takes six times as long, and lowers the squared error by 3 % only.

    Raises:
        QuantizationError: the weight holds NaN or infinite numbers.
    """
    if spec.format == "int8":
        return Int8Linear.from_tensor(quantize_int8(weight, group_size=spec.group_size, search=False))
    if spec.format == "int4":
        codebook = None if spec.codebook is None else torch.tensor(spec.codebook, dtype=torch.int8)
        return Int4Linear.from_tensor(quantize_int4(weight, group_size=spec.group_size, codebook=codebook))
    rounded = weight.to(getattr(torch, spec.weight_dtype))
    return NF4Linear.from_tensor(quantize_nf4(rounded, double=spec.compressed_statistics))


def empty_head(format: HeadFormat, in_features: int, out_features: int) -> QuantizedLinear:
    """A head as a spec with that `head` stores it, with memory but no values yet."""
    return empty_linear(_head_spec(format), in_features, out_features)


def quantized_head(format: HeadFormat, rows: Tensor) -> QuantizedLinear:
    """The head that stores `rows` (V, C), of unit length where the model normalises them; scales are searched.

    Raises:
        QuantizationError: the rows hold NaN or infinite numbers.
    """
    if format == "int8":
        return Int8Linear.from_tensor(quantize_int8(rows, group_size=HEAD_SCHEMES[format].group_size))
    return quantized_linear(_head_spec(format), rows)


def _head_spec(format: HeadFormat) -> QuantizationSpec:
    """Of a model whose linear layers are stored as the head is."""
    codebook = _default_codebook() if format == "int4" else None
    return QuantizationSpec(format=format, group_size=HEAD_SCHEMES[format].group_size, codebook=codebook)


def empty_embedding(embedding: nn.Embedding) -> Int8Embedding:
    """An 8-bit table of the size of `embedding`, with memory but no values yet."""
    return Int8Embedding(
        embedding.num_embeddings,
        embedding.embedding_dim,
        TABLE_GROUP_SIZE,
        dtype=embedding.weight.dtype,
        padding_idx=embedding.padding_idx,
    )


def replace_modules(
    module: nn.Module, names: Collection[str], make: Callable[[str, nn.Linear], nn.Module]
) -> list[nn.Module]:
    """Puts make(name, layer) in the place of each linear layer of `module` called `name`; the new ones, in order.

    One at a time, so that an old weight can be freed before the next new one is made.

    Raises:
        QuantizationError: there is no linear layer of that name.
    """
    made: list[nn.Module] = []
    for name in names:
        try:
            layer = module.get_submodule(name)
        except AttributeError as error:
            raise QuantizationError(f"the model has no layer called {name}") from error
        if not isinstance(layer, nn.Linear):
            raise QuantizationError(f"{name} is no plain linear layer: it is quantised already, or of another kind")
        if getattr(layer, "bias", None) is not None:
            raise QuantizationError(f"{name} has a bias, which quantised layers do not store")
        new = make(name, layer)
        module.set_submodule(name, new)
        made.append(new)
    return made
