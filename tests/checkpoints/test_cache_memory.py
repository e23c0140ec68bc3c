"""What a server takes for keys and values when nobody said."""

import pytest

from baichuan2.checkpoints import cache_memory as module
from baichuan2.checkpoints.cache_memory import cache_memory
from baichuan2.checkpoints.memory import Place
from baichuan2.model.cost import cache_bytes
from tests.tiny import tiny_model


def free(monkeypatch, num_bytes):
    monkeypatch.setattr(module, "main_memory", lambda: Place("cpu", "main", num_bytes, num_bytes))


@pytest.mark.parametrize(("kv_cache", "bits"), [("same", 32), ("int8", 9)])  # 8, and 32 for each 32 of a head
def test_a_context_for_each_sequence_where_there_is_memory(monkeypatch, kv_cache, bits):
    free(monkeypatch, 2**40)
    model = tiny_model("7b")
    assert cache_memory(model, num_sequences=3, kv_cache=kv_cache) == cache_bytes(model.config, 128, 3, bits=bits)


def test_half_of_what_is_free_but_one_context_at_least(monkeypatch):
    model = tiny_model("7b")
    one = cache_bytes(model.config, 128, bits=32)
    free(monkeypatch, 5 * one)
    assert cache_memory(model, num_sequences=16, kv_cache="same") == 5 * one // 2
    free(monkeypatch, one // 10)
    assert cache_memory(model, num_sequences=16, kv_cache="same") == one


def test_memory_that_cannot_be_told_is_no_limit(monkeypatch):
    free(monkeypatch, None)
    model = tiny_model("7b")
    assert cache_memory(model, num_sequences=16, kv_cache="same") == cache_bytes(model.config, 128, 16, bits=32)
