"""Guesses save passes and change nothing: the same steps with and without, greedy and drawn, on fakes and on models."""

import math
from types import SimpleNamespace

import pytest
import torch

from baichuan2.engine.generate import generate_batch, generate_tokens, iter_batch
from baichuan2.engine.sampling import Sampling
from baichuan2.errors import GenerationError
from tests.engine.fake_model import FakeModel
from tests.tiny import SIZES, random_ids, tiny_model

NEVER = frozenset[int]()
PASSAGE = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26]


class Knowing(FakeModel):
    """Says its script by place, whatever it is fed; keeps count of what the cache would hold."""

    def __init__(self, script, prompt_length, noise=0.0, **keywords):
        super().__init__(script, vocab_size=200, model_max_length=500, **keywords)
        self.prompt_length, self.noise, self.held, self.fed = prompt_length, noise, 0, {}
        self.table = torch.randn(600, 200, generator=torch.Generator().manual_seed(0)) * noise

    def __call__(self, **call):
        self.calls.append(call)
        cache, ids = call["past_key_values"], call["input_ids"][0].tolist()
        self.held += getattr(cache, "taken_back", 0)
        cache.taken_back = 0
        cache.crop = lambda length: setattr(cache, "taken_back", cache.taken_back + length)
        for token_id in ids:
            self.fed[self.held] = token_id
            self.held += 1
        places = range(self.held - len(ids), self.held)
        logits = torch.stack([self.logits_at(place) for place in places])[None]
        return SimpleNamespace(logits=logits[:, -call["logits_to_keep"] :])

    def logits_at(self, place):
        logits = self.table[place].clone()
        logits[self.script[(place - self.prompt_length + 1) % len(self.script)]] += 5.0
        return logits


def run(model_of, prompt, stop_ids=NEVER, **sampling):
    """The steps without and with guesses, and the two models."""
    models = model_of(), model_of()
    steps = [
        list(generate_tokens(model, prompt, Sampling(**sampling, draft_tokens=most), stop_ids=stop_ids))
        for model, most in zip(models, (0, 15), strict=True)
    ]
    return steps, models


def copying(noise=0.0):
    return lambda: Knowing([*PASSAGE, 99] * 3, len(PASSAGE) + 1, noise)


PROMPT = [*PASSAGE, 99]


def test_a_copy_takes_few_passes():
    (plain, guessed), (model, faster) = run(copying(), PROMPT, max_new_tokens=51)
    assert guessed == plain
    assert len(model.calls) == 51
    assert len(faster.calls) <= 12
    assert all(call["logits_to_keep"] == call["input_ids"].shape[1] for call in faster.calls[1:])
    assert all(call["attention_mask"] is None for call in faster.calls)


def test_what_is_in_the_cache_is_what_was_said():
    script = [token_id if place % 7 else 150 for place, token_id in enumerate(PASSAGE * 4)]
    (plain, guessed), (_, faster) = run(lambda: Knowing(script, len(PROMPT)), PROMPT, max_new_tokens=60)
    assert guessed == plain
    assert len(faster.calls) < 50
    said = [*PROMPT, *(step.token_id for step in guessed)]
    assert [faster.fed[place] for place in range(len(said) - 1)] == said[:-1]


@pytest.mark.parametrize("max_new_tokens", range(1, 24))
def test_the_length_is_kept_and_nothing_is_fed_beyond_it(max_new_tokens):
    (plain, guessed), (_, faster) = run(copying(), PROMPT, max_new_tokens=max_new_tokens)
    assert guessed == plain
    assert guessed[-1].finish_reason == "length"
    assert max(faster.fed) < len(PROMPT) + max_new_tokens - 1


def test_the_context_is_never_overrun():
    def model_of():
        model = copying()()
        model.config.model_max_length = len(PROMPT) + 30
        return model

    (plain, guessed), (_, faster) = run(model_of, PROMPT, max_new_tokens=400)
    assert guessed == plain
    assert len(guessed) == 30
    assert len(faster.fed) < len(PROMPT) + 30


@pytest.mark.parametrize("stop_id", [12, 18, 99])
def test_a_stop_id_inside_of_a_draft_ends_the_reply(stop_id):
    (plain, guessed), _ = run(copying(), PROMPT, frozenset({stop_id}), max_new_tokens=51)
    assert guessed == plain
    assert guessed[-1].finish_reason == "stop"
    assert guessed[-1].token_id == stop_id


@pytest.mark.parametrize("penalty", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("noise", [0.5, 1.5, 3.0])
@pytest.mark.parametrize(
    "rules", [{}, {"do_sample": True, "top_k": 5, "top_p": 0.85}, {"do_sample": True, "top_p": 0.9}]
)
def test_choices_are_the_same_under_every_rule(penalty, noise, rules):
    for seed in range(4):
        sampling = {"max_new_tokens": 60, "repetition_penalty": penalty, "seed": seed, **rules}
        (plain, guessed), _ = run(copying(noise), PROMPT, **sampling)
        assert guessed == plain  # ids, reasons and log-probabilities, to the last bit


class OddsAndEvens:
    """A grammar that allows nothing but one kind of ids after every fifth token."""

    def __init__(self):
        self.accepted = []

    def apply(self, logits):
        if len(self.accepted) % 5 == 4:
            logits[sum(self.accepted) % 2 :: 2] = -torch.inf

    def accept(self, token_id):
        self.accepted.append(token_id)


@pytest.mark.parametrize(
    "rules",
    [
        {"presence_penalty": 1.5, "num_top_logprobs": 3},
        {"frequency_penalty": 1.0, "repetition_penalty": 1.2},
        {"frequency_penalty": -0.5, "logit_bias": {12: 6.0, 15: -100.0}, "do_sample": True},
        {"do_sample": True, "min_p": 0.05, "presence_penalty": 0.5, "temperature": 0.7},
    ],
)
@pytest.mark.parametrize("is_constrained", [False, True])
def test_choices_are_the_same_with_penalties_bias_and_a_grammar(rules, is_constrained):
    passes = {0: 0, 15: 0}
    for seed in range(4):
        steps = []
        for most in passes:
            model = copying(0.5)()
            sampling = Sampling(max_new_tokens=60, seed=seed, draft_tokens=most, **rules)
            constraint = OddsAndEvens() if is_constrained else None
            said = list(generate_tokens(model, PROMPT, sampling, stop_ids=NEVER, constraint=constraint))
            assert constraint is None or constraint.accepted == [step.token_id for step in said]
            steps.append(said)
            passes[most] += len(model.calls)
        assert steps[0] == steps[1]  # ids, reasons and log-probabilities, to the last bit
    assert passes[15] < passes[0]  # guesses were made, and some were right


def test_without_a_seed_the_global_generator_goes_on_as_without_guesses():
    ends = []
    for most in (0, 15):
        torch.manual_seed(5)
        sampling = Sampling(do_sample=True, top_k=5, max_new_tokens=40, draft_tokens=most)
        steps = generate_tokens(copying(2.0)(), PROMPT, sampling, stop_ids=NEVER)
        said = [next(steps).token_id for _ in range(25)]
        steps.close()  # perhaps in the middle of a draft: what was not asked for was not drawn
        ends.append((said, torch.rand(1).item()))
    assert ends[0] == ends[1]


def test_cancelling_is_asked_for_each_token():
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) == 21

    sampling = Sampling(max_new_tokens=51, draft_tokens=15)
    steps = list(generate_tokens(copying()(), PROMPT, sampling, stop_ids=NEVER, cancelled=cancelled))
    assert len(steps) == 20
    assert steps[-1].finish_reason == "cancelled"


def test_a_model_that_breaks_in_the_middle_of_a_draft_is_told_at_that_token():
    class Broken(Knowing):
        def logits_at(self, place):
            logits = super().logits_at(place)
            return logits * math.nan if place == len(PROMPT) + 20 else logits

    for most in (0, 15):
        steps = generate_tokens(
            Broken([*PASSAGE, 99], len(PROMPT)), PROMPT, Sampling(draft_tokens=most), stop_ids=NEVER
        )
        with pytest.raises(GenerationError, match="at new token 22 "):
            list(steps)


def test_the_model_says_whether_guesses_are_made_by_themselves():
    for rows_at_once, asked, makes_guesses in ((None, None, False), (16, None, True), (16, 0, False), (1, 9, True)):
        model = copying()()
        if rows_at_once is not None:
            model.rows_at_once = rows_at_once
        sampling = Sampling(max_new_tokens=51, draft_tokens=asked)
        list(generate_tokens(model, PROMPT, sampling, stop_ids=NEVER))
        widest = max(call["input_ids"].shape[1] for call in model.calls[1:])
        assert (widest > 1) == makes_guesses
        assert widest <= max(rows_at_once or 1, (asked or 0) + 1)


def test_a_batch_makes_no_guesses_and_a_batch_of_one_does():
    model = FakeModel([4], model_max_length=90)
    sampling = Sampling(max_new_tokens=30, draft_tokens=15)
    generate_batch(model, [[4, 4, 4], [4, 4]], sampling, stop_ids=NEVER)
    assert len(model.calls) == 30
    model = copying()()
    list(iter_batch(model, [PROMPT], Sampling(max_new_tokens=51, draft_tokens=15), stop_ids=NEVER))
    assert len(model.calls) <= 12


class Counting:
    """A model, and how many new tokens each of its passes had."""

    def __init__(self, model):
        self.model, self.config, self.device, self.widths = model, model.config, model.device, []

    def __call__(self, **call):
        self.widths.append(call["input_ids"].shape[1])
        return self.model(**call)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rules", [{}, {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.85}])
def test_replies_of_real_models_are_the_same(size, rules):
    # float32: what several rows at once round differently lies far below the distance of the choices
    model = tiny_model(size, model_max_length=400)
    passage = random_ids(1, 40, seed=3)[0].tolist()
    num_wide = 0
    for seed in range(3):
        sampling = {
            "max_new_tokens": 150,
            "repetition_penalty": 0.6,
            "seed": seed,
            **rules,
        }  # below 1: repeats are liked
        (plain, guessed), (_, faster) = run(lambda: Counting(model), [*passage, *passage, *passage[:9]], **sampling)
        assert [step.token_id for step in guessed] == [step.token_id for step in plain]
        for ours, expected in zip(guessed, plain, strict=True):
            assert ours.logprob == pytest.approx(expected.logprob, abs=1e-4)
        num_wide += sum(width > 1 for width in faster.widths[1:])
    assert num_wide > 5
