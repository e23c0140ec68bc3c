"""Folders in few bits with plain weights again: each weight is what its layer computes with, bit for bit."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baichuan2 import BaichuanForCausalLM, CheckpointError, ConvertSettings, LoadSettings, QuantizeSettings, load_model
from baichuan2.convert import rewriting
from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.convert.ways import convert_checkpoint
from baichuan2.quantization.bnb_layout import dequantize_int8_rows, quantize_int8_rows, write_int8
from baichuan2.quantization.linear import Int8Embedding, QuantizedLinear
from tests.checkpoints.folders import GOLDEN, change_json, weights, write_folder, write_weights
from tests.convert.test_baichuan1 import fields_of, tensors_of
from tests.tiny import Size

FORMATS: list[tuple[Size, dict[str, Any]]] = [
    ("7b", {"format": "int8", "head": "int8", "embedding": "int8"}),
    ("13b", {"format": "int4", "head": "int4"}),
    ("7b", {"format": "int4", "codebook": "uniform"}),
    ("7b", {"format": "nf4"}),
    ("13b", {"format": "official-4bits"}),
]


def convert(source: object, target: Path, **settings: Any) -> Path:
    settings = {"way": "dequantize", "source": str(source), "target": str(target), **settings}
    return convert_checkpoint(ConvertSettings(**settings)).path


def quantized(tmp_path: Path, size: Size, **settings: Any) -> Path:
    source = write_folder(tmp_path / "source", size, "safetensors")
    wanted = {"method": "search" if settings["format"] in ("int8", "int4") else None, **settings}
    return quantize_checkpoint(QuantizeSettings(source=str(source), target=str(tmp_path / "small"), **wanted)).folder


@torch.no_grad()
def layers_of(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What the layers of a quantised folder compute with, by the names of plain weights."""
    model = load_model(folder, LoadSettings(device="cpu")).model
    found = {name: weight.detach() for name, weight in model.named_parameters() if weight.is_floating_point()}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear | Int8Embedding):
            found[f"{name}.weight"] = layer.dequantize(dtype)
    return found


@pytest.mark.parametrize(("size", "settings"), FORMATS, ids=[settings["format"] for _, settings in FORMATS])
@pytest.mark.filterwarnings("ignore:.*bitsandbytes.*")
def test_weights_are_what_the_layers_compute_with(
    tmp_path: Path, size: Size, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "BYTES_AT_A_TIME", 70_000)  # so that there are many pieces, the last a smaller one
    small = quantized(tmp_path, size, **settings)
    folder = convert(small, tmp_path / "plain", shard_size="200KB")
    dtype = torch.float16 if settings["format"] == "official-4bits" else torch.bfloat16
    if settings["format"] == "nf4":  # read by our own layers, whoever has the library
        from baichuan2.checkpoints.load import read_config
        from baichuan2.model.quantized_folders import read_nf4_folder

        config, state = read_nf4_folder(small, read_config(small))
        assert config.quantization_config["format"] == "nf4"
        assert state
        wanted = nf4_weights(config, state, dtype)
    else:
        wanted = layers_of(small, dtype)
    found = tensors_of(folder)
    assert found.keys() == weights(size).keys()
    for name, weight in found.items():
        assert weight.dtype == dtype
        assert torch.equal(weight, wanted[name]), name
    fields = fields_of(folder)
    assert "quantization_config" not in fields
    assert fields["torch_dtype"] == str(dtype).removeprefix("torch.")
    load_model(folder)


def nf4_weights(config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    from baichuan2.checkpoints.network import empty_model
    from baichuan2.model.plain import PlainBaichuan

    model = empty_model(Path("config.json"), config, PlainBaichuan)
    model.load_state_dict(state, assign=True)
    found = dict(model.named_parameters())
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)}
    return found | {f"{name}.weight": layer.dequantize(dtype) for name, layer in layers.items()}


def test_another_number_format_is_computed_directly(tmp_path: Path) -> None:
    small = quantized(tmp_path, "7b", format="int8")
    folder = convert(small, tmp_path / "plain", dtype="float32")
    wanted, found = layers_of(small, torch.float32), tensors_of(folder)
    assert all(torch.equal(weight, wanted[name].float()) for name, weight in found.items())


@pytest.mark.parametrize("case", ["rope_h4", "alibi_h5"])
@torch.no_grad()
def test_the_official_layout_gives_the_released_numbers(tmp_path: Path, case: str) -> None:
    source = GOLDEN / "quant" / f"official_4bits_layout_{case}"
    folder = convert(source, tmp_path / "plain", dtype="float32")
    expected = load_file(source / "expected.safetensors")
    logits = BaichuanForCausalLM.from_pretrained(folder)(expected["input_ids"]).logits
    assert (logits - expected["logits_nf4_dequantised_weights"]).abs().max() < 5e-6


def test_rows_in_8_bits_of_bitsandbytes_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    source = write_folder(tmp_path / "small", "13b", "safetensors")
    tensors, wanted = {}, {}
    for name, weight in weights("13b").items():
        if ".self_attn." in name or ".mlp." in name:
            codes, scales = quantize_int8_rows(weight)
            tensors |= write_int8(codes, scales, name)
            wanted[name] = dequantize_int8_rows(codes, scales, torch.bfloat16)
        else:
            tensors[name] = wanted[name] = weight
    write_weights(source, tensors, "safetensors", "sharded")
    (source / "model.safetensors").unlink()
    change_json(source / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    found = tensors_of(convert(source, tmp_path / "plain"))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.items())


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    plain = write_folder(tmp_path / "plain", "7b")
    with pytest.raises(CheckpointError, match="is not quantised: its weights have all their bits"):
        convert(plain, tmp_path / "target")
    change_json(plain / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(CheckpointError, match="quant_method 'gptq' are not read"):
        convert(plain, tmp_path / "target")
    small = quantized(tmp_path, "7b", format="int8")
    index = json.loads((small / "model.safetensors.index.json").read_text())
    (small / sorted(set(index["weight_map"].values()))[1]).unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of the 3 weight files"):
        convert(small, tmp_path / "target")
    shutil.rmtree(small)
    with pytest.raises(CheckpointError, match="there is no folder"):
        convert(small, tmp_path / "target")
    assert not (tmp_path / "target").exists()
