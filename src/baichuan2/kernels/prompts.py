"""What lies between the products of a prompt's pass, in C, for processors whose matrix unit multiplies bfloat16.

Torch takes some thirty operations of a few milliseconds each for it in every layer; here each row is read and written
once. The roundings are those of the modules. Tensors are bfloat16, on the processor and in one piece each.
"""

import ctypes
import functools
from ctypes import c_float, c_int, c_int64, c_void_p

import torch
from torch import Tensor

from baichuan2.kernels import products
from baichuan2.kernels.library import num_threads, opened

__all__ = ["add_norm", "gated", "is_available", "rotate_and_store"]

HALVES_OF_HEADS = 16  # are a multiple of so many numbers


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = opened().library
    try:
        if library is None:
            return None
        library.baichuan2_add_norm.argtypes = (*[c_void_p] * 4, c_int64, c_int64, c_float, c_int)
        library.baichuan2_rotate_and_store.argtypes = (*[c_void_p] * 5, *[c_int64] * 6, c_int)
        library.baichuan2_gated.argtypes = (c_void_p, c_void_p, c_int64, c_int)
        for function in (library.baichuan2_add_norm, library.baichuan2_rotate_and_store, library.baichuan2_gated):
            function.restype = None
    except AttributeError:  # of another version, or for another kind of processor
        return None
    return library


def is_available(head_dim: int) -> bool:
    """Whether these functions are here, for heads of `head_dim` numbers."""
    return head_dim % (2 * HALVES_OF_HEADS) == 0 and products.has_tiles() and _library() is not None


def _loaded() -> ctypes.CDLL:
    library = _library()
    if library is None or not products.has_tiles():
        raise RuntimeError("prompts have kernels of their own only on processors with AMX, where the library is built")
    return library


def _check(name: str, values: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> None:
    is_here = values.device.type == "cpu" and values.is_contiguous() and (values.data_ptr() != 0 or not values.numel())
    if not is_here or values.dtype != dtype or values.shape != shape:
        raise ValueError(
            f"{name} must be {dtype} {shape} in one piece on the processor, got {values.dtype} {tuple(values.shape)} "
            f"with strides {values.stride()} on {values.device}"
        )


def add_norm(hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """Adds `delta` to `hidden`, (M, C) each, in place; returns the norm of that times `weight` (C,): (M, C)."""
    rows, width = hidden.shape
    _check("hidden", hidden, (rows, width))
    _check("weight", weight, (width,))
    if delta is not None:
        _check("delta", delta, (rows, width))
    normed = torch.empty_like(hidden)
    parts = (hidden, delta, weight, normed)
    addresses = (None if part is None else part.data_ptr() for part in parts)
    _loaded().baichuan2_add_norm(*addresses, rows, width, epsilon, num_threads())
    return normed


def rotate_and_store(
    packed: Tensor, rotation: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor, held: int
) -> Tensor:
    """Turns the queries in `packed` (B, T, 3, H, D) in place and returns them, a view (B, H, T, D).

    The keys are turned and go with the values to places `held` ... `held` + T - 1 of `keys` and `values`
    (B, H, capacity, D). `rotation`: cosines and sines, float32 (T, D) each, the same for all inputs; None: nothing is
    turned.

    Raises:
        ValueError: the shapes do not fit one another, D is no multiple of 32, or there is no room.
    """
    batch, num_new, three, heads, size = packed.shape
    capacity = keys.shape[2]
    _check("packed", packed, (batch, num_new, 3, heads, size))
    for name, part in (("keys", keys), ("values", values)):
        _check(name, part, (batch, heads, capacity, size))
    cosine, sine = rotation or (None, None)
    for angles in (cosine, sine):
        if angles is not None:
            _check("angles", angles, (num_new, size), torch.float32)
    if three != 3 or size % (2 * HALVES_OF_HEADS) or not 0 <= held <= capacity - num_new:
        raise ValueError(f"{num_new} tokens of heads of {size} do not fit from place {held} of {capacity} on")
    parts = (packed, cosine, sine, keys, values)
    addresses = (None if part is None else part.data_ptr() for part in parts)
    sizes = (batch, num_new, heads, size, held, capacity)
    _loaded().baichuan2_rotate_and_store(*addresses, *sizes, num_threads())
    return packed[:, :, 0].transpose(1, 2)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(`gate`) * `up`, in the place of `gate`."""
    _check("gate", gate, tuple(gate.shape))
    _check("up", up, tuple(gate.shape))
    _loaded().baichuan2_gated(gate.data_ptr(), up.data_ptr(), gate.numel(), num_threads())
    return gate
