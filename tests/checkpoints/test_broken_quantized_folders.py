"""Damaged folders of our own quantised format: each ends in one line that names what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baichuan2 import CheckpointError, LoadSettings, load_model
from baichuan2.checkpoints.load import load_for_replies
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.scheme import QuantizationSpec
from tests.checkpoints.folders import write_folder

SPEC = QuantizationSpec(format="int4", group_size=32, head="int8", embedding="int8")
CODES, SCALES = "model.layers.1.mlp.up_proj.weight_codes", "model.layers.1.mlp.up_proj.weight_scales"


HEAD_SPEC = QuantizationSpec(format="int8", group_size=0, head="int4")


def quantized_folder(tmp_path: Path, spec: QuantizationSpec = SPEC) -> Path:
    folder = write_folder(tmp_path / "model")
    model = load_model(folder, LoadSettings(device="cpu")).model
    quantize_model(model, spec)
    for path in folder.glob("*.bin"):
        path.unlink()
    model.save_pretrained(folder)
    return folder


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def other_groups(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"]["group_size"] = 128
    (folder / "config.json").write_text(json.dumps(fields))


def not_quantized(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    del fields["quantization_config"]
    (folder / "config.json").write_text(json.dumps(fields))


def fails_in_one_line(folder: Path, message: str) -> None:
    for load in (load_model, load_for_replies):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_the_whole_folder_loads(tmp_path: Path) -> None:
    assert load_model(quantized_folder(tmp_path)).model.config.quantization_config.spec == SPEC


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "truncated or damaged"),
        (changed(lambda t: t.pop(SCALES)), f"tensors are missing, the first is {SCALES}"),
        (
            changed(lambda t: t.update({CODES: t[CODES][:, ::2].contiguous()})),
            f"{CODES} has the shape .*, config.json wants",
        ),
        (changed(lambda t: t[SCALES].fill_(float("nan"))), f"{SCALES} holds NaN or infinite"),
        (
            changed(lambda t: t["lm_head.weight_scales"].fill_(float("inf"))),
            "lm_head.weight_scales holds NaN or infinite",
        ),
        (changed(lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(2)})), "does not describe"),
        (changed(lambda t: t.update({CODES: t[CODES].float()})), f"{CODES} holds F32, must hold U8"),
        (other_groups, "has the shape .*, config.json wants"),
        (not_quantized, "are missing"),
    ],
)
def test_damage_ends_in_one_line(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = quantized_folder(tmp_path)
    damage(folder)
    fails_in_one_line(folder, message)


def head_in_8_bits(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"]["head"] = "int8"
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed(lambda t: t["lm_head.weight_scales"][5].fill_(float("nan"))), "lm_head.weight_scales holds NaN"),
        (changed(lambda t: t.pop("lm_head.weight_codes")), "tensors are missing, the first is lm_head.weight_codes"),
        (
            changed(lambda t: t.update({"lm_head.weight_codes": t["lm_head.weight_codes"].view(torch.int8)})),
            "lm_head.weight_codes holds I8, must hold U8",
        ),
        (head_in_8_bits, "lm_head.weight_codes has the shape .*, config.json wants"),
    ],
)
def test_damage_of_a_head_in_4_bits_ends_in_one_line(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = quantized_folder(tmp_path, HEAD_SPEC)
    assert load_model(folder).model.config.quantization_config.spec == HEAD_SPEC
    damage(folder)
    fails_in_one_line(folder, message)
