"""Adapters in front of replies: peft's numbers without peft, merged or beside; wrong ones are one line."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from torch import Tensor

from baichuan2 import CheckpointError, LoadSettings, MergeSettings, SettingsError, load_model
from baichuan2.checkpoints.adapters import read_adapter
from baichuan2.checkpoints.load import load_for_replies, read_config
from baichuan2.convert.merge_lora import merge_adapter
from baichuan2.engine.processor import ProcessorModel, processor_model
from baichuan2.kernels import steps
from baichuan2.model.low_rank import AdaptedLinear
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.scheme import QuantizationSpec
from tests.checkpoints.adapter_folders import LINEARS, write_adapter
from tests.checkpoints.folders import GOLDEN, TOKENIZER, change_json, write_folder
from tests.tiny import SIZES, Size

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.randint(200, 768, (2, 12), generator=torch.Generator().manual_seed(0))
KINDS: dict[str, dict[str, Any]] = {
    "official": {"r": 1, "lora_alpha": 32, "target_modules": ["W_pack"]},
    "all": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "r": 9},
    "patterns": {"rank_pattern": {"W_pack": 5, "layers.1.mlp.up_proj": 2}, "alpha_pattern": {"self_attn.W_pack": 20}},
    "some layers": {"layers_to_transform": [1]},
    "whole head": {"modules_to_save": ["lm_head", "embed_tokens"]},
}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS).logits
    return found.float()


def assert_close(found: Tensor, wanted: Tensor, limit: float) -> None:
    """Equal up to `limit` times the largest logit; in float64 what is compared in float32 here is equal to 1e-7."""
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= limit, f"differs by {difference:.3g}"


def load(adapter: Path, **changes: Any) -> Any:
    return load_for_replies(settings=LoadSettings(device="cpu", adapter=str(adapter), **changes))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_replies_have_the_numbers_of_peft(tmp_path: Path, size: Size, kind: str) -> None:
    base = write_folder(tmp_path / "base", size, "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base, **KINDS[kind])
    wanted = logits(AutoPeftModelForCausalLM.from_pretrained(adapter, trust_remote_code=True, dtype=torch.float32))
    without = logits(load_model(base, LoadSettings(device="cpu", dtype="float32")).model)
    assert (wanted - without).abs().max() > 0.05 * wanted.abs().max()

    loaded = load(adapter, dtype="float32")
    assert loaded.name == "base"
    assert_close(logits(loaded.model), wanted, 5e-5)
    settings = LoadSettings(device="cpu", adapter=str(adapter), dtype="float32")
    assert_close(logits(load_model(settings=settings).model), wanted, 5e-5)


def test_merged_weights_go_through_steps_and_then_lose_bits(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    model = load(adapter).model
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    assert isinstance(processor_model(model), ProcessorModel) or steps.most_rows() == 0
    merged = merge_adapter(MergeSettings(adapter=str(adapter), target=str(tmp_path / "merged"))).folder
    assert torch.equal(logits(model), logits(load_for_replies(merged, LoadSettings(device="cpu")).model))
    small = load(adapter, quantize="int8").model
    assert not any(isinstance(module, AdaptedLinear) for module in small.modules())
    wanted = load_for_replies(merged, LoadSettings(device="cpu", quantize="int8")).model
    assert torch.equal(logits(small), logits(wanted))


@pytest.mark.parametrize("kind", ["all", "dora"])
@pytest.mark.parametrize("format", ["int8", "int4", "nf4"])
def test_weights_in_few_bits_get_it_beside_them(tmp_path: Path, format: str, kind: str) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base, **KINDS[kind])
    spec = QuantizationSpec(format=format, group_size=64)  # type: ignore[arg-type]
    model = load_model(base, LoadSettings(device="cpu", dtype="float32")).model
    quantize_model(model, spec)
    model.save_pretrained(tmp_path / "small")
    shutil.copy(TOKENIZER, tmp_path / "small" / "tokenizer.model")

    loaded = load(adapter, model=str(tmp_path / "small"), dtype="float32").model
    model = model.dequantize()  # what the few bits stand for, in full; there the adapter is merged
    for name, low_rank in read_adapter(adapter, model.config).layers.items():
        layer = model.get_submodule(name)
        layer.weight.data = low_rank.merged(layer.weight.data)
    assert sum(isinstance(module, AdaptedLinear) for module in loaded.modules()) == 2 * len(LINEARS)
    assert_close(logits(loaded), logits(model), 1e-4)


def test_an_official_4bits_folder_takes_one(tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "quant" / "official_4bits_layout_rope_h4", tmp_path / "4bits")
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    config = read_config(folder)
    plain = load_for_replies(folder, LoadSettings(device="cpu")).model
    shape = plain.get_submodule("model.layers.0.self_attn.W_pack")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for layer in range(config.num_hidden_layers):
        place = f"base_model.model.model.layers.{layer}.self_attn.W_pack"
        tensors[f"{place}.lora_A.weight"] = torch.randn(2, shape.in_features, generator=generator)
        tensors[f"{place}.lora_B.weight"] = torch.randn(shape.out_features, 2, generator=generator)
    save_file(tensors, adapter / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(folder)}
    (adapter / "adapter_config.json").write_text(json.dumps(fields))
    adapted = load(adapter).model
    assert isinstance(adapted.get_submodule("model.layers.0.self_attn.W_pack"), AdaptedLinear)
    assert (logits(adapted) - logits(plain)).abs().max() > 0.1


def change_tensors(adapter: Path, change: Any) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(change(tensors), adapter / "adapter_model.safetensors")


def first(tensors: dict[str, Tensor]) -> str:
    return next(key for key in sorted(tensors) if "lora_A" in key)


def damage(adapter: Path, how: str) -> None:
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "no weights":
        weights.unlink()
    elif how == "no config":
        config.unlink()
    elif how == "config is no JSON":
        config.write_text("{")
    elif how == "NaN":
        change_tensors(adapter, lambda tensors: tensors | {first(tensors): tensors[first(tensors)] * float("nan")})
    elif how == "half of a layer":
        change_tensors(adapter, lambda tensors: {k: v for k, v in tensors.items() if k != first(tensors)})
    elif how == "a layer is missing":
        change_tensors(adapter, lambda tensors: {k: v for k, v in tensors.items() if "layers.1" not in k})
    elif how == "foreign tensor":
        change_tensors(adapter, lambda tensors: tensors | {"base_model.model.x.weight": torch.zeros(1)})
    elif how == "empty":
        save_file({}, weights)
    elif how == "pickle with code":
        weights.unlink()
        torch.save({"x": Path("code")}, adapter / "adapter_model.bin")
    else:
        change_json(config, **json.loads(how))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"adapter_model\.safetensors is truncated or damaged"),
        ("no weights", r"holds no adapter_model\.safetensors"),
        ("no config", r"holds no adapter_config\.json: give a folder that"),
        ("config is no JSON", r"adapter_config\.json is no valid JSON"),
        ("NaN", r"lora_A\.weight holds NaN"),
        ("half of a layer", r"has no lora_A: the adapter is incomplete"),
        ("a layer is missing", r"but not model\.layers\.1\..*with fewer layers"),
        ("foreign tensor", r"unexpected tensor 'base_model\.model\.x\.weight'"),
        ("empty", r"holds no tensors"),
        ("pickle with code", r"could run code and is refused"),
        ('{"peft_type": "IA3"}', r"peft_type is 'IA3', only LORA"),
        ('{"bias": "all"}', r"bias is 'all'"),
        ('{"r": 7}', r"r is 7, but .* has rank 3"),
        ('{"rank_pattern": {"(a+)+b": 3}}', r"patterns must name layers, got '\(a\+\)\+b'"),
        ('{"lora_alpha": "x"}', r"lora_alpha must be a number, got 'x'"),
        ('{"init_lora_weights": "pissa_niter_4"}', r"init_lora_weights is 'pissa_niter_4'"),
        ('{"layer_replication": [[0, 2]]}', r"asks for layer_replication"),
        ('{"use_dora": true}', r"has no lora_magnitude_vector"),
        ('{"base_model_name_or_path": "/nowhere/model"}', r"was trained on another model, .*there is no folder"),
        ('{"base_model_name_or_path": null}', r"does not say which model"),
    ],
)
def test_a_wrong_adapter_is_one_line(tmp_path: Path, how: str, message: str) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    damage(adapter, how)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(adapter)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_another_shape_and_a_whole_model_are_refused(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    other = write_folder(tmp_path / "other", "13b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", other)
    with pytest.raises(CheckpointError, match=r"lora_B has the shape \(320, 3\), this model wants \(128, 3\)"):
        load(adapter, model=str(base))
    with pytest.raises(CheckpointError, match="is a whole model, no adapter"):
        load(base, model=str(base))
    with pytest.raises(CheckpointError, match="there is no folder"):
        load(tmp_path / "nothing")


def test_an_adapter_of_another_base_is_told(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    other = shutil.copytree(base, tmp_path / "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(adapter, model=str(other))  # a copy of it
    tensors = load_file(other / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] * 1.5}, other / "model.safetensors")
    with pytest.warns(UserWarning, match="was trained on .*base, and this is another model"):
        load(adapter, model=str(other))


def test_adapters_are_named_in_the_settings(tmp_path: Path) -> None:
    def named(text: str) -> dict[str, str]:
        return LoadSettings(adapter=text).named_adapters

    assert named("a/b") == {}
    assert named("law=a/b") == {"law": "a/b"}
    assert named("law=a/b,x/poems") == {"law": "a/b", "poems": "x/poems"}
    odd = tmp_path / "a=b,c"
    odd.mkdir()
    assert named(str(odd)) == {}
    for text in ("law=a,law=b", "", "a,", "law="):
        with pytest.raises(SettingsError, match="--adapter"):
            LoadSettings(adapter=text)
