"""Our cache holds what the framework's holds, through everything that is done to it."""

import torch
from transformers.cache_utils import DynamicCache

from baichuan2.engine import cache as ours
from baichuan2.engine.cache import new_cache


def both_after(actions, monkeypatch, block=4):
    monkeypatch.setattr(ours, "BLOCK", block)
    random = torch.Generator().manual_seed(0)
    grown, reference = new_cache(), DynamicCache()
    for action in actions:
        if isinstance(action, int):
            for layer in range(2):
                keys, values = torch.randn(2, 2, 3, action, 5, generator=random)
                a, b = grown.update(keys, values, layer), reference.update(keys, values, layer)
                assert torch.equal(a[0], b[0])
                assert torch.equal(a[1], b[1])
        else:
            action(grown)
            action(reference)
        assert grown.get_seq_length() == reference.get_seq_length()
        assert grown.get_mask_sizes(1, 0) == reference.get_mask_sizes(1, 0)
    return grown


def test_equals_the_frameworks_cache_over_many_blocks(monkeypatch):
    both_after([6, 1, 1, 1, 3, 9, 1], monkeypatch)


def test_survives_cropping_reordering_and_picking_rows(monkeypatch):
    both_after([6, 1, lambda cache: cache.crop(-3), 1, 2], monkeypatch)
    both_after([6, lambda cache: cache.reorder_cache(torch.tensor([1, 1])), 1, 1], monkeypatch)
    both_after([5, lambda cache: cache.batch_select_indices(torch.tensor([1, 0])), 2, 1], monkeypatch)


def test_a_new_token_is_written_in_place(monkeypatch):
    grown = both_after([5], monkeypatch)
    first = grown.layers[0].keys.data_ptr()
    for length in (6, 7, 8):
        grown.update(torch.zeros(2, 3, 1, 5), torch.zeros(2, 3, 1, 5), 0)
        assert grown.layers[0].keys.shape[-2] == length
        assert grown.layers[0].keys.data_ptr() == first
    grown.update(torch.zeros(2, 3, 1, 5), torch.zeros(2, 3, 1, 5), 0)
    assert grown.layers[0].keys.data_ptr() != first
