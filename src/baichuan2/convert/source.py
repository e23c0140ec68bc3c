"""The checkpoint that is read: checked as a whole before anything is written, then read tensor by tensor."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baichuan2.checkpoints.adapters import CONFIG_NAME as ADAPTER_CONFIG
from baichuan2.checkpoints.load import read_config
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.mapped import HeldTensors, MappedTensors
from baichuan2.checkpoints.shards import check_layout, find_weight_files, read_json
from baichuan2.errors import BaichuanError, CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.quantizer import QUANTIZED_LINEARS

__all__ = ["EMBEDDING", "HEAD", "Source", "WeightSource", "open_source"]

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
LAYER_PREFIX = "model.layers."


@dataclass(frozen=True)
class WeightSource:
    """Any folder of weights. `fields`: its config.json as it stands there; `name`: as it was given."""

    name: str
    folder: Path
    fields: dict[str, Any]
    tensors: MappedTensors | HeldTensors
    weight_paths: tuple[Path, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the weight files."""
        return sum(path.stat().st_size for path in self.weight_paths)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this checkpoint from another, or from itself before it was changed, without reading weights."""
        files = {}
        for path in self.weight_paths:
            status = path.stat()
            files[path.name] = [status.st_size, status.st_mtime_ns]
        config = hashlib.sha256((self.folder / "config.json").read_bytes()).hexdigest()
        return {"config": config, "weights": files}

    def check_unchanged(self, before: dict[str, Any]) -> None:
        """Raises CheckpointError where the checkpoint is not the one any more whose fingerprint was `before`.

        Its files are mapped, so what was read of one that was written to meanwhile may be half of each.
        """
        if self.fingerprint() != before:
            raise CheckpointError(
                f"{self.name} was changed while it was read, so the result would be a mixture: remove TARGET.partial "
                "and start again"
            )


@dataclass(frozen=True)
class Source(WeightSource):
    """A Baichuan checkpoint with unquantised weights."""

    config: BaichuanConfig
    shapes: dict[str, torch.Size]

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights, by the one of the first layer."""
        return self.tensors[f"{self.linear_names(0)[0]}.weight"].dtype

    def linear_names(self, layer: int) -> list[str]:
        """Names of the layers that are quantised in a decoder layer, in the order in which data passes them."""
        return [f"{LAYER_PREFIX}{layer}.{part}" for part in QUANTIZED_LINEARS]

    def plain_names(self, layer: int) -> list[str]:
        """Names of the other tensors of a decoder layer: its norms."""
        quantized = {f"{name}.weight" for name in self.linear_names(layer)}
        prefix = f"{LAYER_PREFIX}{layer}."
        return [name for name in self.shapes if name.startswith(prefix) and name not in quantized]

    def rest_names(self) -> list[str]:
        """Names of the tensors outside the decoder layers."""
        return [name for name in self.shapes if not name.startswith(LAYER_PREFIX)]


def open_source(name: str, *, revision: str | None, offline: bool) -> Source:
    """The checkpoint called `name`: a folder, hub id or embedded model.

    Raises:
        CheckpointError: there is none, it is damaged or of another kind, or its weights are quantised already.
    """
    folder = locate(name, revision=revision, offline=offline)
    try:
        return _open(name, folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error


def _open(name: str, folder: Path) -> Source:
    """`open_source`, but for files that the system refuses to read."""
    path = folder / "config.json"
    fields = read_json(path) if path.is_file() else {}
    if fields.get("quantization_config") is not None:
        raise CheckpointError(
            f"{name} is quantised already: give the folder with the unquantised weights, or make them from these by  "
            f"baichuan2 convert dequantize {name} TARGET"
        )
    if not fields and (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{name} holds an adapter, not a model: put it into one first by  baichuan2 convert merge-lora {name} "
            "TARGET"
        )
    if fields.get("model_type") == "llama":
        raise CheckpointError(
            f"{name} is in the Llama layout: if it is a Baichuan there, first  baichuan2 convert from-llama {name} "
            "TARGET"
        )
    config = read_config(folder)
    files = find_weight_files(folder)
    try:
        with torch.device("meta"):
            model = BaichuanForCausalLM(config)
    except BaichuanError:
        raise
    except Exception as error:  # a value that passed as a field, but that no layer can be built with
        raise CheckpointError(f"{path} describes no model that can be built: {' '.join(str(error).split())}") from error
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    ignored = tuple(model._keys_to_ignore_on_load_unexpected or ())
    check_layout(files, shapes, ignored)
    return Source(name, folder, fields, MappedTensors(files), files.paths, config, shapes)
