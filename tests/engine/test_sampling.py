"""Each rule alone, all rules together against the official numbers, and who decides which value."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from baichuan2.engine.penalties import Penalties
from baichuan2.engine.sampling import (
    Sampling,
    distribution,
    keep_top_k,
    keep_top_p,
    new_generator,
    penalize_repetition,
    pick,
    resolve,
    scale_temperature,
)
from baichuan2.errors import SettingsError
from baichuan2.settings import SamplingSettings
from tests.engine.golden_cases import CASES, GOLDEN

OFFICIAL = SimpleNamespace(
    do_sample=True, temperature=0.3, top_k=5, top_p=0.85, repetition_penalty=1.05, max_new_tokens=2048
)


@pytest.mark.parametrize("case", CASES)
def test_distribution_is_the_official_one(case):
    tensors = load_file(GOLDEN / case / "tensors.safetensors")
    prompt, logits = tensors["sampling.input_ids"], tensors["sampling.raw_last_logits"]
    for mix in json.loads((GOLDEN / case / "expected.json").read_text())["sampling"]:
        rules = {name: mix[name] for name in ("repetition_penalty", "temperature", "top_k", "top_p")}
        sampling = Sampling(do_sample=True, **rules)
        scores = Penalties(sampling, prompt[0].tolist(), logits.device).apply(logits)
        probabilities, ids = distribution(scores, sampling)
        kept = {int(i): float(p) for i, p in zip(ids[0], probabilities[0], strict=True) if p > 0}
        expected = dict(zip(mix["kept_ids"], mix["probs"], strict=True))
        assert sorted(kept) == sorted(expected), rules
        for token_id, probability in expected.items():
            assert kept[token_id] == pytest.approx(probability, abs=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_distribution_equals_the_frameworks_processors(seed):
    random = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, 60, generator=random) * 3).to(torch.bfloat16).float()  # bf16: many ties
    seen = torch.randint(0, 60, (2, 9), generator=random)
    top_k, top_p, temperature, penalty = [(5, 0.85, 0.3, 1.05), (0, 0.5, 1.5, 1.2), (30, 1.0, 0.7, 1.0)][seed % 3]
    scores = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits)
    scores = TemperatureLogitsWarper(temperature)(seen, scores)
    scores = TopKLogitsWarper(top_k)(seen, scores) if top_k else scores
    scores = TopPLogitsWarper(top_p)(seen, scores) if top_p < 1 else scores
    sampling = Sampling(do_sample=True, top_k=top_k, top_p=top_p, temperature=temperature, repetition_penalty=penalty)
    ours_scores = penalize_repetition(logits, seen, penalty)
    probabilities, ids = distribution(ours_scores, sampling)
    ours = torch.zeros_like(logits).scatter(1, ids, probabilities)
    # among equal logits at the edge of top_p either side may keep a different one: compare the sorted masses
    torch.testing.assert_close(ours.sort(-1).values, scores.softmax(-1).sort(-1).values, atol=1e-6, rtol=0)


def test_penalty_counts_an_id_once_and_leaves_its_input_alone():
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    out = penalize_repetition(logits, torch.tensor([[0, 0, 1]]), 2.0)
    assert out.tolist() == [[1.0, -4.0, 1.0]]
    assert logits.tolist() == [[2.0, -2.0, 1.0]]


def test_temperature_divides():
    assert scale_temperature(torch.tensor([[1.0, 3.0]]), 0.5).tolist() == [[2.0, 6.0]]


def test_top_k_keeps_ties_of_its_last_place_row_by_row():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    values, ids = keep_top_k(logits, 2)
    assert values.tolist() == [[3.0, 2.0, 2.0, 2.0], [5.0, 4.0, -math.inf, -math.inf]]
    assert sorted(ids[0].tolist()) == [1, 2, 3, 4]
    assert ids[1, :2].tolist() == [0, 1]


@pytest.mark.parametrize("top_k", [0, 5, 9])
def test_top_k_of_everything_keeps_everything(top_k):
    values, ids = keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 0.0, -1.0]]), top_k)
    assert ids.tolist() == [[1, 2, 0, 3, 4]]
    assert values.isfinite().all()


def test_top_p_keeps_the_smallest_set_and_always_one():
    values = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert keep_top_p(values, 0.79).isfinite().tolist() == [[True, True, False, False]]
    assert keep_top_p(values, 0.81).isfinite().tolist() == [[True, True, True, False]]
    assert keep_top_p(values, 0.0).isfinite().tolist() == [[True, False, False, False]]
    assert keep_top_p(values, 1.0).isfinite().all()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(do_sample=True, temperature=0.0), Sampling(temperature=0.7)])
def test_greedy_takes_the_best(sampling):
    assert sampling.is_greedy
    assert pick(torch.tensor([[3.0, 2.9, 0.0]]), sampling, None).tolist() == [0]


def test_a_seed_repeats_without_touching_the_global_generator():
    sampling = Sampling(do_sample=True, seed=3)
    logits = torch.zeros(1, 1000)
    before = torch.random.get_rng_state()
    first = [pick(logits, sampling, new_generator(sampling, logits.device)).item() for _ in range(2)]
    assert first[0] == first[1]
    assert torch.equal(before, torch.random.get_rng_state())
    generator = new_generator(sampling, logits.device)
    assert len({pick(logits, sampling, generator).item() for _ in range(20)}) > 10


def test_draws_follow_the_distribution():
    sampling = Sampling(do_sample=True, top_k=3, seed=0)
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0, 1.5]]).expand(20_000, -1)
    drawn = pick(logits, sampling, new_generator(sampling, logits.device))
    probabilities, ids = distribution(logits[:1], sampling)
    assert set(drawn.tolist()) == {1, 2, 4}
    for token_id, probability in zip(ids[0].tolist(), probabilities[0].tolist(), strict=True):
        assert (drawn == token_id).float().mean().item() == pytest.approx(probability, abs=0.015)


def test_the_checkpoint_decides_what_the_user_leaves_open():
    assert resolve(None, OFFICIAL) == Sampling(
        do_sample=True, temperature=0.3, top_k=5, top_p=0.85, repetition_penalty=1.05, max_new_tokens=2048
    )
    chosen = resolve(SamplingSettings(temperature=0.9, max_new_tokens=7, seed=1), OFFICIAL)
    assert (chosen.temperature, chosen.top_k, chosen.max_new_tokens, chosen.seed) == (0.9, 5, 7, 1)


def test_a_checkpoint_without_values_means_what_the_framework_reads_into_it():
    chosen = resolve(None, SimpleNamespace(top_p=None))
    assert (chosen.do_sample, chosen.temperature, chosen.top_k, chosen.top_p) == (False, 1.0, 50, 1.0)


@pytest.mark.parametrize("settings", [{"temperature": 0.8}, {"top_k": 3}, {"top_p": 0.5}])
def test_naming_a_sampling_value_asks_for_sampling(settings):
    greedy = SimpleNamespace(do_sample=False)
    assert not resolve(SamplingSettings(**settings), greedy).is_greedy
    assert resolve(SamplingSettings(**settings, do_sample=False), greedy).is_greedy
    assert resolve(SamplingSettings(temperature=0.0), OFFICIAL).is_greedy
    assert resolve(SamplingSettings(seed=1), greedy).is_greedy


def test_values_of_the_checkpoint_obey_the_bounds_too():
    with pytest.raises(SettingsError, match=r"--top-p must lie in \[0, 1\], got 1.5"):
        resolve(None, SimpleNamespace(top_p=1.5))
    for name, value in (("top_k", 5.5), ("temperature", "hot"), ("do_sample", 1), ("max_new_tokens", True)):
        with pytest.raises(SettingsError, match=rf"--{name.replace('_', '-')} must be .*, got {value!r}"):
            resolve(None, SimpleNamespace(**{name: value}))
    with pytest.raises(SettingsError, match="--seed must lie in"):
        resolve(SamplingSettings(seed=2**64), OFFICIAL)
