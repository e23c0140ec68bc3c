"""`LoadSettings(quantize=...)`: fewer bits made of a plain folder, on the processor and, by bitsandbytes, elsewhere."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baichuan2 import LoadSettings, MissingExtraError, SettingsError, load_model
from baichuan2.checkpoints import load
from baichuan2.convert.rounding import Rounding, round_weight
from baichuan2.errors import CheckpointError
from baichuan2.model.norm_head import NormHead
from baichuan2.quantization.freed_memory import is_mapped_from_file
from baichuan2.quantization.linear import Int4Linear, Int8Linear
from baichuan2.settings import QuantizeSettings
from tests.checkpoints.folders import weights, write_folder
from tests.tiny import SIZES, Size, random_ids

LAYERS = {"int8": Int8Linear, "int4": Int4Linear}
PER_DECODER_LAYER = ("self_attn.W_pack", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def on_processor(**options: Any) -> LoadSettings:
    return LoadSettings(device="cpu", **options)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=random_ids(2, 9, seed=5).to(model.device)).logits.float().cpu()


@pytest.mark.parametrize(("has_kernels", "codebook"), [(True, "nonuniform"), (False, "uniform")])
@pytest.mark.parametrize("precision", LAYERS)
@pytest.mark.parametrize("size", SIZES)
def test_layers_are_those_that_the_quantize_command_rounds(
    size: Size, precision: Any, has_kernels: bool, codebook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baichuan2.quantization.apply.has_fast_products", lambda: has_kernels)
    folder = write_folder(tmp_path / "model", size)
    told: list[tuple[int, int]] = []
    model = load_model(folder, on_processor(quantize=precision), watch=lambda *counts: told.append(counts)).model
    assert told == [(done, 10) for done in range(11)]
    assert not model.training
    assert type(model.lm_head) is NormHead
    dense = weights(size)
    choices: dict[str, Any] = {"int8": {"method": "nearest"}, "int4": {"method": "search", "codebook": codebook}}
    rounding = Rounding.of(QuantizeSettings(format=precision, **choices[precision]), torch.bfloat16)
    for layer in range(2):
        for part in PER_DECODER_LAYER:
            name = f"model.layers.{layer}.{part}"
            made = model.get_submodule(name)
            assert type(made) is LAYERS[precision]
            wanted = round_weight(rounding, dense[f"{name}.weight"]).state_dict()
            assert made.state_dict().keys() == wanted.keys()
            assert all(torch.equal(values, wanted[key]) for key, values in made.state_dict().items())
    assert model.dtype == torch.bfloat16
    plain = logits(load_model(folder, on_processor()).model)
    error = ((logits(model) - plain).norm() / plain.norm()).item()
    assert 0 < error < {"int8": 0.05, "int4": 0.5}[precision]


def test_none_touches_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    model = load_model(folder, on_processor(quantize="none"), watch=lambda *_: pytest.fail("nothing to tell")).model
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


@pytest.mark.parametrize("precision", LAYERS)
def test_with_another_number_format_and_saving(precision: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = load_model(folder, on_processor(quantize=precision, dtype="float32"))
    assert loaded.model.dtype == torch.float32
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", on_processor()).model
    assert type(again.model.layers[0].mlp.up_proj) is LAYERS[precision]
    assert torch.equal(logits(again), logits(loaded.model))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_16_bit_weights_leave_memory_one_by_one(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "model", "7b", kind)
    released: list[tuple[int, int]] = []
    done = 0
    real = load.release_if_mapped

    def note(values: Tensor) -> None:
        if is_mapped_from_file(values):
            released.append((done, values.nbytes))
        real(values)

    def watch(count: int, _: int) -> None:
        nonlocal done
        done = count

    monkeypatch.setattr(load, "release_if_mapped", note)
    load_model(folder, on_processor(quantize="int4"), watch=watch)
    sizes = [2 * weights("7b")[f"model.layers.0.{part}.weight"].numel() for part in PER_DECODER_LAYER]
    assert released[:10] == list(enumerate(2 * sizes))


def test_quantised_already_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(write_folder(tmp_path / "model"), on_processor(quantize="int8"))
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr(load, "_read_weights", lambda *_: pytest.fail("weights were touched"))
    with pytest.raises(
        SettingsError, match=r"^--quantize int4: saved is quantised already: leave the flag out"
    ) as caught:
        load_model(tmp_path / "saved", on_processor(quantize="int4"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", LAYERS)
def test_damaged_weights_are_named(precision: Any, tmp_path: Path) -> None:
    changed = weights("7b")
    changed["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    folder = write_folder(tmp_path / "model", extra=changed)
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        load_model(folder, on_processor(quantize=precision))


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Lets loading believe in an accelerator; the moves that it asks for, which stay on the processor."""
    moves: list[tuple[Any, ...]] = []
    monkeypatch.setattr(load, "pick_device", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(load, "placement", lambda *_: pytest.fail("the whole model was placed"))
    monkeypatch.setattr(nn.Module, "to", lambda self, *args, **_: moves.append((self, args)) or self)
    return moves


@pytest.mark.parametrize(("precision", "dtype"), [("int8", "auto"), ("int4", "auto"), ("int4", "float16")])
def test_an_accelerator_gets_the_librarys_layers_after_they_were_made(
    precision: Any, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    from baichuan2.quantization import bnb

    folder = write_folder(tmp_path / "model")
    moves = elsewhere(monkeypatch)
    told: list[tuple[int, int]] = []
    settings = LoadSettings(quantize=precision, dtype=dtype, check_memory=False)
    model = load_model(folder, settings, watch=lambda *counts: told.append(counts)).model
    assert told == [(done, 10) for done in range(11)]
    made = bnb.Linear8bitLt if precision == "int8" else bnb.Linear4bit
    assert [type(model.get_submodule(f"model.layers.1.{part}")) for part in PER_DECODER_LAYER] == [made] * 5
    assert (model, (torch.device("cuda:0"),)) in moves
    monkeypatch.undo()
    wanted = load_model(folder, on_processor(dtype=dtype)).model.quantize(8 if precision == "int8" else 4)
    assert model.dtype == wanted.dtype
    assert torch.equal(logits(model), logits(wanted))


def test_an_accelerator_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "model")
    elsewhere(monkeypatch)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(load, "_read_weights", lambda *_: pytest.fail("weights were touched"))
    with pytest.raises(MissingExtraError, match=r"pip install 'baichuan2\[bnb\]'"):
        load_model(folder, LoadSettings(quantize="int4", check_memory=False))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LAYERS)
def test_on_a_gpu(precision: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "7b")
    model = load_model(folder, LoadSettings(quantize=precision, device="cuda")).model
    # the library writes its names and shapes as one more tensor, JSON on the processor, whenever it is asked
    values = [values for name, values in model.state_dict().items() if ".quant_state.bitsandbytes__" not in name]
    assert {part.device.type for part in values if part.dim()} == {"cuda"}
    wanted = load_model(folder, on_processor()).model.quantize(8 if precision == "int8" else 4)
    assert ((logits(model) - logits(wanted)).norm() / logits(wanted).norm()).item() < 0.05


@pytest.mark.parametrize("has_kernels", [True, False])
def test_config_says_what_was_done(has_kernels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baichuan2.quantization.apply.has_fast_products", lambda: has_kernels)
    model = load_model(write_folder(tmp_path / "model"), on_processor(quantize="int4")).model
    model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert (written["quant_method"], written["format"], written["group_size"]) == ("baichuan2", "int4", 32)
    assert (written["codebook"] is None) != has_kernels
