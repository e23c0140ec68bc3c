"""Steps over a cache in pages give, bit for bit, what they give over one in one piece; wrong pages are refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan2.kernels import steps
from baichuan2.kernels.steps import PAGE_TOKENS, Rows
from tests.kernels.tiny_steps import Steps, model_of
from tests.tiny import SIZES, Size, random_ids

pytestmark = [
    pytest.mark.skipif(not steps.is_available(), reason="the library of kernels is not built here"),
    pytest.mark.usefixtures("one_thread"),
]

NUM_PAGES = 9
TABLES = ([7, 0, 8], [4], [6, 2], [3, 1])
"""Pages of four sequences, in no order; page 5 is nobody's, the second of the third sequence is never reached."""
ROUNDS = (
    (60, 4, 0, 0),
    (61, 0, 3, 0),
    (64, 0, 0, 0),
    (62, 1, 0, 1),
    (20, 1, 0, 43),  # 267 of the first: a part begins in one page and ends in the next
    (1, 1, 1, 1),
    (0, 1, 63, 0),
    (0, 0, 0, 64),
    (0, 0, 0, 64),
    (1, 0, 0, 63),
    (1, 40, 0, 23),  # 259 of the last
    (1, 1, 1, 1),
    (64, 0, 0, 0),
    (64, 0, 0, 0),
    (64, 0, 0, 0),
    (55, 2, 2, 2),  # 517 of the first: its third page
    (1, 1, 1, 1),
)
"""New tokens of each sequence in a step, up to 64 in all: chunks of prompts beside single tokens."""
LENGTHS = [sum(new) for new in zip(*ROUNDS, strict=True)]


def in_rounds(made: Steps) -> Tensor:
    """The logits (M, V) of all tokens of the four sequences, step after step."""
    ids = [random_ids(1, length, seed=seed)[0] for seed, length in enumerate(LENGTHS)]
    held, found = [0] * len(ids), []
    for new in ROUNDS:
        parts = [own[start : start + count] for own, start, count in zip(ids, held, new, strict=True)]
        found.append(made(parts, held, [0] * len(ids)))
        held = [start + count for start, count in zip(held, new, strict=True)]
    return torch.cat(found)


def in_pages(model: Any, is_int8: bool = False) -> Steps:
    """A cache of pages for the four sequences, in which nothing is written yet."""
    return Steps(model, NUM_PAGES, PAGE_TOKENS, is_int8, tables=TABLES)


def expected_pages(whole: Tensor, empty: Tensor) -> Tensor:
    """Pages (num_pages, H, PAGE_TOKENS, ...) that hold what stands in `whole` (B, H, capacity, ...), else `empty`."""
    pages = empty.clone()
    for states, table, length in zip(whole, TABLES, LENGTHS, strict=True):
        for place in range(length):
            pages[table[place // PAGE_TOKENS], :, place % PAGE_TOKENS] = states[:, place]
    return pages


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(
    ("dtype", "is_int8"), [(torch.bfloat16, False), (torch.float16, False), (torch.bfloat16, True)]
)
@pytest.mark.parametrize("size", SIZES)
def test_pages_are_a_cache_in_one_piece(size: Size, dtype: torch.dtype, is_int8: bool) -> None:
    """Logits, keys and values; also where threads share blocks. What no token was written to stays as it was."""
    model = model_of(size, dtype)
    whole, empty = Steps(model, len(TABLES), max(LENGTHS), is_int8), in_pages(model, is_int8)
    wanted = in_rounds(whole)
    assert wanted.isfinite().all()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        paged = in_pages(model, is_int8)
        assert torch.equal(in_rounds(paged), wanted)
        for found, kept, untouched in zip(paged.parts(), whole.parts(), empty.parts(), strict=True):
            assert torch.allclose(found, expected_pages(kept, untouched), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_sequences_share_pages_that_they_read(size: Size, is_int8: bool) -> None:
    """Two that begin alike go on differently, one of them in the step that writes the shared page."""
    model, shared = model_of(size), random_ids(1, PAGE_TOKENS, seed=1)[0]
    ends = [random_ids(1, 5, seed=seed)[0] for seed in (2, 3)]
    alone = [Steps(model, 1, 300, is_int8).of_one(torch.cat((shared, end)), [64] * 4 + [5]) for end in ends]
    made = Steps(model, 4, PAGE_TOKENS, is_int8, tables=([2, 3], [2, 0]))
    found = [made([shared[at : at + 50], shared[:0]], [at, 0], [0, 0]) for at in range(0, 250, 50)]
    found.append(made([torch.cat((shared[250:], ends[0])), ends[1]], [250, PAGE_TOKENS], [0, 0]))
    together = torch.cat(found)
    assert torch.equal(together[:-5], alone[0])
    assert torch.equal(together[-5:], alone[1][-5:])


RIGHT = Rows([0, 0, 1], [255, 256, 3], [0, 0, 0], [2], pages=([1, 0], [2]))
WRONG = {
    "no such page": (replace(RIGHT, pages=([1, 3], [2])), r"sequence 0 has pages \[1, 3\], but the cache has 3"),
    "a page below 0": (replace(RIGHT, pages=([-1, 0], [2])), r"sequence 0 has pages \[-1, 0\]"),
    "a page beyond 64 bits": (replace(RIGHT, pages=([2**64, 0], [2])), "sequence 0 has pages"),
    "a table too short": (replace(RIGHT, pages=([1], [2])), "a token at place 256 of 0 is outside of a cache"),
    "an empty table": (replace(RIGHT, pages=([1, 0], [])), "a token at place 3 of 1 is outside of a cache"),
    "no table": (replace(RIGHT, pages=([1, 0],)), "a token at place 3 of 1 is outside of a cache"),
    "no tables": (replace(RIGHT, pages=()), "a token at place 255 of 0 is outside of a cache"),
    "a sequence below 0": (replace(RIGHT, sequence=[0, 0, -1]), "a token at place 3 of -1 is outside"),
    "a place below 0": (replace(RIGHT, place=[255, 256, -1]), "a token at place -1 of 1 is outside"),
    "not from 0 on": (replace(RIGHT, first=[0, 0, 1]), "pages hold 256 tokens, and rows see them from place 0 on"),
    "out of order": (replace(RIGHT, place=[256, 255, 3]), "stand in order"),
    "one place twice": (replace(RIGHT, place=[3, 256, 3], pages=([1, 0], [1])), "written to one place of a page"),
    "one place twice, apart": (
        replace(RIGHT, sequence=[0, 1, 0], place=[3, 3, 3], pages=([1], [2])),
        "written to one place of a page",
    ),
    "too many rows": (
        Rows([0] * 65, range(65), [0] * 65, [], pages=([1],)),
        "the rows or the caches of a step do not fit the model",
    ),
}


def call(rows: Rows, capacity: int = PAGE_TOKENS) -> Tensor:
    """The logits (wanted, V) of a step over three pages of that many places."""
    made = Steps(model_of("13b"), 3, capacity)
    embeddings = torch.zeros(len(rows.place), made.head.shape[1], dtype=torch.bfloat16)
    return made.step.step(embeddings, None, rows, made.caches, made.head)


def test_right_pages_are_taken() -> None:
    assert call(RIGHT).shape == (1, 512)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pages_are_refused(name: str) -> None:
    rows, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(rows)


@pytest.mark.parametrize("capacity", [1, 255, 257, 512])
def test_pages_of_another_size_are_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="pages hold 256 tokens"):
        call(RIGHT, capacity)
