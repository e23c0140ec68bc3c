"""Devices: the only module that knows an accelerator by name, or asks one what the others do not have.

Everything else takes names from here or from the user, and asks for abilities, not for makers. `cuda` is torch's word
for NVIDIA's GPUs and, in its builds for ROCm, for AMD's; Ascend's `npu` comes with the package torch-npu.
"""

import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from baichuan2.errors import SettingsError

__all__ = [
    "GPU",
    "Recorder",
    "available_devices",
    "current_stream",
    "describe",
    "device_memory",
    "has_bfloat16",
    "has_fused_adamw",
    "has_tf32",
    "make_present",
    "on_device",
    "own_accelerator",
    "peak_memory",
    "pick_device",
    "plans_attention_by_length",
    "random_state_kept",
    "reset_peak_memory",
    "supports_graphs",
    "synchronize",
    "title",
    "wide_dtype",
]

GPU = "cuda"
PROCESSOR = "cpu"

NEEDS = {
    GPU: "a GPU of NVIDIA or AMD with its driver, and torch's build for it",
    "npu": "an Ascend NPU with its driver and CANN, and the package torch-npu of torch's version",
    "xpu": "a GPU of Intel with its driver, and torch's build for it",
    "mps": "a Mac with Apple silicon",
}
"""What has to be there for a kind of accelerator."""


def available_devices() -> list[str]:
    """Names that `pick_device` accepts here, the preferred one first: accelerators such as `npu:0`, then `cpu`."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return [PROCESSOR]
    return [f"{accelerator.type}:{index}" for index in range(torch.accelerator.device_count())] + [PROCESSOR]


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
        full_name = device.type if device.type == PROCESSOR else f"{device.type}:{device.index or 0}"
        if full_name in available:
            return torch.device(full_name)
    kind = name.partition(":")[0].lower()
    is_absent = kind in NEEDS and not any(other.startswith(kind) for other in available)
    needs = f"; {kind} needs {NEEDS[kind]}" if is_absent else ""
    raise SettingsError(
        f"--device {name.strip() or repr(name)}: no such device on this machine; "
        f"there is {', '.join(available)} (or auto){needs}"
    )


def own_accelerator(kind: str, number: int) -> str | None:
    """The accelerator of the process `number` among those that share a machine's; None where there are none of `kind`.

    `kind`: "auto" for whichever there is. More processes than accelerators share them in turn.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None or (kind != "auto" and accelerator.type != kind):
        return None
    return f"{accelerator.type}:{number % torch.accelerator.device_count()}"


def make_present(name: str) -> None:
    """Makes the accelerator called `name` the present one of its kind, for operations of a backend that look at that.

    GPUs are left alone: graphs and Triton, which look at it, change it where they need to.
    """
    device = torch.device(name)
    if device.type not in (PROCESSOR, GPU):
        torch.accelerator.set_device_index(device)


def title(name: str) -> str:
    """The maker's name of the accelerator `name`, such as `npu:0`, where its backend tells one; else its kind."""
    device = torch.device(name)
    get_name = getattr(_backend(device), "get_device_name", None)
    return str(get_name(device.index or 0)) if get_name is not None else device.type


def describe(kind: str) -> dict[str, str]:
    """What a kind of accelerator is, how this package computes on it, and whether that was ever tried.

    Keys `kind`, `decode`, `state`; for `baichuan2 info`.
    """
    recorded = "decode steps recorded as graphs, with Triton where it is installed"
    plain = "torch's own operations, one by one"
    if kind == GPU and torch.version.hip is not None:
        return {"kind": f"AMD GPU, ROCm {torch.version.hip}", "decode": recorded, "state": "not tried on hardware"}
    if kind == GPU:
        return {"kind": f"NVIDIA GPU, CUDA {torch.version.cuda}", "decode": recorded, "state": "tried on H100 and H200"}
    kinds = {"npu": f"Ascend NPU{_version_of('torch-npu')}", "xpu": "Intel GPU", "mps": "Apple GPU"}
    state = "simulated in tests, not tried on hardware" if kind == "npu" else "not tried on hardware"
    return {"kind": kinds.get(kind, kind), "decode": plain, "state": state}


def _version_of(package: str) -> str:
    """Which version of a package that belongs to torch is installed, to be put behind a device's name."""
    try:
        return f", {package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


# Memory and time


def device_memory(device: torch.device) -> tuple[int, int] | None:
    """Free and total bytes of an accelerator; None where its backend cannot tell.

    Free includes what this process has freed but still holds in reserve.
    """
    backend = _backend(device)
    get_memory = getattr(backend, "mem_get_info", None)
    if get_memory is None:
        return _shared_memory(backend)
    try:
        free, total = get_memory(device)
    except RuntimeError:
        if device.type == GPU:
            raise
        return None  # Intel's says so of devices whose driver does not count
    reserved, used = getattr(backend, "memory_reserved", None), getattr(backend, "memory_allocated", None)
    in_reserve = reserved(device) - used(device) if reserved is not None and used is not None else 0
    return int(free + in_reserve), int(total)


def _shared_memory(backend: Any) -> tuple[int, int] | None:
    """`device_memory` of Apple's, which is a part of main memory: what Metal recommends to take at most."""
    most, used = getattr(backend, "recommended_max_memory", None), getattr(backend, "current_allocated_memory", None)
    if most is None or used is None:
        return None
    total = int(most())
    return max(0, total - int(used())), total


def synchronize(device: torch.device) -> None:
    """Waits until everything given to an accelerator is done; nothing to wait for on the processor."""
    wait = getattr(_backend(device), "synchronize", None)
    if device.type != PROCESSOR and wait is not None:
        wait()


def peak_memory(device: torch.device) -> int | None:
    """Bytes that tensors took on an accelerator at the highest point; None where its backend does not count."""
    highest = getattr(_backend(device), "max_memory_allocated", None)
    return None if highest is None else int(highest())


def reset_peak_memory(device: torch.device) -> None:
    """Makes the present memory the peak, where the accelerator's backend can."""
    reset = getattr(_backend(device), "reset_peak_memory_stats", None)
    if reset is not None:
        reset()


# What some can and others cannot


def wide_dtype(device: torch.device) -> torch.dtype:
    """What long sums are kept in: float64 where the device has it and its processes can share it, else float32.

    Apple's GPUs have none, some of Intel's neither, and Ascend's collectives do not add it.
    """
    return torch.float64 if device.type in (PROCESSOR, "meta", GPU) else torch.float32


def has_tf32(kind: str) -> bool:
    """Whether `--tf32` may mean something on this kind of accelerator: it is a number format of NVIDIA's."""
    return kind == GPU and torch.version.cuda is not None


def has_bfloat16(device: torch.device) -> bool:
    """Whether an accelerator computes in bfloat16; yes where its backend does not say."""
    ask = getattr(_backend(device), "is_bf16_supported", None)
    return True if ask is None else bool(ask())


def has_fused_adamw(kind: str) -> bool:
    """Whether torch's fused AdamW runs there: torch believes so of every backend that comes as a package."""
    if torch.device(kind).type != torch._C._get_privateuse1_backend_name():
        return True
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_adamw_", "PrivateUse1"))


def plans_attention_by_length(device: torch.device) -> bool:
    """Whether torch may choose cuDNN's attention, which plans anew for every length."""
    return device.type == GPU


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """Random numbers drawn inside, on the processor or on `device`, are drawn again afterwards."""
    if device.type in (PROCESSOR, "meta"):
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a GPU the present one, for Triton and graphs, which look at nothing else."""
    return torch.cuda.device(device) if device.type == GPU else nullcontext()


# Graphs: a step's kernels, recorded once and started together


def supports_graphs(device: torch.device) -> bool:
    """Whether steps can be recorded there. NPUs have graphs too, of another interface, which nobody here has tried."""
    return device.type == GPU


def current_stream(device: torch.device) -> Any:
    """The stream of the present GPU on which work is given to it; None on devices without graphs."""
    return torch.cuda.current_stream() if device.type == GPU else None


@dataclass
class Recorder:
    """Records graphs on one GPU, the present one: on a stream beside the present, in memory that they share."""

    stream: Any = None
    pool: Any = None

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """What plays `compute` again; it was done once before that, and reads and writes the same memory each time."""
        present = torch.cuda.current_stream()
        if self.stream is None:
            self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        self.stream.wait_stream(present)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self.stream):
                compute()  # compiles and chooses kernels; the graph writes the same to the same places
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                compute()
        finally:
            torch.cuda.set_stream(present)  # a recording that fails leaves its own behind
        present.wait_stream(self.stream)
        return graph.replay

    def forget(self) -> None:
        """Lets go of the memory, when no graph is wanted any more."""
        self.pool = None


def _backend(device: torch.device) -> Any:
    """The module of torch that speaks to this kind of device; None where there is none."""
    return getattr(torch, device.type, None)
