"""A folder written tensor by tensor out of another: what every conversion that gives a folder shares.

A conversion only says how each tensor of the new folder is made (`NewTensor`) and what describes them (`Conversion`).
Tensors are cut into shards by size and written as they are made, one after the other, a large one by rows; each shard
is read again and compared (`output.py`). A run that was stopped goes on behind the last whole shard.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import baichuan2
from baichuan2.checkpoints.shard_file import StoredAs
from baichuan2.checkpoints.shards import is_finite, read_json
from baichuan2.convert.output import PartialFolder, check_target
from baichuan2.convert.source import WeightSource
from baichuan2.errors import CheckpointError, QuantizationError, SettingsError
from baichuan2.quantization.freed_memory import release_if_mapped
from baichuan2.settings import ConvertSettings

__all__ = ["Conversion", "Converted", "NewTensor", "Watch", "as_they_are", "with_dtype", "without_code", "write_folder"]

Watch = Callable[[int, int], None]
"""Is told how many of how many shards are written: 0 before the first, then after each."""

VERSION = 1
"""Of what conversions write; a run that an older one left unfinished is not gone on with."""
STEMS = {"safetensors": "model", "bin": "pytorch_model"}
TOKENIZER_CONFIG = "tokenizer_config.json"
BYTES_AT_A_TIME = 1 << 26
SPARE_BYTES = 1 << 26  # of disk space, for the small files


@dataclass(frozen=True)
class NewTensor:
    """How one tensor of the new folder is made.

    `sources`: names in the old folder; `make` gets those tensors in this order, and also gets meta tensors, from which
    it tells shape and number format. None: the only source as it is. `by_rows`: each row of the result depends on the
    same row of each source alone, so `make` gets some rows at a time and the whole is never in memory.
    """

    sources: tuple[str, ...]
    make: Callable[..., Tensor] | None = None
    by_rows: bool = False


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What the new folder holds.

    `tensors`: by their new names, in the order in which they are written. `config`: fields of config.json. `texts`:
    small files that are written anew, by name. `copied`: files of the old folder that are taken over.
    """

    tensors: Mapping[str, NewTensor]
    config: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)
    copied: Sequence[Path] = ()


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written: a folder or a file. `resumed`: shards that an earlier run had finished."""

    path: Path
    num_source_bytes: int
    num_bytes: int
    num_tensors: int
    seconds: float
    resumed: int = 0


def write_folder(
    settings: ConvertSettings, source: WeightSource, conversion: Conversion, watch: Watch | None = None
) -> Converted:
    """Writes the new folder `settings.target`.

    Raises:
        SettingsError: the target cannot be taken, or another job is unfinished there.
        CheckpointError: the source cannot be read or was changed meanwhile, or the target cannot be written.
        QuantizationError: a number is beyond what the number format asked for can hold.
    """
    started = time.perf_counter()
    assert settings.target is not None
    target = check_target(settings.target, source.folder)
    writer = _Writer(settings, source, conversion)
    job = writer.identity()
    with PartialFolder(target, job) as partial:
        resumed = writer.write(partial, watch or (lambda *_: None))
        source.check_unchanged(job["source"])
        folder = partial.finish()
    return Converted(
        path=folder,
        num_source_bytes=source.num_bytes,
        num_bytes=sum(path.stat().st_size for path in folder.iterdir()),
        num_tensors=len(conversion.tensors),
        seconds=time.perf_counter() - started,
        resumed=resumed,
    )


def as_they_are(names: Sequence[str]) -> dict[str, NewTensor]:
    """Tensors that keep their names and values."""
    return {name: NewTensor((name,)) for name in names}


def without_code(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a JSON file without the one that points at code, which no folder of ours holds."""
    return {name: value for name, value in fields.items() if name != "auto_map"}


def with_dtype(fields: Mapping[str, Any], settings: ConvertSettings) -> dict[str, Any]:
    """Fields of a config.json that say the number format asked for."""
    if settings.dtype == "same":
        return dict(fields)
    return {name: value for name, value in fields.items() if name != "dtype"} | {"torch_dtype": settings.dtype}


class _Writer:
    """One conversion of one checkpoint."""

    def __init__(self, settings: ConvertSettings, source: WeightSource, conversion: Conversion) -> None:
        self.settings, self.source, self.conversion = settings, source, conversion
        self.config = with_dtype(conversion.config, settings)
        self.dtype = None if settings.dtype == "same" else getattr(torch, settings.dtype)
        self.layout = {name: self._stored_as(tensor) for name, tensor in conversion.tensors.items()}
        self.shards = _cut({name: stored.num_bytes for name, stored in self.layout.items()}, settings.shard_bytes)

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the result; an unfinished folder of another identity is not gone on with."""
        settings, conversion = self.settings, self.conversion
        tensors = [[name, *new.sources] for name, new in conversion.tensors.items()]
        description = json.dumps([tensors, self.config, conversion.texts, [path.name for path in conversion.copied]])
        return {
            "conversion": settings.way,
            "source": self.source.fingerprint(),
            "version": f"{baichuan2.__version__}, conversions {VERSION}, torch {torch.__version__}",
            "container": settings.container,
            "shard size": settings.shard_size,
            "dtype": settings.dtype,
            "description": {"sha256": hashlib.sha256(description.encode()).hexdigest()},
        }

    def write(self, partial: PartialFolder, watch: Watch) -> int:
        """Writes everything that is not there yet; how many shards were."""
        self._check_disk_space(partial)
        names = self._shard_names()
        resumed = 0
        watch(0, len(names))
        for number, (name, keys) in enumerate(zip(names, self.shards, strict=True), start=1):
            if partial.has(name):
                resumed += 1
            else:
                partial.write_streamed(name, {key: self.layout[key] for key in keys}, self._pieces)
            watch(number, len(names))
        if len(names) > 1:
            self._write_index(partial, names)
        partial.write_text("config.json", json.dumps(self.config, indent=2, ensure_ascii=False) + "\n")
        for name, text in self.conversion.texts.items():
            partial.write_text(name, text)
        for path in self.conversion.copied:
            self._copy(partial, path)
        return resumed

    def _shard_names(self) -> list[str]:
        container, count = self.settings.container, len(self.shards)
        if count == 1:
            return [f"{STEMS[container]}.{container}"]
        return [f"{STEMS[container]}-{number:05d}-of-{count:05d}.{container}" for number in range(1, count + 1)]

    def _write_index(self, partial: PartialFolder, names: Sequence[str]) -> None:
        """The index that says which of the files holds which tensor."""
        places = {key: name for name, keys in zip(names, self.shards, strict=True) for key in keys}
        total = sum(stored.num_bytes for stored in self.layout.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        container = self.settings.container
        partial.write_text(f"{STEMS[container]}.{container}.index.json", json.dumps(index, indent=2) + "\n")

    def _copy(self, partial: PartialFolder, path: Path) -> None:
        """Copies a small file; without what points at code, which is not copied."""
        fields = read_json(path) if path.name == TOKENIZER_CONFIG else {}
        if without_code(fields) == fields:
            partial.copy(path)
        else:
            partial.write_text(path.name, json.dumps(without_code(fields), indent=2, ensure_ascii=False) + "\n")

    def _pieces(self, key: str) -> Iterator[Tensor]:
        """The tensor `key` by rows, as it is to be stored; what was read for it leaves memory behind them."""
        new = self.conversion.tensors[key]
        parts = [self.source.tensors[name] for name in new.sources]
        step = self._rows_at_a_time(self.layout[key])
        if new.by_rows and new.make is not None:
            for start in range(0, self.layout[key].shape[0], step):
                rows = [part[start : start + step] for part in parts]
                yield self._stored(key, new.make(*rows))
                for part in rows:
                    release_if_mapped(part)
        else:
            whole = parts[0] if new.make is None else new.make(*parts)
            for piece in torch.split(whole, step) if whole.dim() else [whole]:
                yield self._stored(key, piece)
        for name in new.sources:
            self.source.tensors.release(name)

    def _rows_at_a_time(self, stored: StoredAs) -> int:
        num_rows = stored.shape[0] if stored.shape else 1
        return max(BYTES_AT_A_TIME * num_rows // max(stored.num_bytes, 1), 1)

    def _stored(self, key: str, values: Tensor) -> Tensor:
        """Some values in the number format of the new folder; NaN and infinite ones stop the conversion."""
        if not values.is_floating_point():
            return values
        result = values.to(self.layout[key].dtype)
        if is_finite(result):
            return result
        if is_finite(values):
            raise QuantizationError(
                f"{key} holds numbers beyond what {self.settings.dtype} can: give --dtype bfloat16 or float32"
            )
        raise CheckpointError(
            f"{self.source.name}: {key} holds NaN or infinite numbers: the file is damaged, or its training went wrong"
        )

    def _stored_as(self, new: NewTensor) -> StoredAs:
        """What the tensor will be, told from empty ones."""
        parts = [torch.empty_like(self.source.tensors[name], device="meta") for name in new.sources]
        result = parts[0] if new.make is None else new.make(*parts)
        is_cast = self.dtype is not None and result.is_floating_point()
        return StoredAs(self.dtype if is_cast and self.dtype else result.dtype, result.shape)

    def _check_disk_space(self, partial: PartialFolder) -> None:
        needed = sum(stored.num_bytes for stored in self.layout.values()) - partial.num_bytes() + SPARE_BYTES
        free = shutil.disk_usage(partial.path).free
        if free < needed:
            raise CheckpointError(
                f"the disk of {partial.path.parent} has {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are needed: "
                "make room, or give a TARGET elsewhere"
            )


def _cut(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    """The tensors of each shard: in order, as many as fit; one that is larger by itself has a shard of its own."""
    shards: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not shards or (limit is not None and filled + size > limit):
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if not shards:
        raise SettingsError("there is no tensor to write")
    return shards
