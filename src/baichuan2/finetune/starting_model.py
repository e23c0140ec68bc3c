"""The model that training starts from: its weights, its adapters, its numbers."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.settings import FinetuneSettings


def starting_model(folder: Path, settings: FinetuneSettings, arguments: FinetuneArguments) -> Any:
    """The model of `folder` ready to train: float32 weights for full training, as the official script has them.

    With adapters a `peft` model around it, whose own weights stay as they are.
    """
    del arguments
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

    model: PreTrainedModel = BaichuanForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    if settings.z_loss_weight is not None:
        model.config.z_loss_weight = settings.z_loss_weight
    if not settings.has_adapters:
        return model
    from peft import LoraConfig, TaskType, get_peft_model

    model.enable_input_require_grads()
    adapter = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=["W_pack"],
        inference_mode=False,
        r=1,
        lora_alpha=32,
        lora_dropout=0.1,
    )
    return get_peft_model(model, adapter)
