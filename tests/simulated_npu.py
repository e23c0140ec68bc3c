"""A device called `npu` that computes: each of its tensors wraps one of the processor's. For a process of its own.

Importing this makes torch believe in two such devices. An operation on tensors of two devices fails, as on hardware,
and so does one that the processor alone has, ours in C among them; float64 is missing, as it is on some accelerators.
What runs here names no device, and mixes none up; speed, rounding and what real operations lack are not simulated.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration

NPU = torch.device("cpu")  # until there is one
MAY_MIX = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class OnNpu(Tensor):
    """A tensor of the device, whose numbers stand in `own`."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor) -> "OnNpu":
        kind = {"dtype": own.dtype, "strides": own.stride(), "storage_offset": own.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, own.size(), device=NPU, **kind)

    def __init__(self, own: Tensor) -> None:
        if own.dtype == torch.float64:
            raise TypeError("the device has no float64")
        self.own = own

    def tolist(self) -> Any:
        return self.own.tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        return OnNpu(self.own.new_tensor(data, **options))

    def data_ptr(self) -> int:
        return self.own.data_ptr() | 1 << 62  # no address of this process, and the same for the same memory

    def untyped_storage(self) -> Any:
        return self.own.untyped_storage()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.own.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, *args, **(kwargs or {}))


def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operation of torch gives, on the device where its operands lie or it was asked for."""
    schema, operands = func._schema, []

    def own(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(own, value))
        if isinstance(value, Tensor):
            operands.append(value)
        return value.own if isinstance(value, OnNpu) else value

    bare_args, bare_kwargs = own(args), {name: own(value) for name, value in kwargs.items()}
    is_here = any(isinstance(value, OnNpu) for value in operands)
    if is_here and (schema.name.startswith("baichuan2::") or schema.name.endswith("_for_cpu")):
        raise NotImplementedError(f"{schema.name}: the device has no such operation, the processor alone has it")
    if is_here and schema.name not in MAY_MIX and any(type(value) is not OnNpu and value.dim() for value in operands):
        raise RuntimeError(f"{schema.name}: expected all tensors on one device, found npu and cpu")
    goes_there = True
    if kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]).type == "npu"
        bare_kwargs["device"] = torch.device("cpu")
    result = func(*bare_args, **bare_kwargs)
    if schema.is_mutable:
        given = [*zip(schema.arguments, args, strict=False)]
        given += [(argument, kwargs[argument.name]) for argument in schema.arguments if argument.name in kwargs]
        written = [value for argument, value in given if argument.alias_info and argument.alias_info.is_write]
        return written[0] if len(written) == 1 else tuple(written)
    if not goes_there:
        return result
    if isinstance(result, list | tuple):
        return type(result)(OnNpu(value) if isinstance(value, Tensor) else value for value in result)
    return OnNpu(result) if isinstance(result, Tensor) else result


def backend() -> ModuleType:
    """What torch-npu's module has to say."""
    module = ModuleType("torch.npu")
    answers = {
        "is_available": True,
        "is_initialized": True,
        "_is_in_bad_fork": False,
        "device_count": 2,
        "current_device": 0,
        "get_device_name": "Ascend910B4",
        "is_bf16_supported": True,
        "get_amp_supported_dtype": [torch.bfloat16, torch.float16],
        "mem_get_info": (60 * 10**9, 64 * 10**9),
        "max_memory_allocated": 10**9,
        "get_rng_state": torch.zeros(1, dtype=torch.uint8),
        **dict.fromkeys(
            ("manual_seed_all", "synchronize", "reset_peak_memory_stats", "empty_cache", "set_rng_state", "set_device")
        ),
    }
    for name, answer in answers.items():
        setattr(module, name, lambda *_, answer=answer, **__: answer)
    module.Event = module.Stream = object  # type: ignore[attr-defined]
    module.random = module  # type: ignore[attr-defined]
    return module


def install_package() -> None:
    """Lets training libraries find torch-npu, by which they know of NPUs; its own operations are missing."""

    class Package(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_, **__: pytest.fail(f"torch_npu.{name} was called")

    package = Package("torch_npu")
    package.__spec__ = ModuleSpec("torch_npu", None)
    sys.modules["torch_npu"] = package


backend_registration._setup_privateuseone_for_python_backend("npu", backend_module=backend())
NPU = torch.device("npu", 0)
library = torch.library.Library("_", "IMPL")
library.fallback(compute, "PrivateUse1")

# what wrapped tensors cannot do, and those of a backend in C++ can
torch.__future__.set_overwrite_module_params_on_conversion(True)
with torch.device("cpu"):
    torch.zeros(1)  # what such a block is about is looked up once: before functions are exchanged
made_on_processor: Callable[..., Tensor] = torch.tensor


def made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    if device is None or torch.device(device).type != "npu":
        return made_on_processor(data, device=device, **options)
    return made_on_processor(data, device="cpu", **options).to(device)


def without_gradients(mode: bool = True) -> AbstractContextManager[None]:
    assert mode
    return torch.no_grad()


class GeneratorOnProcessor(torch._C.Generator):
    """A generator for any device."""

    def __new__(cls, device: Any = None) -> "GeneratorOnProcessor":
        return super().__new__(cls, device="cpu")


moved: Callable[..., torch.nn.Module] = torch.nn.Module.to


def moved_unless_there(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """A module that lies on the device keeps its parameters, which an optimizer may know."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    tensors = [*module.parameters(), *module.buffers()]
    is_there = device is not None and dtype is None and all(tensor.device.type == device.type for tensor in tensors)
    return module if is_there else moved(module, *args, **kwargs)


torch.nn.Module.to = moved_unless_there  # type: ignore[assignment]
torch.Generator = GeneratorOnProcessor  # type: ignore[misc]
torch.tensor = made  # type: ignore[assignment]
torch.inference_mode = without_gradients  # type: ignore[misc,assignment]
