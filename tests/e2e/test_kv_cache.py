"""`--kv-cache int8` through the front door, with the demo model: by the model's own passes and by steps in C."""

import pytest

from baichuan2.cli.main import main
from baichuan2.engine import generate
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.kernels import steps

FLAGS = ["--temperature", "0", "--max-new-tokens", "20", "--prompt", "法国的首都是哪里？", "--language", "en"]


@pytest.fixture(params=["own passes", "steps"])
def way(request, monkeypatch):
    if request.param == "steps" and not steps.is_available():
        pytest.skip("no kernels of our own here")
    monkeypatch.setattr(steps, "most_rows", lambda *_: steps.MOST_ROWS if request.param == "steps" else 0)
    monkeypatch.delenv("BAICHUAN2_MODEL", raising=False)


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_the_cache_holds_codes_and_the_reply_is_as_good(command, way, monkeypatch, capsys):
    caches = []
    make = generate.new_cache
    monkeypatch.setattr(generate, "new_cache", lambda kind: caches.append(make(kind)) or caches[-1])
    texts = []
    for flags in ([], ["--kv-cache", "same"], ["--kv-cache", "int8"]):
        assert main([command, *FLAGS, *flags]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]  # the runner-up of each choice is far away
    for cache, is_coded in zip(caches, (False, False, True), strict=True):
        assert {isinstance(layer, Int8Layer) for layer in cache.layers} == {is_coded}
        held = cache.layers[-1]
        size = sum(part.nbytes for parts in held.buffers for part in parts)
        numbers = 2 * held.keys[0].nbytes // held.get_seq_length() * held.capacity
        assert size == numbers * (0.5 + 4 / 128 if is_coded else 1)  # a scale of 4 bytes for 64 numbers of 2


def test_other_numbers_are_refused_in_one_line(capsys):
    assert main(["chat", *FLAGS, "--kv-cache", "int4"]) == 2
    assert "--kv-cache" in capsys.readouterr().err.splitlines()[-1]
