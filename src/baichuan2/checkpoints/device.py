"""Where a model runs: the only place that knows the names of devices."""

import torch

from baichuan2.errors import SettingsError

__all__ = ["available_devices", "device_memory", "pick_device", "placement"]

# room that prompts, caches and the framework itself need beside the weights
SHARE_FOR_WEIGHTS = 0.85


def available_devices() -> list[str]:
    """Names that `pick_device` accepts here, the preferred one first: accelerators such as `cuda:0`, then `cpu`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return ["cpu"]
    return [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())] + ["cpu"]


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto": the first accelerator, else the processor.

    Raises:
        SettingsError: there is no such device on this machine; the message lists those that exist.
    """
    available = available_devices()
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        device = None
    if device is not None:
        full_name = device.type if device.type == "cpu" else f"{device.type}:{device.index or 0}"
        if full_name in available:
            return torch.device(full_name)
    raise SettingsError(f"--device {name}: no such device on this machine; there is {', '.join(available)} (or auto)")


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


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of an accelerator; None where its backend cannot tell.

    Free includes what this process has freed but still holds in reserve.
    """
    backend = getattr(torch, device.type, None)
    get_memory = getattr(backend, "mem_get_info", None)
    if get_memory is None:
        return None
    free, total = get_memory(device)
    reserved, used = getattr(backend, "memory_reserved", None), getattr(backend, "memory_allocated", None)
    in_reserve = reserved(device) - used(device) if reserved is not None and used is not None else 0
    return int(free + in_reserve), int(total)


def _free_bytes(device: torch.device) -> float:
    """Free memory of an accelerator; infinite where its backend cannot tell."""
    memory = device_memory(device)
    return float("inf") if memory is None else float(memory[0])
