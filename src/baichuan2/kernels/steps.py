"""A decoding step in one call of C: all decoder layers, the final norm and the head for up to 64 new tokens.

Weights are read where they lie; a `StepModel` keeps them alive, and room to compute in. What is handed over is checked
here, as C trusts it. Knows tensors, no modules: `engine.processor` takes a model apart.
"""

import ctypes
import functools
import threading
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baichuan2.kernels import products
from baichuan2.kernels.library import limit, num_threads, opened
from baichuan2.kernels.low_rank import Change, ChangeTable, LowRankStructure

__all__ = [
    "MOST_ROWS",
    "PAGE_TOKENS",
    "LayerWeights",
    "Rows",
    "StepModel",
    "StoredWeight",
    "int4_weight",
    "int8_weight",
    "is_available",
    "most_rows",
    "nf4_weight",
    "plain_weight",
]

MOST_ROWS = 64
PAGE_TOKENS = 256
"""Tokens whose keys and values a page of a cache holds: as many as attention weighs together."""
NUMBERS = {torch.bfloat16: 1, torch.float16: 2}
NUMBER_FORMATS = {torch.bfloat16: 3, torch.float16: 4}
CACHE_NUMBERS, CACHE_INT8 = 0, 1
MOST_HEAD_DIM = 256
ALIGNMENT = 64


class Weight(ctypes.Structure):
    """Mirror of `Weight` in native/rows.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("codes", "scales", "levels", "nested_levels", "nested_scales")),
        *((name, c_int64) for name in ("num_outputs", "num_inputs", "group_size")),
        ("offset", c_float),
        ("format", c_int32),
        ("scale_kind", c_int32),
    )


class _Layer(ctypes.Structure):
    """Mirror of `StepLayer` in native/step.h."""

    _fields_ = (
        *((name, Weight) for name in ("packed", "output", "gate", "up", "down")),
        ("input_norm", c_void_p),
        ("middle_norm", c_void_p),
    )


class _Model(ctypes.Structure):
    """Mirror of `StepModel` in native/step.h."""

    _fields_ = (
        ("layers", c_void_p),
        ("head", Weight),
        ("final_norm", c_void_p),
        ("slopes", c_void_p),
        *((name, c_int64) for name in ("num_layers", "hidden_size", "num_heads", "head_dim", "inner_size")),
        ("epsilon", c_float),
        ("scaling", c_float),
        ("number", c_int32),
        ("cache_kind", c_int32),
        ("changes", c_void_p),
        ("most_rank", c_int64),
    )


class _Cache(ctypes.Structure):
    """Mirror of `StepCache` in native/step.h."""

    _fields_ = tuple((name, c_void_p) for name in ("keys", "values", "key_scales", "value_scales"))


class _Rows(ctypes.Structure):
    """Mirror of `StepRows` in native/step.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("caches", "embeddings", "cosine", "sine")),
        *((name, c_void_p) for name in ("sequence", "place", "first", "wanted", "pages", "adapter")),
        *((name, c_void_p) for name in ("logits", "scratch")),
        *((name, c_int64) for name in ("num_rows", "num_wanted", "capacity")),
    )


@dataclass(frozen=True)
class StoredWeight:
    """A weight (N, K) for C; `parts` are the tensors that it points into, or whatever else must stay alive."""

    structure: Weight
    parts: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return self.structure.num_outputs, self.structure.num_inputs

    @property
    def is_16_bits(self) -> bool:
        """Whether it holds numbers, not codes."""
        return self.structure.format in NUMBER_FORMATS.values()

    @property
    def kind(self) -> tuple[int, int, int]:
        """What inputs are prepared for: weights of one kind can share them."""
        return self.structure.format, self.structure.group_size, self.structure.scale_kind


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer; the norms' weights are (C,)."""

    packed: StoredWeight
    output: StoredWeight
    gate: StoredWeight
    up: StoredWeight
    down: StoredWeight
    input_norm: Tensor
    middle_norm: Tensor


@dataclass(frozen=True)
class Rows:
    """The new tokens, those of a sequence one after another: lists of one number for each.

    `sequence`: the row of the cache; `place`: where in it; `first`: the first place that the token sees, the same for
    all of a sequence. `wanted`: which tokens get logits, perhaps none.

    `pages`: of a paged cache the table of each sequence, so that `sequence` is a row of it, `first` is 0, and the token
    at place p of sequence s stands in page `pages[s][p // PAGE_TOKENS]`. Sequences may share pages that they only read.

    `adapter`: the number of each token's adapter, -1: none; None: of none of them.
    """

    sequence: Sequence[int]
    place: Sequence[int]
    first: Sequence[int]
    wanted: Sequence[int]
    pages: Sequence[Sequence[int]] | None = None
    adapter: Sequence[int] | None = None


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = opened().library
    if library is None:
        return None
    try:
        sizes = sum(map(ctypes.sizeof, (_Model, _Layer, _Rows, _Cache, LowRankStructure)))
        library.baichuan2_step_size.restype = library.baichuan2_weight_size.restype = c_int64
        if library.baichuan2_step_size() != sizes or library.baichuan2_weight_size() != ctypes.sizeof(Weight):
            return None
        library.baichuan2_step_room.restype = c_int64
        library.baichuan2_step_room.argtypes = (POINTER(_Model), c_int64, c_int64, ctypes.c_int)
        library.baichuan2_step.argtypes = (POINTER(_Model), POINTER(_Rows), ctypes.c_int, ctypes.c_int)
    except AttributeError:  # of another version
        return None
    return library


def is_available() -> bool:
    """Whether there are steps in C here."""
    return _library() is not None


@functools.cache
def most_rows(is_16_bits: bool = False) -> int:
    """Up to how many tokens in one call a step beats the model's own passes, as the library says; 0: never.

    `is_16_bits`: of a model with weights in 16 bits, which the matrix unit does not multiply in steps.
    """
    advised = getattr(_library(), "baichuan2_step_rows", None)
    if advised is None:  # no library, or one that gives no advice
        return 0
    advised.restype, advised.argtypes = ctypes.c_int, (ctypes.c_int, ctypes.c_int)
    return max(0, min(int(advised(limit(len(products.INSTRUCTIONS) - 1), is_16_bits)), MOST_ROWS))


def plain_weight(weight: Tensor) -> StoredWeight:
    """A weight (N, K) of bfloat16 or float16 numbers."""
    _check(weight, weight.shape, (torch.bfloat16, torch.float16))
    rows, width = weight.shape
    return StoredWeight(
        Weight(codes=weight.data_ptr(), num_outputs=rows, num_inputs=width, format=NUMBER_FORMATS[weight.dtype]),
        (weight,),
    )


def int4_weight(codes: Tensor, scales: Tensor, codebook: Sequence[int], group_size: int, width: int) -> StoredWeight:
    """The parts of an `Int4Tensor` (N, K = `width`); ValueError, as in all of these, where C would misread them."""
    rows = codes.shape[0]
    _check_groups("int4", group_size)
    _check(codes, (rows, -(-width // 64) * 32), (torch.uint8,))
    _check(scales, (rows, -(-width // group_size)), (torch.float16,))
    levels = products.levels_of(tuple(codebook))
    structure = Weight(
        codes=codes.data_ptr(),
        scales=scales.data_ptr(),
        levels=ctypes.addressof(levels),
        num_outputs=rows,
        num_inputs=width,
        group_size=group_size,
        format=products.FORMATS["int4"],
        scale_kind=products.SCALES_FLOAT16,
    )
    return StoredWeight(structure, (codes, scales, levels))


def int8_weight(codes: Tensor, scales: Tensor, group_size: int) -> StoredWeight:
    """The parts of an `Int8Tensor` (N, K)."""
    rows, width = codes.shape
    _check_groups("int8", group_size)
    _check(codes, (rows, width), (torch.int8,))
    _check(scales, (rows, -(-width // group_size) if group_size else 1), (torch.float16,))
    structure = Weight(
        codes=codes.data_ptr(),
        scales=scales.data_ptr(),
        num_outputs=rows,
        num_inputs=width,
        group_size=group_size,
        format=products.FORMATS["int8"],
        scale_kind=products.SCALES_FLOAT16,
    )
    return StoredWeight(structure, (codes, scales))


def nf4_weight(
    codes: Tensor,
    code: Tensor,
    absmax: Tensor,
    nested: tuple[Tensor, Tensor, Tensor] | None,
    shape: tuple[int, int],
) -> StoredWeight:
    """The parts of an `NF4Tensor` (N, K), K a multiple of 64; `nested`: offset, nested_absmax and nested_code."""
    rows, width = shape
    num_blocks = rows * width // 64
    if width % 64:
        raise ValueError(f"rows of NF4 weights are whole blocks of 64, got {width}")
    _check(codes, (rows * width // 2,), (torch.uint8,))
    _check(code, (16,), (torch.float32,))
    _check(absmax, (num_blocks,), (torch.float32,) if nested is None else (torch.uint8,))
    structure = Weight(
        codes=codes.data_ptr(),
        scales=absmax.data_ptr(),
        levels=code.data_ptr(),
        num_outputs=rows,
        num_inputs=width,
        group_size=64,
        format=products.FORMATS["nf4"],
        scale_kind=products.SCALES_FLOAT32,
    )
    if nested is not None:
        offset, nested_absmax, nested_code = nested
        _check(nested_absmax, (-(-num_blocks // 256),), (torch.float32,))
        _check(nested_code, (256,), (torch.float32,))
        structure.scale_kind = products.SCALES_DOUBLE
        structure.nested_levels, structure.nested_scales = nested_code.data_ptr(), nested_absmax.data_ptr()
        structure.offset = offset.item()
    return StoredWeight(structure, (codes, code, absmax, nested))


class StepModel:
    """A model whose steps C computes, one after another: threads of Python that share it wait for its room."""

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        final_norm: Tensor,
        *,
        slopes: Tensor | None,
        num_heads: int,
        epsilon: float,
        is_int8_cache: bool,
        adapters: Sequence[Sequence[Sequence[Change | None]]] = (),
    ) -> None:
        """`final_norm` (C,) tells the number format; `slopes` (H,): position by ALiBi, None: by rotation.

        `adapters`: what each makes of packed, output, gate, up and down of each layer; `Rows.adapter` chooses.
        """
        self.dtype = final_norm.dtype
        hidden = final_norm.shape[0]
        inner = layers[0].gate.shape[0]
        head_dim = hidden // num_heads
        if self.dtype not in NUMBERS or head_dim % 16 or head_dim > MOST_HEAD_DIM or head_dim * num_heads != hidden:
            raise ValueError(f"no steps for {self.dtype} and {num_heads} heads of a width of {hidden}")
        for layer in layers:
            _check_layer(layer, hidden, inner, self.dtype)
        _check(final_norm, (hidden,), (self.dtype,))
        if slopes is not None:
            _check(slopes, (num_heads,), (torch.float32,))
        structures = [
            _Layer(
                **{name: getattr(layer, name).structure for name in ("packed", "output", "gate", "up", "down")},
                input_norm=layer.input_norm.data_ptr(),
                middle_norm=layer.middle_norm.data_ptr(),
            )
            for layer in layers
        ]
        array = (_Layer * len(layers))(*structures)
        names = ("packed", "output", "gate", "up", "down")
        self._changes = ChangeTable(adapters, [[getattr(layer, name).shape for name in names] for layer in layers])
        self._kept_alive = (layers, final_norm, slopes, array)
        self._room = torch.empty(0, dtype=torch.uint8)
        self._lock = threading.Lock()
        self._structure = _Model(
            layers=ctypes.addressof(array),
            final_norm=final_norm.data_ptr(),
            slopes=None if slopes is None else slopes.data_ptr(),
            num_layers=len(layers),
            hidden_size=hidden,
            num_heads=num_heads,
            head_dim=head_dim,
            inner_size=inner,
            epsilon=epsilon,
            scaling=head_dim**-0.5,
            number=NUMBERS[self.dtype],
            cache_kind=CACHE_INT8 if is_int8_cache else CACHE_NUMBERS,
            changes=self._changes.address,
            most_rank=self._changes.most_rank,
        )

    def step(
        self,
        embeddings: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        rows: Rows,
        caches: Sequence[Sequence[Sequence[Tensor]]],
        head: StoredWeight,
        logits: Tensor | None = None,
        threads: int | None = None,
    ) -> Tensor:
        """The logits of the rows wanted, (wanted, V); keys and values of all rows are written to `caches`.

        `embeddings` (M, C); `rotation`: cosines and sines, (M, D) float32 each; `caches`: for each layer the parts of
        keys and those of values, (B, H, capacity, ...), see `engine.cache`, or, where rows have pages,
        (num_pages, H, PAGE_TOKENS, ...); `head` (V, C); `logits`: where to write them, else a tensor is made. A token
        gets the same bits wherever its keys and values stand, and by any number of `threads`; None: torch's.
        """
        library = _library()
        assert library is not None
        structure, num_rows = self._structure, len(rows.place)
        self._check_caches(caches, head)
        self._check_rows(rows, caches[0][0][0])
        num_pages, _, capacity, _ = caches[0][0][0].shape
        if rows.pages is not None:
            capacity = (max(rows.place) // PAGE_TOKENS + 1) * PAGE_TOKENS
        tables = _tables(rows, num_pages, capacity // PAGE_TOKENS)
        _check(embeddings, (num_rows, structure.hidden_size), (self.dtype,))
        for angles in rotation or ():
            _check(angles, (num_rows, structure.head_dim), (torch.float32,))
        logits = torch.empty(len(rows.wanted), head.shape[0], dtype=self.dtype) if logits is None else logits
        _check(logits, (len(rows.wanted), head.shape[0]), (self.dtype,))
        array = (_Cache * len(caches))(*(_Cache(*(part.data_ptr() for part in _in_order(one))) for one in caches))
        arrays = [_array(numbers) for numbers in (rows.sequence, rows.place, rows.first, rows.wanted)]
        sequence, place, first, wanted = map(ctypes.addressof, arrays)
        adapter = None if rows.adapter is None or max(rows.adapter) < 0 else _array(rows.adapter)
        described = _Rows(
            caches=ctypes.addressof(array),
            embeddings=embeddings.data_ptr(),
            cosine=None if rotation is None else rotation[0].data_ptr(),
            sine=None if rotation is None else rotation[1].data_ptr(),
            sequence=sequence,
            place=place,
            first=first,
            wanted=wanted,
            pages=None if tables is None else ctypes.addressof(tables),
            adapter=None if adapter is None else ctypes.addressof(adapter),
            logits=logits.data_ptr(),
            num_rows=num_rows,
            num_wanted=len(rows.wanted),
            capacity=capacity,
        )
        threads = threads or num_threads()
        with self._lock:  # the library's call lets other threads of Python run
            structure.head = head.structure
            needed = library.baichuan2_step_room(structure, num_rows, capacity, threads)
            if self._room.numel() < needed + ALIGNMENT:
                self._room = torch.empty(needed + ALIGNMENT, dtype=torch.uint8)
            described.scratch = -(-self._room.data_ptr() // ALIGNMENT) * ALIGNMENT
            library.baichuan2_step(structure, described, limit(len(products.INSTRUCTIONS) - 1), threads)
        return logits

    def _check_caches(self, caches: Sequence[Sequence[Sequence[Tensor]]], head: StoredWeight) -> None:
        """Refuses caches and a head of another model."""
        structure = self._structure
        keys = caches[0][0][0]
        is_right = len(caches) == structure.num_layers and head.shape[1] == structure.hidden_size
        if not is_right or (keys.shape[1], keys.shape[3]) != (structure.num_heads, structure.head_dim):
            raise ValueError("the rows or the caches of a step do not fit the model")
        is_int8 = structure.cache_kind == CACHE_INT8
        for layer in caches:
            for parts in layer:
                _check(parts[0], keys.shape, (torch.int8 if is_int8 else self.dtype,))
                if is_int8:
                    _check(parts[1], (*keys.shape[:3], 1), (torch.float32,))

    def _check_rows(self, rows: Rows, keys: Tensor) -> None:
        """Refuses rows that are out of order or have no place in caches like `keys`."""
        num_rows = len(rows.place)
        is_right = 0 < num_rows <= MOST_ROWS and num_rows == len(rows.sequence) == len(rows.first)
        if not is_right or len(rows.wanted) > num_rows:
            raise ValueError("the rows or the caches of a step do not fit the model")
        batch, _, capacity, _ = keys.shape
        for sequence, place, first in zip(rows.sequence, rows.place, rows.first, strict=True):
            if rows.pages is not None:
                batch = len(rows.pages)
                capacity = len(rows.pages[sequence]) * PAGE_TOKENS if 0 <= sequence < batch else 0
            if not (0 <= sequence < batch and 0 <= first <= place < capacity):
                raise ValueError(f"a token at place {place} of {sequence} is outside of a cache {tuple(keys.shape)}")
        for row in range(1, num_rows):
            is_same = rows.sequence[row] == rows.sequence[row - 1]
            if is_same and (rows.first[row] != rows.first[row - 1] or rows.place[row] <= rows.place[row - 1]):
                raise ValueError("tokens of a sequence see the same first place and stand in order")
        if rows.adapter is not None and (
            len(rows.adapter) != num_rows or not all(-1 <= one < self._changes.num_adapters for one in rows.adapter)
        ):
            raise ValueError(f"adapters of rows must lie below {self._changes.num_adapters}, got {rows.adapter}")
        if not all(0 <= row < num_rows for row in rows.wanted):
            raise ValueError("logits are wanted of rows that there are not")
        if rows.pages is not None and (any(rows.first) or keys.shape[2] != PAGE_TOKENS):
            raise ValueError(f"pages hold {PAGE_TOKENS} tokens, and rows see them from place 0 on")


def _array(numbers: Sequence[int]) -> "ctypes.Array[c_int64]":
    return (c_int64 * len(numbers))(*numbers)


def _tables(rows: Rows, num_pages: int, num_blocks: int) -> "ctypes.Array[c_int64] | None":
    """The pages of the rows' sequences for C, (B, `num_blocks`), each one below `num_pages`; None without pages."""
    if rows.pages is None:
        return None
    numbers = [0] * (len(rows.pages) * num_blocks)  # 0 where no row of the step looks
    for sequence in set(rows.sequence):
        pages = list(rows.pages[sequence][:num_blocks])
        if not all(0 <= page < num_pages for page in pages):
            raise ValueError(f"sequence {sequence} has pages {pages}, but the cache has {num_pages}")
        numbers[sequence * num_blocks : sequence * num_blocks + len(pages)] = pages
    written = {
        (rows.pages[s][p // PAGE_TOKENS], p % PAGE_TOKENS) for s, p in zip(rows.sequence, rows.place, strict=True)
    }
    if len(written) < len(rows.place):
        raise ValueError("two tokens of a step would be written to one place of a page")
    return _array(numbers)


def _in_order(layer: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Keys, values, and the scales of both where there are any."""
    return [part for parts in zip(*layer, strict=True) for part in parts]


def _check_layer(layer: LayerWeights, hidden: int, inner: int, dtype: torch.dtype) -> None:
    shapes = {"packed": (3 * hidden, hidden), "output": (hidden, hidden), "down": (hidden, inner)}
    shapes |= {"gate": (inner, hidden), "up": (inner, hidden)}
    for name, shape in shapes.items():
        if getattr(layer, name).shape != shape:
            raise ValueError(f"{name} must be {shape}, got {getattr(layer, name).shape}")
    if layer.gate.kind != layer.up.kind:
        raise ValueError("gate and up must be stored in one format")
    for norm in (layer.input_norm, layer.middle_norm):
        _check(norm, (hidden,), (dtype,))


def _check_groups(format_name: str, group_size: int) -> None:
    """Refuses groups that C has no code for: it would read scales that belong to others, or beyond them."""
    sizes = products.GROUP_SIZES[format_name]
    if group_size not in sizes:
        raise ValueError(f"{format_name} has groups of {', '.join(map(str, sizes))}, got {group_size}")


def _check(tensor: Tensor, shape: Sequence[int], dtypes: Sequence[torch.dtype]) -> None:
    """Refuses what C would read wrongly or beyond."""
    is_right = tuple(tensor.shape) == tuple(shape) and tensor.dtype in dtypes and tensor.is_contiguous()
    if not is_right or tensor.device.type != "cpu":
        raise ValueError(
            f"expected {tuple(shape)} in {', '.join(map(str, dtypes))} on the processor, got {tuple(tensor.shape)} in "
            f"{tensor.dtype} on {tensor.device}"
        )
    if tensor.data_ptr() == 0 and tensor.numel() > 0:
        raise ValueError(f"a tensor {tuple(tensor.shape)} has no memory any more")
