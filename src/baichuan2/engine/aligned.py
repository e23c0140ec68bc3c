"""Sequences computed together by a model's own passes: on a GPU by its graphs, elsewhere by its modules.

A prompt is computed alone, in pieces, over a cache of its own. Then the sequence becomes a row of one cache whose rows
all end at the same column, so that one pass adds a token to each; what a row does not hold is padding on its left. Rows
that are free are computed too, for nothing, so that few shapes occur: a graph is recorded for each.
"""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import Cache

from baichuan2.devices import plans_attention_by_length
from baichuan2.engine.batch import Held, Pace, Part
from baichuan2.engine.cache import BLOCK, GrowingLayer, new_cache
from baichuan2.engine.graphs import GraphModel, graph_model
from baichuan2.engine.processor import processor_model
from baichuan2.engine.quantized_cache import LAYERS
from baichuan2.model.cost import cache_bytes_per_token, int8_cache_bits
from baichuan2.model.low_rank import NO_ADAPTER, RowAdapters

__all__ = ["AlignedBatch", "cached_bytes"]

LEAST_TOKENS, MOST_TOKENS = 128, 512  # of a prompt in one pass: more would make the replies beside it wait too long
LEAST_REUSED = 16  # tokens; fewer are computed sooner than looked for
MOST_KEPT = 64  # sequences kept for prompts that begin alike

Parts = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # keys and values of one layer, (1 or B, H, S, ...) each


@dataclass(eq=False)
class AlignedHeld(Held):
    """One sequence: first a cache of its own, then a row."""

    cache: Cache | None
    num_reserved: int
    prompt_ids: tuple[int, ...]
    row: int | None = None


@dataclass(frozen=True)
class _Kept:
    """What an ended sequence, or a prompt, has left for others."""

    adapter: int
    token_ids: tuple[int, ...]
    layers: tuple[Parts, ...]


def cached_bytes(model: Any, kv_cache: str) -> int:
    """Bytes that a token takes in a cache of that kind."""
    bits = int8_cache_bits(model.config) if kv_cache == "int8" else model.dtype.itemsize * 8
    return cache_bytes_per_token(model.config, bits)


class AlignedBatch:
    """See `engine.batch.Batch`."""

    most_tokens = MOST_TOKENS
    takes_guesses = False  # rows have one token each
    is_one_pass = False

    def __init__(self, model: Any, *, capacity: int, kv_cache: str = "same") -> None:
        """`capacity`: how many tokens may be held in all, the padding of rows among them."""
        self.capacity = capacity
        self._model = model
        self._pace = Pace(LEAST_TOKENS, MOST_TOKENS)
        self._single = graph_model(processor_model(model), [0])
        self._layer_class = LAYERS[kv_cache]
        self._held: list[AlignedHeld | None] = []  # of each row
        self._firsts: list[int] = []  # the first column that each row sees
        self._cache = new_cache(self._layer_class)
        self._columns = 0
        self._decoder: Any = None  # the model with today's rows
        self._open: set[AlignedHeld] = set()
        self._kept: OrderedDict[tuple[int, tuple[int, ...]], _Kept] = OrderedDict()

    @property
    def num_used(self) -> int:
        """Tokens of the open sequences."""
        return sum(held.num_tokens for held in self._open)

    @torch.inference_mode()
    def open(self, token_ids: Sequence[int], adapter: int = NO_ADAPTER) -> AlignedHeld | None:
        """A sequence that begins with these; see `Batch`."""
        lengths = [*(other.num_reserved for other in self._open), len(token_ids)]
        if _room_of(lengths) > self.capacity:
            return None
        layers, num_reused = self._longest_beginning(token_ids, adapter)
        self._make_room(lengths)  # not before: it may forget just that beginning
        cache = new_cache(self._layer_class)
        cache.layers = [self._layer(parts, num_reused) for parts in layers]
        held = AlignedHeld(num_reused, cache, len(token_ids), tuple(token_ids), adapter=adapter)
        self._open.add(held)
        return held

    def reserve(self, held: Held, num_new: int) -> bool:
        """Room for more tokens of a sequence; see `Batch`."""
        assert isinstance(held, AlignedHeld)
        length = held.num_tokens + num_new
        if length <= held.num_reserved:
            return True
        if not self._make_room([*(other.num_reserved for other in self._open if other is not held), length]):
            return False
        held.num_reserved = length
        return True

    @torch.inference_mode()
    def step(self, parts: Sequence[Part]) -> list[Tensor]:
        """Logits of each part; see `Batch`."""
        logits: dict[int, Tensor] = {}
        together: list[int] = []
        for index, part in enumerate(parts):
            if part.held.num_tokens > 0 and len(part.token_ids) == 1 and part.num_wanted == 1:
                together.append(index)
            else:
                logits[index] = self._alone(part)
        for index in together:
            self._enter(parts[index].held)
        if len(self._held) * (self._columns + 1) > self.capacity:  # rows that are free take room as others do
            self._arrange(0, num_joining=0)
        if together:
            chosen = [parts[index] for index in together]
            logits.update(zip(together, self._rows_logits(chosen), strict=True))
        return [logits[index] for index in range(len(parts))]

    def crop(self, held: Held, num_tokens: int) -> None:
        """Takes the last tokens back, of a sequence that is no row."""
        assert isinstance(held, AlignedHeld)
        assert held.cache is not None
        held.cache.crop(num_tokens - held.num_tokens)
        held.num_tokens = num_tokens

    @torch.inference_mode()
    def close(self, held: Held, token_ids: Sequence[int]) -> None:
        """Ends a sequence; see `Batch`."""
        assert isinstance(held, AlignedHeld)
        self._open.discard(held)
        ids = tuple(token_ids[: held.num_tokens])
        layers = tuple(_copied(parts) for parts in self._parts_of(held))
        if held.row is not None:
            self._held[held.row] = None
        held.cache = held.row = None
        self._keep(ids, layers, held.adapter)
        if not any(self._held):
            self._forget_rows()

    def tokens_beside(self, num_decoding: int) -> int:
        """As many as are computed in half a second, in a pass of their own."""
        del num_decoding
        return self._pace.tokens

    def _alone(self, part: Part) -> Tensor:
        """Logits (wanted, V) of a part of a prompt, over the sequence's own cache."""
        held = part.held
        assert isinstance(held, AlignedHeld)
        assert held.cache is not None
        ids = torch.tensor([list(part.token_ids)], device=self._model.device)
        adapters = self._with_adapters([held.adapter])
        with self._pace.watch(ids.shape[1]), _attention_for_any_length(ids.device), adapters:
            output = self._single(
                input_ids=ids,
                attention_mask=None,
                past_key_values=held.cache,
                use_cache=True,
                logits_to_keep=max(1, part.num_wanted),
            )
        held.num_tokens += ids.shape[1]
        logits: Tensor = output.logits[0]
        return logits[len(logits) - part.num_wanted :]

    def _rows_logits(self, parts: Sequence[Part]) -> list[Tensor]:
        """Logits (1, V) of the next token of each of these rows, for all of which room is made."""
        rows = [part.held.row for part in parts if isinstance(part.held, AlignedHeld)]
        absent = [row for row, held in enumerate(self._held) if held is not None and row not in rows]
        assert not absent  # every row is given a token in every step
        ids = [0] * len(self._held)
        for row, part in zip(rows, parts, strict=True):
            assert row is not None
            ids[row] = part.token_ids[0]
        if self._decoder is None:
            single = self._single
            self._decoder = single.padded(self._firsts) if isinstance(single, GraphModel) else single
            self._mask = torch.zeros(len(ids), 0, dtype=torch.long, device=self._model.device)
        if self._mask.shape[1] <= self._columns:
            self._mask = torch.ones(len(ids), self._columns + BLOCK, dtype=torch.long, device=self._model.device)
            for row, first in enumerate(self._firsts):
                self._mask[row, :first] = 0
        device = self._model.device
        arguments: dict[str, Any] = {
            "input_ids": torch.tensor(ids, device=device)[:, None],
            "attention_mask": self._mask[:, : self._columns + 1] if any(self._firsts) else None,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if self._decoder is self._model:  # the others know that a row's places count from its own first
            places = [self._columns - first for first in self._firsts]
            arguments["position_ids"] = torch.tensor(places, device=device)[:, None]
        with self._with_adapters([NO_ADAPTER if held is None else held.adapter for held in self._held]):
            output = self._decoder(**arguments)
        self._columns += 1
        for part in parts:
            assert isinstance(part.held, AlignedHeld)
            part.held.num_tokens += 1
        logits = output.logits[:, -1]  # (B, V)
        return [logits[row : row + 1] for row in rows if row is not None]

    def _with_adapters(self, numbers: Sequence[int]) -> AbstractContextManager[object]:
        """A pass inside computes each row by its adapter."""
        rows: RowAdapters | None = getattr(self._model, "row_adapters", None)
        return nullcontext() if rows is None else rows.chosen(numbers)

    def _enter(self, held: Any) -> None:
        """Makes the sequence a row, if it is none yet."""
        if held.row is not None:
            return
        free = [row for row, other in enumerate(self._held) if other is None]
        shortest = min((first for row, first in enumerate(self._firsts) if self._held[row] is not None), default=0)
        if not free or held.num_tokens > self._columns or shortest >= BLOCK:
            self._arrange(held.num_tokens)
            free = [row for row, other in enumerate(self._held) if other is None]
        row = held.row = free[0]
        start = self._columns - held.num_tokens
        layers = self._cache.layers or [self._layer_class() for _ in held.cache.layers]
        for layer, own in zip(layers, held.cache.layers, strict=True):
            if layer.buffers is None:
                layer.take_over(_empty_like(own.buffers, len(self._held), self._columns), self._columns, own.dtype)
            for target, source in zip(_flat(layer.buffers), _flat(own.buffers), strict=True):
                target[row, :, :start] = 0  # who had the row before may have left what is no number
                target[row, :, start : self._columns] = source[0, :, : held.num_tokens]
        self._cache.layers = layers
        self._held[row], self._firsts[row], self._decoder = held, start, None
        held.cache = None

    def _arrange(self, num_tokens: int, *, num_joining: int = 1) -> None:
        """As many columns as the longest sequence has tokens, and rows for those that join, with `num_tokens` at most.

        Rows come in powers of two, where there is room for them.
        """
        rows = [held for held in self._held if held is not None]
        columns = max([num_tokens, *(held.num_tokens for held in rows)])
        needed = len(rows) + num_joining
        count = 1 << (needed - 1).bit_length()
        if count * (columns + 1) > self.capacity:
            count = needed
        for layer in self._cache.layers:
            buffers = _empty_like(layer.buffers, count, columns)
            for target, source in zip(_flat(buffers), _flat(layer.buffers), strict=True):
                for row, held in enumerate(rows):
                    own = source[held.row, :, self._columns - held.num_tokens : self._columns]
                    target[row, :, columns - held.num_tokens : columns] = own
            layer.take_over(buffers, columns, layer.dtype)
        for row, held in enumerate(rows):
            held.row = row
        self._held = [*rows, *[None] * (count - len(rows))]
        self._firsts = [columns - (held.num_tokens if held is not None else 0) for held in self._held]
        self._columns, self._decoder = columns, None

    def _forget_rows(self) -> None:
        self._held, self._firsts, self._columns, self._decoder = [], [], 0, None
        self._cache = new_cache(self._layer_class)

    def _layer(self, parts: Parts, num_held: int) -> GrowingLayer:
        layer = self._layer_class()
        copies = _copied(_part(parts, slice(None), slice(0, num_held)))
        layer.take_over(copies, num_held, self._model.dtype)
        return layer

    def _make_room(self, lengths: Sequence[int]) -> bool:
        """Forgets what was kept until sequences of these lengths fit; False where even that does not help."""
        taken = _room_of(lengths)
        if taken > self.capacity:
            return False
        while taken + sum(len(kept.token_ids) for kept in self._kept.values()) > self.capacity:
            self._kept.popitem(last=False)
        return True

    def _keep(self, token_ids: tuple[int, ...], layers: tuple[Parts, ...], adapter: int) -> None:
        """Keeps a sequence for prompts that begin alike, in the place of those that it begins with itself."""
        if len(token_ids) < LEAST_REUSED or not layers:
            return
        for owner, other in [key for key in self._kept if key[0] == adapter and token_ids[: len(key[1])] == key[1]]:
            del self._kept[owner, other]
        self._kept[adapter, token_ids] = _Kept(adapter, token_ids, layers)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        self._make_room([held.num_reserved for held in self._open])

    def _longest_beginning(self, token_ids: Sequence[int], adapter: int) -> tuple[tuple[Parts, ...], int]:
        """Keys and values of whatever shares the longest beginning with these tokens, and how long it is."""
        wanted = token_ids[:-1]
        own = [kept for kept in self._kept.values() if kept.adapter == adapter]
        kept = max(own, key=lambda other: _num_common(other.token_ids, wanted), default=None)
        most = 0 if kept is None else _num_common(kept.token_ids, wanted)
        live: AlignedHeld | None = None
        for held in (held for held in self._open if held.adapter == adapter):
            length = _num_common(held.prompt_ids[: held.num_tokens], wanted)
            if length > most:
                live, most = held, length
        if most < LEAST_REUSED:
            return (), 0
        if live is not None:
            return self._parts_of(live), most
        assert kept is not None
        self._kept.move_to_end((adapter, kept.token_ids))
        return kept.layers, most

    def _parts_of(self, held: AlignedHeld) -> tuple[Parts, ...]:
        """Keys and values of a sequence, (1, H, num_tokens, ...) each."""
        if held.row is None:
            layers = [] if held.cache is None else held.cache.layers
            return tuple(_part(layer.buffers, slice(None), slice(0, held.num_tokens)) for layer in layers)
        row, columns = slice(held.row, held.row + 1), slice(self._columns - held.num_tokens, self._columns)
        return tuple(_part(layer.buffers, row, columns) for layer in self._cache.layers)


def _attention_for_any_length(device: torch.device) -> AbstractContextManager[object]:
    """Without cuDNN's attention, which plans anew for every length of a prompt: 50 ms of the 70 that one of 300 tokens
    takes on an H200.
    """
    if not plans_attention_by_length(device):
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _room_of(lengths: Sequence[int]) -> int:
    """Tokens of sequences of these lengths, as rows that are all as long as the longest."""
    return len(lengths) * max(lengths, default=0)


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    most = min(len(first), len(second))
    for place, (one, other) in enumerate(zip(islice(first, most), islice(second, most), strict=True)):
        if one != other:
            return place
    return most


def _flat(parts: Parts) -> list[Tensor]:
    return [part for of_kind in parts for part in of_kind]


def _part(parts: Parts, rows: slice, columns: slice) -> Parts:
    keys, values = (tuple(part[rows, :, columns] for part in of_kind) for of_kind in parts)
    return keys, values


def _copied(parts: Parts) -> Parts:
    keys, values = (tuple(part.clone() for part in of_kind) for of_kind in parts)
    return keys, values


def _empty_like(parts: Parts, num_rows: int, columns: int) -> Parts:
    """Zeros, as what stands in padding is multiplied by a weight of zero, with room for some tokens more."""
    room = -(-(columns + 1) // BLOCK) * BLOCK
    keys, values = (
        tuple(part.new_zeros((num_rows, part.shape[1], room, *part.shape[3:])) for part in of_kind) for of_kind in parts
    )
    return keys, values
