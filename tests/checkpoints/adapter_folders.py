"""Adapters on disk for tests: as peft writes them, with random numbers that change replies."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model

from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

LINEARS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(folder: Path, base: Path, *, seed: int = 1, **changes: Any) -> Path:
    """An adapter on the model of `base`, none of whose parts is zero; `changes` are fields of its LoraConfig."""
    model = BaichuanForCausalLM.from_pretrained(base, dtype=torch.float32)
    fields = {"task_type": TaskType.CAUSAL_LM, "r": 3, "lora_alpha": 6, "target_modules": list(LINEARS)} | changes
    adapted = get_peft_model(model, LoraConfig(**fields))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_magnitude" in name:
                weight.mul_(1 + 0.2 * torch.rand(weight.shape, generator=generator))
            elif "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * (0.5 if "lora_A" in name else 0.1))
            elif "modules_to_save" in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder
