"""Pages of many sequences: random lives of a pool beside a slow record of what everybody wrote."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from baichuan2.engine.pages import PagePool, PageShape, PageTable
from baichuan2.kernels.steps import PAGE_TOKENS

SHAPE = PageShape(num_layers=2, num_heads=2, head_dim=16, dtype=torch.float32)
INT8 = PageShape(num_layers=2, num_heads=2, head_dim=16, dtype=torch.bfloat16, is_int8=True)
CONTEXT = 3 * PAGE_TOKENS - 20


def pool_of(num_pages: int, shape: PageShape = SHAPE) -> PagePool:
    """A pool of so many pages, nothing in which can be taken for what somebody wrote."""
    pool = PagePool(shape, cache_bytes=num_pages * shape.page_bytes, max_length=CONTEXT)
    for part in parts_of(pool):
        part.fill_(99 if part.dtype == torch.int8 else torch.nan)
    return pool


def parts_of(pool: PagePool) -> list[Tensor]:
    """The tensors of all layers' keys and values."""
    return [part for layer in pool.caches for parts in layer for part in parts]


def states_of(ids: Sequence[int], part: Tensor, number: int) -> Tensor:
    """What tokens have in part `number` of a cache, (H, T, ...): as keys do, it tells of all tokens up to there."""
    so_far, rows = number, []
    for token in ids:
        so_far = hash((so_far, token)) % 2**61
        rows.append([so_far >> bits & 63 for bits in range(0, 56, 7)])
    digits = torch.tensor(rows).view(len(ids), 8).repeat(1, part.shape[1] * part.shape[3])
    return digits[:, : part.shape[1] * part.shape[3]].view(len(ids), *part.shape[1::2]).transpose(0, 1).to(part.dtype)


def write(pool: PagePool, table: PageTable, ids: Sequence[int]) -> None:
    """Puts the states of `ids` behind the tokens of a table, whose room is reserved, as a step does."""
    start, whole = table.num_tokens, [*table.token_ids, *ids]
    for number, part in enumerate(parts_of(pool)):
        states = states_of(whole, part, number)
        for place in range(start, len(whole)):
            part[table.pages[place // PAGE_TOKENS], :, place % PAGE_TOKENS] = states[:, place]
    table.advance(ids)


def is_held(pool: PagePool, table: PageTable, ids: Sequence[int]) -> bool:
    """Whether the table has the states of just these tokens."""
    if list(table.token_ids) != list(ids) or table.num_tokens != len(ids):
        return False
    for number, part in enumerate(parts_of(pool)):
        found = torch.cat([part[page] for page in table.pages] or [part[0, :, :0]], dim=1)[:, : len(ids)]
        if not torch.equal(found, states_of(ids, part, number)):
            return False
    return True


def opened(pool: PagePool, ids: Sequence[int]) -> PageTable:
    """A table that holds these tokens."""
    table, num_reused = pool.match(ids)
    assert table.reserve(len(ids) - num_reused)
    write(pool, table, ids[num_reused:])
    return table


def text(seed: int, length: int) -> list[int]:
    """Random ids."""
    return random.Random(seed).choices(range(125_696), k=length)


@pytest.mark.parametrize("shape", [SHAPE, INT8])
def test_the_next_turn_finds_the_last_one(shape: PageShape) -> None:
    pool, first = pool_of(4, shape), text(0, 300)
    opened(pool, first).free()
    table, num_reused = pool.match([*first, 1, 2, 3])
    assert num_reused == 300
    assert is_held(pool, table, first)
    assert pool.statistics().total_copied_tokens == 0  # nobody else wants that page
