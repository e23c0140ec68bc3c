"""`baichuan2 convert to-gguf`: one file for llama.cpp and what is built on it, both sizes, all bits or few.

One tensor is read at a time, some rows of it are in the works, so the memory does not grow with the model.
"""

import hashlib
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import baichuan2
from baichuan2.checkpoints.load import read_generation_config, read_tokenizer
from baichuan2.convert.gguf_file import TensorFile, check_digest_file, places_behind, publish
from baichuan2.convert.gguf_header import check_shapes, header_bytes, origin_of
from baichuan2.convert.gguf_layout import architecture_of, gguf_tensors
from baichuan2.convert.gguf_mixed import check_llama_cpp, quantize_mixed
from baichuan2.convert.gguf_types import FILE_TYPES, MIXED_TYPES, StoredTensor, check_type, encoded_blocks, tensor_type
from baichuan2.convert.gguf_vocabulary import vocabulary_of
from baichuan2.convert.output import PartialFolder, check_target
from baichuan2.convert.rewriting import Converted, Watch
from baichuan2.convert.source import Source, open_source
from baichuan2.engine.sampling import Sampling, resolve
from baichuan2.errors import SettingsError
from baichuan2.optional import require
from baichuan2.settings import ConvertSettings

__all__ = ["to_gguf"]

SUFFIX = ".gguf"
RELEASED_AFTER = 16  # blocks
UNFINISHED, MIXED = "weights.gguf", "mixed.gguf"


def to_gguf(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes `settings.source` as the GGUF file `settings.target`, with its digest file beside it.

    Raises:
        SettingsError: there is no such type, the target cannot be taken, or another job is unfinished there.
        CheckpointError: the source cannot be read, llama.cpp could not run it, or the target cannot be written.
        TokenizerError: the tokenizer cannot be read, or llama.cpp would give other ids.
        QuantizationError: a number is beyond what the type can hold.
        MissingExtraError: the gguf package is not installed.
    """
    started = time.perf_counter()
    source, target, type_name = _checked(settings)
    first_type = type_name if type_name in FILE_TYPES else _type_with_all_bits(source)
    tensors = [StoredTensor(tensor, tensor_type(first_type, tensor)) for tensor in gguf_tensors(source.config)]
    _warn_of_other_types(type_name, tensors)
    header = header_bytes(
        source.config,
        vocabulary_of(read_tokenizer(source.folder, source.config), source.config.vocab_size),
        tensors,
        file_type=FILE_TYPES[first_type][1],
        origin=origin_of(source.name, source.folder),
        sampling=_sampling(source.folder),
    )
    places = places_behind(len(header), [(item.tensor.name, item.num_bytes) for item in tensors])
    job = _job(source, type_name, header)
    with PartialFolder(target, job) as partial:
        is_mixed = type_name in MIXED_TYPES
        file = TensorFile(partial.path, UNFINISHED, header, places, room_for_another=is_mixed)
        resumed = _write_tensors(source, tensors, file, watch or (lambda *_: None))
        source.check_unchanged(job["source"])
        finished = file.path
        if is_mixed:
            finished = partial.path / MIXED
            quantize_mixed(file.path, finished, MIXED_TYPES[type_name], torch.get_num_threads())
            check_shapes(finished, tensors)
        publish(partial, finished)
    return Converted(
        path=target,
        num_source_bytes=source.num_bytes,
        num_bytes=target.stat().st_size,
        num_tensors=len(tensors),
        seconds=time.perf_counter() - started,
        resumed=resumed,
    )


def _checked(settings: ConvertSettings) -> tuple[Source, Path, str]:
    """Source, target and type, after everything that can be refused before a tokenizer is read."""
    assert settings.source is not None
    assert settings.target is not None
    type_name = settings.type.lower()
    check_type(type_name)
    if not settings.target.endswith(SUFFIX) or Path(settings.target).name == SUFFIX:
        shown = settings.target if settings.target.isprintable() else repr(settings.target)
        raise SettingsError(f"TARGET {shown} must be a file that ends in {SUFFIX}, such as model{SUFFIX}")
    require("gguf", extra="gguf")
    if type_name in MIXED_TYPES:
        check_llama_cpp()
    source = open_source(settings.source, revision=settings.revision, offline=settings.offline)
    target = check_target(settings.target, source.folder)
    check_digest_file(target)
    architecture_of(source.config)
    return source, target, type_name


def _type_with_all_bits(source: Source) -> str:
    """The type of the file that a k-quant is made of: that of the source."""
    return {torch.float16: "f16", torch.bfloat16: "bf16"}.get(source.dtype, "f32")


def _job(source: Source, type_name: str, header: bytes) -> dict[str, Any]:
    """What decides the bytes of the result."""
    return {
        "conversion": "to-gguf",
        "source": source.fingerprint(),
        "version": f"{baichuan2.__version__}, torch {torch.__version__}, numpy {np.__version__}",
        "type": type_name,
        "tokenizer, template or settings": {"sha256": hashlib.sha256(header).hexdigest()},
    }


def _write_tensors(source: Source, tensors: Sequence[StoredTensor], file: TensorFile, watch: Watch) -> int:
    """Writes what is not there yet; how many tensors were."""
    missing = {place.name: place for place in file.missing()}
    resumed = done = len(tensors) - len(missing)
    watch(done, len(tensors))
    for item in tensors:
        place = missing.get(item.tensor.name)
        if place is None:
            continue
        file.write(place, _blocks(source, item))
        done += 1
        watch(done, len(tensors))
    return resumed


def _blocks(source: Source, item: StoredTensor) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of a tensor; what was read of the source leaves the memory on the way, an embedding has gigabytes."""
    weight = source.tensors[item.tensor.source]
    for number, block in enumerate(encoded_blocks(item.tensor, weight, item.type), start=1):
        yield block
        if number % RELEASED_AFTER == 0:
            source.tensors.release(item.tensor.source)
    source.tensors.release(item.tensor.source)


def _warn_of_other_types(type_name: str, tensors: Sequence[StoredTensor]) -> None:
    """Says which matrices keep 16 bits because their rows are no whole number of blocks."""
    odd = [item for item in tensors if len(item.tensor.shape) == 2 and item.type == "F16" and type_name.startswith("q")]
    if odd:
        lengths = ", ".join(str(length) for length in sorted({item.tensor.shape[1] for item in odd}))
        warnings.warn(
            f"{len(odd)} of {len(tensors)} tensors are stored as f16: their rows of {lengths} numbers are no multiple "
            f"of 32, as {type_name} wants them",
            stacklevel=3,
        )


def _sampling(folder: Path) -> Sampling | None:
    """How the checkpoint wants its tokens chosen; None where it does not say."""
    return resolve(None, read_generation_config(folder)) if (folder / "generation_config.json").is_file() else None
