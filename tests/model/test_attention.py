"""Attention of both sizes: against the oracle, between implementations, block by block, and within its memory."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import StaticCache
from transformers.integrations import sdpa_attention

from baichuan2.model import alibi
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from tests.oracle.decoder import OracleResult, OracleShape, decode
from tests.tiny import SIZES, left_padded, random_ids, tiny_model

LIMIT = 2e-5


@pytest.fixture(scope="module", params=SIZES)
def model(request: pytest.FixtureRequest) -> BaichuanForCausalLM:
    return tiny_model(request.param)


@pytest.fixture
def implementation(model: BaichuanForCausalLM) -> Iterator[Any]:
    """Sets the attention implementation of `model` for one test."""
    yield model.set_attn_implementation
    model.set_attn_implementation("sdpa")


def oracle(model: BaichuanForCausalLM, ids: Tensor, visible: list[bool] | None = None) -> OracleResult:
    config = model.config
    shape = OracleShape(config.num_hidden_layers, config.num_attention_heads, str(config.position_embedding))
    return decode(model.state_dict(), ids.tolist(), shape, visible)


def padded_batch() -> tuple[Tensor, Tensor]:
    return left_padded([random_ids(1, length, seed=length)[0].tolist() for length in (11, 5, 8)])


def assert_close(found: Tensor, wanted: Tensor, limit: float = LIMIT) -> None:
    difference = (found.double() - wanted.double()).abs().max().item()
    assert difference <= limit, f"differs by {difference:.3g}"


@torch.no_grad()
def test_equals_the_oracle(model: BaichuanForCausalLM) -> None:
    ids = random_ids(1, 10)
    wanted = oracle(model, ids[0])
    out = model(ids, output_hidden_states=True, output_attentions=True)
    plain = model(ids)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert_close(plain.logits[0], wanted.logits)
    assert_close(out.logits, plain.logits)
    assert len(out.hidden_states) == len(wanted.hidden_states) == model.config.num_hidden_layers + 1
    for found, expected in zip(out.hidden_states, wanted.hidden_states, strict=True):
        assert_close(found[0], expected, 5e-5)
    assert len(out.attentions) == model.config.num_hidden_layers
    for found, expected in zip(out.attentions, wanted.attentions, strict=True):
        assert_close(found.sum(-1), torch.ones(()))
        assert_close(found[0], expected)


@torch.no_grad()
def test_padded_rows_equal_the_oracle(model: BaichuanForCausalLM) -> None:
    ids, mask = padded_batch()
    out = model(ids, attention_mask=mask, output_attentions=True)
    for row, (tokens, visible) in enumerate(zip(ids, mask.bool(), strict=True)):
        wanted = oracle(model, tokens, visible.tolist())
        assert_close(out.logits[row][visible], wanted.logits[visible])
        for found, expected in zip(out.attentions, wanted.attentions, strict=True):
            assert_close(found[row][:, visible], expected[:, visible])


@torch.no_grad()
def test_weights_of_a_step_with_a_cache(model: BaichuanForCausalLM) -> None:
    ids, mask = padded_batch()
    whole = model(ids, attention_mask=mask, output_attentions=True)
    begun = model(ids[:, :7], attention_mask=mask[:, :7], use_cache=True)
    out = model(ids[:, 7:], attention_mask=mask, cache=cache_of(begun), output_attentions=True)
    for found, expected in zip(out.attentions, whole.attentions, strict=True):
        assert_close(found, expected[:, :, 7:])


def cache_of(out: Any) -> Any:
    return out["cache"] if "cache" in out else out["past_key_values"]


@torch.no_grad()
def test_weights_by_config(model: BaichuanForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(1, 6)
    monkeypatch.setattr(model.config, "_output_attentions", True)
    out = model(ids)
    assert len(out.attentions) == model.config.num_hidden_layers
    assert model(ids, output_attentions=False).attentions is None


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@torch.no_grad()
def test_eager_equals_sdpa(model: BaichuanForCausalLM, implementation: Any, padding: str) -> None:
    ids, mask = padded_batch()
    if padding == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    given = None if padding == "none" else mask
    compared = torch.ones_like(mask).bool() if given is None else mask.bool()
    wanted = model(ids, attention_mask=given).logits
    implementation("eager")
    assert model.config._attn_implementation == "eager"
    assert_close(model(ids, attention_mask=given).logits[compared], wanted[compared])


@torch.no_grad()
def test_float64_is_float32_with_more_digits(model: BaichuanForCausalLM) -> None:
    ids = random_ids(2, 12)
    wanted = model(input_ids=ids).logits
    wide = deepcopy(model).double()
    torch.testing.assert_close(wide(input_ids=ids).logits.float(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask_kind", ["boolean", "integer", "additive", "rows"])
@pytest.mark.parametrize("name", ["sdpa", "eager"])
@torch.no_grad()
def test_masks_of_three_and_four_dimensions(
    model: BaichuanForCausalLM, implementation: Any, name: str, mask_kind: str
) -> None:
    ids = random_ids(1, 9)
    may_see = torch.ones(9, 9, dtype=torch.bool).tril()
    may_see[5:, :5] = False  # two inputs in one row
    mask = {
        "boolean": may_see[None, None],
        "integer": may_see[None, None].long(),
        "additive": torch.zeros(1, 1, 9, 9).masked_fill(~may_see, torch.finfo(torch.float32).min),
        "rows": may_see[None],
    }[mask_kind]
    implementation(name)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    out = model(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(out[:, :5], model(ids[:, :5]).logits)
    assert_close(out[:, 5:], model(ids[:, 5:]).logits)


@torch.no_grad()
def test_segment_ids_separate_packed_inputs(model: BaichuanForCausalLM) -> None:
    ids = random_ids(1, 12)
    segments = torch.tensor([[1] * 5 + [2] * 4 + [0] * 3])
    out = model(ids, attention_mask=segments).logits
    assert_close(out[:, :5], model(ids[:, :5]).logits)
    assert_close(out[:, 5:9], model(ids[:, 5:9]).logits)


@pytest.mark.slow  # the framework compiles flex attention, even on a CPU
# torch 2.13 writes C++ that does not compile for flex attention over sizes that it made dynamic
@torch._dynamo.config.patch(automatic_dynamic_shapes=False)
@torch.no_grad()
@pytest.mark.parametrize("model", [pytest.param("7b", marks=pytest.mark.long), "13b"], indirect=True)
def test_flex_equals_sdpa(model: BaichuanForCausalLM, implementation: Any) -> None:
    torch._dynamo.reset()
    ids, mask = padded_batch()
    wanted = model(ids).logits
    wanted_padded = model(ids, attention_mask=mask, output_attentions=True)
    begun = model(ids[:, :6], attention_mask=mask[:, :6], use_cache=True)
    implementation("flex_attention")  # compiles anew for each shape
    assert_close(model(ids).logits, wanted)
    assert_close(model(ids, attention_mask=mask).logits[mask.bool()], wanted_padded.logits[mask.bool()])
    weighed = model(ids, attention_mask=mask, output_attentions=True)  # falls back to the written-out attention
    for found, expected in zip(weighed.attentions, wanted_padded.attentions, strict=True):
        assert_close(found.transpose(1, 2)[mask.bool()], expected.transpose(1, 2)[mask.bool()])
    rest = [
        model(ids[:, start:stop], attention_mask=mask[:, :stop], cache=cache_of(begun)).logits
        for start, stop in ((6, 10), (10, 11))
    ]
    assert_close(torch.cat(rest, dim=1), wanted_padded.logits[:, 6:])
    by_row = mask[:, None, :].expand(-1, 11, -1)
    for unfit in (by_row, by_row[:, None].bool()):
        with pytest.raises(ValueError, match="masks by row need attn_implementation eager or sdpa"):
            model(ids, attention_mask=unfit)
    segments = torch.tensor([[1] * 4 + [2] * 7, [1] * 6 + [2] * 3 + [0] * 2, [3] * 11])
    packed = model(ids, attention_mask=segments).logits
    implementation("sdpa")
    assert_close(packed[segments > 0], model(ids, attention_mask=segments).logits[segments > 0])


@torch.no_grad()
def test_a_device_that_wants_boolean_masks_changes_nothing(
    model: BaichuanForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Ascend devices the framework makes every float mask boolean: a bias folded into the mask would be lost."""
    ids, mask = padded_batch()
    wanted = model(ids, attention_mask=mask).logits[mask.bool()]
    wanted_alone = model(ids).logits
    monkeypatch.setattr(sdpa_attention, "_is_torch_npu_available", True)
    assert_close(model(ids, attention_mask=mask).logits[mask.bool()], wanted, 0.0)
    assert_close(model(ids).logits, wanted_alone, 0.0)


def gradients(model: BaichuanForCausalLM, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    labels = ids if mask is None else ids.masked_fill(mask == 0, -100)
    loss = model(ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return loss.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


def small_blocks(monkeypatch: pytest.MonkeyPatch, model: BaichuanForCausalLM) -> list[int]:
    """Three rows of bias at a time over 11 keys; the returned list fills with the size of each block made."""
    monkeypatch.setattr(alibi, "BLOCK_BYTES", 4 * model.config.num_attention_heads * 11 * 3)
    sizes: list[int] = []
    block = alibi.AlibiBias.block

    def counted(self: alibi.AlibiBias, start: int, stop: int, num_keys: int, **visible: Any) -> Tensor:
        sizes.append((stop - start) * num_keys)
        return block(self, start, stop, num_keys, **visible)

    monkeypatch.setattr(alibi.AlibiBias, "block", counted)
    return sizes


@pytest.mark.parametrize("numerics", ["exact", "official"])
@pytest.mark.parametrize("mask_kind", ["none", "padding", "segments"])
@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_blocks_equal_the_whole(monkeypatch: pytest.MonkeyPatch, name: str, mask_kind: str, numerics: str) -> None:
    model = tiny_model("13b", alibi_numerics=numerics)
    model.set_attn_implementation(name)
    ids, padding = padded_batch()
    segments = torch.tensor([[1] * 6 + [2] * 5] * 3)
    mask = {"none": None, "padding": padding, "segments": segments}[mask_kind]
    compared = torch.ones_like(ids).bool() if mask is None else mask.bool()
    model.train()
    wanted_loss, wanted_gradients = gradients(model, ids, mask)
    model.eval()
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask).logits[compared]

    sizes = small_blocks(monkeypatch, model)
    with torch.no_grad():
        assert_close(model(ids, attention_mask=mask).logits[compared], wanted)
    assert max(sizes) <= 3 * 11
    assert len(sizes) >= 4 * model.config.num_hidden_layers
    model.train()
    loss, found = gradients(model, ids, mask)
    assert_close(loss, wanted_loss)
    for parameter, gradient in found.items():
        assert_close(gradient, wanted_gradients[parameter])


@pytest.mark.parametrize("numerics", ["exact", "official"])
@torch.no_grad()
def test_blocks_with_a_static_cache_and_padding(monkeypatch: pytest.MonkeyPatch, numerics: str) -> None:
    model = tiny_model("13b", alibi_numerics=numerics)
    ids, mask = padded_batch()
    wanted = model(ids, attention_mask=mask).logits
    sizes = small_blocks(monkeypatch, model)
    cache = StaticCache(config=model.config, max_cache_len=16)
    parts = [
        model(ids[:, start:stop], attention_mask=mask[:, :stop], cache=cache).logits
        for start, stop in ((0, 4), (4, 9), (9, 10), (10, 11))
    ]
    assert_close(torch.cat(parts, dim=1)[mask.bool()], wanted[mask.bool()])
    assert max(sizes) <= 3 * 11


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation returns while this is active."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.operation = ""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for result in out if isinstance(out, tuple | list) else (out,):
            if isinstance(result, Tensor) and result.untyped_storage().nbytes() // result.element_size() > self.numel:
                self.numel = result.untyped_storage().nbytes() // result.element_size()
                self.operation = str(function)
        return out


@pytest.mark.parametrize("padded", [False, True])
def test_no_tensor_of_heads_by_length_by_length(padded: bool) -> None:
    heads, length = 40, 3072
    shape = {"hidden_size": heads * 8, "num_attention_heads": heads, "num_hidden_layers": 1, "intermediate_size": 64}
    model = tiny_model("13b", **shape, model_max_length=length)
    ids = random_ids(1, length)
    mask = torch.ones_like(ids)
    mask[:, :100] = 0
    mask = mask if padded else None
    largest = LargestTensor()
    if padded:  # the longer way of the two; inference without padding makes the same blocks as training
        with largest, torch.no_grad():
            model(ids, attention_mask=mask, logits_to_keep=1)
    model.train()
    kept: dict[int, int] = {}  # what autograd keeps for the way back: storage -> bytes

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = model.model(ids, attention_mask=mask).last_hidden_state[:, -3:].square().sum()
        total.backward()
    assert sum(kept.values()) < heads * length * length / 4
    assert all(weight.grad is not None for weight in model.model.layers.parameters())
    assert largest.numel < heads * length * length / 4, f"{largest.operation} made {largest.numel} elements"
