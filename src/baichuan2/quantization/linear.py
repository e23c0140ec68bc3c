"""Drop-in layers whose weight is stored in few bits: one class for each scheme.

A layer holds what stands in the file, as buffers, and computes its weight where it is needed, a block of rows at a
time, so the whole weight never exists in memory. It moves between devices with its model, and a cast of the model
leaves it as it is. This is the plain version: exact, on every device, and the oracle of any faster product.
"""

import functools
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from baichuan2.errors import MissingExtraError
from baichuan2.kernels import products
from baichuan2.kernels.aten import (
    ALIGNMENT,
    PackedInt4,
    aligned,
    fits_aten,
    multiply_int4,
    multiply_int8,
    pack_int4_for_aten,
    suits_aten,
)
from baichuan2.kernels.constant import constant
from baichuan2.quantization.blockwise import (
    Int4Tensor,
    Int8Tensor,
    dequantize_int4,
    dequantize_int8,
    unpack_int4,
)
from baichuan2.quantization.freed_memory import give_back
from baichuan2.quantization.nf4 import NESTED_BLOCK_SIZE, NF4Tensor, dequantize_nf4
from baichuan2.quantization.ragged_rows import dequantize_as_released, has_ragged_rows
from baichuan2.quantization.uncast_buffers import UncastBuffers

__all__ = ["Int4Linear", "Int8Embedding", "Int8Linear", "NF4Linear", "QuantizedLinear", "has_fast_products"]

WEIGHTS_AT_A_TIME = 1 << 20  # fastest of 2^17 ... 2^22 on 1 and 2 threads
UNIFORM = tuple(range(-128, 128, 16))
NF4_BLOCK_SIZE = 64


@constant
def has_fast_products() -> bool:
    """Whether our own kernels multiply here, faster than plain C: torch's products, with their copies, are not used."""
    return products.instructions() not in (None, products.INSTRUCTIONS[0])


class QuantizedLinear(UncastBuffers):
    """A linear layer without bias, y = x W^T, whose weight W (N, K) is computed from what is stored."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    @property
    def qweight(self) -> Tensor:
        """What is stored, by the name at which the peft library looks for a layer's device."""
        return next(self.buffers())

    def dequantize(self, dtype: torch.dtype = torch.float32, rows: slice = slice(None)) -> Tensor:
        """The weight (N, K), or the rows asked for, in `dtype`."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs` (..., K) times the weight: (..., N), in the dtype of `inputs`; the gradient reaches the inputs."""
        if torch.is_grad_enabled() and inputs.requires_grad:
            product: Tensor = _Product.apply(inputs, self)  # type: ignore[no-untyped-call]
            return product
        return self.multiply(inputs)

    def multiply(self, inputs: Tensor) -> Tensor:
        """The product without a gradient, (..., N)."""
        parts = [F.linear(inputs, self.dequantize(inputs.dtype, rows)) for rows in self._row_blocks()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def multiply_transposed(self, outputs: Tensor) -> Tensor:
        """`outputs` (..., N) times the weight itself: (..., K), the gradient of the inputs."""
        total = outputs.new_zeros(*outputs.shape[:-1], self.in_features)
        for rows in self._row_blocks():
            total += outputs[..., rows] @ self.dequantize(outputs.dtype, rows)
        return total

    def _row_blocks(self) -> list[slice]:
        size = max(WEIGHTS_AT_A_TIME // max(self.in_features, 1), 1)
        return [slice(start, start + size) for start in range(0, self.out_features, size)]

    def extra_repr(self) -> str:
        """What `print(model)` shows in the brackets."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class _Product(torch.autograd.Function):
    """The product with a gradient for the inputs; the weight is computed again instead of being kept."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, layer: QuantizedLinear) -> Tensor:
        context.layer = layer
        return layer.multiply(inputs)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.layer.multiply_transposed(gradients[0]), None


class Int8Linear(QuantizedLinear):
    """Weights in 8 bits with a scale for each group of inputs; see `Int8Tensor`.

    On an accelerator the plain way is taken: right, and slower than the 16-bit product.
    """

    weight_codes: Tensor
    weight_scales: Tensor

    def __init__(self, in_features: int, out_features: int, group_size: int) -> None:
        super().__init__(in_features, out_features)
        self.group_size = group_size
        self.register_buffer("weight_codes", torch.empty(out_features, in_features, dtype=torch.int8))
        num_groups = 1 if group_size == 0 else -(-in_features // group_size)
        self.register_buffer("weight_scales", torch.empty(out_features, num_groups, dtype=torch.float16))
        self._copy: Tensor | None = None
        self._copied_from: tuple[object, ...] = ()

    @classmethod
    def from_tensor(cls, weight: Int8Tensor) -> Self:
        """The layer that multiplies with `weight`."""
        out_features, in_features = weight.codes.shape
        with torch.device("meta"):
            layer = cls(in_features, out_features, weight.group_size)
        layer.weight_codes, layer.weight_scales = weight.codes, weight.scales
        return layer

    def multiply(self, inputs: Tensor) -> Tensor:
        """The product without a gradient, (..., N)."""
        if products.suits(inputs, self.weight_codes, self.weight_scales):
            return products.multiply_int8(inputs, self.weight_codes, self.weight_scales, self.group_size)
        is_by_row = self.weight_scales.shape[1] == 1 and fits_aten(self.in_features, self.out_features)
        if is_by_row and suits_aten(inputs) and not has_fast_products():
            return multiply_int8(inputs, self._aligned_codes(), self.weight_scales)
        return super().multiply(inputs)

    def _aligned_codes(self) -> Tensor:
        """The codes where torch's operator can read them; a file may map them to any place, then there is a copy."""
        if self.weight_codes.data_ptr() % ALIGNMENT == 0:
            return self.weight_codes
        origin = _origin(self.weight_codes)
        if self._copy is None or origin != self._copied_from:
            self._copy, self._copied_from = aligned(self.weight_codes), origin
            give_back(self.weight_codes)
        return self._copy

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As for every stored weight; the copy stays behind."""
        self._copy, self._copied_from = None, ()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_copy": None, "_copied_from": ()}  # a copy or pickle makes its own

    def dequantize(self, dtype: torch.dtype = torch.float32, rows: slice = slice(None)) -> Tensor:
        """The weight (N, K), or the rows asked for, in `dtype`."""
        return dequantize_int8(Int8Tensor(self.weight_codes[rows], self.weight_scales[rows], self.group_size), dtype)


class Int4Linear(QuantizedLinear):
    """Weights in 4 bits with a scale for each group of inputs; see `Int4Tensor`.

    On an accelerator the plain way is taken: right, and slower than the 16-bit product.
    """

    weight_codes: Tensor
    weight_scales: Tensor

    def __init__(
        self, in_features: int, out_features: int, group_size: int, codebook: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(in_features, out_features)
        self.group_size = group_size
        self.codebook = UNIFORM if codebook is None else codebook
        num_bytes = -(-in_features // 64) * 32
        self.register_buffer("weight_codes", torch.empty(out_features, num_bytes, dtype=torch.uint8))
        num_groups = -(-in_features // group_size)
        self.register_buffer("weight_scales", torch.empty(out_features, num_groups, dtype=torch.float16))
        self._packed: PackedInt4 | None = None
        self._packed_from: tuple[object, ...] = ()

    @classmethod
    def from_tensor(cls, weight: Int4Tensor) -> Self:
        """The layer that multiplies with `weight`."""
        with torch.device("meta"):
            layer = cls(
                weight.in_features, weight.codes.shape[0], weight.group_size, tuple(map(int, weight.codebook.tolist()))
            )
        layer.weight_codes, layer.weight_scales = weight.codes, weight.scales
        return layer

    def multiply(self, inputs: Tensor) -> Tensor:
        """The product without a gradient, (..., N)."""
        if products.suits(inputs, self.weight_codes, self.weight_scales):
            codes, scales, codebook = self.weight_codes, self.weight_scales, list(self.codebook)
            return products.multiply_int4(inputs, codes, scales, codebook, self.group_size)
        is_even = self.codebook == UNIFORM and fits_aten(self.in_features, self.out_features, self.group_size)
        if is_even and suits_aten(inputs) and not torch.compiler.is_compiling() and not has_fast_products():
            return multiply_int4(inputs, self._packed_weight())
        return super().multiply(inputs)

    def _packed_weight(self) -> PackedInt4:
        """The weight in the order of torch's operator, made once; the stored one is paged out where it can be."""
        origin = _origin(self.weight_codes, self.weight_scales)
        if self._packed is None or origin != self._packed_from:
            codes = unpack_int4(self.weight_codes, self.in_features)
            self._packed = pack_int4_for_aten(codes, self.weight_scales, self.group_size)
            self._packed_from = origin
            give_back(self.weight_codes)
        return self._packed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As for every stored weight; the packed copy stays behind."""
        self._packed, self._packed_from = None, ()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_packed": None, "_packed_from": ()}  # a copy or pickle makes its own

    def dequantize(self, dtype: torch.dtype = torch.float32, rows: slice = slice(None)) -> Tensor:
        """The weight (N, K), or the rows asked for, in `dtype`."""
        codes, scales = self.weight_codes[rows], self.weight_scales[rows]
        codebook = torch.tensor(self.codebook, dtype=torch.int8, device=codes.device)
        return dequantize_int4(Int4Tensor(codes, scales, codebook, self.group_size, self.in_features), dtype)


class NF4Linear(QuantizedLinear):
    """Weights in 4-bit NormalFloat (Dettmers et al. 2023, arXiv 2305.14314, §3); see `NF4Tensor`.

    `is_compressed`: whether the maxima of the blocks are in 8 bits too. `weight_dtype`: weights are rounded to it
    before they meet the inputs, as the official 4-bit models do. `as_released`: rows that are no whole number of blocks
    are computed as the released stack does, see `ragged_rows`.

    On the processor our own kernels multiply inputs of `weight_dtype`. On an accelerator bitsandbytes does, where it is
    installed and rows are whole blocks; it rounds weights to the dtype of the inputs, not to `weight_dtype`. Else the
    plain way is taken.
    """

    weight_codes: Tensor
    weight_code: Tensor
    weight_absmax: Tensor
    weight_offset: Tensor
    weight_nested_absmax: Tensor
    weight_nested_code: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        is_compressed: bool = True,
        weight_dtype: torch.dtype,
        as_released: bool = False,
    ) -> None:
        super().__init__(in_features, out_features)
        self.is_compressed = is_compressed
        self.as_released = as_released and has_ragged_rows(in_features)
        self.weight_dtype = weight_dtype
        num_weights = in_features * out_features
        num_blocks = -(-num_weights // NF4_BLOCK_SIZE)
        self.register_buffer("weight_codes", torch.empty(-(-num_weights // 2), dtype=torch.uint8))
        self.register_buffer("weight_code", torch.empty(16, dtype=torch.float32))
        self.register_buffer(
            "weight_absmax", torch.empty(num_blocks, dtype=torch.uint8 if is_compressed else torch.float32)
        )
        if is_compressed:
            self.register_buffer("weight_offset", torch.empty((), dtype=torch.float32))
            num_nested = -(-num_blocks // NESTED_BLOCK_SIZE)
            self.register_buffer("weight_nested_absmax", torch.empty(num_nested, dtype=torch.float32))
            self.register_buffer("weight_nested_code", torch.empty(256, dtype=torch.float32))
        self._product: Callable[[Tensor], Tensor] | None = None
        self._product_of: tuple[object, ...] = ()

    @classmethod
    def from_tensor(cls, weight: NF4Tensor) -> Self:
        """The layer that multiplies with `weight`."""
        out_features, in_features = weight.shape
        is_compressed = weight.is_double
        with torch.device("meta"):
            layer = cls(in_features, out_features, is_compressed=is_compressed, weight_dtype=weight.dtype)
        for name, values in nf4_buffers(weight).items():
            setattr(layer, name, values)
        return layer

    def multiply(self, inputs: Tensor) -> Tensor:
        """The product without a gradient, (..., N)."""
        if self._suits_native(inputs):
            nested = None
            if self.is_compressed:
                nested = (self.weight_offset, self.weight_nested_absmax, self.weight_nested_code)
            codes, code, absmax = self.weight_codes, self.weight_code, self.weight_absmax
            return products.multiply_nf4(inputs, codes, code, absmax, nested, self.out_features)
        product = self._library_product() if self._suits_library(inputs) else None
        return super().multiply(inputs) if product is None else product(inputs)

    def _suits_native(self, inputs: Tensor) -> bool:
        """Other dtypes of inputs would see that weights are not rounded to `weight_dtype` there."""
        if self.in_features % NF4_BLOCK_SIZE != 0 or self.as_released or self._suits_library(inputs):
            return False
        return inputs.dtype == self.weight_dtype and products.suits(inputs, *self.buffers(recurse=False))

    def _suits_library(self, inputs: Tensor) -> bool:
        is_elsewhere = inputs.device.type not in ("cpu", "meta") and inputs.device == self.weight_codes.device
        return is_elsewhere and self.in_features % NF4_BLOCK_SIZE == 0

    def _library_product(self) -> Callable[[Tensor], Tensor] | None:
        """The library's product with what is stored now, made once and again after a move; None without the library."""
        make = _library_nf4()
        if make is None:
            return None
        origin = tuple((values.device, values.data_ptr()) for values in self.buffers(recurse=False))
        if self._product is None or origin != self._product_of:
            self._product, self._product_of = make(self.stored()), origin
        return self._product

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As for every stored weight; the product lets go of what it held before the move."""
        self._product, self._product_of = None, ()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_product": None, "_product_of": ()}  # a copy or pickle makes its own

    def stored(self) -> NF4Tensor:
        """What is stored, as one value."""
        is_compressed = self.is_compressed
        return NF4Tensor(
            codes=self.weight_codes,
            shape=(self.out_features, self.in_features),
            dtype=self.weight_dtype,
            absmax=self.weight_absmax,
            code=self.weight_code,
            offset=self.weight_offset if is_compressed else None,
            nested_absmax=self.weight_nested_absmax if is_compressed else None,
            nested_code=self.weight_nested_code if is_compressed else None,
        )

    def dequantize(self, dtype: torch.dtype = torch.float32, rows: slice = slice(None)) -> Tensor:
        """The weight (N, K), or the rows asked for, rounded to `weight_dtype`, in `dtype`."""
        if self.as_released:
            return dequantize_as_released(self.stored(), self.weight_dtype)[rows].to(dtype)
        # what `slice.indices` gives, which older torch cannot trace
        stop = self.out_features if rows.stop is None else min(rows.stop, self.out_features)
        start = min(rows.start or 0, stop)
        return dequantize_nf4(self.stored(), self.weight_dtype, (start, stop)).to(dtype)


@functools.cache
def _library_nf4() -> Callable[[NF4Tensor], Callable[[Tensor], Tensor]] | None:
    """What makes products by bitsandbytes; None where it is not installed."""
    try:
        from baichuan2.quantization.bnb import nf4_product
    except MissingExtraError:
        return None
    return nf4_product


class Int8Embedding(UncastBuffers):
    """An embedding table (V, C) in 8 bits; rows are computed as they are looked up, in `dtype`."""

    weight_codes: Tensor
    weight_scales: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, group_size: int, *, dtype: torch.dtype, padding_idx: int | None
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.group_size = group_size
        self.dtype = dtype
        self.padding_idx = padding_idx
        num_groups = 1 if group_size == 0 else -(-embedding_dim // group_size)
        self.register_buffer("weight_codes", torch.empty(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("weight_scales", torch.empty(num_embeddings, num_groups, dtype=torch.float16))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As for every stored weight; but the rows that are looked up follow a cast of the model."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.weight_codes.device)).dtype
        return super()._apply(fn, recurse)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The table (V, C) in `dtype`."""
        return dequantize_int8(Int8Tensor(self.weight_codes, self.weight_scales, self.group_size), dtype)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The rows of `input_ids` (...,): (..., C), in the dtype of the model."""
        ids = input_ids.reshape(-1)  # `F.embedding` refuses ids beyond the table, negative ones too
        codes, scales = F.embedding(ids, self.weight_codes), F.embedding(ids, self.weight_scales)
        rows = Int8Tensor(codes, scales, self.group_size)
        return dequantize_int8(rows, self.dtype).reshape(*input_ids.shape, self.embedding_dim)


def _origin(*tensors: Tensor) -> tuple[object, ...]:
    """What identifies the present values of `tensors`, as far as torch counts changes; inference tensors have none."""
    return tuple((tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version) for tensor in tensors)


def nf4_buffers(weight: NF4Tensor) -> dict[str, Tensor]:
    """The buffers of an `NF4Linear` that holds `weight`, by name."""
    buffers = {
        "weight_codes": weight.codes.reshape(-1),
        "weight_code": weight.code.clone(),  # each layer its own: the framework refuses to save shared tensors
        "weight_absmax": weight.absmax,
        "weight_offset": None if weight.offset is None else weight.offset.reshape(()),
        "weight_nested_absmax": weight.nested_absmax,
        "weight_nested_code": None if weight.nested_code is None else weight.nested_code.clone(),
    }
    return {name: values for name, values in buffers.items() if values is not None}
