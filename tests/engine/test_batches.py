"""Batches by themselves: what they find, copy and leave behind."""

import pytest
import torch

from baichuan2.engine.aligned import AlignedBatch
from baichuan2.engine.batch import Part
from baichuan2.engine.batches import Batches
from baichuan2.engine.paged import PagedBatch
from baichuan2.kernels import steps
from tests.tiny import tiny_model


def add(batch, *pairs):
    """The logits behind the ids that each sequence gets in one step."""
    for held, ids in pairs:
        assert batch.reserve(held, len(ids))
    return batch.step([Part(held, ids, 1) for held, ids in pairs])


@torch.inference_mode()
def test_a_row_that_held_no_numbers_is_clean_for_the_next():
    model = tiny_model("7b")
    batch, alone = AlignedBatch(model, capacity=512), AlignedBatch(model, capacity=512)
    long, broken = batch.open([5] * 30), batch.open([6] * 20)
    add(batch, (long, [5] * 30), (broken, [6] * 20))
    add(batch, (long, [7]), (broken, [8]))
    for layer in batch._cache.layers:
        layer.buffers[1][0][broken.row] = torch.nan
    batch.close(broken, [6] * 20 + [8])
    batch._kept.clear()
    results = []
    for here, company in ((batch, [(long, [9])]), (alone, [])):
        short = here.open([40, 41, 42])
        add(here, (short, [40, 41, 42]))
        results.append(add(here, *company, (short, [43]))[-1])
    torch.testing.assert_close(*results)


@torch.inference_mode()
def test_a_beginning_is_not_forgotten_to_make_room_for_who_wants_it():
    batch = AlignedBatch(tiny_model("7b"), capacity=128)
    ids = [*range(20, 120)]
    held = batch.open(ids)
    add(batch, (held, ids))
    batch.close(held, ids)
    assert batch.open([*ids, 5]).num_tokens == 100


@torch.inference_mode()
def test_rows_take_no_more_room_than_there_is():
    model = tiny_model("7b")
    small, large = AlignedBatch(model, capacity=400), AlignedBatch(model, capacity=4000)
    prompts = [[*range(5 + number, 95 + number)] for number in range(3)]
    results = []
    for batch in (small, large):
        held = [batch.open(prompt) for prompt in prompts]
        seen = add(batch, *zip(held, prompts, strict=True))
        for token in range(20):
            seen += add(batch, *((one, [5 + token]) for one in held))
        results.append(torch.cat(seen))
    torch.testing.assert_close(*results)
    assert [len(batch._held) for batch in (small, large)] == [3, 4]  # a free one, so that they are a power of two
    assert small.open([5] * 50) is None  # it would be a row of 111
    assert large.open([5] * 50) is not None


@pytest.mark.skipif(steps.most_rows(is_16_bits=True) < 8, reason="replies are no steps in C here")
def test_asking_for_room_in_vain_copies_nothing():
    model = tiny_model("7b", max_position_embeddings=512).to(torch.bfloat16)
    probe = Batches(model, max_running=2, cache_bytes=None, kv_cache="same")
    batch = Batches(model, max_running=2, cache_bytes=3 * probe._pages.page_bytes, kv_cache="same").new()  # three pages
    assert isinstance(batch, PagedBatch)
    ids = [5 + place % 300 for place in range(300)]
    held = batch.open(ids)
    assert batch.reserve(held, 300)
    held.table.advance(ids)
    assert batch.open(ids[:100] + [4] * 200) is None
    assert batch._pool.statistics().total_copied_tokens == 0
    assert batch.open(ids[:100] + [4] * 100).num_tokens == 100
    assert batch._pool.statistics().total_copied_tokens == 100
