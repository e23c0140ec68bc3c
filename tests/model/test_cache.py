"""Caches of both kinds: whatever is cached, padded, compiled or batched, the tokens are those of a plain forward."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import StaticCache
from transformers.cache_utils import DynamicCache
from transformers.utils import generic

from baichuan2.model import modeling_baichuan
from baichuan2.model.modeling_baichuan import CACHE_KEYWORD, BaichuanForCausalLM
from tests.tiny import SIZES, left_padded, random_ids, tiny_model

LIMIT = 2e-5
LENGTHS = (11, 3, 8, 1, 6, 11, 9, 4)
# how many tokens each step brings, together 11
STEPS = [(6, 5), (6, 1, 1, 3), (1, 10), (4, 4, 2, 1)]


@pytest.fixture(scope="module", params=SIZES)
def model(request: pytest.FixtureRequest) -> BaichuanForCausalLM:
    return tiny_model(request.param)


def prompts() -> list[list[int]]:
    return [random_ids(1, length, seed=seed)[0].tolist() for seed, length in enumerate(LENGTHS)]


def new_cache(kind: str, model: BaichuanForCausalLM, max_length: int = 16) -> Any:
    if kind == "static":
        return StaticCache(config=model.config, max_cache_len=max_length)
    return DynamicCache(config=model.config)


def in_steps(
    model: BaichuanForCausalLM, ids: Tensor, mask: Tensor | None, steps: tuple[int, ...], **cache: Any
) -> Tensor:
    parts, stop = [], 0
    for step in steps:
        start, stop = stop, stop + step
        seen = None if mask is None else mask[:, :stop]
        parts.append(model(ids[:, start:stop], attention_mask=seen, use_cache=True, **cache).logits)
    return torch.cat(parts, dim=1)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    difference = (found - wanted).abs().max().item()
    assert difference <= LIMIT, f"differs by {difference:.3g}"


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("keyword", ["past_key_values", "cache"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_any_number_of_new_tokens(model: BaichuanForCausalLM, kind: str, keyword: str, steps: tuple[int, ...]) -> None:
    ids = random_ids(2, 11)
    wanted = model(ids, use_cache=False).logits
    cache = new_cache(kind, model)
    assert_close(in_steps(model, ids, None, steps, **{keyword: cache}), wanted)
    assert int(cache.get_seq_length()) == 11


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_left_padding_and_any_number_of_new_tokens(
    model: BaichuanForCausalLM, kind: str, name: str, steps: tuple[int, ...]
) -> None:
    ids, mask = left_padded(prompts())
    wanted = model(ids, attention_mask=mask, use_cache=False).logits
    model.set_attn_implementation(name)
    found = in_steps(model, ids, mask, steps, cache=new_cache(kind, model))
    model.set_attn_implementation("sdpa")
    assert_close(found[mask.bool()], wanted[mask.bool()])


@torch.no_grad()
def test_model_without_head_takes_both_spellings(model: BaichuanForCausalLM) -> None:
    ids = random_ids(1, 9)
    wanted = model.model(ids, use_cache=False).last_hidden_state
    for keyword in ("past_key_values", "cache"):
        cache = new_cache("dynamic", model)
        model.model(ids[:, :5], **{keyword: cache})
        assert_close(model.model(ids[:, 5:], **{keyword: cache}).last_hidden_state, wanted[:, 5:])


@torch.no_grad()
def test_cache_comes_back_under_the_name_of_the_framework(
    model: BaichuanForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(generic.logger, "warning_once", warned.append)
    out = model(random_ids(1, 5), use_cache=True)
    assert out[CACHE_KEYWORD].get_seq_length() == 5
    assert CACHE_KEYWORD not in model(random_ids(1, 5), use_cache=False)
    assert not warned


@torch.no_grad()
def test_bias_is_made_for_the_count_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A static cache counts in place while the layers run; the bias must not move with it."""
    model = tiny_model("13b")
    cache = new_cache("static", model)
    ids = random_ids(1, 9)
    biases = []
    make_bias = modeling_baichuan.alibi_bias

    def note(*given: Any, **named: Any) -> Any:
        biases.append(make_bias(*given, **named))
        return biases[-1]

    monkeypatch.setattr(modeling_baichuan, "alibi_bias", note)
    model(ids[:, :5], cache=cache)
    model(ids[:, 5:], cache=cache)
    assert [int(bias.past) for bias in biases] == [0, 5]
    assert int(cache.get_seq_length()) == 9


def greedy(model: BaichuanForCausalLM, ids: Tensor, mask: Tensor | None = None, **arguments: Any) -> list[list[int]]:
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, **arguments}
    mask = torch.ones_like(ids) if mask is None else mask
    out = model.generate(ids, attention_mask=mask, **settings)
    return out[:, ids.shape[1] :].tolist()


def test_batch_equals_singles_token_for_token(model: BaichuanForCausalLM) -> None:
    singles = [greedy(model, torch.tensor([prompt]))[0] for prompt in prompts()]
    assert len({tuple(single) for single in singles}) > 4  # the prompts do lead to different replies
    ids, mask = left_padded(prompts())
    assert greedy(model, ids, mask) == singles
    assert greedy(model, ids, mask, use_cache=False) == singles
    assert greedy(model, ids, mask, cache_implementation="static", disable_compile=True) == singles


def test_beams_and_assistant_run(model: BaichuanForCausalLM) -> None:
    """Both send several new tokens to a filled cache, or reorder it."""
    ids = torch.tensor([prompts()[0]])
    wanted = greedy(model, ids)
    assert greedy(model, ids, prompt_lookup_num_tokens=3) == wanted
    assistant = tiny_model("7b", num_hidden_layers=1)
    assert greedy(model, ids, assistant_model=assistant) == wanted
    assert len(greedy(model, ids, num_beams=3)[0]) == 12


def compiled_steps(
    model: BaichuanForCausalLM, kind: str, backend: str, dynamic: bool | None = None
) -> tuple[Tensor, Tensor]:
    """The greedy ids of eight decode steps, plain and with the step compiled as one graph."""
    ids = random_ids(2, 7)
    results = []
    for is_compiled in (False, True):
        torch._dynamo.reset()
        forward = (
            torch.compile(model.forward, fullgraph=True, backend=backend, dynamic=dynamic) if is_compiled else model
        )
        cache = new_cache(kind, model)
        token = model(ids, cache=cache).logits[:, -1:].argmax(-1)
        tokens = [token]
        for place in range(7, 15):
            positions = torch.full((2, 1), place)
            token = forward(token, position_ids=positions, cache=cache).logits[:, -1:].argmax(-1)
            tokens.append(token.clone())
        results.append(torch.cat(tokens, dim=1))
    torch._dynamo.reset()
    return results[0], results[1]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_a_decode_step_is_one_graph(model: BaichuanForCausalLM, kind: str) -> None:
    plain, compiled = compiled_steps(model, kind, "eager")
    assert plain.tolist() == compiled.tolist()


@pytest.mark.slow  # a C++ compiler runs; that either size is one graph with either cache is shown above
@pytest.mark.parametrize(("model", "kind"), [("7b", "static"), ("13b", "dynamic")], indirect=["model"])
@torch.no_grad()
def test_a_decode_step_compiles_to_machine_code(model: BaichuanForCausalLM, kind: str) -> None:
    plain, compiled = compiled_steps(model, kind, "inductor")
    assert plain.tolist() == compiled.tolist()


@torch.no_grad()
def test_a_compiled_static_step_is_never_compiled_again(model: BaichuanForCausalLM) -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, example_inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    forward = torch.compile(model.forward, fullgraph=True, backend=backend)
    cache = new_cache("static", model)
    token = model(random_ids(1, 7), cache=cache).logits[:, -1:].argmax(-1)
    for _ in range(8):
        token = forward(token, cache=cache).logits[:, -1:].argmax(-1)
    torch._dynamo.reset()
    assert len(graphs) == 1
