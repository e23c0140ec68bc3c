"""`baichuan2 merge`: the folder answers as base and adapter do together, and nothing else is touched."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file

from baichuan2 import CheckpointError, LoadSettings, MergeSettings, SettingsError, load_model
from baichuan2.cli.main import main
from baichuan2.convert import merge_lora
from baichuan2.convert.merge_lora import merge_adapter
from tests.checkpoints.adapter_folders import write_adapter
from tests.checkpoints.folders import change_json, weights, write_folder, write_weights
from tests.tiny import Size

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.randint(200, 768, (2, 12), generator=torch.Generator().manual_seed(0))
KINDS: dict[str, dict[str, Any]] = {
    "official": {"r": 1, "lora_alpha": 32, "target_modules": ["W_pack"]},
    "dora and rslora": {"use_dora": True, "use_rslora": True},
    "whole head": {"modules_to_save": ["lm_head"]},
}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS).logits
    return found.float()


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(("size", "kind"), [("7b", "official"), ("13b", "dora and rslora"), ("7b", "whole head")])
def test_the_folder_answers_as_both_together(tmp_path: Path, size: Size, kind: str) -> None:
    base = write_folder(tmp_path / "base", size, "bin", "sharded")
    write_weights(base, {name: weight.float() for name, weight in weights(size).items()}, "bin", "sharded")
    change_json(base / "config.json", torch_dtype="float32")
    adapter = write_adapter(tmp_path / "adapter", base, **KINDS[kind])
    before = digests(base), digests(adapter)
    wanted = logits(AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32))
    layers: list[tuple[int, int]] = []
    merged = merge_adapter(
        MergeSettings(adapter=str(adapter), target=str(tmp_path / "merged")), lambda *at: layers.append(at)
    )
    assert layers == [(0, 2), (1, 2), (2, 2)]
    assert (digests(base), digests(adapter)) == before
    loaded = load_model(merged.folder, LoadSettings(device="cpu", dtype="float32"))
    assert (logits(loaded.model) - wanted).abs().max() < 5e-5 * wanted.abs().max()
    without = logits(load_model(base, LoadSettings(device="cpu", dtype="float32")).model)
    assert (without - wanted).abs().max() > 0.1 * wanted.abs().max()
    assert loaded.generation_config.user_token_id == 195
    assert not (tmp_path / "merged.partial").exists()
    assert "auto_map" not in json.loads((merged.folder / "config.json").read_text())


def test_weights_are_rounded_once_to_the_number_format_of_the_base(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base, target_modules=["W_pack"])
    folder = merge_adapter(MergeSettings(adapter=str(adapter), target=str(tmp_path / "merged"))).folder
    found = load_file(folder / "model-00002-of-00003.safetensors")
    parts = load_file(adapter / "adapter_model.safetensors")
    place = "base_model.model.model.layers.1.self_attn.W_pack"
    changed = weights("7b")["model.layers.1.self_attn.W_pack.weight"].float()
    changed += 2.0 * parts[f"{place}.lora_B.weight"] @ parts[f"{place}.lora_A.weight"]
    torch.testing.assert_close(
        found["model.layers.1.self_attn.W_pack.weight"], changed.bfloat16(), rtol=2**-8, atol=0.0
    )
    assert torch.equal(found["model.layers.1.mlp.up_proj.weight"], weights("7b")["model.layers.1.mlp.up_proj.weight"])


def test_a_killed_run_goes_on_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    whole = merge_adapter(MergeSettings(adapter=str(adapter), target=str(tmp_path / "whole"))).folder

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    settings = MergeSettings(adapter=str(adapter), target=str(tmp_path / "merged"))
    with pytest.raises(KeyboardInterrupt):
        merge_adapter(settings, stop)
    assert not (tmp_path / "merged").exists()
    written: list[str] = []
    write = merge_lora._changed
    monkeypatch.setattr(
        merge_lora, "_changed", lambda weight, key, *rest: (written.append(key), write(weight, key, *rest))[1]
    )
    folder = merge_adapter(settings).folder
    assert written
    assert not [key for key in written if "layers.0." in key]
    assert digests(folder) == digests(whole)


def test_a_base_that_is_another_model_is_told(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"] * 1.5}, other / "model.safetensors")
    with pytest.warns(UserWarning, match="was trained on .*base, and this is another model"):
        merge_adapter(MergeSettings(adapter=str(adapter), target=str(tmp_path / "merged"), base=str(other)))


def test_a_quantised_base_is_refused_without_another(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    small = shutil.copytree(base, tmp_path / "small")
    change_json(small / "config.json", quantization_config={"load_in_4bit": True})
    change_json(adapter / "adapter_config.json", base_model_name_or_path=str(small))
    target = str(tmp_path / "merged")
    with pytest.raises(CheckpointError, match=r"which is quantised: .* give the model with all its bits with --base"):
        merge_adapter(MergeSettings(adapter=str(adapter), target=target))
    with pytest.raises(CheckpointError, match="is quantised already"):
        merge_adapter(MergeSettings(adapter=str(adapter), target=target, base=str(small)))
    assert merge_adapter(MergeSettings(adapter=str(adapter), target=target, base=str(base))).folder.is_dir()


def test_wrong_places_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    for settings, message in (
        ({"adapter": None, "target": "x"}, "ADAPTER is missing"),
        ({"adapter": str(adapter), "target": None}, "TARGET is missing"),
        ({"adapter": str(adapter), "target": str(base)}, "exists, and nothing is overwritten"),
        ({"adapter": str(adapter), "target": str(adapter / "x")}, "lies inside ADAPTER"),
    ):
        with pytest.raises(SettingsError, match=message):
            merge_adapter(MergeSettings(**settings))
    other = write_folder(tmp_path / "other", "13b", "safetensors")
    assert main(["merge", str(adapter), str(tmp_path / "merged"), "--base", str(other)]) == 2
    assert "the adapter is of another model" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_a_base_that_changes_while_it_is_read_gives_no_folder(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b")
    adapter = write_adapter(tmp_path / "adapter", base)
    with pytest.raises(CheckpointError, match=r"base was changed while it was read"):
        merge_adapter(
            MergeSettings(adapter=str(adapter), target=str(tmp_path / "merged")),
            lambda *_: change_json(base / "config.json", rms_norm_eps=1e-5),
        )
    assert not (tmp_path / "merged").exists()


def test_a_name_of_two_lines_is_told_in_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^there is no folder 'a\\nb': give the folder of an adapter$"):
        merge_adapter(MergeSettings(adapter="a\nb", target=str(tmp_path / "merged")))
