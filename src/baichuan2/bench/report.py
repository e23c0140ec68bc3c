"""`make_report`: what quantising a model costs and saves: bytes by part, measured memory, distance from 16 bits.

The tables behind `baichuan2 quantize --report`. Quantised copies are made one after the other in a temporary folder,
by a function that the caller gives, and are gone at the end, however it ends. Everything runs on the processor.
"""

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from baichuan2.bench.memory import LoadMemory, measure_load
from baichuan2.bench.quality import BLOCK_ELEMENTS, Quality, compare_models
from baichuan2.bench.report_text import WINDOW_TOKENS, ReportText, built_in_texts, file_text
from baichuan2.checkpoints.load import load_model, read_config, read_generation_config, read_tokenizer
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.memory import main_memory
from baichuan2.checkpoints.plan import FLOAT_BITS, estimate
from baichuan2.checkpoints.shards import find_weight_files
from baichuan2.errors import CheckpointError, MemoryShortageError, SettingsError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.cost import cache_bytes, flops_per_token, head_copy_bytes, layer_matrices
from baichuan2.model.norm_head import NormHead
from baichuan2.settings import LoadSettings, QuantizeSettings

__all__ = ["FORMATS", "Forecast", "PartBytes", "Report", "ReportRow", "Stage", "check_report", "make_report"]

Format = Literal["int8", "int4", "nf4", "official-4bits"]
FORMATS: tuple[Format, ...] = ("int8", "int4", "nf4")
CACHE_TOKENS = 4096  # of the official table; fewer where the model takes fewer
BATCH_SIZE = 8
PARTS = {"embed_tokens": "embedding", "self_attn": "attention", "mlp": "mlp", "lm_head": "head"}

Stage = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Opened with the name of a row, and "copy", "memory" or "quality"; is told how many parts of how many are done."""


@dataclass(frozen=True, kw_only=True)
class PartBytes:
    """Bytes of the loaded weights, scales and tables included; `head_copy`: the normalised rows beside the head."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int
    head_copy: int

    @property
    def weights(self) -> int:
        """All but the copy."""
        return self.embedding + self.attention + self.mlp + self.norms + self.head


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One precision. `file_bytes`: of the weight files; `qualities`: one for each text, none without a reference."""

    name: str
    file_bytes: int
    parts: PartBytes
    cache: int
    memory: LoadMemory
    qualities: tuple[Quality, ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a report will take: seconds at least, bytes of main memory and of the disk at `scratch`."""

    seconds: float
    memory: int
    disk: int
    scratch: Path


@dataclass(frozen=True, kw_only=True)
class Report:
    """The rows of one model, the first that of the weights themselves.

    `context`: tokens of the cache. `reference_dtype`: the number format in which the reference computes; None where
    there is none, and so no quality.
    """

    model: str
    context: int
    reference_dtype: str | None
    texts: tuple[ReportText, ...]
    rows: tuple[ReportRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes, None for what is no finite number."""
        texts = [
            {"kind": text.kind, "name": text.name, "sequences": len(text.sequences), "tokens": text.num_tokens}
            for text in self.texts
        ]
        rows = [
            {
                "name": row.name,
                "file_bytes": row.file_bytes,
                "weight_bytes": {**asdict(row.parts), "weights": row.parts.weights},
                "cache_bytes": row.cache,
                "memory": row.memory.to_dict(),
                "quality": {
                    text.kind: {key: _finite(value) for key, value in asdict(quality).items()}
                    for text, quality in zip(self.texts, row.qualities, strict=False)
                },
            }
            for row in self.rows
        ]
        return {
            "model": self.model,
            "cache_tokens": self.context,
            "reference_dtype": self.reference_dtype,
            "texts": texts,
            "precisions": rows,
        }


@contextlib.contextmanager
def _silent(name: str, kind: str) -> Iterator[Callable[[int, int], None]]:
    del name, kind
    yield lambda *_: None


def check_report(settings: QuantizeSettings) -> None:
    """Raises what `make_report` would raise before its long work; the target need not be there yet."""
    _Job(settings).forecast(Path(tempfile.gettempdir()))


def make_report(
    settings: QuantizeSettings,
    make_copy: Callable[[QuantizeSettings], object],
    *,
    stage: Stage = _silent,
    announce: Callable[[Forecast], None] | None = None,
) -> Report:
    """The report on `settings.source`.

    With `settings.target`, which must be written already: of source and target. Without: of the source and a copy in
    each of `FORMATS`, which `make_copy` writes to a temporary folder; method and calibration of `settings` hold for
    all of them, its other choices for the copy in `settings.format`. Of a source that is quantised already: of that
    alone, beside `settings.reference` if that is given. `announce` is called before the long work.

    Raises:
        SettingsError: source and reference do not go together.
        CheckpointError: a model cannot be read, or the disk has no room; as MemoryShortageError, the memory has none.
        DataError, TokenizerError: the text or the tokenizer cannot be read.
        QuantizationError: the models have different vocabularies, or one gives no numbers.
    """
    job = _Job(settings)
    with tempfile.TemporaryDirectory(prefix="baichuan2-report-") as scratch:
        forecast = job.forecast(Path(scratch).parent)
        if announce is not None and job.reference is not None:
            announce(forecast)
        rows = [job.row(job.reference_name, job.reference, stage)] if job.reference is not None else []
        for name, folder in job.folders:
            rows.append(job.row(name, folder, stage))
        for copy in job.copies:
            folder = Path(scratch) / copy.format
            with stage(copy.format, "copy"):
                make_copy(replace(copy, target=str(folder)))
            rows.append(job.row(copy.format, folder, stage))
            shutil.rmtree(folder)  # the next one needs the room
    dtype = None if job.reference is None else str(job.reference_dtype).removeprefix("torch.")
    return Report(
        model=str(settings.source), context=job.context, reference_dtype=dtype, texts=tuple(job.texts), rows=tuple(rows)
    )


class _Job:
    """What is measured, found and checked before anything long begins."""

    def __init__(self, settings: QuantizeSettings) -> None:
        if not settings.source:
            raise SettingsError("SOURCE is missing: baichuan2 quantize --report SOURCE (see baichuan2 quantize --help)")
        self.settings = settings
        source = locate(settings.source, revision=settings.revision, offline=settings.offline)
        self.config = read_config(source)
        self.reference: Path | None = source
        self.folders: list[tuple[str, Path]] = []
        self.copies: list[QuantizeSettings] = []
        if _is_quantized(self.config):
            self.folders = [(source.name, source)]
            self.reference = self._given_reference()
        elif settings.reference is not None:
            raise SettingsError("--reference goes with a SOURCE that is quantised already: leave it out")
        elif settings.target:
            target = Path(settings.target).expanduser()
            self.folders = [(target.name, target)]
        else:
            self.copies = _copies(settings)
        shown = self.reference if self.reference is not None else source
        self.context = min(CACHE_TOKENS, int(self.config.model_max_length or CACHE_TOKENS))
        self.reference_name = str(getattr(self.config, "dtype", None) or "weights").removeprefix("torch.")
        self.texts: list[ReportText] = [] if self.reference is None else self._texts(shown)
        self.reference_dtype: str | None = None
        self._model: Any = None

    def _given_reference(self) -> Path | None:
        settings = self.settings
        if settings.target:
            raise SettingsError(f"{settings.source} is quantised already: leave TARGET out to have it reported")
        if settings.reference is None:
            if settings.text is not None:
                raise SettingsError(f"--text: {settings.source} is quantised already, so it needs --reference as well")
            return None
        reference = locate(settings.reference, offline=settings.offline)
        self.config = read_config(reference)
        if _is_quantized(self.config):
            raise SettingsError(f"--reference {settings.reference} is quantised itself: give the unquantised model")
        return reference

    def _texts(self, folder: Path) -> list[ReportText]:
        tokenizer = read_tokenizer(folder, self.config)
        longest = int(self.config.model_max_length or WINDOW_TOKENS)
        if self.settings.text is not None:
            return [file_text(tokenizer, self.settings.text, max_length=longest)]
        is_chat = getattr(read_generation_config(folder), "user_token_id", None) is not None
        return built_in_texts(tokenizer, is_chat=is_chat, max_length=longest)

    def forecast(self, scratch: Path) -> Forecast:
        """What the report will take; also decides in which number format the reference computes.

        Raises:
            MemoryShortageError: two models at once do not fit into the free memory.
            CheckpointError: the disk has no room for a copy.
        """
        if self.reference is None:
            return Forecast(seconds=0, memory=find_weight_files(self.folders[0][1]).num_bytes, disk=0, scratch=scratch)
        stored = self.reference_name if self.reference_name in FLOAT_BITS else "bfloat16"
        own, wide = self._held(stored), self._held("float32")
        beside = 4 * 4 * BLOCK_ELEMENTS + estimate(self.config, stored, context=WINDOW_TOKENS, batch=BATCH_SIZE).scratch
        free = main_memory().free
        self.reference_dtype, need = "float32", wide + own + beside
        if free is not None and need > free:
            self.reference_dtype, need = stored, own + self._held("int8") + beside
        if free is not None and need > free:
            raise MemoryShortageError(
                f"--report holds two models at once: {self.settings.source} needs {need / 1e9:.1f} GB of main memory, "
                f"{free / 1e9:.1f} GB are free"
            )
        disk = max((self._disk(copy.format) for copy in self.copies), default=0)
        free_disk = shutil.disk_usage(scratch).free
        if disk > free_disk:
            raise CheckpointError(
                f"the disk of {scratch} has {free_disk / 1e9:.1f} GB free, {disk / 1e9:.1f} GB are needed for a copy "
                "that is removed afterwards: make room, or set TMPDIR to a folder elsewhere"
            )
        return Forecast(seconds=self._seconds(), memory=need, disk=disk, scratch=scratch)

    def _held(self, precision: str) -> int:
        """Bytes of a loaded model."""
        found = estimate(self.config, precision, context=1)
        return found.weights + found.head_copy

    def _disk(self, format: str) -> int:
        is_official = format == "official-4bits"
        weights = estimate(self.config, "nf4" if is_official else format, context=1).weights
        return 2 * weights if is_official else weights  # its shards, and the one file made from them

    def _seconds(self) -> float:
        """The least that the products of matrices take, at the speed with which this machine makes them now."""
        num_read = sum(len(sequence) for text in self.texts for sequence in text.sequences)
        num_rows = 1 + len(self.folders) + len(self.copies)
        operations = 2.0 * num_rows * num_read * flops_per_token(self.config)
        squares = sum(2 * matrix.row_length**2 for matrix in layer_matrices(self.config))
        for copy in self.copies:
            if copy.format in ("int8", "int4") and copy.method in (None, "gptq"):
                layers = 2 * flops_per_token(self.config) + squares * self.config.num_hidden_layers
                operations += copy.calibration_tokens * layers
        return operations / _operations_per_second()

    def row(self, name: str, folder: Path, stage: Stage) -> ReportRow:
        """Measures one folder."""
        settings = LoadSettings(device="cpu")
        with stage(name, "memory"):
            memory = measure_load(folder, settings)
        is_reference = folder == self.reference
        if self.reference is not None and self._model is None:
            wide = replace(settings, dtype="float32") if self.reference_dtype == "float32" else settings
            self._model = load_model(self.reference, wide).model
        shares = is_reference and self.reference_dtype != "float32"
        model: Any = self._model if shares else load_model(folder, settings).model
        qualities = []
        for text in self.texts:
            with stage(name, "quality") as progress:
                quality = compare_models(
                    self._model,
                    model,
                    text.sequences,
                    starts=text.starts,
                    batch_size=BATCH_SIZE,
                    progress=progress,
                )
            qualities.append(quality)
        return ReportRow(
            name=name,
            file_bytes=find_weight_files(folder).num_bytes,
            parts=_parts(model),
            cache=cache_bytes(self.config, self.context, bits=8 * model.dtype.itemsize),
            memory=memory,
            qualities=tuple(qualities),
        )


def _copies(settings: QuantizeSettings) -> list[QuantizeSettings]:
    """The settings of each copy, without a target."""
    chosen = replace(settings, report=False, reference=None, text=None)
    formats: tuple[Format, ...] = FORMATS if settings.format in FORMATS else (*FORMATS, settings.format)
    made = []
    for format in formats:
        copy = chosen
        if format != settings.format:
            is_own = format in ("int8", "int4")
            copy = replace(
                chosen,
                format=format,
                group_size=None,
                codebook=None,
                method=settings.method if is_own or settings.method == "nearest" else None,
                head="none",
                embedding="none",
                calibration=settings.calibration if is_own else None,
            )
        made.append(copy)
    return made


def _is_quantized(config: BaichuanConfig) -> bool:
    return getattr(config, "quantization_config", None) is not None


def _parts(model: Any) -> PartBytes:
    """Bytes of parameters and buffers by part; what belongs to no other part counts with the norms."""
    found = dict.fromkeys(("embedding", "attention", "mlp", "norms", "head"), 0)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        part = next((part for word, part in PARTS.items() if word in name.split(".")), "norms")
        found[part] += tensor.nbytes
    head = model.lm_head
    copy = head_copy_bytes(model.config, 8 * head.weight.dtype.itemsize) if isinstance(head, NormHead) else 0
    return PartBytes(**found, head_copy=copy)


def _operations_per_second() -> float:
    """Of a product of float32 matrices, the better of three."""
    left, right = torch.zeros(512, 1024), torch.zeros(1024, 1024)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * left.numel() * right.shape[1] / max(best, 1e-9)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None
