"""Folders with quantised weights: which ones are read, and by whom.

| `quantization_config` | weights | read by |
|---|---|---|
| quant_method "baichuan2" | our own format | the framework, with `quantizer.py` |
| quant_method "bitsandbytes" | the library's 8 or 4 bits | the framework with the library |
| the same, without the library | 4 bits as NF4 | here |
| no quant_method, `load_in_4bit` | the official 4bits folders: a pickle with lists in it | here |

"Here" means: the file becomes a state dict for the layers of `quantizer.py`, whose tensors stay mapped from the file.
"""

import copy
import importlib.util
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import cached_file, logging
from transformers.utils.hub import get_checkpoint_shard_files

from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.quantizer import quantizable_shapes
from baichuan2.quantization.bnb_layout import STATE, read_nf4
from baichuan2.quantization.bnb_library import bitsandbytes_library
from baichuan2.quantization.linear import nf4_buffers
from baichuan2.quantization.nf4 import NF4Tensor
from baichuan2.quantization.official_4bits import CODES_SUFFIX, STATE_SUFFIX, read_quant_state
from baichuan2.quantization.ragged_rows import has_ragged_rows
from baichuan2.quantization.scheme import METHOD, QuantizationSpec

logger = logging.get_logger(__name__)

__all__ = ["Kind", "check_quantization", "load_folder"]

Kind = Literal["none", "own", "bitsandbytes", "official-4bits"]

NF4_STATE = STATE + "nf4"
OFFICIAL_FILE = "pytorch_model.bin"
SAFETENSORS_NAMES = ("model.safetensors", "model.safetensors.index.json")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def kind_of_quantization(source: object, quantization: Any) -> Kind:
    """Who wrote weights with this `quantization_config` (None: not quantised); `source` names it in messages.

    Raises:
        CheckpointError: nobody whose weights are read here, or the field is damaged.
    """
    if quantization is None:
        return "none"
    if hasattr(quantization, "to_dict"):
        quantization = quantization.to_dict()
    if not isinstance(quantization, Mapping):
        raise CheckpointError(f"{source}: quantization_config must be an object, got {quantization!r}")
    method = quantization.get("quant_method")
    method = getattr(method, "value", method)
    if method == METHOD:
        QuantizationSpec.from_dict(source, quantization)
        return "own"
    if method == "bitsandbytes":
        return "bitsandbytes"
    if method is not None:
        raise CheckpointError(
            f"{source}: weights with the quant_method {method!r} are not read: use a folder that is not quantised, or "
            "one that  baichuan2 quantize  or bitsandbytes wrote"
        )
    if quantization.get("load_in_4bit") is not True:
        raise CheckpointError(f"{source}: quantization_config names no quant_method, and does not say load_in_4bit")
    return "official-4bits"


def check_quantization(source: object, quantization: Any) -> Kind:
    """`kind_of_quantization`, after a check that what reads such weights is there.

    Raises:
        CheckpointError: as `kind_of_quantization`.
        MissingExtraError: bitsandbytes is needed and not installed: for its 8-bit weights, and 4-bit codes other than
            NF4.
    """
    kind = kind_of_quantization(source, quantization)
    if kind == "bitsandbytes":
        written = quantization if isinstance(quantization, Mapping) else quantization.to_dict()
        if not written.get("load_in_4bit") or written.get("bnb_4bit_quant_type") != "nf4":
            bitsandbytes_library()
    return kind


def load_folder(from_pretrained: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `from_pretrained(*args, **kwargs)` returns, also for the folders that the framework cannot read.

    Raises:
        CheckpointError: the folder is damaged, or its weights are of a kind that nobody here reads.
        MissingExtraError: its weights need bitsandbytes, and the library is not installed.
        SettingsError: another quantisation is asked for than the folder has.
    """
    if not args or args[0] is None or kwargs.get("state_dict") is not None:
        return from_pretrained(*args, **kwargs)
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    config = kwargs.get("config")
    if not isinstance(config, BaichuanConfig):
        config = BaichuanConfig.from_pretrained(config if config is not None else args[0], **hub)
    reader = _reader_for(args[0], getattr(config, "quantization_config", None))
    if reader is None:
        return from_pretrained(*args, **kwargs)
    asked = kwargs.pop("quantization_config", None)
    if asked is not None and not getattr(asked, "load_in_4bit", False):
        raise SettingsError(f"{args[0]} is quantised to 4 bits already: leave quantization_config= out")
    name = str(args[0])
    plain, layers = reader(name, hub)
    if not layers:
        raise CheckpointError(f"{name}: config.json says 4 bits, but no weight is in 4 bits")
    config = copy.deepcopy(config)
    spec = _spec_of(name, config, layers)
    if reader is _read_official and any(has_ragged_rows(layer.shape[1]) for layer in layers.values()):
        logger.warning_once(
            f"{name}: rows that are no multiple of 64 are computed as bitsandbytes does on a processor, which takes "
            "other scales than the format says; no published model has such rows"
        )
        spec = replace(spec, as_released=True)
    config.quantization_config = spec.to_dict()
    state = plain | {
        f"{layer}.{buffer}": values
        for layer, weight in layers.items()
        for buffer, values in nf4_buffers(weight).items()
    }
    loaded = from_pretrained(None, *args[1:], **{**kwargs, "config": config, "state_dict": state})
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.name_or_path = model.config.name_or_path = name
    if model.can_generate() and _file_of(name, "generation_config.json", hub, is_needed=False) is not None:
        model.generation_config = GenerationConfig.from_pretrained(name, **hub)
    return loaded


Reader = Callable[[str, Mapping[str, Any]], tuple[dict[str, Tensor], dict[str, NF4Tensor]]]


def _reader_for(name: object, quantization: Any) -> Reader | None:
    """What reads the weights of the folder `name`, or None where the framework does."""
    kind = check_quantization(f"{name}: config.json", quantization)
    if kind == "official-4bits":
        return _read_official
    if kind != "bitsandbytes":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        return _read_bnb
    bitsandbytes_library()  # before the framework imports it: with its messages that concern nobody left out
    return None


def _read_official(name: str, hub: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, NF4Tensor]]:
    """The tensors of an official 4bits folder: plain ones by key, quantised ones by the name of their layer."""
    path = _file_of(name, OFFICIAL_FILE, hub)
    assert path is not None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which could run code and is refused: use the official file"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or damaged ({first}): download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} in place of named tensors")
    layers = {}
    for key in [key for key in content if str(key).endswith(STATE_SUFFIX)]:
        weight = key.removesuffix(STATE_SUFFIX)
        codes = content.pop(weight + CODES_SUFFIX, None)
        layers[weight.removesuffix(".weight")] = read_quant_state(content.pop(key), codes, f"{path}: {weight}")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {key} must be a tensor, got a {type(value).__name__}")
    return {str(key): value.detach() for key, value in content.items()}, layers


def _read_bnb(name: str, hub: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, NF4Tensor]]:
    """The tensors of a folder in bitsandbytes' 4-bit layout, likewise."""
    paths = [_file_of(name, SAFETENSORS_NAMES[0], hub, is_needed=False)]
    if paths[0] is None:
        index = _file_of(name, SAFETENSORS_NAMES[1], hub)
        paths, _ = get_checkpoint_shard_files(name, index, **hub)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is truncated or damaged ({error}): download it again") from error
    weights = [key.removesuffix(NF4_STATE) for key in tensors if key.endswith(NF4_STATE)]
    layers = {weight.removesuffix(".weight"): read_nf4(tensors, weight) for weight in weights}
    parts = {key for weight in weights for key in tensors if key == weight or key.startswith(weight + ".")}
    return {key: value for key, value in tensors.items() if key not in parts}, layers


def _file_of(name: str, file_name: str, hub: Mapping[str, Any], *, is_needed: bool = True) -> Path | None:
    """The local path of a file of a folder or hub repository."""
    try:
        found = cached_file(name, file_name, _raise_exceptions_for_missing_entries=False, **hub)
    except OSError as error:
        raise CheckpointError(f"{name}: {' '.join(str(error).split())}") from error
    if found is None and is_needed:
        raise CheckpointError(f"{name} holds no {file_name}: it is no complete 4-bit folder, download it again")
    return None if found is None else Path(found)


def _spec_of(name: str, config: BaichuanConfig, layers: Mapping[str, NF4Tensor]) -> QuantizationSpec:
    """What the layers are, which must all be alike."""
    kinds = {(layer.block_size, layer.is_double, layer.dtype) for layer in layers.values()}
    if len(kinds) > 1:
        raise CheckpointError(f"{name}: the 4-bit weights differ in block size, statistics or number format")
    block_size, is_double, dtype = kinds.pop()
    shapes = quantizable_shapes(config)
    for layer, weight in layers.items():
        if layer not in shapes:
            raise CheckpointError(f"{name}: {layer} is in 4 bits, but config.json describes no such layer")
        if weight.shape != shapes[layer]:
            raise CheckpointError(f"{name}: {layer} has the shape {weight.shape}, config.json wants {shapes[layer]}")
    unquantized = tuple(layer for layer in shapes if layer not in layers)
    return QuantizationSpec(
        format="nf4",
        group_size=block_size,
        compressed_statistics=is_double,
        weight_dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
        unquantized=unquantized,
    )
