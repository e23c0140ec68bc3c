"""The network alone with its weights mapped from safetensors files: what the framework's loader does, in a tenth of the
time, for the folders that need nothing else of it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import WeightFiles, check_layout, check_stored_dtypes
from baichuan2.errors import BaichuanError, CheckpointError
from baichuan2.model.block import UNUSED_NAMES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.plain import PlainBaichuan, is_plain_config
from baichuan2.model.quantized_folders import FolderKind
from baichuan2.model.quantized_layers import place_layers
from baichuan2.quantization.scheme import QuantizationSpec

__all__ = ["check_weights", "empty_model", "read_network"]

Model = TypeVar("Model", bound=nn.Module)
# what the framework's loader looks for beside the weights, and puts on top of them or in their place
ADAPTER = "adapter_config.json"
OTHER_WEIGHTS = "transformers_weights"


def read_network(files: WeightFiles, config: BaichuanConfig, kind: FolderKind) -> PlainBaichuan | None:
    """The network of a folder; None where the framework's loader is needed.

    That is where weights are quantised otherwise than here, are no safetensors, or are stored in another number format
    than the model computes with; and where the folder or its config.json asks for anything beyond the network.

    Raises:
        CheckpointError: as `check_weights`, or the configuration describes no model that can be built.
    """
    if kind not in ("none", "own") or not is_plain_config(config) or not isinstance(config.dtype, torch.dtype):
        return None
    if getattr(config, OTHER_WEIGHTS, None) is not None or (files.folder / ADAPTER).exists():
        return None
    if any(path.suffix != ".safetensors" for path in files.paths):
        return None
    model = empty_model(files.folder / "config.json", config, PlainBaichuan, config.dtype)
    expected = model.state_dict()
    check_weights(files, expected, UNUSED_NAMES, kind)
    stored = MappedTensors(files)
    weights = {name: stored[name] for name in expected}
    if any(weights[name].dtype != empty.dtype for name, empty in expected.items()):
        return None
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def check_weights(
    files: WeightFiles, expected: dict[str, torch.Tensor], ignored: tuple[str, ...], kind: FolderKind
) -> None:
    """Checks that the files hold the tensors of `expected`, whose codes and scales are in just that number format.

    Raises:
        CheckpointError: as `check_layout` and `check_stored_dtypes`.
    """
    check_layout(files, {name: tensor.shape for name, tensor in expected.items()}, ignored)
    if kind == "own":
        stored = {name: tensor.dtype for name, tensor in expected.items() if ".weight_" in name}
        check_stored_dtypes(files, stored)


class _WithoutValues(TorchFunctionMode):
    """New modules get no values: there is no memory for them, and random ones on the meta device import a compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def empty_model(
    path: Path, config: BaichuanConfig, make: Callable[[BaichuanConfig], Model], dtype: torch.dtype | None = None
) -> Model:
    """make(config) with quantised layers where the configuration asks for them, without memory; weights in `dtype`.

    Raises:
        CheckpointError: the configuration, read from `path`, describes no model that can be built.
    """
    try:
        with torch.device("meta"), _WithoutValues():
            model = make(config)
            if dtype is not None:
                model.to(dtype)
            quantization = getattr(config, "quantization_config", None)
            if quantization is not None:
                place_layers(model, QuantizationSpec.from_dict(path, quantization))
    except BaichuanError:
        raise
    except Exception as error:  # a value that passed as a field, but that no layer can be built with
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} describes no model that can be built: {reason}") from error
    return model
