"""The loop on the real architecture: the official numbers, the framework's own generate, batches against singles."""

import json

import pytest
import torch
from transformers import StaticCache

from baichuan2.engine.cache import new_cache
from baichuan2.engine.generate import generate_batch, generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.model.modeling_baichuan import CACHE_KEYWORD, BaichuanForCausalLM
from tests.engine.golden_cases import CASES, GOLDEN

NEVER = frozenset[int]()


@pytest.fixture(scope="module", params=CASES)
def case(request):
    model = BaichuanForCausalLM.from_pretrained(GOLDEN / request.param).eval()
    return model, json.loads((GOLDEN / request.param / "expected.json").read_text())


def ids_of(model, prompt, stop_ids=NEVER, **sampling):
    return [step.token_id for step in generate_tokens(model, prompt, Sampling(**sampling), stop_ids=stop_ids)]


def framework_ids(model, prompt, mask=None, **settings):
    prompt = torch.tensor(prompt)
    mask = torch.ones_like(prompt) if mask is None else torch.tensor(mask)
    output = model.generate(prompt, attention_mask=mask, do_sample=False, **settings)
    return output[:, prompt.shape[1] :].tolist()


# the chat checkpoints' config samples; greedy search says so when it finds temperature, top_k and top_p set
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_greedy_is_official_and_the_frameworks(case):
    model, expected = case
    for run in expected["greedy"]:
        settings = {"max_new_tokens": run["max_new_tokens"], "repetition_penalty": run["repetition_penalty"]}
        ids = ids_of(model, run["prompt"], **settings)
        assert run["prompt"] + ids == run["output"]
        assert [ids] == framework_ids(model, [run["prompt"]], eos_token_id=None, **settings)


def test_stopping_is_official(case):
    model, expected = case
    run = expected["greedy_eos"]
    ids = ids_of(model, run["prompt"], frozenset({run["eos_token_id"]}), max_new_tokens=50)
    assert run["prompt"] + ids == run["output"]


def test_left_padded_batch_is_official_and_equals_singles(case):
    model, expected = case
    run = expected["greedy_leftpad"]
    width = len(run["output"][0]) - run["max_new_tokens"]
    # the recorded rows start with the padding id 0, which no prompt begins with
    prompts = [trimmed(row[:width]) for row in run["output"]]
    replies = generate_batch(model, prompts, Sampling(max_new_tokens=run["max_new_tokens"]), stop_ids=NEVER)
    assert replies == [row[width:] for row in run["output"]]
    assert replies == [ids_of(model, prompt, max_new_tokens=run["max_new_tokens"]) for prompt in prompts]


def trimmed(row):
    first = next(index for index, token_id in enumerate(row) if token_id != 0)
    return row[first:]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_batch_equals_singles_when_rows_end_apart_and_ids_are_penalised(case, penalty):
    model, _ = case
    random = torch.Generator().manual_seed(7)
    prompts = [torch.randint(3, 768, (n,), generator=random).tolist() for n in (1, 13, 2, 40, 9)]
    sampling = {"max_new_tokens": 30, "repetition_penalty": penalty}
    singles = [ids_of(model, prompt, **sampling) for prompt in prompts]
    stop_ids = frozenset({singles[1][4], singles[4][11]})
    singles = [ids_of(model, prompt, stop_ids, **sampling) for prompt in prompts]
    assert len({len(single) for single in singles}) > 2
    assert generate_batch(model, prompts, Sampling(**sampling), stop_ids=stop_ids) == singles


def test_every_row_reaches_the_end_of_the_context_and_no_further(case):
    model, _ = case
    context = model.config.model_max_length
    replies = generate_batch(model, [[5] * (context - 3), [9, 8]], Sampling(max_new_tokens=9), stop_ids=NEVER)
    assert [len(reply) for reply in replies] == [3, 9]
    assert replies[0] == ids_of(model, [5] * (context - 3), max_new_tokens=9)


def test_a_seed_repeats_and_seeds_differ(case):
    model, _ = case
    runs = [ids_of(model, [5, 6], do_sample=True, max_new_tokens=12, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_frameworks_generate_accepts_our_cache(case):
    model, _ = case
    prompt = [[5, 300, 41]]
    plain = framework_ids(model, prompt, max_new_tokens=10, eos_token_id=None)
    assert framework_ids(model, prompt, max_new_tokens=10, eos_token_id=None, **{CACHE_KEYWORD: new_cache()}) == plain
    static = StaticCache(config=model.config, max_cache_len=32)
    assert framework_ids(model, prompt, max_new_tokens=10, eos_token_id=None, **{CACHE_KEYWORD: static}) == plain
