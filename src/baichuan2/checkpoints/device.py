"""Where the weights of a model go: on one device, or spread over all that there are."""

import torch

from baichuan2.devices import device_memory, pick_device

__all__ = ["placement"]

# room that prompts, caches and the framework itself need beside the weights
SHARE_FOR_WEIGHTS = 0.85


def placement(name: str, num_bytes: int) -> str | dict[str, torch.device] | None:
    """`device_map` for `num_bytes` of weights on the device called `name`; None: plain processor memory.

    With "auto" a model that does not fit on one accelerator is spread over all that there are.
    """
    device = pick_device(name)
    if device.type == "cpu":
        return None
    if name == "auto" and torch.accelerator.device_count() > 1 and num_bytes > _free_bytes(device) * SHARE_FOR_WEIGHTS:
        return "auto"
    return {"": device}


def _free_bytes(device: torch.device) -> float:
    """Free memory of an accelerator; infinite where its backend cannot tell."""
    memory = device_memory(device)
    return float("inf") if memory is None else float(memory[0])
