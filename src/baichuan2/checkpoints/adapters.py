"""Adapters as the peft library writes them: a folder with adapter_config.json and adapter_model.safetensors.

Read without the library, which takes longer to import than a small model to load. What is read are low-rank adapters
(LoRA, DoRA, rsLoRA) of the five linear layers, and embeddings or heads that were trained whole; whatever else an
adapter asks for is refused, as replies would be wrong without it.
"""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import find_weight_files, read_json
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.low_rank import AdaptedLinear, LowRank, RowAdapters
from baichuan2.model.quantized_layers import HEAD, quantizable_shapes
from baichuan2.quantization.freed_memory import release_if_mapped
from baichuan2.quantization.linear import QuantizedLinear

__all__ = ["Adapter", "attach", "base_of", "check_base", "merge_into", "read_adapter"]

CONFIG_NAME = "adapter_config.json"
SAFETENSORS_NAME, BIN_NAME = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
EMBEDDING = "model.embed_tokens"
DAMAGED = "copy the folder again, or save the adapter again"
NORMS_DIFFER = 0.01  # more than rounding to 16 bits does
PARTS = {".lora_A.weight": "down", ".lora_B.weight": "up"}
MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")
# what peft can put into a LoRA adapter beyond what is computed here
FOREIGN_FIELDS = (
    *("fan_in_fan_out", "layer_replication", "lora_bias", "trainable_token_indices", "target_parameters"),
    *("use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config", "corda_config", "megatron_config"),
    *("kasa_config", "monteclora_config", "velora_config"),
)
CHANGING_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin after which the base under the adapter is no longer the model that its config names."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter in memory."""

    folder: Path
    base: str
    """What its config calls the model that it was trained on; empty where it says nothing."""
    layers: Mapping[str, LowRank]
    """By the name of the linear layer."""
    whole: Mapping[str, Tensor]
    """Weights that take the place of the base's, by the name of the layer."""

    @property
    def name(self) -> str:
        """What to call it in front of people."""
        return self.folder.resolve().name


def base_of(folder: Path) -> str:
    """What an adapter's config calls the model that it was trained on; empty where it says nothing.

    Raises:
        CheckpointError: the folder is missing, or holds no adapter.
    """
    name = _fields(folder).get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def read_adapter(folder: Path, config: BaichuanConfig) -> Adapter:
    """The adapter of a folder, for models of that configuration.

    Raises:
        CheckpointError: there is none, it is damaged, of another model, or asks for what is not computed here.
    """
    fields = _fields(folder)
    _refuse_foreign(folder, fields)
    tensors = _tensors(folder)
    shapes = quantizable_shapes(config)
    found: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, values in tensors.items():
        layer, part = _place_of(folder, key)
        if not values.is_floating_point() or not bool(torch.isfinite(values).all()):
            raise CheckpointError(f"{folder}: {key} holds NaN, infinite or whole numbers: the adapter is damaged")
        if part == "whole":
            _check_shape(folder, key, values, (config.vocab_size, config.hidden_size))
            whole[layer] = values
            continue
        if layer not in shapes:
            raise CheckpointError(
                f"{folder}: {key} belongs to {layer}, which the model has not: the adapter is of another model"
            )
        found.setdefault(layer, {})[part] = values
    layers = {layer: _low_rank(folder, layer, parts, shapes[layer], fields) for layer, parts in found.items()}
    if not layers and not whole:
        raise CheckpointError(f"{folder}: the adapter holds no tensors: {DAMAGED}")
    _check_complete(folder, layers, shapes, fields)
    return Adapter(folder=folder, base=base_of(folder), layers=layers, whole=whole)


def merge_into(model: Any, adapter: Adapter) -> None:
    """Puts an adapter into the weights of a model; layers in few bits get it beside them.

    One layer at a time has its weight twice. A merged layer takes memory of its own, where it was mapped from a file.

    Raises:
        CheckpointError: the adapter needs weights with all their bits.
    """
    rows = RowAdapters(default=0)
    for name, low_rank in adapter.layers.items():
        layer = model.get_submodule(name)
        if type(layer) is not nn.Linear:
            model.set_submodule(name, AdaptedLinear(layer, [_beside(adapter, name, low_rank, layer)], rows))
            model.row_adapters = rows
            continue
        old = layer.weight.data
        layer.weight = nn.Parameter(low_rank.merged(old), requires_grad=False)
        release_if_mapped(old)
    for name, weight in adapter.whole.items():
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear | nn.Embedding):
            raise CheckpointError(
                f"{adapter.folder} brings a whole {name}, which the model has in few bits: take the model with "
                "all its bits"
            )
        layer.weight = nn.Parameter(weight.to(layer.weight), requires_grad=False)


def attach(model: Any, adapters: Sequence[Adapter]) -> None:
    """Puts adapters beside the layers of a model, of which `model.row_adapters` chooses one by its number, or none.

    Raises:
        CheckpointError: one brings whole weights, of which a model has no second set.
    """
    rows = RowAdapters()
    for adapter in adapters:
        if adapter.whole:
            raise CheckpointError(
                f"{adapter.folder} brings a whole {next(iter(adapter.whole))}, which cannot stand beside another: "
                "serve it alone, with --adapter PATH"
            )
    for name in dict.fromkeys(name for adapter in adapters for name in adapter.layers):
        layer = model.get_submodule(name)
        beside = [
            _beside(adapter, name, adapter.layers[name], layer) if name in adapter.layers else None
            for adapter in adapters
        ]
        model.set_submodule(name, AdaptedLinear(layer, beside, rows))
    model.row_adapters = rows


def check_base(weights: Iterable[tuple[str, Tensor]], adapter: Adapter) -> None:
    """Warns where the adapter was trained on another model than that of `weights`, as far as that can be seen here.

    Seen it is by the norms, which no quantisation changes, where the base that the adapter names is on this disk.
    """
    folder = Path(adapter.base)
    if not adapter.base or not folder.is_dir():
        return
    try:
        stored = MappedTensors(find_weight_files(folder))
    except CheckpointError:
        return
    for name, weight in weights:
        if not name.endswith("norm.weight") or name not in stored:
            continue
        theirs = stored[name].float()
        if theirs.shape != weight.shape or not torch.allclose(theirs, weight.detach().float().cpu(), rtol=NORMS_DIFFER):
            warnings.warn(
                f"the adapter {adapter.folder} was trained on {adapter.base}, and this is another model: its replies "
                "may make no sense",
                stacklevel=2,
            )
            return


def _beside(adapter: Adapter, name: str, low_rank: LowRank, layer: nn.Module) -> LowRank:
    """The adapter for use beside that layer."""
    if low_rank.magnitude is not None and not isinstance(layer, QuantizedLinear) and type(layer) is not nn.Linear:
        raise CheckpointError(
            f"{adapter.folder} is a DoRA adapter, which needs the lengths of the rows of {name}, and these are hidden "
            f"in {type(layer).__name__}: take the model with all its bits, or quantised by  baichuan2 quantize"
        )
    return low_rank.on(layer)


def _fields(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says."""
    if not folder.is_dir():
        shown = folder if str(folder).isprintable() else repr(str(folder))
        raise CheckpointError(f"there is no folder {shown}: give the folder of an adapter")
    path = folder / CONFIG_NAME
    if not path.is_file():
        what = "is a whole model, no adapter" if (folder / "config.json").is_file() else f"holds no {CONFIG_NAME}"
        raise CheckpointError(f"{folder} {what}: give a folder that  baichuan2 finetune --method lora  or peft wrote")
    return read_json(path)


def _refuse_foreign(folder: Path, fields: Mapping[str, Any]) -> None:
    """Raises CheckpointError for an adapter of another kind than is computed here."""
    path = folder / CONFIG_NAME
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {kind!r:.60}, only LORA adapters are read (DoRA and rsLoRA too)")
    if fields.get("bias") not in (None, "none"):
        raise CheckpointError(f"{path}: bias is {fields['bias']!r:.60}: these models have no biases")
    begun = fields.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(CHANGING_BASE):
        raise CheckpointError(
            f"{path}: init_lora_weights is {begun!r:.60}, whose base is another than the model: convert the adapter "
            "with peft (path_initial_model_for_weight_conversion)"
        )
    for name in FOREIGN_FIELDS:
        if fields.get(name):
            raise CheckpointError(f"{path} asks for {name}, which is not supported: train the adapter without it")


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The adapter's tensors by key."""
    path = folder / SAFETENSORS_NAME
    if path.is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is truncated or damaged ({path.stat().st_size} bytes, {' '.join(str(error).split()):.120}): "
                f"{DAMAGED}"
            ) from error
    path = folder / BIN_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {SAFETENSORS_NAME}: {DAMAGED}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which could run code and is refused: save the adapter as "
            "safetensors"
        ) from error
    except Exception as error:  # damaged pickles fail in as many ways as there are instructions in them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path} is truncated or damaged ({reason:.120}): {DAMAGED}") from error
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise CheckpointError(f"{path} holds something other than named tensors: {DAMAGED}")
    return content


def _place_of(folder: Path, key: str) -> tuple[str, str]:
    """Which layer a tensor belongs to, and which part of its adapter it is."""
    name = key.removeprefix(PREFIX)
    for ending, part in (*PARTS.items(), *((ending, "magnitude") for ending in MAGNITUDES)):
        if name.endswith(ending):
            return name.removesuffix(ending), part
    for layer in (EMBEDDING, HEAD):
        if name in (f"{layer}.weight", f"{layer}.modules_to_save.weight"):
            return layer, "whole"
    raise CheckpointError(f"{folder}: unexpected tensor {key!r:.80}: the adapter is of another kind or model")


def _low_rank(
    folder: Path, layer: str, parts: Mapping[str, Tensor], shape: tuple[int, int], fields: Mapping[str, Any]
) -> LowRank:
    missing = [name for name, part in (("lora_A", "down"), ("lora_B", "up")) if part not in parts]
    if missing or (fields.get("use_dora") and "magnitude" not in parts):
        name = missing[0] if missing else "lora_magnitude_vector"
        raise CheckpointError(f"{folder}: {layer} has no {name}: the adapter is incomplete, {DAMAGED}")
    down, up = parts["down"], parts["up"]
    rank = down.shape[0]
    _check_shape(folder, f"{layer} lora_A", down, (rank, shape[1]))
    _check_shape(folder, f"{layer} lora_B", up, (shape[0], rank))
    magnitude = parts.get("magnitude")
    if magnitude is not None:
        magnitude = magnitude.reshape(-1).float()
        _check_shape(folder, f"{layer} magnitude", magnitude, (shape[0],))
    scaling = _scaling(folder, layer, rank, fields)
    return LowRank((down.float() * scaling).contiguous(), up.float().T.contiguous(), magnitude)


def _scaling(folder: Path, layer: str, rank: int, fields: Mapping[str, Any]) -> float:
    """What the product of both matrices is multiplied by."""
    alpha = _of_layer(layer, fields.get("alpha_pattern"), fields.get("lora_alpha", 8))
    stated = _of_layer(layer, fields.get("rank_pattern"), fields.get("r", rank))
    path = folder / CONFIG_NAME
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < float("inf"):
        raise CheckpointError(f"{path}: lora_alpha must be a number, got {alpha!r:.60}")
    if stated != rank:
        raise CheckpointError(
            f"{path}: r is {stated!r:.60}, but {layer} has rank {rank}: config and tensors are of different adapters"
        )
    return float(alpha) / (rank**0.5 if fields.get("use_rslora") else rank)


def _of_layer(layer: str, pattern: object, default: Any) -> Any:
    """The value for a layer: of the first name in `pattern` that it ends in, as peft looks it up, else the default."""
    if isinstance(pattern, dict):
        for name, value in pattern.items():
            # a regular expression of somebody else's can take longer than anybody waits; peft itself writes names
            if re.fullmatch(r"\^?[\w.]+", name) is None:
                raise CheckpointError(f"{CONFIG_NAME}: rank and alpha patterns must name layers, got {name[:80]!r}")
            if f".{layer}".endswith("." + name.removeprefix("^")):
                return value
    return default


def _check_shape(folder: Path, what: str, values: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(values.shape) != expected:
        raise CheckpointError(
            f"{folder}: {what} has the shape {tuple(values.shape)}, this model wants {expected}: the adapter is of "
            "another model"
        )


def _check_complete(
    folder: Path, layers: Mapping[str, LowRank], shapes: Mapping[str, object], fields: Mapping[str, Any]
) -> None:
    """Raises CheckpointError where a kind of layer is adapted in some decoder layers only, and nobody asked for it."""
    if fields.get("layers_to_transform") is not None or isinstance(fields.get("target_modules"), str):
        return
    for kind in {name.rpartition(".")[2] for name in layers}:
        missing = [name for name in shapes if name.endswith(f".{kind}") and name not in layers]
        if missing and not fields.get("exclude_modules"):
            raise CheckpointError(
                f"{folder} adapts {kind} in {len(layers)} places, but not {missing[0]}: it is incomplete, or of a "
                "model with fewer layers"
            )
