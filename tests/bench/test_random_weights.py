"""Random weights: folders that load and answer like any other, of the size that is planned, one shard at a time."""

import json

import pytest
import torch

from baichuan2.bench import random_weights
from baichuan2.bench.random_weights import FORMATS, POOL, Randomness, write_random_model
from baichuan2.checkpoints.load import load_for_replies
from baichuan2.checkpoints.plan import estimate
from baichuan2.checkpoints.shards import find_weight_files
from baichuan2.engine.generate import generate_batch
from baichuan2.engine.sampling import Sampling
from baichuan2.settings import LoadSettings
from tests.tiny import tiny_config

VOCAB_SIZE = 4096  # of the demo's tokenizer, which the folders get
CHANGES = {"vocab_size": VOCAB_SIZE, "hidden_size": 256, "intermediate_size": 512}


@pytest.mark.parametrize(
    ("size", "format"), [*(("7b", format) for format in FORMATS), ("13b", "bfloat16"), ("13b", "int4")]
)
def test_a_folder_of_each_format_loads_and_answers(size, format, tmp_path) -> None:
    changes = CHANGES if size == "7b" else {**CHANGES, "hidden_size": 320}
    config = tiny_config(size, **changes)
    seen = []
    write_random_model(tmp_path / "model", config, format, lambda done, total: seen.append((done, total)))
    loaded = load_for_replies(settings=LoadSettings(model=str(tmp_path / "model"), device="cpu"))
    assert loaded.model.config.position_embedding == config.position_embedding
    prompts = [list(range(300, 340)), list(range(700, 740))]
    sampling = Sampling(max_new_tokens=6, draft_tokens=0)
    replies = generate_batch(loaded.model, prompts, sampling, stop_ids=frozenset())
    assert [len(reply) for reply in replies] == [6, 6]
    assert replies[0] != replies[1]
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor(prompts)).logits
    assert logits.isfinite().all()
    assert 0.05 < logits.float().std() < 20
    planned = estimate(config, format, context=1).weights
    assert find_weight_files(tmp_path / "model").num_bytes == pytest.approx(planned, rel=0.03)
    assert seen[-1][0] == pytest.approx(seen[-1][1], rel=0.02)


def test_shards_are_written_as_they_fill(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(random_weights, "SHARD_BYTES", 1 << 20)
    write_random_model(tmp_path / "model", tiny_config("7b", **CHANGES), "bfloat16")
    sizes = [path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors")]
    assert len(sizes) > 2
    largest = VOCAB_SIZE * 256 * 2
    assert max(sizes) < (1 << 20) + largest + 4096
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(sizes)


def test_what_is_drawn_once_goes_round_from_places_of_its_own() -> None:
    randomness = Randomness()
    first, second = randomness.take_bytes(POOL + 64), randomness.take_bytes(64)
    assert (first[:64] == first[POOL:]).all()
    assert not (first[:64] == second).all()
    numbers = randomness.take_numbers(POOL, torch.bfloat16, -0.5, 1.5).float()
    assert (numbers.min(), numbers.max()) == (pytest.approx(-0.5, abs=0.01), pytest.approx(1.5, abs=0.01))
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
