"""Folders with quantised weights: which ones are read, and by whom.

| `quantization_config` | weights | read by |
|---|---|---|
| quant_method "baichuan2" | our own format | the framework, with `quantizer.py` |
| quant_method "bitsandbytes" | the library's 8 or 4 bits | the framework with the library |
| no quant_method, `load_in_8bit` | the library's 8 bits, written before the field was known | likewise |
| 4 bits, without the library | 4 bits as NF4 | here |
| no quant_method, `load_in_4bit` | the official 4bits folders: a pickle with lists in it | here |

"Here" means: the file becomes a state dict for the layers of `quantizer.py`, whose tensors stay mapped from the file.
"""

import contextlib
import copy
import importlib.util
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import GenerationConfig
from transformers.utils import cached_file, logging
from transformers.utils.hub import get_checkpoint_shard_files

from baichuan2.errors import BaichuanError, CheckpointError, SettingsError
from baichuan2.model.block import UNUSED_NAMES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.plain import PlainBaichuan, without_memory
from baichuan2.model.quantized_layers import quantizable_shapes
from baichuan2.quantization.bnb_layout import SCALES, STATE, read_nf4
from baichuan2.quantization.bnb_library import bitsandbytes_library
from baichuan2.quantization.freed_memory import release_if_mapped
from baichuan2.quantization.linear import nf4_buffers
from baichuan2.quantization.nf4 import NF4Tensor
from baichuan2.quantization.official_4bits import CODES_SUFFIX, STATE_SUFFIX, read_quant_state, stored_tensor
from baichuan2.quantization.ragged_rows import has_ragged_rows
from baichuan2.quantization.scheme import METHOD, QuantizationSpec

logger = logging.get_logger(__name__)

__all__ = [
    "FolderKind",
    "check_quantization",
    "holds_4_bits",
    "kind_of_quantization",
    "load_folder",
    "read_nf4_folder",
    "read_official",
    "with_source_first",
]

FolderKind = Literal["none", "own", "bitsandbytes", "official-4bits"]

NF4_STATE = STATE + "nf4"
WEIGHT = ".weight"
OFFICIAL_FILE = "pytorch_model.bin"
SAFETENSORS_NAMES = ("model.safetensors", "model.safetensors.index.json")
PLAIN_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
VALUES_AT_A_TIME = 1 << 22
# arguments of the framework that also are the names of fields of a config, and not meant as such
NO_FIELDS = ("dtype", "torch_dtype", "quantization_config", "state_dict", "output_loading_info")
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def kind_of_quantization(source: object, quantization: Any) -> FolderKind:
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
    if quantization.get("load_in_8bit") is True:  # as transformers wrote it up to the middle of 2023
        return "bitsandbytes"
    if quantization.get("load_in_4bit") is not True:
        raise CheckpointError(f"{source}: quantization_config names no quant_method, and does not say load_in_4bit")
    return "official-4bits"


def check_quantization(source: object, quantization: Any) -> FolderKind:
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


def with_source_first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `from_pretrained` with the folder or hub id as the first positional one, however it was given."""
    kwargs = dict(kwargs)
    if not args and "pretrained_model_name_or_path" in kwargs:
        args = (kwargs.pop("pretrained_model_name_or_path"),)
    return args, kwargs


def holds_4_bits(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `from_pretrained(*args, **kwargs)` reads an official 4bits folder, which needs no library.

    Raises:
        SettingsError: the weights are in our own format, to which nothing else can be done.
    """
    if not args or args[0] is None or kwargs.get("state_dict") is not None:
        return False
    config, _ = _config_of(args[0], kwargs)
    kind = kind_of_quantization(f"{args[0]}: config.json", getattr(config, "quantization_config", None))
    if kind == "own":
        raise SettingsError(_already(args[0]))
    return kind == "official-4bits"


def _already(source: object) -> str:
    return f"{source} is quantised already: leave load_in_8bit, load_in_4bit and quantization_config out"


def _config_of(source: object, kwargs: Mapping[str, Any]) -> tuple[BaichuanConfig, dict[str, Any]]:
    """The configuration that `from_pretrained(source, **kwargs)` uses, and what of `kwargs` is no field of it."""
    given = kwargs.get("config")
    if isinstance(given, BaichuanConfig):
        return given, dict(kwargs)
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
    kept = {name: kwargs[name] for name in (*HUB_ARGUMENTS, *NO_FIELDS) if name in kwargs}
    fields = {name: value for name, value in kwargs.items() if name not in kept and name != "config"}
    config, rest = BaichuanConfig.from_pretrained(
        given if given is not None else source, return_unused_kwargs=True, **hub, **fields
    )
    return config, rest | kept


def load_folder(from_pretrained: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `from_pretrained(*args, **kwargs)` returns, also for the folders that the framework cannot read.

    Raises:
        CheckpointError: the folder is damaged, or its weights are of a kind that nobody here reads.
        MissingExtraError: its weights need bitsandbytes, and the library is not installed.
        SettingsError: another quantisation is asked for than the folder has.
    """
    args, kwargs = with_source_first(args, kwargs)
    if not args or args[0] is None or kwargs.get("state_dict") is not None:
        return from_pretrained(*args, **kwargs)
    name = str(args[0])
    hub = {argument: kwargs[argument] for argument in HUB_ARGUMENTS if kwargs.get(argument) is not None}
    config, rest = _config_of(args[0], kwargs)
    kind = check_quantization(f"{name}: config.json", getattr(config, "quantization_config", None))
    asked = kwargs.get("quantization_config")
    if kind == "own" and asked is not None and getattr(asked, "quant_method", METHOD) != METHOD:
        raise SettingsError(_already(name))
    reader = _reader_for(kind)
    if reader is None:
        return _read_by_the_framework(from_pretrained, args, kwargs, config if kind == "bitsandbytes" else None)
    kwargs = rest
    kwargs.pop("quantization_config", None)
    if asked is not None and not getattr(asked, "load_in_4bit", False):
        raise SettingsError(f"{name} is quantised to 4 bits already: leave quantization_config= out")
    config, state = _read_here(reader, name, hub, config)
    loaded = from_pretrained(None, *args[1:], **{**kwargs, "config": config, "state_dict": state})
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.name_or_path = model.config.name_or_path = name
    if model.can_generate() and _file_of(name, "generation_config.json", hub, is_needed=False) is not None:
        model.generation_config = GenerationConfig.from_pretrained(name, **hub)
    return loaded


def read_official(folder: Path, config: BaichuanConfig) -> tuple[BaichuanConfig, dict[str, Tensor]]:
    """Of an official 4bits folder: a configuration that describes its layers, and their tensors, mapped from the file.

    Raises:
        CheckpointError: the file is damaged, or does not fit the configuration.
    """
    return _read_here(_read_official, str(folder), {"local_files_only": True}, config)


def read_nf4_folder(folder: Path, config: BaichuanConfig) -> tuple[BaichuanConfig, dict[str, Tensor]]:
    """Of a folder in bitsandbytes' NF4 layout: the same, without that library.

    Raises:
        CheckpointError: as `read_official`, or the weights are in another 4-bit type.
    """
    return _read_here(_read_bnb, str(folder), {"local_files_only": True}, config)


def _read_here(
    reader: "Reader", name: str, hub: Mapping[str, Any], config: BaichuanConfig
) -> tuple[BaichuanConfig, dict[str, Tensor]]:
    """A copy of the configuration that describes the layers as ours, and the tensors that `reader` finds for them."""
    config = copy.deepcopy(config)
    plain, layers = reader(name, hub, config)
    if not layers:
        raise CheckpointError(f"{name}: config.json says 4 bits, but no weight is in 4 bits")
    spec = _spec_of(name, config, layers)
    _check_plain(name, plain, _expected(name, config, set(layers)))
    if reader is _read_official and any(has_ragged_rows(layer.shape[1]) for layer in layers.values()):
        logger.warning_once(
            f"{name}: rows that are no multiple of 64 are computed as bitsandbytes does on a processor, which takes "
            "other scales than the format says; no published model has such rows"
        )
        spec = replace(spec, as_released=True)
    config.quantization_config = spec.to_dict()
    return config, plain | {
        f"{layer}.{buffer}": values
        for layer, weight in layers.items()
        for buffer, values in nf4_buffers(weight).items()
    }


def _read_by_the_framework(
    from_pretrained: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], library_config: Any
) -> Any:
    """What `from_pretrained` returns. `library_config`: the configuration where bitsandbytes' layers are to be filled.

    The framework has a report of many lines for what does not fit there, so it is looked at beforehand.
    """
    if library_config is None:
        return from_pretrained(*args, **kwargs)
    name = str(args[0])
    hub = {argument: kwargs[argument] for argument in HUB_ARGUMENTS if kwargs.get(argument) is not None}
    if any(_file_of(name, file_name, hub, is_needed=False) is not None for file_name in SAFETENSORS_NAMES):
        _check_shapes(name, hub, library_config)
    try:
        return from_pretrained(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{name}: the weights do not fit config.json ({reason:.200}): they belong to different models, or a file "
            "is damaged"
        ) from error


def _check_shapes(name: str, hub: Mapping[str, Any], config: BaichuanConfig) -> None:
    """Checks the shapes of all tensors of a bitsandbytes folder but the codes in 4 bits, without reading any."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _safetensors_paths(name, hub):
        with _opened(path) as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    for key, tensor in _expected(name, config, set()).items():
        if key in shapes and key + SCALES not in shapes:
            _check_shape(name, key, shapes[key], tuple(tensor.shape))


def _check_shape(name: str, key: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise CheckpointError(
            f"{name}: {key} has the shape {shape}, config.json wants {expected}: config.json and weights belong to "
            "different models"
        )


def _expected(name: str, config: BaichuanConfig, quantized: set[str]) -> dict[str, Tensor]:
    """The tensors of the model that `config` describes, without memory and without the weights of `quantized`."""
    try:
        with without_memory():
            model = PlainBaichuan(copy.deepcopy(config))
    except BaichuanError:
        raise
    except Exception as error:  # a value that passed as a field, but that no layer can be built with
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{name}: config.json describes no model that can be built: {reason}") from error
    unused = {f"{layer}.weight" for layer in quantized}
    return {key: tensor for key, tensor in model.state_dict().items() if key not in unused}


def _check_plain(name: str, plain: dict[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Checks the tensors that are not quantised, and drops those that old files hold for nothing.

    Raises:
        CheckpointError: one is unknown, or has another shape than `expected`, or holds anything but finite numbers.
    """
    for key, values in list(plain.items()):
        if key not in expected:
            if any(re.search(pattern, key) for pattern in UNUSED_NAMES):
                del plain[key]
                continue
            raise CheckpointError(f"{name}: unexpected tensor {key!r:.80}, which config.json does not describe")
        _check_shape(name, key, tuple(values.shape), tuple(expected[key].shape))
        if values.dtype not in PLAIN_DTYPES:
            raise CheckpointError(f"{name}: {key} must hold real numbers, got {values.dtype}: the file is damaged")
    for key, values in plain.items():
        # a sum is finite only if all its terms are; where it is not, the exact and slower test decides
        for part in torch.split(values.reshape(-1), VALUES_AT_A_TIME):
            if not torch.isfinite(part.sum()) and not bool(torch.isfinite(part).all()):
                raise CheckpointError(f"{name}: {key} holds NaN or infinite numbers: the file is damaged")
        release_if_mapped(values)


Reader = Callable[[str, Mapping[str, Any], BaichuanConfig], tuple[dict[str, Tensor], dict[str, NF4Tensor]]]


def _reader_for(kind: FolderKind) -> Reader | None:
    """What reads weights of that kind, or None where the framework does."""
    if kind == "official-4bits":
        return _read_official
    if kind != "bitsandbytes":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        return _read_bnb
    bitsandbytes_library()  # before the framework imports it: with its messages that concern nobody left out
    return None


def _read_official(
    name: str, hub: Mapping[str, Any], config: BaichuanConfig
) -> tuple[dict[str, Tensor], dict[str, NF4Tensor]]:
    """The tensors of an official 4bits folder: plain ones by key, quantised ones by the name of their layer."""
    path = _file_of(name, OFFICIAL_FILE, hub)
    assert path is not None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which could run code and is refused: use the official file"
        ) from error
    except Exception as error:  # damaged pickles fail in as many ways as there are instructions in them
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is truncated or damaged ({first}): download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} in place of named tensors")
    if not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path} must hold tensors by name, and not all its keys are names")
    layers, shapes = {}, quantizable_shapes(config)
    for key in [key for key in content if key.endswith(WEIGHT + STATE_SUFFIX)]:
        weight = key.removesuffix(STATE_SUFFIX)
        layer, codes = weight.removesuffix(WEIGHT), content.pop(weight + CODES_SUFFIX, None)
        layers[layer] = read_quant_state(content.pop(key), codes, f"{path}: {weight}", shapes.get(layer))
    return {key: stored_tensor(value, f"{path}: {key}") for key, value in content.items()}, layers


def _read_bnb(
    name: str, hub: Mapping[str, Any], config: BaichuanConfig
) -> tuple[dict[str, Tensor], dict[str, NF4Tensor]]:
    """The tensors of a folder in bitsandbytes' 4-bit layout, likewise."""
    del config  # each tensor of such a file lies in it whole
    tensors: dict[str, Tensor] = {}
    for path in _safetensors_paths(name, hub):
        with _opened(path) as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    weights = [key.removesuffix(NF4_STATE) for key in tensors if key.endswith(NF4_STATE)]
    try:
        layers = {weight.removesuffix(WEIGHT): read_nf4(tensors, weight) for weight in weights}
    except CheckpointError as error:  # it knows tensors, and no files
        raise CheckpointError(f"{name}: {error}") from error
    parts = {key for weight in weights for key in tensors if key == weight or key.startswith(weight + ".")}
    return {key: value for key, value in tensors.items() if key not in parts}, layers


def _safetensors_paths(name: str, hub: Mapping[str, Any]) -> list[Path]:
    """The files that hold the weights of a folder in bitsandbytes' layout."""
    whole = _file_of(name, SAFETENSORS_NAMES[0], hub, is_needed=False)
    if whole is not None:
        return [whole]
    index = _file_of(name, SAFETENSORS_NAMES[1], hub)
    try:
        paths, _ = get_checkpoint_shard_files(name, index, **hub)
    except Exception as error:  # an index that is no JSON or lacks its fields, a file that is not there
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{index} or a file that it names cannot be used: {reason:.300}") from error
    return [Path(path) for path in paths]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The safetensors file, whose damage is one line."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({' '.join(str(error).split())}): download it again"
        ) from error


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
