"""Sequences computed together by steps in C, over the pages of one pool of keys and values.

Parts of prompts and next tokens of replies share a step, each at its own place. A token's numbers depend neither on
what is computed beside it nor on where its pages lie, so a request gets what it gets alone (`kernels.steps`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from baichuan2.engine.batch import Held, Pace, Part
from baichuan2.engine.pages import PagePool, PageShape, PageTable
from baichuan2.engine.processor import ProcessorModel
from baichuan2.engine.team import Team
from baichuan2.kernels import products
from baichuan2.kernels.library import num_threads
from baichuan2.kernels.steps import PAGE_TOKENS, Rows
from baichuan2.model.low_rank import NO_ADAPTER

__all__ = ["PagedBatch", "page_shape"]

LEAST_BESIDE = 8  # tokens of prompts in a step beside replies, where these are few
LEAST_ROWS_ON_MATRIX_UNIT = 3
"""Tokens, and logits, that a step with few-bit weights has at least there: fewer add up in another order (rows.c)."""


def page_shape(model: Any, kv_cache: str) -> PageShape:
    """What a page of that model holds."""
    config = model.config
    return PageShape(
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        dtype=model.dtype,
        is_int8=kv_cache == "int8",
    )


@dataclass(eq=False)
class PagedHeld(Held):
    """One sequence and its pages."""

    table: PageTable


class PagedBatch:
    """See `engine.batch.Batch`."""

    takes_guesses = True
    is_one_pass = True

    def __init__(self, model: ProcessorModel, shape: PageShape, *, cache_bytes: int) -> None:
        """Raises SettingsError where `cache_bytes` hold not even one context."""
        self._model, self._is_int8 = model, shape.is_int8
        self.most_tokens = model.most_rows
        self._team = Team(num_threads())
        self._pace = Pace(min(LEAST_BESIDE, self.most_tokens), self.most_tokens)
        self._least_rows = 1
        if products.has_tiles() and not model.is_16_bits:
            self._least_rows = LEAST_ROWS_ON_MATRIX_UNIT
            cache_bytes += shape.page_bytes  # where rows that nobody asked for are written
        self._pool = PagePool(shape, cache_bytes=cache_bytes, max_length=model.config.model_max_length)
        self._spare: PageTable | None = None
        self.capacity = self._pool.num_pages * PAGE_TOKENS
        if self._least_rows > 1:
            self._spare, _ = self._pool.match([0])
            self._spare.reserve(self._least_rows)
            self.capacity -= PAGE_TOKENS

    @property
    def num_used(self) -> int:
        """Tokens of the open sequences; one that several of them share counts once."""
        return self._pool.num_used_tokens

    def open(self, token_ids: Sequence[int], adapter: int = NO_ADAPTER) -> Held | None:
        """A sequence that begins with these; see `Batch`."""
        if not self._pool.has_room(
            token_ids, adapter
        ):  # asked in every step while somebody waits: nothing is copied for that
            return None
        table, num_reused = self._pool.match(token_ids, adapter)
        return PagedHeld(num_reused, table, adapter=adapter)

    def reserve(self, held: Held, num_new: int) -> bool:
        """Room for more tokens of a sequence; see `Batch`."""
        assert isinstance(held, PagedHeld)
        if held.num_tokens + num_new > self._pool.max_length:
            return False  # guesses beyond the end of the context
        return held.table.reserve(num_new)

    def step(self, parts: Sequence[Part]) -> list[Tensor]:
        """Logits of each part; see `Batch`."""
        ids: list[int] = []
        sequence: list[int] = []
        place: list[int] = []
        wanted: list[int] = []
        tables = []
        for index, part in enumerate(parts):
            assert isinstance(part.held, PagedHeld)
            tables.append(part.held.table.pages)
            ids += part.token_ids
            sequence += [index] * len(part.token_ids)
            place += range(part.held.num_tokens, part.held.num_tokens + len(part.token_ids))
            wanted += range(len(ids) - part.num_wanted, len(ids))
        if self._spare is not None and len(ids) < self._least_rows:
            missing = self._least_rows - len(ids)
            tables.append(self._spare.pages)
            ids += [0] * missing
            sequence += [len(parts)] * missing
            place += range(missing)
        num_wanted = len(wanted)
        if 0 < num_wanted < self._least_rows:
            wanted += [wanted[0]] * (self._least_rows - num_wanted)
        numbers = [part.held.adapter for part in parts for _ in part.token_ids]
        numbers += [NO_ADAPTER] * (len(ids) - len(numbers))
        rows = Rows(sequence, place, [0] * len(ids), wanted, tables, numbers)
        threads = self._team.threads(len(ids))
        started = perf_counter()
        with self._pace.watch(len(ids)):
            logits = self._model.paged_logits(
                ids, rows, self._pool.caches, is_int8_cache=self._is_int8, threads=threads
            )
        self._team.took(len(ids), threads, perf_counter() - started)
        for part in parts:
            assert isinstance(part.held, PagedHeld)
            part.held.table.advance(part.token_ids)
            part.held.num_tokens += len(part.token_ids)
        return list(torch.split(logits[:num_wanted], [part.num_wanted for part in parts]))

    def crop(self, held: Held, num_tokens: int) -> None:
        """Takes the last tokens back; see `Batch`."""
        assert isinstance(held, PagedHeld)
        held.table.crop(num_tokens)
        held.num_tokens = num_tokens

    def close(self, held: Held, token_ids: Sequence[int]) -> None:
        """Ends a sequence, whose pages are kept as long as nobody wants them; see `Batch`."""
        del token_ids  # the table knows what it holds
        assert isinstance(held, PagedHeld)
        held.table.free()

    def tokens_beside(self, num_decoding: int) -> int:
        """What a quarter of a second computes, or as many as there are replies, so that both get half of a step."""
        most = self._pace.tokens
        return max(min(most, max(LEAST_BESIDE, num_decoding)), most // 2) if num_decoding else most
