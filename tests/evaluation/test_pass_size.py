"""How many tokens are scored at once, by the memory that is free."""

import pytest

from baichuan2.checkpoints.memory import Place
from baichuan2.evaluation import pass_size
from baichuan2.evaluation.pass_size import LEAST, MOST, tokens_at_once
from baichuan2.model.cost import cache_bytes, scratch_bytes
from tests.tiny import tiny_model


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_fewer_where_there_is_little_memory(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    model = tiny_model(size)  # type: ignore[arg-type]
    held = cache_bytes(model.config, model.config.model_max_length, 1, bits=32)
    needed = scratch_bytes(model.config, 256, bits=32, is_quantized=True)
    places = {2 * (held + needed): 256, 2 * (held + needed) - 2: 128, 2**40: MOST["cpu"], 1: LEAST}
    for free, expected in places.items():
        monkeypatch.setattr(pass_size, "main_memory", lambda free=free: Place("cpu", "main", 2**40, free))
        assert tokens_at_once(model) == expected
    monkeypatch.setattr(pass_size, "main_memory", lambda: Place("cpu", "main", None, None))
    assert tokens_at_once(model) == MOST["cpu"]
