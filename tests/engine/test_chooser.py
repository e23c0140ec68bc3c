"""One reply's choices: every rule in its place, a state of its own, and the same through any way of asking."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from baichuan2.engine.chooser import Choice, Chooser, choose_greedy_rows
from baichuan2.engine.generate import generate_tokens, iter_batch
from baichuan2.engine.penalties import Penalties
from baichuan2.engine.sampling import Sampling, distribution, resolve
from baichuan2.errors import GenerationError, SettingsError
from baichuan2.settings import SamplingSettings
from tests.engine.fake_model import FakeModel

CPU = torch.device("cpu")
NEVER = frozenset[int]()
RULES = [
    {},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.7},
    {"frequency_penalty": -0.4, "presence_penalty": 0.2},
    {"logit_bias": {3: 4.0, 0: -100.0}},
    {"logit_bias": {3: 2.5, 7: 1.5}, "repetition_penalty": 0.8, "frequency_penalty": 0.9, "presence_penalty": -0.5},
]
DRAWS = [
    {},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.7, "top_k": 8, "top_p": 0.9},
    {"do_sample": True, "temperature": 1.4, "min_p": 0.1},
    {"do_sample": True, "top_p": 0.8, "min_p": 0.05},
]


def oracle_scores(logits, prompt, said, sampling, allowed=None):
    """The scores before the temperature, token by token, as the papers and OpenAI's reference write them."""
    counts = Counter(said)
    scores = []
    for token_id, logit in enumerate(logits.tolist()):
        score = logit + sampling.logit_bias.get(token_id, 0.0)
        if token_id in prompt or token_id in counts:
            score = score * sampling.repetition_penalty if score < 0 else score / sampling.repetition_penalty
        score -= counts[token_id] * sampling.frequency_penalty + (counts[token_id] > 0) * sampling.presence_penalty
        scores.append(score if allowed is None or token_id in allowed else -math.inf)
    return scores


def oracle_kept(scores, sampling):
    """The candidates and their probabilities by sorting, summing and comparing in plain Python."""
    order = sorted(range(len(scores)), key=lambda token_id: -scores[token_id])
    order = [token_id for token_id in order if scores[token_id] > -math.inf]
    weights = {i: math.exp((scores[i] - scores[order[0]]) / sampling.temperature) for i in order}
    order = order[: sampling.top_k or None]
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for token_id in order:
        if kept and sampling.top_p < 1 and mass >= sampling.top_p * total:
            break
        mass += weights[token_id]
        kept.append(token_id)
    kept = [i for i in kept if weights[i] >= sampling.min_p]
    return {i: weights[i] / sum(weights[j] for j in kept) for i in kept}


class Allowing:
    """A grammar that allows, at each place, the ids that leave one remainder; remembers what it was told."""

    def __init__(self, vocab_size=40):
        self.vocab_size, self.accepted = vocab_size, []

    @property
    def allowed(self):
        return {i for i in range(self.vocab_size) if i % 4 == len(self.accepted) % 4}

    def apply(self, logits):
        assert logits.shape == (self.vocab_size,)
        for token_id in set(range(self.vocab_size)) - self.allowed:
            logits[token_id] = -torch.inf

    def accept(self, token_id):
        assert token_id in self.allowed
        self.accepted.append(token_id)


@pytest.mark.parametrize("is_constrained", [False, True])
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("rules", RULES)
def test_every_choice_is_one_that_the_rules_leave(rules, draws, is_constrained):
    sampling = Sampling(**rules, **draws, seed=5)
    random = torch.Generator().manual_seed(1)
    prompt, said = [1, 3, 3, 9], []
    constraint = Allowing() if is_constrained else None
    chooser = Chooser(sampling, prompt, CPU, constraint)
    for _ in range(60):
        logits = torch.randn(40, generator=random) * 2
        allowed = constraint.allowed if constraint else None
        kept = oracle_kept(oracle_scores(logits, prompt, said, sampling, allowed), replace(sampling, temperature=1.0))
        before = logits.clone()
        choice = chooser.choose(logits)
        assert torch.equal(logits, before)
        if sampling.is_greedy:
            assert choice.token_id == max(kept, key=kept.__getitem__)
        else:
            scores = oracle_scores(logits, prompt, said, sampling, allowed)
            assert choice.token_id in oracle_kept(scores, sampling)
        # what the model itself said, whatever the rules made of it
        assert choice.logprob == pytest.approx(logits.log_softmax(-1)[choice.token_id].item(), abs=1e-5)
        said.append(choice.token_id)
    assert constraint is None or constraint.accepted == said


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("draws", DRAWS[1:])
def test_probabilities_are_those_that_the_rules_leave(rules, draws):
    sampling = Sampling(**rules, **draws)
    prompt, said = [1, 3, 5], []
    penalties = Penalties(sampling, prompt, CPU)
    random = torch.Generator().manual_seed(2)
    for token_id in (5, 7, 7, 0, 11, 5, 5, 7):
        logits = torch.randn(12, generator=random) * 1.5
        probabilities, ids = distribution(penalties.apply(logits[None]), sampling)
        kept = {i: p for i, p in zip(ids[0].tolist(), probabilities[0].tolist(), strict=True) if p > 0}
        expected = oracle_kept(oracle_scores(logits, prompt, said, sampling), sampling)
        for unlikely in [i for i, p in expected.items() if p < 1e-37]:  # beyond the numbers of float32
            assert kept.pop(unlikely, 0.0) < 1e-37
            del expected[unlikely]
        assert kept == pytest.approx(expected, abs=1e-5)
        penalties.append(token_id)
        said.append(token_id)


def test_frequency_and_presence_count_the_reply_alone():
    chooser = Chooser(Sampling(frequency_penalty=1.0, presence_penalty=0.5), [0, 0, 0], CPU)
    logits = torch.tensor([3.0, 1.4, -9.0])
    # 0 is said at 3, then is worth 1.5, then 0.5: below 1.4
    assert [chooser.choose(logits).token_id for _ in range(4)] == [0, 0, 1, 0]


def test_a_bias_forbids_or_forces():
    logits = torch.tensor([5.0, 0.0, 1.0])
    assert Chooser(Sampling(logit_bias={0: -100}), [1], CPU).choose(logits).token_id == 2
    assert Chooser(Sampling(logit_bias={1: 100}), [1], CPU).choose(logits).token_id == 1


def test_many_new_ids_are_remembered():
    chooser = Chooser(Sampling(presence_penalty=2.0, repetition_penalty=5.0), [0], CPU)
    logits = torch.linspace(1.0, 1.5, 500)
    assert [chooser.choose(logits).token_id for _ in range(499)] == list(range(499, 0, -1))


def test_top_logprobs_are_the_models_own_best_first_and_equal_ones_by_id():
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0])
    chooser = Chooser(Sampling(num_top_logprobs=4, logit_bias={0: 50}), [1], CPU)
    choice = chooser.choose(logits)
    assert choice.token_id == 0
    assert [token_id for token_id, _ in choice.top_logprobs] == [1, 3, 2, 4]
    assert [p for _, p in choice.top_logprobs] == pytest.approx(logits.log_softmax(-1)[[1, 3, 2, 4]].tolist(), abs=1e-6)
    assert len(Chooser(Sampling(num_top_logprobs=20), [1], CPU).choose(logits).top_logprobs) == 6
    assert Chooser(Sampling(), [1], CPU).choose(logits).top_logprobs == ()


def test_rows_together_are_chosen_as_alone():
    logits = (torch.randn(5, 700, generator=torch.Generator().manual_seed(0)) * 3).bfloat16().float()
    alone = [Chooser(Sampling(), [1], CPU).choose(row) for row in logits]
    assert choose_greedy_rows(logits) == alone
    with_top = Chooser(Sampling(num_top_logprobs=1), [1], CPU).choose(logits[0])  # by the other way, to the last bit
    assert with_top == replace(alone[0], top_logprobs=((alone[0].token_id, alone[0].logprob),))


@pytest.mark.parametrize(
    "rules",
    [{"num_top_logprobs": 1}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.1}, {"logit_bias": {1: 1.0}}],
)
def test_only_a_reply_without_rules_is_plain(rules):
    assert Chooser(Sampling(), [1], CPU).is_plain
    assert Chooser(Sampling(do_sample=True, temperature=0.0), [1], CPU).is_plain
    assert not Chooser(Sampling(**rules), [1], CPU).is_plain
    assert not Chooser(Sampling(do_sample=True), [1], CPU).is_plain
    assert not Chooser(Sampling(), [1], CPU, Allowing()).is_plain


def test_a_reply_depends_on_no_other():
    sampling = Sampling(do_sample=True, seed=11, presence_penalty=0.5)
    rows = torch.randn(30, 50, generator=torch.Generator().manual_seed(4))
    alone = Chooser(sampling, [1], CPU)
    expected = [alone.choose(row) for row in rows]
    choosers = [Chooser(replace(sampling, seed=seed), [1], CPU) for seed in (3, 11, None)]
    got = [[chooser.choose(row) for chooser in choosers] for row in rows]
    assert [choices[1] for choices in got] == expected
    assert len({tuple(choices[place].token_id for choices in got) for place in range(3)}) == 3


def test_without_seeds_equal_replies_go_apart():
    choosers = [Chooser(Sampling(do_sample=True), [1], CPU) for _ in range(8)]
    said = {tuple(chooser.choose(torch.zeros(100)).token_id for _ in range(10)) for chooser in choosers}
    assert len(said) == 8


@pytest.mark.parametrize("rules", [{}, {"do_sample": True, "seed": 3, "top_k": 4}, {"frequency_penalty": 0.8}])
def test_a_row_of_a_batch_says_what_it_says_alone(rules):
    class Varied(FakeModel):
        """Logits that depend on the last token alone."""

        def __call__(self, **call):
            table = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)) * 2
            return SimpleNamespace(logits=table[call["input_ids"][:, -1:]])

    sampling = Sampling(max_new_tokens=20, **rules)
    prompts = [[3, 4], [5], [6, 7, 8], [5]]
    together = [[] for _ in prompts]
    for steps in iter_batch(Varied([]), prompts, sampling, stop_ids=frozenset({2})):
        for row, step in zip(together, steps, strict=True):
            if step is not None:
                row.append(step)
    assert together == [
        list(generate_tokens(Varied([]), prompt, sampling, stop_ids=frozenset({2}))) for prompt in prompts
    ]


def test_a_grammar_follows_a_generation():
    constraint = Allowing(10)
    steps = generate_tokens(FakeModel([4]), [1], Sampling(max_new_tokens=6), stop_ids=NEVER, constraint=constraint)
    assert [step.token_id for step in steps] == [4, 1, 2, 3, 4, 1]
    assert constraint.accepted == [4, 1, 2, 3, 4, 1]


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_grammar_that_allows_nothing_is_an_error(do_sample):
    class Nothing(Allowing):
        def apply(self, logits):
            logits.fill_(-torch.inf)

    with pytest.raises(GenerationError, match=r"allows no token at new token 1$"):
        Chooser(Sampling(do_sample=do_sample), [1], CPU, Nothing(5)).choose(torch.zeros(5))


def test_few_allowed_tokens_are_found_without_sorting_all(monkeypatch):
    """Under a grammar most logits are minus infinity: no ties of the last place that top_k keeps."""
    asked = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, k, dim=-1: asked.append(k) or topk(self, k, dim=dim))
    for rules in ({"top_k": 5}, {"top_p": 0.9}):
        scores = torch.full((125_696,), -torch.inf)
        scores[[7, 90_000]] = torch.tensor([1.0, 2.0])
        chooser = Chooser(Sampling(do_sample=True, num_top_logprobs=0, **rules), [1], CPU, Only(scores))
        assert chooser.choose(torch.zeros(125_696)).token_id in (7, 90_000)
    assert asked
    assert max(asked) < 100


class Only:
    """A grammar that puts these scores in the place of all logits."""

    def __init__(self, scores):
        self.scores = scores

    def apply(self, logits):
        logits.copy_(self.scores)

    def accept(self, token_id):
        pass


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("rules", [{}, {"do_sample": True, "top_k": 2}, {"do_sample": True}, {"presence_penalty": 1.0}])
def test_no_number_is_an_error_with_its_place(value, rules):
    chooser = Chooser(Sampling(**rules), [1], CPU)
    logits = torch.zeros(6)
    chooser.choose(logits)
    logits[4] = value
    with pytest.raises(GenerationError, match="at new token 2 is not a number"):
        chooser.choose(logits)
    plain = Chooser(Sampling(), [1], CPU)
    rows = choose_greedy_rows(torch.stack([torch.zeros(6), logits]))
    assert plain.took(rows[0]) == Choice(0, pytest.approx(-math.log(6)))
    with pytest.raises(GenerationError, match="at new token 2 is not a number"):
        plain.took(rows[1])


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({5: 101.0}, r"logit_bias\[5\] must be a number in \[-100, 100\], got 101.0"),
        ({5: math.nan}, r"logit_bias\[5\] must be a number"),
        ({5: -math.inf}, r"logit_bias\[5\] must be a number"),
        ({5: "1"}, r"logit_bias\[5\] must be a number"),
        ({5: True}, r"logit_bias\[5\] must be a number"),
        ({-1: 1.0}, "whole numbers from 0, got -1"),
        ({"5": 1.0}, "whole numbers from 0, got '5'"),
        ({True: 1.0}, "whole numbers from 0, got True"),
        ([5], "must map token ids to numbers, got list"),
    ],
)
def test_a_bias_that_cannot_work(bias, message):
    with pytest.raises(SettingsError, match=message):
        resolve(None, SimpleNamespace(), logit_bias=bias)
    with pytest.raises(SettingsError, match=message):
        replace(Sampling(), logit_bias=bias)


@pytest.mark.parametrize("number", [-1, 2.0, True, "3", None])
def test_a_number_of_top_logprobs_that_cannot_work(number):
    with pytest.raises(SettingsError, match="num_top_logprobs must be a whole number from 0"):
        resolve(None, SimpleNamespace(), num_top_logprobs=number)


def test_a_bias_for_an_unknown_token_is_refused_at_the_call():
    sampling = Sampling(logit_bias={3: 1.0, 10: 1.0})
    model = FakeModel([4], vocab_size=10)
    with pytest.raises(SettingsError, match="logit_bias names token id 10, outside of the vocabulary of 10 tokens"):
        generate_tokens(model, [1], sampling, stop_ids=NEVER)
    assert model.calls == []
    with pytest.raises(SettingsError, match="logit_bias names token id 10, outside"):
        Chooser(sampling, [1], CPU).choose(torch.zeros(10))
    assert Chooser(sampling, [1], CPU).choose(torch.zeros(11)).token_id == 3


def test_the_new_rules_are_settings_like_the_others():
    checkpoint = SimpleNamespace(min_p=0.2)
    assert resolve(None, checkpoint).min_p == 0.2
    assert resolve(SamplingSettings(min_p=0.1), checkpoint) == replace(
        resolve(None, checkpoint), min_p=0.1, do_sample=True
    )
    chosen = resolve(SamplingSettings(presence_penalty=1.5, frequency_penalty=-2.0), checkpoint)
    assert (chosen.presence_penalty, chosen.frequency_penalty, chosen.do_sample) == (1.5, -2.0, False)
    for name, value in (("min_p", 1.1), ("presence_penalty", 2.5), ("frequency_penalty", -2.1)):
        with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} must lie in"):
            SamplingSettings(**{name: value})
