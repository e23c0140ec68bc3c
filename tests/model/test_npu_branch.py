"""The branch that the framework's attention takes on Ascend NPUs, simulated: it makes masks that are sums boolean."""

import pytest
import torch
from torch import Tensor
from transformers.integrations import sdpa_attention

from baichuan2.engine import generate
from baichuan2.engine.cache import new_cache
from baichuan2.engine.generate import generate_batch
from baichuan2.engine.sampling import Sampling
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from tests.tiny import SIZES, Size, random_ids, tiny_config, tiny_model

PADDING = 5


def outputs(model: BaichuanForCausalLM, mask: Tensor | None) -> list[Tensor]:
    """Logits of a prefill, a decode step, a step of several tokens, training's gradients, and what the engine says."""
    ids, cache = random_ids(2, 24, seed=3), new_cache()
    found = []
    with torch.inference_mode():
        for start, stop in ((0, 17), (17, 18), (18, 24)):
            seen = None if mask is None else mask[:, :stop]
            output = model(input_ids=ids[:, start:stop], attention_mask=seen, past_key_values=cache, use_cache=True)
            found.append(output.logits)
        prompts = [ids[0].tolist(), ids[1, PADDING:].tolist()]
        replies = generate_batch(model, prompts, Sampling(max_new_tokens=6), stop_ids=frozenset())
        found += [torch.tensor(reply) for reply in replies]
        wanted = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
        found.append(wanted)
    model.train()
    model.zero_grad()
    model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
    model.eval()
    return [*found, model.model.layers[0].self_attn.W_pack.weight.grad.clone()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("padding", [0, PADDING], ids=["whole", "padded"])
@pytest.mark.parametrize("size", SIZES)
def test_an_npu_computes_the_same(
    size: Size, padding: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "processor_model", lambda model: model)  # its steps in C are for the processor alone
    model = tiny_model(size).to(dtype)
    mask = None
    if padding:
        mask = torch.ones(2, 24, dtype=torch.long)
        mask[1, :padding] = 0
    expected = outputs(model, mask)
    monkeypatch.setattr(sdpa_attention, "_is_torch_npu_available", True)
    for found, wanted in zip(outputs(model, mask), expected, strict=True):
        assert torch.equal(found, wanted)
        assert bool(torch.isfinite(found.float()).all())


def test_the_branch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that is folded into the mask is lost there, which is why ours travels beside it."""
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, 2, 4, 8, generator=generator) for _ in range(3))
    bias = torch.randn(1, 2, 4, 4, generator=generator)
    module = torch.nn.Module()

    def mixed(**masks: Tensor | None) -> Tensor:
        arguments = {"attention_mask": None, "is_causal": False, **masks}
        return sdpa_attention.sdpa_attention_forward(module, query, key, value, **arguments)[0]

    folded, beside = mixed(attention_mask=bias), mixed(position_bias=bias)
    assert torch.equal(folded, beside)
    monkeypatch.setattr(sdpa_attention, "_is_torch_npu_available", True)
    assert (mixed(attention_mask=bias) - folded).abs().max() > 0.1
    assert torch.equal(mixed(position_bias=bias), beside)


@pytest.mark.parametrize("size", SIZES)
def test_shapes_come_without_numbers(size: Size) -> None:
    """On torch's `meta` device nothing may be made on the processor, and no mask or position asked for its value."""
    with torch.device("meta"):
        model = BaichuanForCausalLM(tiny_config(size)).to(torch.bfloat16).eval()
    ids, cache = torch.zeros(2, 9, dtype=torch.long, device="meta"), new_cache()
    for start, stop in ((0, 6), (6, 7), (7, 9)):  # with gradients: without them the head looks whether it has changed
        logits = model(input_ids=ids[:, start:stop], past_key_values=cache, use_cache=True).logits
        assert logits.shape == (2, stop - start, model.config.vocab_size)
        assert (logits.device.type, logits.dtype) == ("meta", torch.bfloat16)
