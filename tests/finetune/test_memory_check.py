"""The memory of a run is told before it starts, with the settings of that run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan2 import MemoryShortageError
from baichuan2.checkpoints.memory import Place
from baichuan2.checkpoints.plan import RELEASED_SHAPES
from baichuan2.checkpoints.training_plan import TrainingSetup, estimate_training
from baichuan2.finetune import memory_check
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.finetune.memory_check import check_memory, training_setup, warn_of_main_memory
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.training_cost import Adapters
from baichuan2.settings import FinetuneSettings
from tests.tiny import tiny_config

ALL = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
MB = 10**6


def arguments(folder: Path, **changes: Any) -> FinetuneArguments:
    return FinetuneArguments(output_dir=str(folder), use_cpu=True, report_to="none", **changes)


def machine(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    monkeypatch.setattr(memory_check, "main_memory", lambda: Place("cpu", "main", free, free))


def test_settings_become_a_setup(tmp_path: Path) -> None:
    config = tiny_config("7b")
    given = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=2, optim="adamw_torch")
    setup = training_setup(config, FinetuneSettings(model_max_length=128), given, longest=70)
    assert (setup.method, setup.batch, setup.context, setup.rows_each) == ("full", 3, 70, 1)
    assert (setup.keeps_gradients, setup.gradient_checkpointing, setup.bf16) == (True, False, False)
    assert (setup.optim, setup.zero, setup.devices, setup.offload) == ("adamw_torch", 0, 1, "none")
    assert (setup.adapters, setup.base_format, setup.on_processor, setup.has_mask) == (None, "none", True, True)


def test_adapters_packing_and_pairs_reach_the_setup(tmp_path: Path) -> None:
    config, given = tiny_config("7b"), arguments(tmp_path, per_device_train_batch_size=1, gradient_checkpointing=True)

    def setup(**settings: Any) -> Any:
        return training_setup(config, FinetuneSettings(model_max_length=128, **settings), given, longest=500)

    assert setup(use_lora=True).adapters == Adapters(rank=1, targets=("W_pack",))
    assert setup(method="lora", lora_rank=8, lora_dropout=0.0).adapters == Adapters(
        rank=8, targets=ALL, has_dropout=False
    )
    qlora = setup(method="qlora", use_dora=True)
    assert (qlora.method, qlora.base_format, qlora.gradient_checkpointing) == ("qlora", "nf4", True)
    assert qlora.adapters == Adapters(rank=16, targets=ALL, is_dora=True)
    assert (setup().context, setup().has_mask) == (128, False)  # one row is never padded
    assert (setup(objective="dpo").rows_each, setup(objective="dpo").has_mask) == (2, True)
    short = training_setup(config, FinetuneSettings(model_max_length=128, packing=True), given, longest=5)
    assert (short.context, short.has_mask) == (128, False)


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "nf4"),
        ({"load_in_8bit": True}, "int8"),
        ({"quant_method": "baichuan2", "format": "int4"}, "int4"),
    ],
)
def test_quantised_folders_keep_their_bits(tmp_path: Path, quantization: dict[str, Any], expected: str) -> None:
    config = tiny_config("7b")
    config.quantization_config = quantization
    setup = training_setup(config, FinetuneSettings(method="lora"), arguments(tmp_path), longest=64)
    assert setup.base_format == expected


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, 4), (torch.bfloat16, 2), (None, 2)])
def test_the_numbers_of_the_files_reach_the_setup(tmp_path: Path, dtype: Any, expected: int) -> None:
    config = tiny_config("7b")
    config.dtype = dtype
    assert training_setup(config, FinetuneSettings(), arguments(tmp_path), longest=64).stored_bytes == expected


@pytest.mark.parametrize(("processes", "free", "warns"), [("1", 31, False), ("8", 31, True), ("8", 300, False)])
def test_main_memory_that_reading_needs_is_told(
    monkeypatch: pytest.MonkeyPatch, processes: str, free: int, warns: bool
) -> None:
    """Full training of the 7B reads 30 GB of float32 weights in each process before its GPU gets them."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    needed = estimate_training(BaichuanConfig(**RELEASED_SHAPES["7b"]), TrainingSetup())
    main = Place("cpu", "main", free * 1000 * MB, free * 1000 * MB)
    if not warns:
        warn_of_main_memory(needed, main)  # warnings are errors here
        return
    with pytest.warns(UserWarning, match=r"^8 processes take about 240\.2 GB of main memory.*31\.0 GB are free"):
        warn_of_main_memory(needed, main)


def test_the_line_tells_need_and_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 20_000 * MB)
    config, settings, given = tiny_config("7b"), FinetuneSettings(), arguments(tmp_path)
    line = check_memory(config, "tiny", settings, given, longest=64)
    assert line.startswith("memory: about ")
    assert "MB on cpu, 20.0 GB free (weights 2 MB, optimizer 3 MB, gradients 2 MB, activations " in line
    machine(monkeypatch, None)
    assert "on cpu, free memory unknown (" in check_memory(config, "tiny", settings, given, longest=64)
    machine(monkeypatch, 20_000 * MB)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert "on cpu for each of 4 processes, 5.0 GB free (" in check_memory(config, "tiny", settings, given, longest=64)


def test_what_cannot_fit_is_refused_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, given = tiny_config("7b"), arguments(tmp_path)
    machine(monkeypatch, 3 * MB)
    with pytest.raises(
        MemoryShortageError, match=r"^training tiny takes .* on cpu, where .* are free.*--no-check-memory"
    ):
        check_memory(config, "tiny", FinetuneSettings(), given, longest=64)
    with pytest.warns(UserWarning, match="it may run out of memory"):
        check_memory(config, "tiny", FinetuneSettings(check_memory=False), given, longest=64)


def test_a_finetune_command_that_cannot_fit_reads_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from baichuan2.cli.main import main

    machine(monkeypatch, 3 * MB)
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("baichuan2.finetune.train.starting_model", lambda *_: pytest.fail("the model was read"))
    data = tmp_path / "data.json"
    data.write_text('[{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]')
    words = ["finetune", "--data-path", str(data), "--output-dir", str(tmp_path / "out"), "--use-cpu", "True"]
    assert main([*words, "--report-to", "none", "--language", "en"]) == 2
    error = capsys.readouterr().err
    assert "error: training demo-base takes" in error
    assert "at the fullest moment" in error
