"""What the framework and its users expect of a model: arguments, outputs, construction, saving and loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import baichuan2  # noqa: F401  (registers the Auto classes)
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM, BaichuanModel
from baichuan2.model.norm_head import NormHead, OutputHead
from tests.tiny import SIZES, Size, left_padded, random_ids, tiny_config, tiny_model


@pytest.fixture(scope="module", params=SIZES)
def model(request: pytest.FixtureRequest) -> BaichuanForCausalLM:
    return tiny_model(request.param)


@torch.no_grad()
def test_logits_to_keep(model: BaichuanForCausalLM) -> None:
    ids = random_ids(2, 7)
    whole = model(ids).logits
    for keep in (1, 3, 7):
        assert torch.allclose(model(ids, logits_to_keep=keep).logits, whole[:, -keep:], atol=1e-5)
    places = torch.tensor([0, 4])
    assert torch.allclose(model(ids, logits_to_keep=places).logits, whole[:, places], atol=1e-5)
    assert model(ids, logits_to_keep=0).logits.shape == (2, 7, 512)


@torch.no_grad()
def test_embeddings_instead_of_ids(model: BaichuanForCausalLM) -> None:
    ids = random_ids(2, 5)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**wrong)


@torch.no_grad()
def test_tuples_instead_of_named_outputs(model: BaichuanForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(1, 5)
    wanted = model(ids, labels=ids, use_cache=False)
    found = model(ids, labels=ids, use_cache=False, return_dict=False)
    assert isinstance(found, tuple)
    assert torch.equal(found[0], wanted.loss)
    assert torch.equal(found[1], wanted.logits)
    assert len(model(ids, return_dict=False)) == 2  # logits and cache
    monkeypatch.setattr(model.config, "return_dict", False)
    assert torch.equal(model(ids, use_cache=False)[0], wanted.logits)
    assert torch.equal(model(ids, use_cache=False, return_dict=True).logits, wanted.logits)
    assert isinstance(model.model(ids), tuple)


@torch.no_grad()
def test_no_cache_unless_wanted(model: BaichuanForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = random_ids(1, 5)
    assert len(model(ids, use_cache=False).keys()) == 1
    assert len(model(ids, use_cache=True).keys()) == 2
    assert len(model(ids).keys()) == 2  # the config says so
    monkeypatch.setattr(model.config, "use_cache", False)
    assert len(model(ids).keys()) == 1


@torch.no_grad()
def test_masks_of_any_type(model: BaichuanForCausalLM) -> None:
    ids, mask = left_padded([random_ids(1, length)[0].tolist() for length in (6, 3)])
    wanted = model(ids, attention_mask=mask).logits
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float32):
        assert torch.equal(model(ids, attention_mask=mask.to(dtype)).logits, wanted)
    assert torch.equal(model(ids.int(), attention_mask=mask).logits, wanted)


@torch.no_grad()
def test_outputs_do_not_depend_on_the_padding_side(model: BaichuanForCausalLM) -> None:
    ids, mask = left_padded([random_ids(1, length, seed=length)[0].tolist() for length in (6, 3)])
    alone = model(ids[1:, 3:]).logits[0]
    left = model(ids, attention_mask=mask).logits[1, 3:]
    turned = torch.cat((ids[1:, 3:], ids[1:, :3]), dim=1)
    right = model(turned, attention_mask=torch.cat((mask[1:, 3:], mask[1:, :3]), dim=1)).logits[0, :3]
    assert torch.allclose(left, alone, atol=2e-5)
    assert torch.allclose(right, alone, atol=2e-5)
    assert model(ids, attention_mask=mask).logits.isfinite().all()


@torch.no_grad()
def test_a_call_changes_no_weight(model: BaichuanForCausalLM) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model(random_ids(1, 4))
    model.generate(random_ids(1, 4), max_new_tokens=3, do_sample=False)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("size", SIZES)
def test_names_are_those_of_the_released_files(size: Size) -> None:
    layer = [
        "input_layernorm.weight",
        "mlp.down_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "post_attention_layernorm.weight",
        "self_attn.W_pack.weight",
        "self_attn.o_proj.weight",
    ]
    wanted = {f"model.layers.{index}.{name}" for index in range(2) for name in layer}
    wanted |= {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert set(tiny_model(size).state_dict()) == wanted


@pytest.mark.parametrize(
    ("hidden", "inner", "layers", "heads", "scheme", "wanted"),
    [
        (4096, 11008, 32, 32, "rope", 7_505_973_248),
        (5120, 13696, 40, 40, "alibi", 13_896_668_160),
    ],
)
def test_released_sizes_build_on_the_meta_device(
    hidden: int, inner: int, layers: int, heads: int, scheme: str, wanted: int
) -> None:
    config = tiny_config(
        "7b",
        vocab_size=125_696,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        position_embedding=scheme,
    )
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
    assert all(weight.is_meta for weight in model.parameters())
    assert sum(weight.numel() for weight in model.parameters()) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_saving_and_loading_give_the_same_model(size: Size, dtype: torch.dtype, tmp_path: Path) -> None:
    """Loading builds on the meta device first: what is not in the file must be computed again, and in float32."""
    model = tiny_model(size).to(dtype)
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    assert not list(tmp_path.glob("*.py"))
    loaded = BaichuanForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == dtype
    assert isinstance(loaded.lm_head, NormHead)
    for name, values in model.named_buffers():
        assert values.dtype == torch.float32
        assert torch.equal(loaded.get_buffer(name), values), name
    ids, mask = left_padded([random_ids(1, length)[0].tolist() for length in (9, 4)])
    assert torch.equal(loaded(ids, attention_mask=mask).logits, model(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_auto_classes_and_a_model_without_head(size: Size, tmp_path: Path) -> None:
    model = tiny_model(size)
    model.save_pretrained(tmp_path)
    ids = random_ids(1, 6)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(whole) is BaichuanForCausalLM
    body = AutoModel.from_pretrained(tmp_path)
    assert type(body) is BaichuanModel
    assert torch.equal(body(ids).last_hidden_state, model(ids, output_hidden_states=True).hidden_states[-1])


@torch.no_grad()
def test_old_files_with_rotary_tables_load_silently(tmp_path: Path) -> None:
    """Baichuan 1 files carry `inv_freq` in each layer."""
    model = tiny_model("7b", normalized_head=False, architectures=["BaiChuanForCausalLM"])
    state = {name: weight.clone() for name, weight in model.state_dict().items()}
    for index in range(2):
        state[f"model.layers.{index}.self_attn.rotary_emb.inv_freq"] = torch.zeros(16)
    model.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    loaded, report = BaichuanForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(loaded.lm_head) is OutputHead
    ids = random_ids(1, 6)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("size", SIZES)
def test_fresh_weights(size: Size) -> None:
    torch.manual_seed(0)
    model = BaichuanForCausalLM(tiny_config(size))
    weights: dict[str, Any] = dict(model.named_parameters())
    assert weights["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["model.embed_tokens.weight"][1:].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["model.embed_tokens.weight"][0].abs().max() == 0
    bound = model.config.hidden_size**-0.5  # Kaiming uniform with a = sqrt(5)
    head = weights["lm_head.weight"]
    assert head.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert head.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert torch.equal(weights["model.norm.weight"], torch.ones(model.config.hidden_size))


def test_the_head_gets_the_strides_of_a_whole_tensor() -> None:
    model = tiny_model("7b")
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(random_ids(1, 7), logits_to_keep=1)
    width = model.config.hidden_size
    assert seen[0].stride() == (width, width, 1)  # else torch's product copies the whole head
