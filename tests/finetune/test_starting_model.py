"""What training starts from: which layers get which adapters, on weights in which numbers, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan2 import FinetuneSettings, LoadSettings, SettingsError
from baichuan2.checkpoints.load import load_for_replies, load_model
from baichuan2.errors import QuantizationError
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.finetune.starting_model import adapter_config, starting_model
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.freed_memory import is_mapped_from_file
from baichuan2.quantization.linear import QuantizedLinear
from baichuan2.quantization.scheme import QuantizationSpec
from tests.checkpoints.folders import GOLDEN, TOKENIZER, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
LINEARS = {"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"}
IDS = torch.randint(200, 768, (2, 12), generator=torch.Generator().manual_seed(0))


def arguments(tmp_path: Path) -> FinetuneArguments:
    return FinetuneArguments(output_dir=str(tmp_path / "out"), use_cpu=True)


def start(tmp_path: Path, folder: Path, *, training: dict[str, Any] | None = None, **changes: Any) -> Any:
    settings = FinetuneSettings(model_name_or_path=str(folder), **changes)
    given = arguments(tmp_path)
    for name, value in (training or {}).items():  # afterwards: processors without such numbers switch them off
        setattr(given, name, value)
    return starting_model(folder, settings, given)


def step(model: Any) -> float:
    """One step of training; the loss before it."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    optimizer.step()
    model.zero_grad()
    found: float = loss.item()
    return found


def test_the_official_preset_is_changed_flag_by_flag() -> None:
    official = adapter_config(FinetuneSettings(use_lora=True))
    assert (official.r, official.lora_alpha, official.lora_dropout) == (1, 32, 0.1)
    assert official.target_modules == {"W_pack"}
    changed = adapter_config(
        FinetuneSettings(use_lora=True, lora_rank=4, lora_targets="o_proj, W_pack", use_rslora=True)
    )
    assert (changed.r, changed.lora_alpha, changed.use_rslora, changed.use_dora) == (4, 32, True, False)
    assert changed.target_modules == {"W_pack", "o_proj"}
    ours = adapter_config(FinetuneSettings(method="lora", lora_alpha=8.0, lora_dropout=0.0, use_dora=True))
    assert (ours.r, ours.lora_alpha, ours.lora_dropout, ours.use_dora) == (16, 8, 0.0, True)
    assert ours.target_modules == LINEARS
    assert adapter_config(FinetuneSettings(use_lora=True, lora_targets="all")).target_modules == LINEARS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 4}, "--lora-rank needs --method lora"),
        ({"use_dora": True}, "--use-dora needs --method lora"),
        (
            {"method": "lora", "lora_targets": "q_proj"},
            "--lora-targets takes W_pack.* or all, with commas, got 'q_proj'",
        ),
        ({"method": "lora", "lora_targets": "lm_head"}, "got 'lm_head'"),
        ({"method": "lora", "lora_targets": " ,"}, "got no name"),
        ({"method": "lora", "lora_rank": 0}, "--lora-rank must lie in"),
    ],
)
def test_flags_that_cannot_work_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FinetuneSettings(**changes)


def test_adapters_learn_and_nothing_else_changes(tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    model = start(tmp_path, base, method="lora", lora_targets="W_pack,down_proj", lora_dropout=0.0)
    assert {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad} == {
        "W_pack",
        "down_proj",
    }
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    losses = [step(model.train()) for _ in range(3)]
    assert losses[2] < losses[0] - 0.05
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_for_replies(settings=LoadSettings(device="cpu", dtype="float32", adapter=str(tmp_path / "adapter")))
    with torch.no_grad():
        found, wanted = loaded.model(input_ids=IDS).logits, model.eval()(input_ids=IDS).logits
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    halved = start(tmp_path, base, method="lora", training={"bf16": True})
    assert {weight.dtype for weight in halved.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert {weight.dtype for weight in halved.parameters() if weight.requires_grad} == {torch.float32}


@pytest.mark.parametrize("changes", [{"method": "qlora"}, {"method": "lora", "quantize": "int8"}], ids=["nf4", "int8"])
def test_the_base_is_quantised_by_the_library(tmp_path: Path, changes: dict[str, Any]) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    model = start(tmp_path, base, lora_dropout=0.0, **changes)
    kind = bitsandbytes.nn.Linear4bit if changes["method"] == "qlora" else bitsandbytes.nn.Linear8bitLt
    layers = [layer for layer in model.modules() if isinstance(layer, kind)]
    assert len(layers) == 10
    if changes["method"] == "qlora":
        assert all(layer.weight.quant_state.nested for layer in layers)
        assert {layer.compute_dtype for layer in layers} == {torch.float32}
    losses = [step(model.train()) for _ in range(3)]
    assert losses[2] < losses[0] - 0.05


def test_nothing_stays_mapped_from_files_whose_weights_were_quantised(tmp_path: Path) -> None:
    """A file keeps all its pages in memory, those of the quantised weights too, until nothing is mapped from it."""
    pytest.importorskip("bitsandbytes")
    base = write_folder(tmp_path / "base", "7b", "safetensors")
    stored: Any = load_model(base, LoadSettings(device="cpu", dtype="float32")).model
    stored.save_pretrained(tmp_path / "whole")  # in the numbers that are asked for, so that nothing is converted
    plain, quantised = (
        [
            name
            for name, weight in start(tmp_path, tmp_path / "whole", method=method).named_parameters()
            if is_mapped_from_file(weight)
        ]
        for method in ("lora", "qlora")
    )
    assert any("embed_tokens" in name for name in plain)
    assert not quantised


def own_folder(tmp_path: Path) -> Path:
    model = load_model(write_folder(tmp_path / "base", "7b", "safetensors"), LoadSettings(device="cpu")).model
    quantize_model(model, QuantizationSpec(format="int4", group_size=64))
    model.save_pretrained(tmp_path / "small")
    shutil.copy(TOKENIZER, tmp_path / "small" / "tokenizer.model")
    return tmp_path / "small"


@pytest.mark.parametrize("kind", ["own", "official"])
def test_quantised_folders_take_adapters_and_nothing_else(tmp_path: Path, kind: str) -> None:
    if kind == "own":
        folder = own_folder(tmp_path)
    else:
        folder = shutil.copytree(GOLDEN / "quant" / "official_4bits_layout_rope_h4", tmp_path / "small")
    ids = IDS % 150
    model = start(tmp_path, folder, method="qlora", lora_dropout=0.0)
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    losses = []
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.05)
    for _ in range(4):
        loss = model.train()(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    with pytest.raises(QuantizationError, match="cannot be merged into weights in few bits"):
        model.merge_and_unload()
    for changes, message in (
        ({}, "is quantised, and weights in few bits cannot be trained: give --method lora"),
        ({"method": "lora", "quantize": "int8"}, "is quantised already"),
        ({"method": "lora", "use_dora": True}, "--use-dora needs weights that it can measure"),
    ):
        with pytest.raises(SettingsError, match=message):
            start(tmp_path, folder, **changes)  # type: ignore[arg-type]
