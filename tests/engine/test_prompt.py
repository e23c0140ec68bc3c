"""A prompt's pass with kernels in C between its products, against the model's own pass."""

from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan2.engine import prompt
from baichuan2.engine.cache import new_cache
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.processor import ProcessorModel, processor_model
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.engine.sampling import Sampling
from baichuan2.kernels import prompts
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.scheme import QuantizationSpec
from tests.tiny import SIZES, Size, left_padded, random_ids, tiny_model

pytestmark = pytest.mark.skipif(not prompts.is_available(32), reason="no matrix unit here, or no library of kernels")

TOLERANCE = 2**-3  # of logits, as in test_processor.py
SPECS = {
    "int8": QuantizationSpec(format="int8", group_size=0),
    "int4": QuantizationSpec(format="int4", group_size=64),
    "nf4": QuantizationSpec(format="nf4", group_size=64, weight_dtype="bfloat16"),
}


def passes(model: Any, ids: Tensor, parts: list[int]) -> tuple[Tensor, Any]:
    """The logits of `ids` (B, T) given in parts, and the cache."""
    cache, logits, stop = new_cache(), [], 0
    with torch.inference_mode():
        for part in parts:
            start, stop = stop, stop + part
            output = model(input_ids=ids[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=0)
            logits.append(output.logits)
    return torch.cat(logits, dim=1), cache


def model_of(scheme: str, size: Size = "7b", **changes: Any) -> BaichuanForCausalLM:
    model: BaichuanForCausalLM = tiny_model(size, **{"max_position_embeddings": 512} | changes).to(torch.bfloat16)
    if scheme != "none":
        quantize_model(model, SPECS[scheme])
    return model


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["none", "int8", "int4", "nf4"])
def test_logits_are_those_of_the_model(scheme: str, size: Size) -> None:
    model = model_of(scheme, size)
    step = processor_model(model)
    assert isinstance(step, ProcessorModel)
    ids = random_ids(2, 200)
    wanted, wanted_cache = passes(model, ids, [200])
    for parts in ([200], [110, 90]):  # the second part follows a cache
        found, cache = passes(step, ids, parts)
        assert (found.float() - wanted.float()).abs().max() <= TOLERANCE
        for layer, of_model in zip(cache.layers, wanted_cache.layers, strict=True):
            assert torch.allclose(layer.keys.float(), of_model.keys.float(), atol=TOLERANCE, rtol=0)
            assert torch.allclose(layer.values.float(), of_model.values.float(), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("rope", [{}, {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}], ids=["", "dynamic"])
def test_pieces(rope: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamic scaling turns all places by the last one of a pass, so the angles are those of the whole prompt."""
    changes = {"max_position_embeddings": 64, **rope} if rope else {}
    step, ids = processor_model(model_of("int8", **changes)), random_ids(2, 200)
    whole, whole_cache = passes(step, ids, [200])
    monkeypatch.setattr(prompt, "ROWS_AT_A_TIME", 150)
    found, cache = passes(step, ids, [200])
    assert (found.float() - whole.float()).abs().max() <= TOLERANCE
    assert torch.allclose(cache.layers[1].keys.float(), whole_cache.layers[1].keys.float(), atol=TOLERANCE, rtol=0)
    with torch.inference_mode():
        last = step(input_ids=ids, past_key_values=new_cache(), use_cache=True, logits_to_keep=70).logits
    assert torch.allclose(last.float(), found[:, -70:].float(), atol=TOLERANCE, rtol=0)


def test_what_it_takes() -> None:
    model, cache = model_of("none"), new_cache()
    assert prompt.suits(model, random_ids(1, 65), [0], cache)
    assert prompt.suits(model, random_ids(2, 33), [0, 0], cache)
    assert not prompt.suits(model, random_ids(1, 64), [0], cache)
    assert not prompt.suits(model, random_ids(2, 65), [0, 3], cache)
    assert not prompt.suits(model, random_ids(1, 65), [0], new_cache(Int8Layer))
    assert not prompt.suits(tiny_model("7b"), random_ids(1, 65), [0], cache)


def test_texts_go_on_from_a_prompt() -> None:
    """With and without padding, which the pass leaves to others."""
    model = model_of("int8")
    prompts_ids = [random_ids(1, length, seed=length)[0].tolist() for length in (150, 90)]
    sampling = Sampling(max_new_tokens=8)
    alone = [list(generate_tokens(model, one, sampling, stop_ids=frozenset())) for one in prompts_ids]
    assert all(len(tokens) == 8 for tokens in alone)
    ids, mask = left_padded(prompts_ids)
    with torch.inference_mode():
        together = processor_model(model)(
            input_ids=ids, attention_mask=mask, past_key_values=new_cache(), use_cache=True, logits_to_keep=1
        ).logits
    first, _ = passes(processor_model(model), torch.tensor([prompts_ids[0]]), [150])
    assert (together[0, -1].float() - first[0, -1].float()).abs().max() <= TOLERANCE
