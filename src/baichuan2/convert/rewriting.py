"""A folder written tensor by tensor out of another: what every conversion that gives a folder shares.

A conversion only says how each tensor of the new folder is made (`NewTensor`) and what describes them (`Conversion`).
Tensors are cut into shards by size, made one shard at a time, written, read again and compared (`output.py`); a run
that was stopped goes on behind the last whole shard.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import baichuan2
from baichuan2.convert.description import INDEX_FILE, index_text
from baichuan2.convert.output import PartialFolder, check_target
from baichuan2.convert.source import WeightSource
from baichuan2.errors import CheckpointError, QuantizationError, SettingsError
from baichuan2.settings import ConvertSettings

__all__ = ["Conversion", "Converted", "NewTensor", "Watch", "as_they_are", "write_folder"]

Watch = Callable[[int, int], None]
"""Is told how many of how many shards are written: 0 before the first, then after each."""

WHOLE_FILE = "model.safetensors"
SPARE_BYTES = 1 << 26  # of disk space, for the small files


@dataclass(frozen=True)
class NewTensor:
    """How one tensor of the new folder is made.

    `sources`: names in the old folder; `make` gets those tensors in this order, and also gets meta tensors, from which
    it tells shape and number format. None: the only source as it is.
    """

    sources: tuple[str, ...]
    make: Callable[..., Tensor] | None = None


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
        CheckpointError: the source cannot be read, or the target cannot be written.
        QuantizationError: a number is beyond what the number format asked for can hold.
    """
    started = time.perf_counter()
    assert settings.target is not None
    target = check_target(settings.target, source.folder)
    writer = _Writer(settings, source, conversion)
    with PartialFolder(target, writer.identity()) as partial:
        resumed = writer.write(partial, watch or (lambda *_: None))
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


class _Writer:
    """One conversion of one checkpoint."""

    def __init__(self, settings: ConvertSettings, source: WeightSource, conversion: Conversion) -> None:
        self.settings, self.source, self.conversion = settings, source, conversion
        self.dtype = None if settings.dtype == "same" else getattr(torch, settings.dtype)
        self.sizes = {name: self._num_bytes(tensor) for name, tensor in conversion.tensors.items()}
        self.shards = _cut(self.sizes, settings.shard_bytes)

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the result; an unfinished folder of another identity is not gone on with."""
        settings = self.settings
        return {
            "conversion": settings.way,
            "source": self.source.fingerprint(),
            "version": f"{baichuan2.__version__}, torch {torch.__version__}",
            "container": settings.container,
            "shard size": settings.shard_size,
            "dtype": settings.dtype,
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
                self._write_shard(partial, name, keys)
            watch(number, len(names))
        if len(names) > 1:
            partial.write_text(INDEX_FILE, index_text(partial.path, names))
        partial.write_text("config.json", json.dumps(dict(self.conversion.config), indent=2, ensure_ascii=False) + "\n")
        for name, text in self.conversion.texts.items():
            partial.write_text(name, text)
        for path in self.conversion.copied:
            partial.copy(path)
        return resumed

    def _shard_names(self) -> list[str]:
        if len(self.shards) == 1:
            return [WHOLE_FILE]
        return [
            f"model-{number:05d}-of-{len(self.shards):05d}.safetensors" for number in range(1, len(self.shards) + 1)
        ]

    def _write_shard(self, partial: PartialFolder, name: str, keys: Sequence[str]) -> None:
        partial.write_shard(name, {key: self._made(key) for key in keys}, lambda _: {})
        for key in keys:
            for source in self.conversion.tensors[key].sources:
                self.source.tensors.release(source)

    def _made(self, key: str) -> Tensor:
        new = self.conversion.tensors[key]
        parts = [self.source.tensors[name] for name in new.sources]
        result = parts[0] if new.make is None else new.make(*parts)
        if self.dtype is None or result.dtype == self.dtype or not result.is_floating_point():
            return result
        cast = result.to(self.dtype)
        low, high = cast.aminmax()  # a mask would take the memory of the tensor again
        if not (bool(low.isfinite()) and bool(high.isfinite())):
            raise QuantizationError(
                f"{key} holds numbers beyond what {self.settings.dtype} can: give --dtype bfloat16 or float32"
            )
        return cast

    def _num_bytes(self, new: NewTensor) -> int:
        """What the tensor will take, told from empty ones."""
        parts = [torch.empty_like(self.source.tensors[name], device="meta") for name in new.sources]
        result = parts[0] if new.make is None else new.make(*parts)
        is_cast = self.dtype is not None and result.is_floating_point()
        return result.numel() * (self.dtype if is_cast and self.dtype else result.dtype).itemsize

    def _check_disk_space(self, partial: PartialFolder) -> None:
        needed = sum(self.sizes.values()) - partial.num_bytes()
        free = shutil.disk_usage(partial.path).free
        if free < needed + SPARE_BYTES:
            raise CheckpointError(
                f"the disk of {partial.path.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: "
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
