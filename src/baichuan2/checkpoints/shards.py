"""The weight files of a model folder: found, and checked before a model is built from them.

Headers only: names, shapes and completeness cost milliseconds, whatever the size of the model. Whether the values are
numbers is looked at after loading (`check_values`), where the memory that it walks through is the model's own.
"""

import itertools
import json
import pickle
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from baichuan2.errors import CheckpointError
from baichuan2.quantization.freed_memory import release_if_mapped

__all__ = [
    "WEIGHT_DTYPES",
    "StoredTensor",
    "WeightFiles",
    "check_layout",
    "check_stored_dtypes",
    "check_values",
    "find_weight_files",
    "is_finite",
    "read_json",
    "read_layout",
]

# in the order in which the framework looks for them
WHOLE_NAMES = ("model.safetensors", "pytorch_model.bin")
INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ZIP_MAGIC = b"PK\x03\x04"
DOWNLOAD_AGAIN = "download it again"
WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What weights that are not quantised may be stored in; torch cannot compute with the narrower floats."""
STORED_NAMES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
VALUES_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold a model's weights.

    `weight_map`: which file holds which tensor, from the index; None where there is a single file without an index.
    """

    folder: Path
    paths: tuple[Path, ...]
    weight_map: Mapping[str, str] | None

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def file_of(self, tensor_name: str) -> Path:
        """The file that holds (or should hold) the tensor."""
        if self.weight_map is None or tensor_name not in self.weight_map:
            return self.paths[0]
        return self.folder / self.weight_map[tensor_name]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        CheckpointError: the file is no JSON, or holds something other than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path} is no valid JSON (line {error.lineno}, column {error.colno}: {error.msg}): {DOWNLOAD_AGAIN}"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deeply to be read: {DOWNLOAD_AGAIN}") from error
    except (OSError, ValueError) as error:  # no UTF-8, or a number of thousands of digits
        raise CheckpointError(f"{path} cannot be read as text ({error}): {DOWNLOAD_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got a {type(value).__name__}: {DOWNLOAD_AGAIN}")
    return value


def find_weight_files(folder: Path) -> WeightFiles:
    """The weight files of `folder`: safetensors before .bin, a single file before shards with an index.

    Raises:
        CheckpointError: there are none, the index is damaged, or a shard is missing.
    """
    for whole, index in zip(WHOLE_NAMES, INDEX_NAMES, strict=True):
        if (folder / whole).is_file():
            return WeightFiles(folder, (folder / whole,), None)
        if (folder / index).is_file():
            return _sharded_files(folder, folder / index)
    raise CheckpointError(
        f"{folder} holds no weights: expected {' or '.join(WHOLE_NAMES)}, or shards with {' or '.join(INDEX_NAMES)}"
    )


def _sharded_files(folder: Path, index: Path) -> WeightFiles:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map: {DOWNLOAD_AGAIN}")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:  # an index must not lead out of its folder
            raise CheckpointError(f"{index} names the file {name!r}, which is no plain file name: {DOWNLOAD_AGAIN}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the {len(names)} weight files that {index.name} names, the first is "
            f"{missing[0]}: download the missing files"
        )
    return WeightFiles(folder, tuple(folder / name for name in names), weight_map)


class StoredTensor(NamedTuple):
    """What the header of a file says of a tensor. `dtype`: as safetensors files or torch call its number format."""

    shape: torch.Size
    dtype: str


def read_layout(path: Path) -> dict[str, StoredTensor]:
    """Name -> shape and number format of the tensors in one weight file, without reading their values.

    Raises:
        CheckpointError: the file is truncated or damaged, or holds more than tensors.
    """
    return _safetensors_layout(path) if path.suffix == ".safetensors" else _bin_layout(path)


def _safetensors_layout(path: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: StoredTensor(torch.Size(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({path.stat().st_size} bytes, {_first_line(error)}): {DOWNLOAD_AGAIN}"
        ) from error


def _bin_layout(path: Path) -> dict[str, StoredTensor]:
    is_zip = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        starts_as_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if starts_as_zip and not is_zip:  # the table of contents stands at the end
        raise CheckpointError(f"{path} is truncated (it ends after {path.stat().st_size} bytes): {DOWNLOAD_AGAIN}")
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors, which could run code and is refused: use the official "
            "file, or a safetensors version"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({_first_line(error)}): {DOWNLOAD_AGAIN}") from error
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise CheckpointError(f"{path} holds something other than named tensors: it is no weight file of Baichuan")
    return {
        str(name): StoredTensor(value.shape, STORED_NAMES.get(value.dtype, _name(value.dtype)))
        for name, value in state_dict.items()
    }


def check_layout(
    files: WeightFiles, expected: Mapping[str, torch.Size], ignored: Iterable[str] = (), coded: Collection[str] = ()
) -> None:
    """Checks that the files hold exactly the tensors of `expected` (name -> shape), each once, in WEIGHT_DTYPES.

    `ignored`: patterns of names that may stand in a file and are not used. `coded`: names of `expected` whose number
    format is left to `check_stored_dtypes`.

    Raises:
        CheckpointError: a file is damaged, or a tensor is missing, is there twice or in another file than the index
            says, has another shape or number format, or is not in config.json's model.
    """
    layouts = {path: read_layout(path) for path in files.paths}
    _check_places(files, layouts, expected)
    found = {name: (path, stored.shape) for path, layout in layouts.items() for name, stored in layout.items()}
    for name, shape in expected.items():
        if name in found and found[name][1] != shape:
            raise CheckpointError(
                f"{found[name][0]}: {name} has the shape {_sizes(found[name][1])}, config.json wants {_sizes(shape)}: "
                "config.json and weights belong to different models"
            )
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected and not any(re.search(p, name) for p in ignored)]
    if missing:
        hint = f"; {extra[0]} is there, which config.json does not describe" if extra else ""
        raise CheckpointError(
            f"{files.file_of(missing[0])}: {len(missing)} of {len(expected)} tensors are missing, the first is "
            f"{missing[0]}{hint}: the folder is incomplete or of another model, {DOWNLOAD_AGAIN}"
        )
    if extra:
        raise CheckpointError(
            f"{found[extra[0]][0]} holds {len(extra)} tensors that config.json does not describe, the first is "
            f"{extra[0]}: config.json and weights belong to different models"
        )
    _check_formats(layouts, expected.keys() - set(coded))


def _check_places(
    files: WeightFiles, layouts: Mapping[Path, Mapping[str, StoredTensor]], expected: Collection[str]
) -> None:
    """Which of two tensors of one name is read would be left to chance, and loaders choose differently."""
    places: dict[str, Path] = {}
    for path, layout in layouts.items():
        for name in layout:
            if name not in expected:
                continue
            if name in places:
                raise CheckpointError(
                    f"{path}: {name} is in {places[name].name} as well: the files are of different models, "
                    f"{DOWNLOAD_AGAIN}"
                )
            places[name] = path
    for name, path in places.items():
        if files.weight_map is not None and files.weight_map.get(name, path.name) != path.name:
            raise CheckpointError(
                f"{path} holds {name}, which the index says is in {files.weight_map[name]}: the files are of different "
                f"models, {DOWNLOAD_AGAIN}"
            )


def _check_formats(layouts: Mapping[Path, Mapping[str, StoredTensor]], names: Collection[str]) -> None:
    allowed = [STORED_NAMES[dtype] for dtype in WEIGHT_DTYPES]
    for path, layout in layouts.items():
        for name, stored in layout.items():
            if name in names and stored.dtype not in allowed:
                raise CheckpointError(
                    f"{path}: {name} holds {stored.dtype}, must hold one of "
                    f"{', '.join(map(_name, WEIGHT_DTYPES))}: give a checkpoint in one of these number formats"
                )


def check_stored_dtypes(files: WeightFiles, expected: Mapping[str, torch.dtype]) -> None:
    """Checks that tensors of `expected` are stored in just that number format: codes must never be converted.

    The files have passed `check_layout`; those that are no safetensors are left to the loader.

    Raises:
        CheckpointError: names the first tensor that is stored otherwise.
    """
    from safetensors import safe_open

    for path in files.paths:
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_slice(name).get_dtype() for name in file.keys() if name in expected}  # noqa: SIM118
        for name, dtype in stored.items():
            if STORED_NAMES.get(expected[name]) != dtype:
                raise CheckpointError(
                    f"{path}: {name} holds {dtype}, must hold {STORED_NAMES.get(expected[name])} "
                    f"({_name(expected[name])}): {DOWNLOAD_AGAIN}"
                )


def check_values(model: nn.Module, files: WeightFiles, looked_up: nn.Module | None = None) -> None:
    """Checks that no weight or scale is NaN or infinite; one pass over the model's memory, where it lies.

    `looked_up`: the module of which inference reads a few rows at a time; where it is mapped, it leaves memory again.

    Raises:
        CheckpointError: names the first such tensor and its file.
    """
    rows = [] if looked_up is None else [*looked_up.parameters(), *looked_up.buffers()]
    for name, values in itertools.chain(model.named_parameters(), model.named_buffers()):
        if values.is_floating_point() and not values.is_meta and not is_finite(values.detach()):
            raise CheckpointError(
                f"{files.file_of(name)}: {name} holds NaN or infinite numbers: the file is damaged, or its training "
                f"went wrong; {DOWNLOAD_AGAIN}"
            )
        if any(values is row for row in rows):
            release_if_mapped(values)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite numbers.

    A sum is not finite if one of its terms is not, and costs a thirtieth of `torch.isfinite` on half-precision
    numbers. Only where it is not (finite terms may overflow) does the exact test decide.
    """
    for values in torch.split(tensor.reshape(-1), VALUES_AT_A_TIME):
        if not torch.isfinite(values.sum()) and not bool(torch.isfinite(values).all()):
            return False
    return True


def _sizes(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
