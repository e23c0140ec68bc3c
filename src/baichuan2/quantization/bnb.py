"""Linear layers in 8 or 4 bits by the bitsandbytes library: LLM.int8, and NF4 with compressed statistics.

Two layer classes mend what the library's own do wrong once weights are quantised: see `Linear4bit`, `Linear8bitLt`.
`quantize_linears` puts them in place of a module's linear layers, `mend_linears` where transformers has put the
library's. Importing this module imports the library; it must know nothing of Baichuan or of transformers.
"""

import copy
import functools
import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baichuan2.errors import QuantizationError
from baichuan2.quantization.bnb_library import bitsandbytes_library
from baichuan2.quantization.freed_memory import give_back
from baichuan2.quantization.nf4 import NF4Tensor

bnb: Any = bitsandbytes_library()
functional: Any = bnb.functional

__all__ = [
    "Linear4bit",
    "Linear8bitLt",
    "has_fast_kernel",
    "mend_linears",
    "nf4_product",
    "quantize_linears",
    "set_compute_dtype",
]

BLOCK_SIZE = 64  # weights that share one scale
OUTLIER_THRESHOLD = 6.0  # inputs beyond it are multiplied in float16 (Dettmers et al. 2022, arXiv 2208.07339)
KERNEL_ROWS = 32  # the fast kernel takes this many rows of a weight at once
HALF_PRECISION = (torch.bfloat16, torch.float16)
QUANTIZABLE = (torch.float32, *HALF_PRECISION)


def has_fast_kernel() -> bool:
    """Whether the library multiplies 4-bit weights by its own kernel on this processor (AVX-512 with bfloat16)."""
    return bool(functional.has_avx512bf16())


def _by_whole_blocks(dequantize_4bit: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The library's `dequantize_4bit`, right also where the rows of a weight on the processor end inside of blocks.

    Its AVX-512 code starts each row with a new block there, and gives wrong weights without a word (K = 96 for one).
    """

    @functools.wraps(dequantize_4bit)
    def wrapper(A: Tensor, quant_state: Any = None, *args: Any, **kwargs: Any) -> Tensor:  # noqa: N803
        shape = getattr(quant_state, "shape", None)
        if A.device.type != "cpu" or shape is None or shape[-1] % quant_state.blocksize == 0 or args or kwargs:
            return dequantize_4bit(A, quant_state, *args, **kwargs)
        num_blocks = -(-math.prod(shape) // quant_state.blocksize)
        codes = A.reshape(-1).view(torch.uint8)  # two weights a byte
        codes = F.pad(codes, (0, num_blocks * quant_state.blocksize // 2 - codes.numel()))
        blocks = copy.copy(quant_state)
        blocks.shape = torch.Size((num_blocks, quant_state.blocksize))
        weights = dequantize_4bit(codes[:, None], blocks)
        return weights.reshape(-1)[: math.prod(shape)].reshape(shape)

    return wrapper


# adapters and the framework call it by this name when they merge or dequantise
if not hasattr(functional.dequantize_4bit, "__wrapped__"):
    functional.dequantize_4bit = _by_whole_blocks(functional.dequantize_4bit)


@dataclass
class SlowLayers:
    """The 4-bit layers of one model that the fast kernel cannot take, and whether their user was told."""

    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_told: bool = False

    def tell(self) -> None:
        """Warns, the first time: which layers, and what happens instead."""
        if self.is_told:
            return
        self.is_told = True
        name, (out_features, in_features) = next(iter(self.shapes.items()))
        more = f" and {len(self.shapes) - 1} more" if len(self.shapes) > 1 else ""
        warnings.warn(
            f"the fast 4-bit kernel wants in_features a multiple of {BLOCK_SIZE} and out_features of {KERNEL_ROWS}: "
            f"{name} ({in_features} in, {out_features} out){more} will be dequantised at each pass instead, which is "
            "exact, and slower",
            stacklevel=4,
        )


class Linear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]
    """The library's 4-bit layer, which stays whole on processors with the fast kernel.

    There the library rearranges the weight at the first pass and rounds its scales to bfloat16. Its own layer is then
    saved with those scales (single quantisation: garbage; double: scales that drift), moves to a GPU or dequantises in
    the wrong order, loses gradients, multiplies float32 inputs in bfloat16, and fails or errs on sizes that are no
    multiple of 64. Here whoever looks at `weight` finds the layout and the scales that it was quantised to.

    Inputs in half precision use the kernel in inference; float32 ones are multiplied in float32, by the dequantised
    weight. Without a compute dtype the layer works in the dtype of its input.
    """

    slow_layers: SlowLayers

    @property
    def weight(self) -> Any:
        """The weight in the layout in which it is stored, moved and dequantised."""
        self._unpack()
        return self._parameters["weight"]

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., K) times the weight, (..., N), in the dtype of `x`."""
        if self._wants_kernel(x):
            if self._fits_kernel():
                return self._kernel_product(x)
            self.slow_layers.tell()
        if x.device.type == "cpu" and self.in_features % self._parameters["weight"].blocksize:
            return self._dequantized_product(x)
        product: Tensor = super().forward(x)
        return product

    def _dequantized_product(self, x: Tensor) -> Tensor:
        """The product where rows end inside of blocks, which the library's own gets wrong; see `_by_whole_blocks`."""
        dtype = x.dtype if self.compute_dtype is None else self.compute_dtype
        weight = functional.dequantize_4bit(self.weight.data, self.weight.quant_state).to(dtype)  # (N, K)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(x.to(dtype), weight, bias).to(x.dtype)

    def _kernel_product(self, x: Tensor) -> Tensor:
        self._pack()
        weight: Any = self._parameters["weight"]
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        product: Tensor = bnb.matmul_4bit(x.to(torch.bfloat16), weight, bias=bias, quant_state=weight.quant_state)
        return product.to(x.dtype)

    def _wants_kernel(self, x: Tensor) -> bool:
        is_inference = not self.training and not x.requires_grad
        is_half = x.dtype in HALF_PRECISION or self.compute_dtype in HALF_PRECISION
        return is_inference and is_half and x.device.type == "cpu" and x.numel() > 0 and has_fast_kernel()

    def _fits_kernel(self) -> bool:
        block_size: int = self._parameters["weight"].blocksize
        return bool(self.in_features % block_size == 0 and self.out_features % KERNEL_ROWS == 0)

    def _is_packed(self) -> bool:
        state = getattr(self._parameters["weight"], "quant_state", None)
        return bool(getattr(state, "packing_format_for_cpu", False))

    def _pack(self) -> None:
        """Brings the weight into the kernel's layout, and keeps its scales, which that one rounds."""
        if self._is_packed():
            return
        weight: Any = self._parameters["weight"]
        state = weight.quant_state
        scales = (state.absmax, state.offset, state.state2)
        weight.data, weight.quant_state = functional._convert_weight_packed_for_cpu(weight.data, state)
        weight.quant_state.scales_before_packing = scales

    def _unpack(self) -> None:
        """Brings the weight back into the layout that it was quantised to, bit by bit."""
        if not self._is_packed():
            return
        weight: Any = self._parameters["weight"]
        state = weight.quant_state
        state.original_nested = False  # else the library would compress the rounded scales, for nothing
        weight.data, state = functional._convert_weight_packed_for_cpu_inverse(weight.data, state)
        state.absmax, state.offset, state.state2 = state.scales_before_packing
        state.nested = state.state2 is not None
        del state.scales_before_packing

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._unpack()  # `fn` moves the parameter, and only this layout is understood elsewhere
        return super()._apply(fn, recurse)


class Linear8bitLt(bnb.nn.Linear8bitLt):  # type: ignore[misc]
    """The library's 8-bit layer, whose codes and scales move along when the model that holds it is moved.

    The library's own leaves them behind, and the next pass fails on two devices.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)
        if self.weight.dtype == torch.int8:
            for holder in (self.weight, self.state):  # before and after the first pass
                if holder.CB is not None:
                    holder.CB = self.weight.data
                if holder.SCB is not None:
                    holder.SCB = holder.SCB.to(self.weight.device)
        return result


def quantize_linears(
    module: nn.Module,
    bits: int,
    *,
    keep: Collection[str] = (),
    done: Callable[[nn.Linear], None] | None = None,
) -> list[str]:
    """Replaces the plain linear layers inside `module` by layers of 8 or 4 bits, and returns their names.

    Layers named in `keep` stay, and so do subclasses of `nn.Linear`. Each weight (N, K) is quantised on its own device
    and released before the next, so memory falls from the first layer on. 4 bits: NF4 in blocks of 64, the scales
    themselves in 8 bits; 8 bits: by rows, with outlier inputs beyond 6.0 in float16. Biases stay as they are. `done` is
    called with each old layer.

    Raises:
        QuantizationError: `bits` is neither 8 nor 4, a weight is not there (offloaded) or of another number format
            than float32, bfloat16 and float16, or there is no layer to quantise. Nothing was replaced then.
    """
    if isinstance(bits, bool) or bits not in (8, 4):
        raise QuantizationError(f"weights are quantised to 8 or 4 bits, got {bits!r}")
    chosen = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear and name not in keep}
    if not chosen:
        raise QuantizationError("there is no linear layer to quantise")
    for name, layer in chosen.items():
        _check(name, layer.weight)
    quantize = _linear_8bit if bits == 8 else _linear_4bit
    names = list(chosen)
    for name in names:
        layer = chosen.pop(name)
        module.set_submodule(name, quantize(layer))
        give_back(layer.weight.data)
        if done is not None:
            done(layer)
    mend_linears(module)
    return names


def _check(name: str, weight: Tensor) -> None:
    if weight.device.type == "meta":
        raise QuantizationError(
            f"{name} is not in memory but offloaded: load the model without device_map, or let from_pretrained "
            "quantise it with load_in_8bit=True or load_in_4bit=True"
        )
    if weight.dtype not in QUANTIZABLE:
        raise QuantizationError(f"{name}: only float32, bfloat16 and float16 weights are quantised, got {weight.dtype}")


def _linear_4bit(layer: nn.Linear) -> Any:
    options = {"compress_statistics": True, "quant_type": "nf4"}
    with torch.device("meta"):  # its own weight is replaced at once
        new = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias=False, **options)
    weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, blocksize=BLOCK_SIZE, module=new, **options)
    new.weight = weight.to(layer.weight.device)
    return _finish(new, layer)


def _linear_8bit(layer: nn.Linear) -> Any:
    with torch.device("meta"):
        new = bnb.nn.Linear8bitLt(
            layer.in_features, layer.out_features, bias=False, has_fp16_weights=False, threshold=OUTLIER_THRESHOLD
        )
    device = layer.weight.device
    # the library quantises what is on its way from the processor, and nothing else
    new.weight = bnb.nn.Int8Params(layer.weight.data.cpu(), requires_grad=False, has_fp16_weights=False).to(device)
    return _finish(new, layer)


def _finish(new: Any, layer: nn.Linear) -> Any:
    new.bias = layer.bias
    return new.train(layer.training)


def mend_linears(module: nn.Module) -> None:
    """Turns the library's quantised layers inside `module` into the classes of this file; others stay as they are.

    Weights are not touched, and a layer stays the same object.
    """
    slow_layers = SlowLayers()
    for name, layer in module.named_modules():
        if type(layer) is bnb.nn.Linear8bitLt:
            layer.__class__ = Linear8bitLt
        elif type(layer) is bnb.nn.Linear4bit:
            layer.__class__ = Linear4bit
            layer.slow_layers = slow_layers
            layer.support_avx512bf16_for_cpu = False  # the library's own forward must not rearrange the weight
            layer.compute_type_is_set = True  # else it warns of a float32 product that does not take place
            if not layer._fits_kernel():
                slow_layers.shapes[name] = (layer.out_features, layer.in_features)


def set_compute_dtype(module: nn.Module, dtype: torch.dtype) -> None:
    """Lets the 4-bit layers inside `module` multiply in `dtype`."""
    for layer in module.modules():
        if isinstance(layer, Linear4bit):
            layer.compute_dtype = dtype


def nf4_product(weight: NF4Tensor) -> Callable[[Tensor], Tensor]:
    """The function that multiplies inputs (..., K) with `weight` (N, K): (..., N), in their dtype and without gradient.

    It holds the tensors of `weight`, no copies of them, on whatever device they are; K must be a multiple of the block
    size. On an accelerator one row takes the library's own kernel, which never makes the whole weight.
    """
    scales = None
    if weight.is_double:
        scales = functional.QuantState(
            absmax=weight.nested_absmax,
            code=weight.nested_code,
            blocksize=weight.nested_block_size,
            dtype=torch.float32,
        )
    state = functional.QuantState(
        absmax=weight.absmax,
        shape=torch.Size(weight.shape),
        code=weight.code,
        blocksize=weight.block_size,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=weight.offset,
        state2=scales,
    )
    codes = weight.codes.reshape(1, -1)  # as the library passes them on, transposed

    def multiply(inputs: Tensor) -> Tensor:
        product: Tensor = bnb.matmul_4bit(inputs.detach(), codes, quant_state=state)
        return product

    return multiply
