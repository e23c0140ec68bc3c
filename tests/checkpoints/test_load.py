"""load_model: every file form gives the same weights, in the number format and on the device that were asked for."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from baichuan2 import BaichuanForCausalLM, BaichuanTokenizer, CheckpointError, LoadSettings, load_model
from tests.checkpoints.folders import FORMS, change_json, weights, write_folder, write_weights
from tests.tiny import SIZES, Size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "layout"), FORMS)
def test_all_file_forms_hold_the_same_model(tmp_path: Path, size: Size, kind: str, layout: str) -> None:
    write_folder(tmp_path, size, kind, layout)  # type: ignore[arg-type]
    loaded = load_model(str(tmp_path))
    assert isinstance(loaded.model, BaichuanForCausalLM)
    assert isinstance(loaded.tokenizer, BaichuanTokenizer)
    assert not loaded.model.training
    state_dict = loaded.model.state_dict()
    expected = weights(size)
    assert state_dict.keys() == expected.keys()
    for name, value in expected.items():
        assert state_dict[name].dtype == torch.bfloat16
        assert torch.equal(state_dict[name], value), name
    through_auto = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(through_auto.state_dict()[name], value) for name, value in expected.items())


def test_generation_config_is_the_folders_own(tmp_path: Path) -> None:
    loaded = load_model(write_folder(tmp_path))  # a Path, where other tests give text
    for holder in (loaded.generation_config, loaded.model.generation_config):
        assert (holder.user_token_id, holder.assistant_token_id) == (195, 196)
        assert (holder.temperature, holder.top_k, holder.top_p, holder.max_new_tokens) == (0.3, 5, 0.85, 8)


def test_without_generation_config_the_special_ids_remain(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = load_model(str(tmp_path)).generation_config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_conversion_keeps_the_values(tmp_path: Path, dtype: str, kind: str) -> None:
    write_folder(tmp_path, "7b", kind, "whole")  # type: ignore[arg-type]
    model = load_model(str(tmp_path), LoadSettings(dtype=dtype)).model  # type: ignore[arg-type]
    wanted = getattr(torch, dtype)
    assert model.dtype == model.config.dtype == wanted
    for name, value in weights("7b").items():
        assert torch.equal(model.state_dict()[name], value.to(wanted)), name


def test_conversion_does_not_touch_the_file(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = (tmp_path / "pytorch_model.bin").read_bytes()
    model = load_model(str(tmp_path)).model
    with torch.no_grad():
        model.lm_head.weight.fill_(0.0)  # training on mapped weights must not write through either
    load_model(str(tmp_path), LoadSettings(dtype="float32"))
    assert (tmp_path / "pytorch_model.bin").read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_weights_are_mapped_from_the_file(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, "7b", kind, "whole")  # type: ignore[arg-type]
    model = load_model(str(tmp_path)).model
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(tmp_path) in line:
            start, stop = line.split()[0].split("-")
            ranges.append((int(start, 16), int(stop, 16)))
    for name, parameter in model.named_parameters():
        assert any(start <= parameter.data_ptr() < stop for start, stop in ranges), name


def test_saving_over_the_folder_that_is_mapped_keeps_the_model(tmp_path: Path) -> None:
    write_folder(tmp_path, "7b", "safetensors", "whole")
    model = load_model(str(tmp_path)).model
    model.save_pretrained(tmp_path)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights("7b").items())
    again = load_model(str(tmp_path)).model
    assert all(torch.equal(again.state_dict()[name], value) for name, value in weights("7b").items())


def test_numerics_come_from_the_settings(tmp_path: Path) -> None:
    write_folder(tmp_path, "13b")
    assert load_model(str(tmp_path)).model.config.alibi_numerics == "exact"
    official = load_model(str(tmp_path), LoadSettings(numerics="official"))
    assert official.model.config.alibi_numerics == "official"


def test_version_1_leftovers_are_ignored(tmp_path: Path) -> None:
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16),
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(16),
        "model.decoder.version": torch.tensor([3.0]),
    }
    model = load_model(str(write_folder(tmp_path, extra=extra))).model
    assert not [name for name in model.state_dict() if "inv_freq" in name or "version" in name]


def test_model_of_the_settings_and_names(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "my-model")
    assert load_model(settings=LoadSettings(model=str(folder))).name == "my-model"
    with pytest.raises(CheckpointError, match="there is no folder nowhere"):
        load_model("nowhere", LoadSettings(model=str(folder)))  # the argument goes before the settings


def test_progress_bars_of_other_programs_stay(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    load_model(str(write_folder(tmp_path)))
    assert "Loading" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled()


def test_13b_index_as_released_names_its_shards(tmp_path: Path) -> None:
    write_folder(tmp_path, "13b", "bin", "sharded")
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    assert set(index["weight_map"].values()) == {f"pytorch_model-{n:05d}-of-00003.bin" for n in (1, 2, 3)}
    assert load_model(str(tmp_path)).model.config.position_embedding == "alibi"


def test_safetensors_go_before_bin(tmp_path: Path) -> None:
    write_folder(tmp_path, "7b", "bin", "whole")
    write_weights(tmp_path, {n: w + 1 for n, w in weights("7b").items()}, "safetensors", "whole")
    weight = load_model(str(tmp_path)).model.model.norm.weight
    assert torch.equal(weight, weights("7b")["model.norm.weight"] + 1)


def test_tokenizer_config_of_7b_base_has_no_class_in_config(tmp_path: Path) -> None:
    write_folder(tmp_path)
    change_json(tmp_path / "config.json", tokenizer_class=None)
    assert isinstance(load_model(str(tmp_path)).tokenizer, BaichuanTokenizer)


def test_a_cast_loses_nothing_of_tensors_that_share_memory(tmp_path: Path) -> None:
    write_folder(tmp_path, "7b", "bin", "whole")
    state_dict = weights("7b")
    layer = "model.layers.0.mlp."
    state_dict[layer + "up_proj.weight"] = state_dict[layer + "gate_proj.weight"]
    torch.save(state_dict, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # not mapped
    model = load_model(str(tmp_path), LoadSettings(dtype="float32", device="cpu")).model
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.gate_proj.weight)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, state_dict[layer + "gate_proj.weight"].float())
