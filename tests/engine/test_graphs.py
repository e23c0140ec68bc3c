"""Decode steps over a cache whose length is a number on the device: here as they stand, on a GPU as CUDA graphs."""

import gc
import logging
import weakref
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baichuan2.checkpoints.load import load_model
from baichuan2.engine import cache as engine_cache
from baichuan2.engine import generate, graphs
from baichuan2.engine.cache import BLOCK, new_cache
from baichuan2.engine.generate import generate_batch, generate_tokens
from baichuan2.engine.graphs import GRAPHS, GraphModel, State, graph_model
from baichuan2.engine.processor import processor_model
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.step_kernels import FusedKernels
from baichuan2.errors import SettingsError
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.quantization.apply import default_spec, quantized_linear, replace_modules
from baichuan2.settings import LoadSettings
from tests.tiny import SIZES, Size, random_ids, tiny_model

CONTEXT = 2 * BLOCK + 64
# Both sum in float32, over keys in another order and beside zeros: logits reach 6, where a unit is 5e-7; the largest
# difference measured over all cases is 4e-6
TOLERANCE = 2e-5
TOLERANCE_PADDED = 1e-4  # steps count positions from the first token, the model from the padding: units of angles, 3e-5


def model_of(size: Size, **changes: Any) -> BaichuanForCausalLM:
    context = {"7b": {"max_position_embeddings": CONTEXT}, "13b": {"model_max_length": CONTEXT}}[size]
    return tiny_model(size, **context, **changes)


def prompts_of(*lengths: int) -> list[list[int]]:
    return [random_ids(1, length, seed=length)[0].tolist() for length in lengths]


def in_few_bits(model: BaichuanForCausalLM, format: Any) -> BaichuanForCausalLM:
    names = [name for name, layer in model.named_modules() if type(layer) is nn.Linear]
    replace_modules(model, names, lambda _, layer: quantized_linear(default_spec(format), layer.weight))
    return model


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GraphModel]]:
    """The engine takes steps, on the processor, as they stand; those that it made."""
    models: list[GraphModel] = []
    states: dict[Any, State] = {}

    def steps_of(model: Any, firsts: Any) -> Any:
        assert type(model) is BaichuanForCausalLM
        models.append(GraphModel(model, firsts, states.setdefault(model, State((), is_recorded=False))))
        return models[-1]

    monkeypatch.setattr(generate, "graph_model", steps_of)
    yield models
    assert all(model._state.failure is None for model in models)


@torch.inference_mode()
def logits_in_parts(model: Any, ids: Tensor, parts: list[int], mask: Tensor | None = None) -> tuple[Tensor, Any]:
    cache, found, stop = new_cache(), [], 0
    for part in parts:
        start, stop = stop, stop + part
        seen = None if mask is None else mask[:, :stop]
        output = model(
            input_ids=ids[:, start:stop],
            attention_mask=seen,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=part if start else 1,
        )
        found.append(output.logits)
    return torch.cat(found, dim=1), cache


def enlarged_with_nan(part: Tensor, held: int, capacity: int) -> Tensor:
    """As the cache's own: room that was never written to may hold anything."""
    buffer = part.new_full((*part.shape[:-2], capacity, part.shape[-1]), torch.nan)
    buffer[..., :held, :] = part[..., :held, :]
    return buffer


@pytest.mark.parametrize("firsts", [[0, 0], [0, 9]], ids=["whole", "padded"])
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_the_models_own_pass(
    size: Size, firsts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_cache, "_enlarged", enlarged_with_nan)
    model, ids = model_of(size), random_ids(2, BLOCK + 14)
    mask = (torch.arange(ids.shape[1]) >= torch.tensor(firsts)[:, None]).long()
    parts = [BLOCK - 4, 1, 1, 5, 1, 10]  # the fourth crosses the border of the buffers
    wanted, wanted_cache = logits_in_parts(model, ids, parts, mask if any(firsts) else None)
    step = GraphModel(model, firsts, State((), is_recorded=False))
    found, cache = logits_in_parts(step, ids, parts, mask if any(firsts) else None)
    assert len(step._state.steps) == 4  # shapes (2, 1), (2, 5), (2, 10), one of them over buffers of two sizes
    assert found.dtype == wanted.dtype
    tolerance = TOLERANCE_PADDED if any(firsts) else TOLERANCE
    assert (found - wanted).abs().max() <= tolerance
    assert cache.get_seq_length() == wanted_cache.get_seq_length() == ids.shape[1]
    assert torch.allclose(cache.layers[1].values[0], wanted_cache.layers[1].values[0], atol=tolerance, rtol=0)


@pytest.mark.parametrize("lengths", [[7], [BLOCK - 6], [40, 3, 25]], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_the_engine_says_the_same(
    size: Size, lengths: list[int], made: list[GraphModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = model_of(size), prompts_of(*lengths)
    for sampling in (
        Sampling(max_new_tokens=12),
        Sampling(max_new_tokens=12, do_sample=True, temperature=0.8, top_k=40, top_p=0.9, seed=3),
    ):
        found = generate_batch(model, prompts, sampling, stop_ids=frozenset())
        with monkeypatch.context() as patch:
            patch.setattr(generate, "graph_model", lambda model, _firsts: model)
            wanted = generate_batch(model, prompts, sampling, stop_ids=frozenset())
            alone = [generate_batch(model, [prompt], sampling, stop_ids=frozenset())[0] for prompt in prompts]
        assert found == wanted
        if sampling.is_greedy:
            assert found == alone
    assert len(made) == 2
    assert made[0]._state.steps


def test_guesses_change_nothing(made: list[GraphModel]) -> None:
    model, prompt = model_of("7b"), prompts_of(9)[0] * 5
    replies = [
        generate_batch(model, [prompt], Sampling(max_new_tokens=40, draft_tokens=most), stop_ids=frozenset())[0]
        for most in (0, 4)
    ]
    assert replies[0] == replies[1]
    assert {key[1] for key in made[1]._state.steps} > {1}


def test_stops_and_cancels(made: list[GraphModel]) -> None:
    model, prompt = model_of("7b"), prompts_of(9)[0]
    sampling = Sampling(max_new_tokens=10)
    reply = [step.token_id for step in generate_tokens(model, prompt, sampling, stop_ids=frozenset())]
    place = next(place for place in range(3, 10) if reply[place] not in reply[:place])
    steps = list(generate_tokens(model, prompt, sampling, stop_ids=frozenset([reply[place]])))
    assert [step.token_id for step in steps] == reply[: place + 1]
    assert steps[-1].finish_reason == "stop"
    answers = iter([False] * 4 + [True])
    steps = list(generate_tokens(model, prompt, sampling, stop_ids=frozenset(), cancelled=lambda: next(answers)))
    assert [step.token_id for step in steps] == reply[:4]
    assert steps[-1].finish_reason == "cancelled"


def test_two_generations_in_turn(made: list[GraphModel]) -> None:
    model, prompts = model_of("13b"), prompts_of(9, 23)
    sampling = Sampling(max_new_tokens=8)
    alone = [[step.token_id for step in generate_tokens(model, prompt, sampling, stop_ids=frozenset())]
             for prompt in prompts]  # fmt: skip
    one, other = (generate_tokens(model, prompt, sampling, stop_ids=frozenset()) for prompt in prompts)
    pairs = list(zip_longest(one, other))
    assert [[step.token_id for step in steps] for steps in zip(*pairs, strict=True)] == alone


def test_keys_in_8_bits_are_the_models_own_pass(made: list[GraphModel]) -> None:
    model, prompt = model_of("7b"), prompts_of(9)[0]
    generate_batch(model, [prompt], Sampling(max_new_tokens=4, kv_cache="int8"), stop_ids=frozenset())
    assert not made[0]._state.steps
    assert not made[0]._suits(torch.zeros(1, 1, dtype=torch.long), new_cache(Int8Layer))


def test_another_head_is_another_step(made: list[GraphModel]) -> None:
    model, prompt, sampling = model_of("7b"), prompts_of(9)[0], Sampling(max_new_tokens=6)
    before = generate_batch(model, [prompt], sampling, stop_ids=frozenset())
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    after = generate_batch(model, [prompt], sampling, stop_ids=frozenset())
    assert after[0][0] == model.config.vocab_size - 1 - before[0][0]
    assert len(made[0]._state.steps) == 1  # the old one has gone


def test_a_step_that_fails_is_the_models_own_pass(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt, sampling = model_of("7b"), prompts_of(9)[0], Sampling(max_new_tokens=6)
    wanted = generate_batch(model, [prompt], sampling, stop_ids=frozenset())
    state = State((), is_recorded=False)
    monkeypatch.setattr(generate, "graph_model", lambda model, firsts: GraphModel(model, firsts, state))

    def fail(*_: Any) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "step_logits", fail)
    with caplog.at_level(logging.DEBUG, logger=graphs.__name__):
        found = generate_batch(model, [prompt], sampling, stop_ids=frozenset())
    assert found == wanted
    assert len(caplog.records) == 1
    assert "operation not permitted" in caplog.text
    assert state.failure is not None
    assert not state.steps


def test_who_is_not_recorded() -> None:
    model = model_of("7b")
    assert graphs._why_not(model, is_fused=False) is None
    assert graph_model(model, [0]) is model  # on the processor
    assert graphs._why_not(model_of("7b").train(), is_fused=True) == "the model is being trained"
    for change in (
        lambda model: model.model.layers[1].mlp.register_forward_hook(lambda *_: None),
        lambda model: setattr(model.model.layers[0].mlp, "up_proj", nn.Identity()),
        lambda model: setattr(model.config, "output_hidden_states", True),
        lambda model: model.set_attn_implementation("eager"),
    ):
        changed = model_of("7b")
        change(changed)
        assert "hooks" in (graphs._why_not(changed, is_fused=True) or "")
    assert "hooks" in (graphs._why_not(model_of("13b", alibi_numerics="official"), is_fused=True) or "")
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert "dynamic" in (graphs._why_not(model_of("7b", rope_parameters=dynamic), is_fused=True) or "")


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_weights_in_few_bits_need_triton(format: Any) -> None:
    model = in_few_bits(model_of("7b"), format)
    assert graphs._why_not(model, is_fused=True) is None
    assert "need Triton" in (graphs._why_not(model, is_fused=False) or "")
    step = GraphModel(model, [0] * 5, State((), is_recorded=False))
    ids = torch.zeros(5, graphs.MOST_ROWS_IN_FEW_BITS // 5 + 1, dtype=torch.long)
    assert not step._suits(ids, new_cache())


def test_a_fused_step_that_fails_is_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt, sampling = model_of("7b"), prompts_of(9)[0], Sampling(max_new_tokens=6)
    wanted = generate_batch(model, [prompt], sampling, stop_ids=frozenset())
    state = State((), is_recorded=False, is_fused=True)
    monkeypatch.setattr(generate, "graph_model", lambda model, firsts: GraphModel(model, firsts, state))

    def fail(*_: Any) -> FusedKernels:
        raise RuntimeError("no compiler for Triton")

    monkeypatch.setattr(FusedKernels, "__init__", fail)
    assert generate_batch(model, [prompt], sampling, stop_ids=frozenset()) == wanted
    assert not state.is_fused
    assert state.failure is None
    assert state.steps


def test_weights_elsewhere_are_another_state() -> None:
    model = model_of("7b")
    state = graphs._state_of(model)
    assert graphs._state_of(model) is state
    with torch.no_grad():
        model.model.norm.weight.mul_(2)  # where they were: a graph reads the new ones
    assert graphs._state_of(model) is state
    model.model.norm.weight = nn.Parameter(torch.ones(128))
    assert graphs._state_of(model) is not state
    count = len(graphs._states)
    del model, state
    gc.collect()
    assert len(graphs._states) == count - 1


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_elsewhere_are_another_state(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    model = model_of("7b").quantize(bits)
    weight: Any = model.model.layers[1].mlp.up_proj.weight
    if bits == 8:
        places = [(weight, "SCB")]
    else:
        scales = weight.quant_state
        places = [(part, name) for part in (scales, scales.state2) for name in ("absmax", "code")]
        places.append((scales, "offset"))
    for holder, name in places:
        state = graphs._state_of(model)
        assert graphs._state_of(model) is state
        before = getattr(holder, name)  # held, so that the other one lies elsewhere
        setattr(holder, name, before.clone())
        assert graphs._state_of(model) is not state, name
    state = graphs._state_of(model)
    with torch.inference_mode():
        model(input_ids=random_ids(1, 3))  # LLM.int8 keeps its scales in another place from now on
    assert bits == 4 or graphs._state_of(model) is state


def test_another_view_of_the_same_memory_is_another_state() -> None:
    model = model_of("7b")
    state = graphs._state_of(model)
    head = model.lm_head
    before = head.weight
    head.weight = nn.Parameter(before.detach().view(before.shape[1], before.shape[0]).T)
    assert head.weight.data_ptr() == before.data_ptr()
    assert graphs._state_of(model) is not state


def test_a_model_without_graphs_keeps_none() -> None:
    model = model_of("7b")
    for seen in (model, processor_model(model)):
        graphs._state_of(model)
        assert graph_model(seen, [0]) is seen  # on the processor, where it has come to
        assert model not in graphs._states


def test_steps_keep_no_buffers_of_a_cache_that_is_gone() -> None:
    model = model_of("7b")
    step = GraphModel(model, [0], State((), is_recorded=False))
    _, cache = logits_in_parts(step, random_ids(1, 14), [10, 1, 1, 2])
    buffers = [weakref.ref(part) for layer in cache.layers for parts in layer.buffers for part in parts]
    assert all(part() is not None for part in buffers)
    del cache
    gc.collect()
    assert len(step._state.steps) == 2
    assert all(part() is None for part in buffers)


def test_all_lengths_of_guesses_stay() -> None:
    model, state = model_of("7b"), State((), is_recorded=False)
    lengths = list(range(1, graphs.MOST_NEW + 1))
    logits_in_parts(GraphModel(model, [0, 0], state), random_ids(2, 11), [10, 1])
    step, ids = GraphModel(model, [0], state), random_ids(1, 10 + sum(lengths))
    logits_in_parts(step, ids, [10, *lengths])
    assert sorted(key[:2] for key in state.steps) == [*((1, length) for length in lengths), (2, 1)]


def test_two_threads_whose_fused_steps_fail_take_plain_ones() -> None:
    step = GraphModel(model_of("7b"), [0], State((), is_recorded=False, is_fused=True))
    error = RuntimeError("no compiler for Triton")
    step._give_up(error, was_fused=True)
    logits_in_parts(step, random_ids(1, 11), [10, 1])
    step._give_up(error, was_fused=True)  # the other one, which had begun before
    assert step._state.failure is None
    assert step._state.steps
    step._give_up(error, was_fused=False)
    assert step._state.failure is not None
    assert not step._state.steps


def test_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, chosen in (("", "on"), ("ON", "on"), (" Plain ", "plain"), ("OFF", "off")):
        monkeypatch.setenv(GRAPHS, value)
        assert graphs._chosen() == chosen
    monkeypatch.setenv(GRAPHS, "plian")
    with pytest.raises(SettingsError, match=r"^BAICHUAN2_GRAPHS=plian: not known; it must be one of on, plain, off$"):
        generate_batch(model_of("7b"), prompts_of(3), Sampling(max_new_tokens=1), stop_ids=frozenset())


# from here on: what only a GPU can tell

WAYS = {"fused": "", "plain": "plain"}


def on_gpu(model: Any, prompts: list[list[int]], sampling: Sampling, way: str) -> list[list[int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GRAPHS, way)
        graphs._states.pop(model, None)  # another way is another state
        replies = generate_batch(model, prompts, sampling, stop_ids=frozenset())
        state = graphs._states.get(model)
        if way != "off":
            assert state is not None
            assert state.failure is None
            assert state.steps
            assert state.is_fused == (way != "plain")
        else:
            assert state is None
    return replies


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("lengths", [[7], [BLOCK - 6], [40, 3, 25]], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_graphs_say_the_same_on_a_gpu(size: Size, lengths: list[int], way: str) -> None:
    model, prompts = model_of(size).to("cuda"), prompts_of(*lengths)
    for sampling in (Sampling(max_new_tokens=40), Sampling(max_new_tokens=20, do_sample=True, top_k=40, seed=3)):
        assert on_gpu(model, prompts, sampling, way) == on_gpu(model, prompts, sampling, "off")


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_guesses_on_a_gpu(way: str) -> None:
    model, prompt = model_of("7b").to("cuda"), prompts_of(9)[0] * 5
    wanted = on_gpu(model, [prompt], Sampling(max_new_tokens=40, draft_tokens=0), "off")
    assert on_gpu(model, [prompt], Sampling(max_new_tokens=40, draft_tokens=4), way) == wanted


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_demo_model_on_a_gpu(way: str) -> None:
    loaded = load_model("demo-chat", LoadSettings(device="cuda", dtype="float32"))
    prompts = [loaded.tokenizer.encode(text) for text in ("你好", "What is the capital of France?")]
    sampling = Sampling(max_new_tokens=48)
    wanted = on_gpu(loaded.model, prompts, sampling, "off")
    assert on_gpu(loaded.model, prompts, sampling, way) == wanted
    assert on_gpu(loaded.model, prompts[:1], sampling, way) == on_gpu(loaded.model, prompts[:1], sampling, "off")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
def test_half_precision_is_close_on_a_gpu(size: Size, dtype: torch.dtype) -> None:
    """Rounded at the same places, but for the bias of the 13B, which is float32 here."""
    model, ids = model_of(size).to("cuda", dtype), random_ids(2, 60).to("cuda")
    parts = [40, 1, 1, 4, *[1] * 14]
    wanted, _ = logits_in_parts(model, ids, parts)
    exact, _ = logits_in_parts(model.float(), ids, parts)
    step = graph_model(model.to(dtype), [0, 0])
    assert isinstance(step, GraphModel)
    found, _ = logits_in_parts(step, ids, parts)
    assert step._state.failure is None
    assert (found - exact).norm() <= 1.2 * (wanted - exact).norm()


@pytest.mark.gpu
def test_memory_does_not_grow_on_a_gpu() -> None:
    model, prompts = model_of("7b").to("cuda", torch.bfloat16), prompts_of(30, 8)
    used = []
    for turn in range(20):
        batch = prompts[: 1 + turn % 2]
        generate_batch(model, batch, Sampling(max_new_tokens=4 + turn), stop_ids=frozenset())
        gc.collect()
        used.append(torch.cuda.memory_allocated())
    assert max(used[4:]) <= used[3]
    assert len(graphs._states[model].steps) == 2


@pytest.mark.gpu
def test_two_generations_in_turn_on_a_gpu() -> None:
    model, prompts = model_of("13b").to("cuda"), prompts_of(9, 23)
    sampling = Sampling(max_new_tokens=20)
    alone = [on_gpu(model, [prompt], sampling, "off")[0] for prompt in prompts]
    one, other = (generate_tokens(model, prompt, sampling, stop_ids=frozenset()) for prompt in prompts)
    pairs = list(zip_longest(one, other))
    assert [[step.token_id for step in steps] for steps in zip(*pairs, strict=True)] == alone


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_the_librarys_layers_on_a_gpu(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    model, prompts = model_of("7b").to("cuda", torch.bfloat16).quantize(bits), prompts_of(20, 9)
    for batch in (prompts[:1], prompts):
        generate_batch(model, batch, Sampling(max_new_tokens=8), stop_ids=frozenset())
    state = graphs._states.get(model)
    assert state is not None
    assert state.is_fused
    assert state.failure is None
    assert len(state.steps) == 2
