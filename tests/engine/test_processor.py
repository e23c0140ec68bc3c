"""Steps in C against the modules they stand for: close logits, the same bits however rows are put together."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from baichuan2.checkpoints.load import load_model
from baichuan2.engine.cache import GrowingLayer, new_cache
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.processor import ProcessorModel, processor_model
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.engine.sampling import Sampling
from baichuan2.kernels import steps
from baichuan2.kernels.products import INSTRUCTIONS, instructions
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.settings import LoadSettings
from tests.tiny import SIZES, Size, left_padded, random_ids, tiny_model

pytestmark = pytest.mark.skipif(
    not steps.is_available() or instructions() == INSTRUCTIONS[0], reason="no kernels of our own here"
)

DTYPES = [torch.bfloat16, torch.float16]
# A rounding that falls the other way is half a unit of the number, and two layers of a random model carry it on:
# logits reach 5, whose unit is 2^-5 in bfloat16 and 2^-8 in float16; four units are allowed
TOLERANCES = {torch.bfloat16: 2**-3, torch.float16: 2**-6}
# a code of 8 bits that falls the other way moves a number by 1/127 of the largest; measured: 0.03 on the logits in
# float16, where the codes themselves cost 0.07 to 0.1
TOLERANCES_OF_CODES = {torch.bfloat16: 2**-3, torch.float16: 2**-5}
LEAST_CODE = 5 / 127


@pytest.fixture(autouse=True)
def steps_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow steps too: they are as right. Long prompts as well, which have a way of their own where there is AMX."""
    monkeypatch.setattr(steps, "most_rows", lambda *_: steps.MOST_ROWS)
    monkeypatch.setattr("baichuan2.engine.prompt.suits", lambda *_: False)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(size: Size, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> BaichuanForCausalLM:
    model: BaichuanForCausalLM = tiny_model(size, **changes).to(dtype)
    return model


def in_steps(
    model: Any, ids: Tensor, parts: list[int], kind: type[GrowingLayer] = GrowingLayer, mask: Tensor | None = None
) -> tuple[Tensor, Any]:
    """All logits of `ids` given in `parts` tokens at a time, and the cache."""
    cache, logits, stop = new_cache(kind), [], 0
    with torch.inference_mode():
        for part in parts:
            start, stop = stop, stop + part
            seen = None if mask is None else mask[:, :stop]
            output = model(
                input_ids=ids[:, start:stop],
                attention_mask=seen,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1 if mask is not None else 0,
            )
            logits.append(output.logits)
    return torch.cat(logits, dim=1), cache


@pytest.mark.parametrize("kind", [GrowingLayer, Int8Layer])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_the_modules(size: Size, dtype: torch.dtype, kind: type[GrowingLayer]) -> None:
    model = model_of(size, dtype)
    step = processor_model(model)
    assert isinstance(step, ProcessorModel)
    ids = random_ids(1, 40)
    wanted, wanted_cache = in_steps(model, ids, [40], kind)
    found, cache = in_steps(step, ids, [25, 1, 14], kind)
    assert found.dtype == dtype
    is_coded = kind is Int8Layer
    tolerance = (TOLERANCES_OF_CODES if is_coded else TOLERANCES)[dtype]
    assert (found.float() - wanted.float()).abs().max() <= tolerance
    assert cache.get_seq_length() == 40
    first, wanted_first = cache.layers[0], wanted_cache.layers[0]
    assert torch.allclose(
        first.keys.float(), wanted_first.keys.float(), atol=max(tolerance, LEAST_CODE * is_coded), rtol=0
    )


@pytest.mark.parametrize("kind", [GrowingLayer, Int8Layer])
@pytest.mark.parametrize("size", SIZES)
def test_several_tokens_at_once_are_the_same_bits(size: Size, kind: type[GrowingLayer]) -> None:
    step, ids = processor_model(model_of(size)), random_ids(1, 30)
    alone, alone_cache = in_steps(step, ids, [1] * 30, kind)
    for parts in ([30], [7, 1, 16, 6]):
        found, cache = in_steps(step, ids, parts, kind)
        assert torch.equal(found, alone)
        assert torch.equal(cache.layers[1].values, alone_cache.layers[1].values)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_threads_make_no_difference(size: Size, threads: int) -> None:
    """Two or more threads share attention by blocks here, as there are few heads."""
    step, ids = processor_model(model_of(size)), random_ids(1, 300)
    parts = [60] * 5
    one, _ = in_steps(step, ids, parts)
    torch.set_num_threads(threads)
    many, _ = in_steps(step, ids, parts)
    assert torch.equal(one, many)


@pytest.mark.parametrize("size", SIZES)
def test_padded_rows_are_those_alone(size: Size) -> None:
    step = processor_model(model_of(size))
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 3, 12)]
    ids, mask = left_padded(prompts)
    together, _ = in_steps(step, ids, [12], mask=mask)
    for row, prompt in enumerate(prompts):
        alone, _ = in_steps(step, torch.tensor([prompt]), [len(prompt)])
        assert torch.equal(together[row, -1], alone[0, -1])


@pytest.mark.parametrize(("hidden", "heads"), [(64, 4), (128, 2), (256, 2), (96, 2)])
def test_sizes_of_heads_and_more_than_one_block_of_keys(hidden: int, heads: int) -> None:
    changes = {"hidden_size": hidden, "num_attention_heads": heads, "max_position_embeddings": 512}
    model = model_of("7b", **changes)
    step, ids = processor_model(model), random_ids(1, 280)
    assert isinstance(step, ProcessorModel)
    wanted, _ = in_steps(model, ids, [280])
    found, _ = in_steps(step, ids, [60, 60, 60, 60, 40])
    assert (found.float() - wanted.float()).abs().max() <= TOLERANCES[torch.bfloat16]


@pytest.mark.parametrize("kind", [GrowingLayer, Int8Layer])
@pytest.mark.parametrize("size", SIZES)
def test_a_long_prompt_is_the_same_bits_however_it_is_cut(
    size: Size, kind: type[GrowingLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(size, max_position_embeddings=512, model_max_length=512)
    step, ids = processor_model(model), random_ids(1, 301)
    wanted, wanted_cache = in_steps(step, ids, [50] * 6 + [1], kind)
    own, _ = in_steps(model, ids, [301], kind)
    tolerance = TOLERANCES_OF_CODES[torch.bfloat16]
    assert (wanted.float() - own.float()).abs().max() <= tolerance
    for most, parts in ((64, [301]), (33, [301]), (64, [200, 3, 98]), (40, [1, 299, 1])):
        monkeypatch.setattr(steps, "most_rows", lambda *_, most=most: most)
        found, cache = in_steps(step, ids, parts, kind)
        assert torch.equal(found, wanted)
        assert torch.equal(cache.layers[1].values, wanted_cache.layers[1].values)
    last, _ = in_steps(step, ids, [301], kind, mask=torch.ones_like(ids))
    assert torch.equal(last, wanted[:, -1:])


@pytest.mark.parametrize("size", SIZES)
def test_long_padded_prompts_are_those_alone(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some pieces hold the end of one prompt and the start of the next."""
    step = processor_model(model_of(size, max_position_embeddings=512, model_max_length=512))
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (90, 3, 150, 33)]
    ids, mask = left_padded(prompts)
    monkeypatch.setattr(steps, "most_rows", lambda *_: 40)
    together, cache = in_steps(step, ids, [150], mask=mask)
    assert cache.get_seq_length() == 150
    for row, prompt in enumerate(prompts):
        alone, alone_cache = in_steps(step, torch.tensor([prompt]), [len(prompt)])
        assert torch.equal(together[row, -1], alone[0, -1])
        held = cache.layers[1].keys[row]
        assert torch.equal(held[:, -len(prompt) :], alone_cache.layers[1].keys[0])
        assert not held[:, : -len(prompt)].any()


def test_prompts_are_the_models_own_pass_where_steps_are_for_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("7b")
    ids, calls = random_ids(1, 40), []
    own = BaichuanForCausalLM.forward
    monkeypatch.setattr(BaichuanForCausalLM, "forward", lambda *_, **call: calls.append(1) or own(*_, **call))
    for most, num_own in ((4, 1), (31, 1), (32, 0)):
        monkeypatch.setattr(steps, "most_rows", lambda *_, most=most: most)
        in_steps(processor_model(model), ids, [37, 2, 1])
        assert len(calls) == num_own
        calls.clear()
    monkeypatch.setattr(steps, "most_rows", lambda *_: 0)
    assert processor_model(model) is model


def test_a_prompt_that_breaks_off_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    step, ids = processor_model(model_of("7b")), random_ids(1, 120)
    wanted, _ = in_steps(step, ids, [20, 100])
    _, cache = in_steps(step, ids, [20])
    whole, pieces = steps.StepModel.step, []

    def breaking(*arguments: Any) -> Tensor:
        pieces.append(1)
        if len(pieces) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    rest = {"attention_mask": None, "past_key_values": cache, "use_cache": True, "logits_to_keep": 0}
    monkeypatch.setattr(steps.StepModel, "step", breaking)
    with torch.inference_mode(), pytest.raises(KeyboardInterrupt):
        step(input_ids=ids[:, 20:], **rest)
    assert cache.get_seq_length() == 20
    with torch.inference_mode():
        assert torch.equal(step(input_ids=ids[:, 20:], **rest).logits, wanted[:, 20:])


def test_tokens_can_be_taken_back() -> None:
    step, ids = processor_model(model_of("7b")), random_ids(1, 12)
    wanted, _ = in_steps(step, ids, [12])
    _, cache = in_steps(step, torch.cat((ids[:, :8], ids[:, :3]), dim=1), [11])
    cache.crop(-3)
    with torch.inference_mode():
        rest = {"attention_mask": None, "past_key_values": cache, "use_cache": True, "logits_to_keep": 0}
        found = step(input_ids=ids[:, 8:], **rest).logits
    assert torch.equal(found, wanted[:, 8:])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_of_python_may_share_a_model(num_threads: int) -> None:
    """One set of weights, one room to compute in, and a generation's own beside it."""
    torch.set_num_threads(num_threads)
    model = model_of("7b")
    step, prompts, parts = processor_model(model), [random_ids(1, 70, seed=seed) for seed in range(4)], [66, 1, 2, 1]

    def logits_and_text(ids: Tensor) -> tuple[Tensor, list[int]]:
        prompt = ids[0].tolist()
        said = generate_tokens(model, prompt, Sampling(max_new_tokens=8), stop_ids=frozenset())
        return in_steps(step, ids, parts)[0], [token.token_id for token in said]

    wanted = [logits_and_text(ids) for ids in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        for found in pool.map(logits_and_text, prompts * 5):
            assert any(torch.equal(found[0], logits) and found[1] == text for logits, text in wanted)


def test_models_with_additions_go_their_own_way() -> None:
    model = model_of("7b")
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert processor_model(model) is model
    handle.remove()
    assert processor_model(model) is not model
    assert processor_model(model.train()) is model
    wide = tiny_model("7b")
    assert processor_model(wide) is wide
    fake = object()
    assert processor_model(fake) is fake


@pytest.mark.parametrize("scheme", ["none", "int8", "int4"])
def test_greedy_text_of_the_demo_model(scheme: Literal["none", "int8", "int4"]) -> None:
    """Where the texts part, the two tokens tie within the rounding of the logits."""
    loaded = load_model("demo-chat", LoadSettings(quantize=scheme, dtype="bfloat16", device="cpu"))
    model, step = loaded.model, processor_model(loaded.model)
    assert isinstance(step, ProcessorModel)
    for text in ("你好，请介绍一下你自己。", "Why is the sky blue?", "写一首关于春天的诗。", "1+1等于几？"):
        ids = torch.tensor([[195, *loaded.tokenizer.encode(text), 196]])
        caches = (new_cache(), new_cache())
        for _ in range(40):
            with torch.inference_mode():
                wanted, found = (
                    way(input_ids=ids, attention_mask=None, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    .logits[0, -1]
                    .float()
                    for way, cache in zip((model, step), caches, strict=True)
                )
            best = int(wanted.argmax())
            unit = 2.0**-7 * wanted[best].abs().item()
            assert wanted[best] - wanted[int(found.argmax())] <= 4 * unit
            ids = torch.tensor([[best]])
