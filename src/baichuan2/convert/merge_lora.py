"""`baichuan2 merge`: a folder of a whole model, whose weights hold what an adapter changes.

One decoder layer at a time is in memory; the folder is written beside its final place and checked (`output.py`), so a
killed run goes on, and neither base nor adapter is touched. Each changed weight is computed in float32 and rounded once
to the number format that the base has.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import baichuan2
from baichuan2.checkpoints.adapters import Adapter, base_of, check_base, read_adapter
from baichuan2.checkpoints.shards import read_json
from baichuan2.convert.description import INDEX_FILE, index_text
from baichuan2.convert.output import PartialFolder, check_target, digest_of, files_to_copy
from baichuan2.convert.rewriting import Converted, Watch
from baichuan2.convert.source import EMBEDDING, HEAD, Source, open_source
from baichuan2.errors import CheckpointError, QuantizationError, SettingsError
from baichuan2.settings import ConvertSettings, MergeSettings

__all__ = ["MergedFolder", "merge_adapter", "merge_lora"]

WEIGHT = ".weight"
NORM = "norm.weight"


@dataclass(frozen=True, kw_only=True)
class MergedFolder:
    """What was written.

    `num_source_bytes`: of the base's weights. `num_changed`: how many weights the adapter changed. `resumed`: files
    that an earlier run had finished.
    """

    folder: Path
    num_source_bytes: int
    num_bytes: int
    num_tensors: int
    num_changed: int
    seconds: float
    resumed: int = 0


def merge_lora(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """`baichuan2 convert merge-lora`, which is `baichuan2 merge` by its other name.

    Raises: as `merge_adapter`.
    """
    merged = merge_adapter(
        MergeSettings(
            adapter=settings.source,
            target=settings.target,
            base=settings.base,
            revision=settings.revision,
            offline=settings.offline,
        ),
        watch,
    )
    return Converted(
        path=merged.folder,
        num_source_bytes=merged.num_source_bytes,
        num_bytes=merged.num_bytes,
        num_tensors=merged.num_tensors,
        seconds=merged.seconds,
        resumed=merged.resumed,
    )


def merge_adapter(settings: MergeSettings, watch: Callable[[int, int], None] | None = None) -> MergedFolder:
    """Writes the model that `settings.adapter` was trained on, changed by it, to the new folder `settings.target`.

    `watch` is told how many of how many decoder layers are written. Warns where `settings.base` is another model.

    Raises:
        SettingsError: adapter or target is missing, the target cannot be taken, or another job is unfinished there.
        CheckpointError: adapter or base cannot be read or do not belong together, or the target cannot be written.
        QuantizationError: a changed weight is beyond what the base's number format can hold.
    """
    started = time.perf_counter()
    for name, value in (("ADAPTER", settings.adapter), ("TARGET", settings.target)):
        if not value:
            raise SettingsError(f"{name} is missing: baichuan2 merge ADAPTER TARGET (see baichuan2 merge --help)")
    assert settings.adapter is not None
    assert settings.target is not None
    folder = Path(settings.adapter).expanduser()
    source = _open_base(folder, settings)
    target = check_target(settings.target, source.folder)
    if target.parent.resolve().joinpath(target.name).is_relative_to(folder.resolve()):
        raise SettingsError(f"TARGET {settings.target} lies inside ADAPTER: give a folder elsewhere")
    adapter = read_adapter(folder, source.config)
    check_base(((name, source.tensors[name]) for name in source.tensors if name.endswith(NORM)), adapter)
    kept = files_to_copy(source.folder)
    job = _identity(source, adapter)
    with PartialFolder(target, job) as partial:
        resumed = _write_weights(partial, source, adapter, watch or (lambda *_: None))
        source.check_unchanged(job["source"])
        names = [_shard_name(number, source.num_layers) for number in range(source.num_layers + 1)]
        partial.write_text(INDEX_FILE, index_text(partial.path, names))
        fields = {name: value for name, value in source.fields.items() if name != "auto_map"}  # no code is copied
        partial.write_text("config.json", json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
        for path in kept:
            partial.copy(path)
        finished = partial.finish()
    return MergedFolder(
        folder=finished,
        num_source_bytes=source.num_bytes,
        num_bytes=sum(path.stat().st_size for path in finished.iterdir()),
        num_tensors=len(source.shapes),
        num_changed=len(adapter.layers) + len(adapter.whole),
        seconds=time.perf_counter() - started,
        resumed=resumed,
    )


def _open_base(folder: Path, settings: MergeSettings) -> Source:
    """The model that is changed; CheckpointError where it is not known, or quantised."""
    recorded = base_of(folder)
    name = settings.base or recorded
    if not name:
        raise CheckpointError(f"{folder} does not say which model it was trained on: name that with --base")
    if settings.base is None and Path(name).is_dir():
        config = Path(name) / "config.json"
        if config.is_file() and read_json(config).get("quantization_config") is not None:
            raise CheckpointError(
                f"{folder} was trained on {name}, which is quantised: in few bits most of what was learnt would be "
                "lost, so give the model with all its bits with --base"
            )
    try:
        return open_source(name, revision=settings.revision, offline=settings.offline)
    except CheckpointError as error:
        if settings.base is not None:
            raise
        raise CheckpointError(f"the model that {folder} was trained on: {error}; another place: --base") from error


def _identity(source: Source, adapter: Adapter) -> dict[str, Any]:
    """What decides the bytes of the result; an unfinished folder of another identity is not gone on with."""
    files = sorted(path for path in adapter.folder.iterdir() if path.name.startswith("adapter_") and path.is_file())
    return {
        "source": source.fingerprint(),
        "version": f"merge, {baichuan2.__version__}, torch {torch.__version__}",
        "adapter": {path.name: digest_of(path) for path in files},
    }


def _shard_name(number: int, num_layers: int) -> str:
    return f"model-{number + 1:05d}-of-{num_layers + 1:05d}.safetensors"


def _write_weights(partial: PartialFolder, source: Source, adapter: Adapter, watch: Callable[[int, int], None]) -> int:
    """A file for each decoder layer, and one for what stands outside of them; how many were there already."""
    watch(0, source.num_layers)
    resumed = 0
    for layer in range(source.num_layers):
        linears = [name + WEIGHT for name in source.linear_names(layer)]
        resumed += not _write_shard(partial, source, adapter, layer, [*linears, *source.plain_names(layer)])
        watch(layer + 1, source.num_layers)
    return resumed + (not _write_shard(partial, source, adapter, source.num_layers, source.rest_names()))


def _write_shard(partial: PartialFolder, source: Source, adapter: Adapter, number: int, keys: list[str]) -> bool:
    """Writes one file, unless it is there."""
    name = _shard_name(number, source.num_layers)
    if partial.has(name):
        return False
    tensors = {key: _changed(source.tensors[key], key, adapter) for key in keys}

    def check(found: Mapping[str, Tensor]) -> dict[str, float]:
        del found  # it is what was meant: that has been compared
        return {}

    partial.write_shard(name, tensors, check)
    for key in keys:
        source.tensors.release(key)
    return True


def _changed(weight: Tensor, key: str, adapter: Adapter) -> Tensor:
    """The tensor `key` with what the adapter makes of it, in its number format."""
    layer = key.removesuffix(WEIGHT)
    if layer in adapter.layers:
        result = adapter.layers[layer].merged(weight)
    elif layer in adapter.whole and layer in (EMBEDDING, HEAD):
        result = adapter.whole[layer].to(weight.dtype)
    else:
        return weight
    low, high = result.aminmax()
    if not (bool(low.isfinite()) and bool(high.isfinite())):
        raise QuantizationError(
            f"{key} changed by the adapter holds numbers beyond what {str(weight.dtype).removeprefix('torch.')} can: "
            "give a base in bfloat16 or float32"
        )
    return result
