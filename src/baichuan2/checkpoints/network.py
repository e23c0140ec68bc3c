"""The network alone with its weights mapped from their files: what the framework's loader does, in a tenth of the time,
for the folders that need nothing else of it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import WeightFiles, check_layout, check_stored_dtypes
from baichuan2.errors import BaichuanError, CheckpointError
from baichuan2.model.block import UNUSED_NAMES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.plain import PlainBaichuan, is_plain_config, without_memory
from baichuan2.model.quantized_folders import FolderKind, read_official
from baichuan2.model.quantized_layers import place_layers
from baichuan2.quantization.scheme import QuantizationSpec

__all__ = ["check_weights", "empty_model", "read_network"]

Model = TypeVar("Model", bound=nn.Module)
# what the framework's loader looks for beside the weights, and puts on top of them or in their place
ADAPTER = "adapter_config.json"
OTHER_WEIGHTS = "transformers_weights"


def read_network(files: WeightFiles, config: BaichuanConfig, kind: FolderKind) -> PlainBaichuan | None:
    """The network of a folder; None where the framework's loader is needed.

    That is where weights are in bitsandbytes' layout, are no safetensors but for the official 4bits, or are stored in
    another number format than the model computes with; and where the folder or its config.json asks for anything beyond
    the network.

    Raises:
        CheckpointError: as `check_weights` and `read_official`, a tensor is missing, or the configuration describes no
            model that can be built.
    """
    if not is_plain_config(config) or not isinstance(config.dtype, torch.dtype):
        return None
    if getattr(config, OTHER_WEIGHTS, None) is not None or (files.folder / ADAPTER).exists():
        return None
    weights: Mapping[str, torch.Tensor]
    if kind == "official-4bits":
        config, weights = read_official(files.folder, config)
        model = empty_model(files.folder / "config.json", config, PlainBaichuan, config.dtype)
    elif kind in ("none", "own") and all(path.suffix == ".safetensors" for path in files.paths):
        model = empty_model(files.folder / "config.json", config, PlainBaichuan, config.dtype)
        check_weights(files, model.state_dict(), UNUSED_NAMES, kind)
        weights = MappedTensors(files)
    else:
        return None
    expected = model.state_dict()
    if missing := sorted(expected.keys() - weights.keys()):
        raise CheckpointError(
            f"{files.folder}: {len(missing)} tensors are missing, the first is {missing[0]}: the folder is incomplete, "
            "download it again"
        )
    found = {name: weights[name] for name in expected}
    if any((found[name].dtype, found[name].shape) != (empty.dtype, empty.shape) for name, empty in expected.items()):
        return None
    model.load_state_dict(found, assign=True)
    return model.requires_grad_(False).eval()


def check_weights(
    files: WeightFiles, expected: dict[str, torch.Tensor], ignored: tuple[str, ...], kind: FolderKind
) -> None:
    """Checks that the files hold the tensors of `expected`, whose codes and scales are in just that number format.

    Raises:
        CheckpointError: as `check_layout` and `check_stored_dtypes`.
    """
    is_own = kind == "own"
    coded = {name: tensor.dtype for name, tensor in expected.items() if is_own and ".weight_" in name}
    check_layout(files, {name: tensor.shape for name, tensor in expected.items()}, ignored, coded)
    if coded:
        check_stored_dtypes(files, coded)


def empty_model(
    path: Path, config: BaichuanConfig, make: Callable[[BaichuanConfig], Model], dtype: torch.dtype | None = None
) -> Model:
    """make(config) with quantised layers where the configuration asks for them, without memory; weights in `dtype`.

    Raises:
        CheckpointError: the configuration, read from `path`, describes no model that can be built.
    """
    try:
        with without_memory():
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
