"""The model that is evaluated: what tells it from others before any of it is loaded, and what a result says of it."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from baichuan2.checkpoints.adapters import base_of
from baichuan2.checkpoints.load import load_model, read_config
from baichuan2.checkpoints.locate import DEMO_DIR, locate
from baichuan2.errors import SettingsError
from baichuan2.settings import LoadSettings

__all__ = ["Candidate", "candidate_of", "find_candidate", "folder_name"]

DESCRIPTIONS = ("config.json", "adapter_config.json", "tokenizer.model")
WEIGHTS = (".safetensors", ".bin")
SAMPLES, SAMPLE_BYTES = 64, 4096  # of each weight file; all of it would take minutes for a 13B
LABEL = re.compile(r"[^\w.+-]+", re.ASCII)


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    `identity`: all that decides its answers, plain values. `description`: what a result says of it. `load`: makes the
    model, as `load_model` gives it. `remarks`: what its scores should be read with, a line each.
    """

    name: str
    identity: Mapping[str, Any]
    description: Mapping[str, Any]
    load: Callable[[], Any]
    remarks: tuple[str, ...] = ()


def find_candidate(settings: LoadSettings, load: Callable[[LoadSettings], Any] | None = None) -> Candidate:
    """The model that `settings` name; nothing of it is in memory yet.

    `load`: loads it, where `load_model` alone is not enough, such as to show how far it is.

    Raises:
        CheckpointError: there is none, or its folder cannot be read.
        SettingsError: several adapters are asked for, which are answers by several models.
    """
    if settings.named_adapters:
        raise SettingsError("--adapter NAME=PATH is for serve: give one adapter as --adapter PATH, one evaluation each")
    adapter = None if settings.adapter is None else Path(settings.adapter).expanduser()
    name = settings.model
    if name is None and adapter is not None:
        name = base_of(adapter) or None
    folder = locate(name, revision=settings.revision, offline=settings.offline)
    config = read_config(folder)
    stored = getattr(config, "dtype", None)
    dtype = settings.dtype if settings.dtype != "auto" else _dtype_name(stored)
    quantization = settings.quantize if settings.quantize != "none" else _stored_quantization(config)
    title = _title(settings.model if settings.model is not None or adapter is None else name, folder)
    identity = {
        "model": _digest(folder),
        "adapter": None if adapter is None else _digest(adapter),
        "dtype": dtype,
        "quantization": quantization,
        "numerics": settings.numerics if config.position_embedding == "alibi" else "exact",
    }
    description = {
        "name": title,
        "revision": settings.revision,
        "digest": identity["model"],
        "adapter": None if adapter is None else adapter.resolve().name,
        "adapter_digest": identity["adapter"],
        **{key: identity[key] for key in ("dtype", "quantization", "numerics")},
        **_described(config),
    }
    make = load if load is not None else lambda wanted: load_model(settings=wanted)
    return Candidate(title, identity, description, lambda: make(settings), _remarks(config, identity))


def candidate_of(loaded: Any) -> Candidate:
    """A model that is in memory already, as `load_model` gives it."""
    model = loaded.model
    config = getattr(model, "config", None)
    digest = sha256(repr(config.to_dict() if config is not None else None).encode())
    for name, parameter in model.named_parameters() if hasattr(model, "named_parameters") else ():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES)
        digest.update(f"{name} {parameter.dtype} {flat[::step].float().tolist()}".encode())
    identity = {
        "model": digest.hexdigest()[:16],
        "adapter": None,
        "dtype": _dtype_name(getattr(model, "dtype", None)),
        "quantization": _stored_quantization(config),
        "numerics": getattr(config, "alibi_numerics", "exact"),
    }
    description = {
        "name": loaded.name,
        "revision": None,
        "digest": identity["model"],
        "adapter": None,
        "adapter_digest": None,
        **{key: identity[key] for key in ("dtype", "quantization", "numerics")},
        **_described(config),
    }
    return Candidate(loaded.name, identity, description, lambda: loaded, _remarks(config, identity))


def folder_name(candidate: Candidate, settings: LoadSettings, recipe: str) -> str:
    """What the results of a model are called on the disk: its name, and what differs from how it comes."""
    given = (
        settings.revision,
        candidate.description.get("adapter"),
        settings.quantize if settings.quantize != "none" else None,
        settings.dtype if settings.dtype != "auto" else None,
        "official-numerics" if settings.numerics != "exact" else None,
        recipe if recipe != "official" else None,
    )
    parts = [candidate.name.rstrip("/").rpartition("/")[2], *(part for part in given if part)]
    name = LABEL.sub("-", "-".join(parts)).strip(".-")
    return name[:150] or "model"


def _title(name: str | None, folder: Path) -> str:
    if folder.parent == DEMO_DIR:
        return f"demo-{folder.name}"
    return name if name is not None and not Path(name).expanduser().is_dir() else folder.resolve().name


def _described(config: Any) -> dict[str, Any]:
    return {
        "positions": getattr(config, "position_embedding", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "layers": getattr(config, "num_hidden_layers", None),
        "vocabulary": getattr(config, "vocab_size", None),
    }


def _dtype_name(dtype: Any) -> str:
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def _stored_quantization(config: Any) -> str:
    """What the weights of a quantised folder are stored as; none for all others."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return "none"
    values = found if isinstance(found, dict) else found.to_dict()
    bits = "8" if values.get("load_in_8bit") else "4" if values.get("load_in_4bit") else str(values.get("bits", ""))
    name = values.get("format") or values.get("bnb_4bit_quant_type") or values.get("quant_method") or "quantised"
    return f"{name}" if not bits or bits in str(name) else f"{name} {bits} bits"


def _remarks(config: Any, identity: Mapping[str, Any]) -> tuple[str, ...]:
    """What about the numbers of a model its scores should be read with."""
    is_low = identity["dtype"] in ("bfloat16", "float16")
    if getattr(config, "position_embedding", None) == "alibi" and is_low and identity["numerics"] == "official":
        return (
            f"the 13B's position bias is rounded to {identity['dtype']} by --numerics official: others saw MMLU at "
            "0.564 in bfloat16 and at 0.590 in float32 for Baichuan2-13B-Base; leave it out, or give --dtype float32",
        )
    return ()


def _digest(folder: Path) -> str:
    """One of the files that make a model: the small ones whole, of weights the sizes and samples spread over them."""
    digest = sha256()
    for name in DESCRIPTIONS:
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    for path in sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for index in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * index // (SAMPLES - 1), os.SEEK_SET)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
