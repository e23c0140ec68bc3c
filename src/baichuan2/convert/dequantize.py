"""`baichuan2 convert dequantize`: a folder in few bits with plain weights again, for whoever reads no such bits.

Each weight is what its quantised layer computes with. It does not come back as it was before it lost bits: the files
grow, and answers stay those of the quantised model.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baichuan2.checkpoints.load import read_config
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.mapped import HeldTensors, MappedTensors
from baichuan2.checkpoints.network import check_weights, empty_model
from baichuan2.checkpoints.shards import check_layout, find_weight_files, read_json
from baichuan2.convert.output import files_to_copy
from baichuan2.convert.rewriting import Conversion, Converted, NewTensor, Watch, without_code, write_folder
from baichuan2.convert.source import WeightSource
from baichuan2.errors import CheckpointError
from baichuan2.model.block import UNUSED_NAMES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.plain import PlainBaichuan
from baichuan2.model.quantized_folders import kind_of_quantization, read_nf4_folder, read_official
from baichuan2.quantization.bnb_layout import ROW_SCALES, WEIGHT_FORMAT, dequantize_int8_rows, read_int8
from baichuan2.quantization.linear import Int8Embedding, NF4Linear, QuantizedLinear
from baichuan2.settings import ConvertSettings

__all__ = ["dequantize"]

WEIGHT = "weight"


@dataclass(frozen=True)
class _Quantized:
    """A folder in few bits: its tensors, and of which of them each weight is made, by the name that it will have."""

    config: BaichuanConfig
    tensors: MappedTensors | HeldTensors
    weights: Mapping[str, NewTensor]


def dequantize(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes the quantised checkpoint `settings.source` with plain weights, in its own number format or that asked for.

    Raises: as `write_folder`.
        CheckpointError: there is no such folder, it is damaged or not quantised, or in a layout that is not read.
    """
    assert settings.source is not None
    folder = locate(settings.source, revision=settings.revision, offline=settings.offline)
    path = folder / "config.json"
    fields = read_json(path) if path.is_file() else {}
    config = read_config(folder, is_run=False)
    kind = kind_of_quantization(path, fields.get("quantization_config"))
    if kind == "none":
        raise CheckpointError(f"{settings.source} is not quantised: its weights have all their bits, nothing is to do")
    dtype = _target_dtype(config, settings)
    files = find_weight_files(folder)
    if kind == "bitsandbytes" and fields["quantization_config"].get("load_in_8bit") is True:
        found = _open_int8_rows(folder, config, dtype)
    else:
        found = _open_layers(folder, config, kind, dtype)
    source = WeightSource(settings.source, folder, fields, found.tensors, files.paths)
    config_fields = {name: value for name, value in without_code(fields).items() if name != "quantization_config"}
    names = empty_model(path, _plain_config(found.config), PlainBaichuan).state_dict()
    conversion = Conversion(
        tensors={name: found.weights.get(name, NewTensor((name,))) for name in names},
        config={name: value for name, value in config_fields.items() if name != "dtype"}
        | {"torch_dtype": _name(dtype)},
        copied=files_to_copy(folder),
    )
    return write_folder(settings, source, conversion, watch)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _target_dtype(config: BaichuanConfig, settings: ConvertSettings) -> torch.dtype:
    """The number format in which the model computes, unless another is asked for."""
    if settings.dtype != "same":
        asked: torch.dtype = getattr(torch, settings.dtype)
        return asked
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float16


def _plain_config(config: BaichuanConfig) -> BaichuanConfig:
    """The same model without fewer bits."""
    fields = config.to_dict()
    fields.pop("quantization_config", None)
    plain = BaichuanConfig.from_dict(fields)
    assert isinstance(plain, BaichuanConfig)
    return plain


def _open_layers(folder: Path, config: BaichuanConfig, kind: str, dtype: torch.dtype) -> _Quantized:
    """Our own formats; and NF4 of the library or the official folders, whose tensors are put into layers of ours."""
    tensors: MappedTensors | HeldTensors
    if kind == "own":
        files = find_weight_files(folder)
        model = empty_model(folder / "config.json", config, PlainBaichuan)
        check_weights(files, model.state_dict(), UNUSED_NAMES, "own")
        tensors = MappedTensors(files)
    else:
        read = read_official if kind == "official-4bits" else read_nf4_folder
        config, state = read(folder, config)
        model = empty_model(folder / "config.json", config, PlainBaichuan)
        tensors = HeldTensors(state)
        if missing := sorted(model.state_dict().keys() - state.keys()):
            raise CheckpointError(
                f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}: the folder is incomplete, "
                "download it again"
            )
    weights = {}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear | Int8Embedding):
            sources = tuple(f"{name}.{part}" for part, _ in layer.named_buffers(recurse=False))
            # the blocks of NF4 do not end with the rows
            is_by_rows = not isinstance(layer, NF4Linear)
            make = functools.partial(_computed, layer, dtype)
            weights[f"{name}.{WEIGHT}"] = NewTensor(sources, make, by_rows=is_by_rows)
    return _Quantized(config, tensors, weights)


def _computed(layer: QuantizedLinear | Int8Embedding, dtype: torch.dtype, *parts: Tensor) -> Tensor:
    """The weight (N, K), or the rows whose codes and scales `parts` are, that the empty `layer` would compute with."""
    if parts[0].is_meta:
        shape = _shape(layer)
        return torch.empty(shape, dtype=dtype, device="meta")
    names = [name for name, _ in layer.named_buffers(recurse=False)]
    empty = dict(layer.named_buffers(recurse=False))
    try:
        for name, values in zip(names, parts, strict=True):
            setattr(layer, name, values)
        return layer.dequantize(dtype)
    finally:  # what is held on to would stay in memory
        for name, values in empty.items():
            setattr(layer, name, values)


def _shape(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, Int8Embedding):
        return layer.num_embeddings, layer.embedding_dim
    assert isinstance(layer, QuantizedLinear)
    return layer.out_features, layer.in_features


def _open_int8_rows(folder: Path, config: BaichuanConfig, dtype: torch.dtype) -> _Quantized:
    """Rows in 8 bits, as bitsandbytes saves them."""
    files = find_weight_files(folder)
    tensors = MappedTensors(files)
    config = _plain_config(config)
    shapes: dict[str, Any] = {
        name: tensor.shape for name, tensor in empty_model(folder, config, PlainBaichuan).state_dict().items()
    }
    coded = [name for name in shapes if name.removesuffix(WEIGHT) + ROW_SCALES in tensors]
    if not coded:
        raise CheckpointError(f"{folder}: config.json says 8 bits, but no weight is in 8 bits: nothing is to do")
    scales = {name.removesuffix(WEIGHT) + ROW_SCALES for name in coded}
    expected = shapes | {name: tensors[name].shape for name in scales}
    check_layout(files, expected, (*UNUSED_NAMES, rf"\.{WEIGHT_FORMAT}$"), coded)
    weights = {}
    for name in coded:
        layer = name.removesuffix(WEIGHT)
        sources = [name, layer + ROW_SCALES]
        if layer + WEIGHT_FORMAT in tensors:
            sources.append(layer + WEIGHT_FORMAT)
        weights[name] = NewTensor(tuple(sources), functools.partial(_rows, name, tuple(sources), dtype))
    return _Quantized(config, tensors, weights)


def _rows(name: str, sources: tuple[str, ...], dtype: torch.dtype, *parts: Tensor) -> Tensor:
    """The weight `name` (N, K) out of its codes and scales."""
    if parts[0].is_meta:
        return torch.empty(parts[0].shape, dtype=dtype, device="meta")
    return dequantize_int8_rows(*read_int8(dict(zip(sources, parts, strict=True)), name), dtype)
