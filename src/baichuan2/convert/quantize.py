"""`quantize_checkpoint`: a checkpoint in 8 or 4 bits, written layer by layer.

Place in the flow: `source` reads, `rounding` decides what a weight becomes, `calibrate` runs the model on text where
the method wants it, `output` writes, checks and resumes. Only one decoder layer is in memory at a time.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import baichuan2
from baichuan2.convert.calibrate import CalibratedRun, state_bytes
from baichuan2.convert.calibration_text import CalibrationText, read_calibration_text
from baichuan2.convert.description import INDEX_FILE, index_text, quantized_config_text
from baichuan2.convert.official_bin import BIN_FILE, quantized_bits, write_official_bin
from baichuan2.convert.output import PartialFolder, check_target, files_to_copy, read_shard
from baichuan2.convert.rounding import (
    HEAD_ROUNDINGS,
    TABLE_ROUNDING,
    Rounding,
    check_rounded,
    largest_error,
    layer_from,
    round_table,
    round_weight,
    tensors_of,
)
from baichuan2.convert.source import EMBEDDING, HEAD, Source, open_source
from baichuan2.errors import CheckpointError, QuantizationError, SettingsError
from baichuan2.quantization.gptq import Hessian
from baichuan2.quantization.linear import QuantizedLinear
from baichuan2.quantization.scheme import VERSION
from baichuan2.settings import QuantizeSettings

__all__ = ["QuantizedFolder", "Step", "quantize_checkpoint"]

SPARE_BYTES = 1 << 26  # of disk space, for the small files


@dataclass(frozen=True)
class Step:
    """How far a run is: `done` of `total` decoder layers; `resumed` of them by an earlier run."""

    done: int
    total: int
    resumed: int


@dataclass(frozen=True)
class QuantizedFolder:
    """What was written.

    `bits_per_weight`: of the quantised layers of the decoder, scales included. `errors`: relative error of each
    quantised weight, root mean square. `num_tokens`: of calibration text.
    """

    folder: Path
    num_source_bytes: int
    num_bytes: int
    bits_per_weight: float
    errors: Mapping[str, float]
    num_tokens: int
    seconds: float


def quantize_checkpoint(settings: QuantizeSettings, watch: Callable[[Step], None] | None = None) -> QuantizedFolder:
    """Writes the checkpoint `settings.source` to the new folder `settings.target` in fewer bits.

    Until it is whole, the folder is called `TARGET.partial`; the same call goes on there after it was interrupted.
    `watch` is called before the first decoder layer and after each.

    Raises:
        SettingsError: source or target is missing, or the target cannot be taken; or another job is unfinished there.
        CheckpointError: the source cannot be read or is quantised already, or the target cannot be written.
        TokenizerError, DataError: the calibration text or what turns it into tokens cannot be read.
        QuantizationError: a weight cannot be quantised.
    """
    started = time.perf_counter()
    for flag, value in (("SOURCE", settings.source), ("TARGET", settings.target)):
        if not value:
            raise SettingsError(f"{flag} is missing: baichuan2 quantize SOURCE TARGET (see baichuan2 quantize --help)")
    assert settings.source is not None
    assert settings.target is not None
    source = open_source(settings.source, revision=settings.revision, offline=settings.offline)
    target = check_target(settings.target, source.folder)
    rounding = Rounding.of(settings, source.dtype)
    text = None
    if rounding.method == "gptq":
        text = read_calibration_text(settings.calibration, source, settings.calibration_tokens)
        _warn_of_little_text(text, source)
    elif settings.calibration is not None:
        raise SettingsError(f"--calibration works with --method gptq only, got {rounding.method}")
    kept = files_to_copy(source.folder)  # now: hours later its warnings come too late
    job = _Job(settings, source, rounding, text)
    identity = job.identity()
    with PartialFolder(target, identity) as partial:
        errors = job.write_weights(partial, watch or (lambda _: None))
        source.check_unchanged(identity["source"])
        bits = job.bits_per_weight(partial)
        job.write_description(partial, kept)
        folder = partial.finish()
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    num_tokens = 0 if text is None else text.num_tokens
    seconds = time.perf_counter() - started
    return QuantizedFolder(folder, source.num_bytes, num_bytes, bits, errors, num_tokens, seconds)


@dataclass(frozen=True)
class _Job:
    """One checkpoint and everything that was chosen for it."""

    settings: QuantizeSettings
    source: Source
    rounding: Rounding
    text: CalibrationText | None

    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the result; an unfinished folder of another identity is not gone on with."""
        rounding = self.rounding
        return {
            "source": self.source.fingerprint(),
            "version": f"{baichuan2.__version__}, layout {VERSION}, torch {torch.__version__}",
            "format": rounding.format,
            "group size": rounding.group_size,
            "method": rounding.method,
            "codebook": rounding.codebook,
            "head": self.settings.head,
            "embedding": self.settings.embedding,
            "calibration": None if self.text is None else self.text.description(),
        }

    def shard_name(self, layer: int) -> str:
        """The file of a decoder layer; the file after the last one holds the rest."""
        return f"model-{layer + 1:05d}-of-{self.source.num_layers + 1:05d}.safetensors"

    def shard_names(self) -> list[str]:
        """All files of weights."""
        return [self.shard_name(layer) for layer in range(self.source.num_layers + 1)]

    def write_weights(self, partial: PartialFolder, watch: Callable[[Step], None]) -> dict[str, float]:
        """Writes all weights that are not there yet, in the files that stay; their relative errors."""
        is_official = self.rounding.format == "official-4bits"
        is_written = is_official and partial.has(BIN_FILE)  # out of shards that may be gone by now
        if is_written:
            for layer in range(self.source.num_layers + 1):
                watch(Step(layer, self.source.num_layers, layer))
        else:
            _check_disk_space(partial, self)
            self.write_rest(partial, self.write_layers(partial, watch))
        if is_official:
            write_official_bin(partial, self.shard_names(), is_written)
        return {name: error for note in partial.notes.values() for name, error in note["errors"].items()}

    def write_layers(self, partial: PartialFolder, watch: Callable[[Step], None]) -> Hessian | None:
        """Writes a shard for each decoder layer that has none yet; what the head is fed, where that is asked for."""
        num_layers = self.source.num_layers
        is_for_head = self.settings.head == "int4" and not partial.has(self.shard_name(num_layers))
        run = None
        if self.text is not None:
            run = CalibratedRun(self.source, self.text.windows, self.rounding, partial.path, reaches_head=is_for_head)
            run.start(self.settings.embedding == "int8")
        resumed = 0
        is_resuming = True
        watch(Step(0, num_layers, 0))
        for layer in range(num_layers):
            name = self.shard_name(layer)
            is_resuming = is_resuming and partial.has(name)
            if is_resuming:
                resumed += 1
                if run is not None:
                    run.pass_layer(layer, self._read_layers(partial.path / name, layer))
            else:
                layers = self._round_layer(layer) if run is None else run.round_layer(layer)
                self._write_layer(partial, name, layer, layers)
                del layers
            watch(Step(layer + 1, num_layers, resumed))
        if run is None:
            return None
        try:
            return run.head_inputs() if is_for_head else None
        finally:
            run.close()

    def _round_layer(self, layer: int) -> dict[str, QuantizedLinear]:
        return {name: self._rounded(name) for name in self.source.linear_names(layer)}

    def _rounded(self, name: str) -> QuantizedLinear:
        try:
            return round_weight(self.rounding, self.source.tensors[f"{name}.weight"])
        except QuantizationError as error:
            raise QuantizationError(f"{name}.weight: {error}") from error
        finally:
            self.source.tensors.release(f"{name}.weight")

    def _write_layer(
        self, partial: PartialFolder, name: str, layer: int, layers: Mapping[str, QuantizedLinear]
    ) -> None:
        tensors = {key: part for linear in layers for key, part in tensors_of(layers[linear], linear).items()}
        for key in self.source.plain_names(layer):
            tensors[key] = self._plain(key)
        bound = largest_error(self.rounding)

        def check(found: Mapping[str, Tensor]) -> dict[str, float]:
            errors = {}
            for linear in layers:
                weight = self.source.tensors[f"{linear}.weight"]
                stored = layer_from(self.rounding, found, linear, weight.shape[1])
                errors[linear] = check_rounded(stored, weight, f"{partial.path / name}: {linear}", bound)
                self.source.tensors.release(f"{linear}.weight")
            return errors

        partial.write_shard(name, tensors, check)

    def _read_layers(self, path: Path, layer: int) -> dict[str, QuantizedLinear]:
        found = read_shard(path)
        shapes = self.source.shapes
        return {
            name: layer_from(self.rounding, found, name, shapes[f"{name}.weight"][1])
            for name in self.source.linear_names(layer)
        }

    def _plain(self, key: str) -> Tensor:
        """A tensor that is not quantised: as it is, or in float16, as official 4-bit folders have it."""
        tensor = self.source.tensors[key]
        if self.rounding.format != "official-4bits" or tensor.dtype == torch.float16:
            return tensor
        half = tensor.to(torch.float16)
        low, high = half.aminmax()  # a mask would take half of the table's memory again
        if not (bool(low.isfinite()) and bool(high.isfinite())):
            raise QuantizationError(f"{key} holds numbers beyond 65504, for which official-4bits (float16) has no room")
        self.source.tensors.release(key)
        return half

    def write_rest(self, partial: PartialFolder, head_inputs: Hessian | None = None) -> None:
        """Writes what stands outside of the decoder layers: embedding, final norm and head."""
        name = self.shard_name(self.source.num_layers)
        if partial.has(name):
            return
        tables: dict[str, QuantizedLinear] = {}
        tensors: dict[str, Tensor] = {}
        for key in self.source.rest_names():
            module = key.removesuffix(".weight")
            wanted = {HEAD: self.settings.head, EMBEDDING: self.settings.embedding}.get(module, "none")
            if wanted == "none":
                tensors[key] = self._plain(key)
                continue
            try:
                tables[module] = round_table(
                    self.source.tensors[key],
                    self._table_rounding(module),
                    is_normalized=self._is_unit(module),
                    inputs=head_inputs if module == HEAD else None,
                )
            except QuantizationError as error:
                raise QuantizationError(f"{key}: {error}") from error
            self.source.tensors.release(key)
            tensors |= tensors_of(tables[module], module)

        def check(found: Mapping[str, Tensor]) -> dict[str, float]:
            return {module: self._check_table(found, module, partial.path / name) for module in tables}

        partial.write_shard(name, tensors, check)
        for key in self.source.rest_names():
            self.source.tensors.release(key)

    def _is_unit(self, module: str) -> bool:
        return module == HEAD and bool(self.source.config.normalized_head)

    def _table_rounding(self, module: str) -> Rounding:
        return HEAD_ROUNDINGS[self.settings.head] if module == HEAD else TABLE_ROUNDING

    def _check_table(self, found: Mapping[str, Tensor], module: str, path: Path) -> float:
        table = self.source.tensors[f"{module}.weight"]
        rounding = self._table_rounding(module)
        layer, bound = layer_from(rounding, found, module, table.shape[1]), largest_error(rounding)
        return check_rounded(layer, table, f"{path}: {module}", bound, is_normalized=self._is_unit(module))

    def bits_per_weight(self, partial: PartialFolder) -> float:
        """Bits that a weight of the decoder's linear layers takes in the files, its share of scales included."""
        num_bits = num_weights = 0
        for layer in range(self.source.num_layers):
            num_weights += sum(self.source.shapes[f"{name}.weight"].numel() for name in self.source.linear_names(layer))
        if self.rounding.format == "official-4bits":
            return quantized_bits(partial.path / BIN_FILE) / num_weights
        for layer in range(self.source.num_layers):
            plain = set(self.source.plain_names(layer))
            found = read_shard(partial.path / self.shard_name(layer))
            num_bits += sum(8 * tensor.nbytes for name, tensor in found.items() if name not in plain)
        return num_bits / num_weights

    def write_description(self, partial: PartialFolder, kept: Sequence[Path]) -> None:
        """Writes config.json, the index, and the files `kept` of the source."""
        if self.rounding.format != "official-4bits":
            partial.write_text(INDEX_FILE, index_text(partial.path, self.shard_names()))
        calibration = {
            "method": self.rounding.method,
            "text": None if self.text is None else self.text.description(),
            "baichuan2": baichuan2.__version__,
            "torch": str(torch.__version__),
        }
        partial.write_text(
            "config.json", quantized_config_text(self.source.fields, self.rounding, self.settings, calibration)
        )
        for path in kept:
            partial.copy(path)


def _warn_of_little_text(text: CalibrationText, source: Source) -> None:
    most = max(int(source.config.hidden_size), int(source.config.intermediate_size))
    if text.num_tokens < most:
        warnings.warn(
            f"{text.num_tokens} tokens of calibration text are few for layers of {most} inputs: give a longer text, or "
            "more --calibration-tokens",
            stacklevel=3,
        )


def _check_disk_space(partial: PartialFolder, job: _Job) -> None:
    """Raises CheckpointError where the disk cannot hold what is still to be written, the calibration's states too."""
    source, format = job.source, job.rounding.format
    bits = {"int8": 9, "int4": 4.6, "nf4": 4.2, "official-4bits": 4.2}[format]
    needed = 0.0
    for name, shape in source.shapes.items():
        is_quantized = name.startswith("model.layers.") and len(shape) == 2
        needed += shape.numel() * (bits / 8 if is_quantized else source.dtype.itemsize)
    if format == "official-4bits":
        needed *= 2  # the shards, and the one file made from them
    if job.text is not None:
        needed += state_bytes(source, job.text.windows)
    needed -= partial.num_bytes()
    free = shutil.disk_usage(partial.path).free
    if free < needed + SPARE_BYTES:
        raise CheckpointError(
            f"the disk of {partial.path.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed: make "
            "room, or give a TARGET elsewhere"
        )
