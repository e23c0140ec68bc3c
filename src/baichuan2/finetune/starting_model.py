"""The model that training starts from: its weights, its adapters, its numbers.

| method | weights under it | numbers |
|---|---|---|
| full | unquantised | float32, as with the official script; `--bf16` computes in bfloat16 beside them |
| lora | unquantised, or a quantised folder | those of `--bf16` or `--fp16`, else float32; adapters in float32 |
| qlora, `--quantize` | NF4 with compressed statistics, or 8 bits, by bitsandbytes | likewise |

What is frozen loses nothing in 16 bits, in which checkpoints store it, and takes half of the memory there.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from baichuan2.checkpoints.load import read_config
from baichuan2.errors import SettingsError
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.model.quantized_folders import FolderKind, check_quantization
from baichuan2.optional import require
from baichuan2.quantization.bnb_library import bitsandbytes_library
from baichuan2.quantization.freed_memory import is_mapped_from_file
from baichuan2.quantization.linear import QuantizedLinear
from baichuan2.settings import FinetuneSettings

__all__ = ["adapter_config", "base_dtype", "starting_model"]

OFFICIAL_RANK = 1
RANK = 16
ALPHA = 32.0
DROPOUT = 0.1
HUB_REVISION = re.compile(r"models--[^/]+/snapshots/")


def starting_model(folder: Path, settings: FinetuneSettings, arguments: FinetuneArguments) -> Any:
    """The model of `folder` ready to train: float32 weights for full training, as the official script has them.

    With adapters a `peft` model around it, whose own weights stay as they are; the inputs have gradients, which
    gradient checkpointing needs.

    Raises:
        SettingsError: the folder's weights cannot be trained as asked.
        CheckpointError: they cannot be read.
        MissingExtraError: peft or bitsandbytes is needed and not installed.
    """
    kind = _checked_kind(folder, settings)
    options: dict[str, Any] = {"dtype": base_dtype(settings, arguments), "local_files_only": True}
    if settings.has_adapters:
        require("peft", extra="train")
        if kind == "none" and settings.base_quantization != "none":
            bitsandbytes_library()
            options["quantization_config"] = _library_config(settings, options["dtype"])
            options["device_map"] = {"": arguments.device}  # the library quantises where the weights will stay
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

    model = BaichuanForCausalLM.from_pretrained(folder, **options)
    if "quantization_config" in options:
        _leave_files(model)
    if settings.z_loss_weight is not None:
        model.config.z_loss_weight = settings.z_loss_weight
    return _with_adapters(model, folder, settings) if settings.has_adapters else model


def _leave_files(model: Any) -> None:
    """Takes what is still mapped from weight files into memory of its own.

    A file stays mapped, with all its pages that were read, until the last tensor of it is gone: beside the layers in 4
    bits the process would hold their weights with all bits.
    """
    for parameter in model.parameters():
        if is_mapped_from_file(parameter):
            parameter.data = parameter.data.clone()


def base_dtype(settings: FinetuneSettings, arguments: FinetuneArguments) -> torch.dtype:
    """The number format of the weights that are not in few bits, as they are loaded."""
    if settings.has_adapters and arguments.bf16:
        return torch.bfloat16
    if settings.has_adapters and arguments.fp16:
        return torch.float16
    return torch.float32


def adapter_config(settings: FinetuneSettings) -> Any:
    """What `settings` ask of adapters, as a `peft.LoraConfig`; with `use_lora` alone, what the official script does."""
    from peft import LoraConfig, TaskType

    rank, alpha, dropout = settings.lora_rank, settings.lora_alpha, settings.lora_dropout
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=list(settings.adapter_targets),
        inference_mode=False,
        r=rank if rank is not None else OFFICIAL_RANK if settings.use_lora else RANK,
        lora_alpha=alpha if alpha is not None else ALPHA,  # any number works there
        lora_dropout=dropout if dropout is not None else DROPOUT,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
    )


def _checked_kind(folder: Path, settings: FinetuneSettings) -> FolderKind:
    """How the folder's weights are stored; SettingsError where they cannot be trained as asked."""
    kind = check_quantization(folder / "config.json", getattr(read_config(folder), "quantization_config", None))
    if kind == "none":
        return kind
    if not settings.has_adapters:
        raise SettingsError(
            f"{folder} is quantised, and weights in few bits cannot be trained: give --method lora, which puts "
            "adapters on them, or the model with all its bits"
        )
    if settings.quantize != "none":
        raise SettingsError(f"--quantize {settings.quantize}: {folder} is quantised already: leave the flag out")
    if settings.use_dora and kind != "bitsandbytes":
        raise SettingsError(
            f"--use-dora needs weights that it can measure, and {folder} is quantised: leave it out, or give the model "
            "with all its bits, with --method qlora if it must be small"
        )
    return kind


def _library_config(settings: FinetuneSettings, dtype: torch.dtype) -> BitsAndBytesConfig:
    if settings.base_quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,  # as in the official 4bits folders
        bnb_4bit_compute_dtype=dtype,
    )


def _with_adapters(model: Any, folder: Path, settings: FinetuneSettings) -> Any:
    """`model` inside of a peft model; its adapter remembers where the model came from."""
    from peft import get_peft_model

    config = adapter_config(settings)
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        from baichuan2.finetune.quantized_lora import QuantizedLora

        config._register_custom_module({QuantizedLinear: QuantizedLora})
    model.enable_input_require_grads()
    model.name_or_path = model.config.name_or_path = _base_name(folder, settings)
    return get_peft_model(model, config)


def _base_name(folder: Path, settings: FinetuneSettings) -> str:
    """What an adapter calls its base: the hub id where it is that model's latest version, else the folder."""
    name = settings.model_name_or_path or ""
    is_latest = settings.revision is None and HUB_REVISION.search(folder.as_posix()) is not None
    return name if is_latest and not Path(name).is_dir() else str(folder.resolve())
