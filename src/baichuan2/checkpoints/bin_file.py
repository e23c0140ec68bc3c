"""Weight files as `torch.save` writes them, `pytorch_model.bin`, made one tensor after the other.

`torch.save` needs all tensors at once. The file is a zip archive of plain entries: a pickle that names the tensors and
describes them, and the bytes of each in an entry of its own; so it can be written without holding more than one. The
pickle is byte for byte the one that torch writes for the same tensors.
"""

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan2.checkpoints.shard_file import ALIGNMENT, StoredAs, stored_pieces

__all__ = ["is_whole_bin", "stream_bin"]

FOLDER = "archive"  # inside of the zip file
LOCAL_HEADER_BYTES = 30
ZIP64_FIELD_BYTES = 20
PADDING_FIELD = b"FB"  # the extra field that torch aligns its entries with
PROTOCOL = 2
STORAGE_CLASSES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
}


def stream_bin(layout: Mapping[str, StoredAs], make: Callable[[str], Tensor | Iterator[Tensor]], path: Path) -> None:
    """Writes a file that `torch.load(weights_only=True)` reads as a dict, mapped too; parameters as in `stream_shard`.

    Raises:
        OSError: the disk is full, or nothing can be written there.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, file, "data.pkl", iter([memoryview(_description(layout))]))
        _write_entry(archive, file, "byteorder", iter([memoryview(b"little")]))
        for number, name in enumerate(layout):
            _write_entry(archive, file, f"data/{number}", stored_pieces(layout[name], make(name)))
        _write_entry(archive, file, "version", iter([memoryview(b"3\n")]))


def is_whole_bin(path: Path, layout: Mapping[str, StoredAs]) -> bool:
    """Whether a file of `stream_bin` holds what was written, by its checksums, and tensors as `layout` says."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        return False
    return {name: StoredAs.of(tensor) for name, tensor in found.items()} == dict(layout)


def _write_entry(archive: zipfile.ZipFile, file: Any, name: str, pieces: Iterator[memoryview]) -> None:
    """One entry, whose bytes begin at a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(f"{FOLDER}/{name}", date_time=(1980, 1, 1, 0, 0, 0))  # the bytes depend on no clock
    start = file.tell() + LOCAL_HEADER_BYTES + len(info.filename) + ZIP64_FIELD_BYTES
    num_padding = -(start + 4) % ALIGNMENT  # behind the four bytes in which the field says what it is
    info.extra = PADDING_FIELD + num_padding.to_bytes(2, "little") + b"Z" * num_padding
    with archive.open(info, "w", force_zip64=True) as entry:
        for piece in pieces:
            entry.write(piece)
    info.extra = b""  # it is only of use before the bytes, not in the table of contents


class _Storage:
    """What stands in the pickle for the bytes of a tensor."""

    def __init__(self, number: int, stored: StoredAs) -> None:
        self.number, self.stored = number, stored


class _Described:
    """What stands in the pickle for a tensor."""

    def __init__(self, number: int, stored: StoredAs) -> None:
        self.storage = _Storage(number, stored)

    def __reduce__(self) -> tuple[Any, ...]:
        stored = self.storage.stored
        strides = torch.empty(stored.shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (
            self.storage,
            0,
            tuple(stored.shape),
            strides,
            False,
            OrderedDict(),
        )


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        kind = STORAGE_CLASSES[value.stored.dtype]
        return ("storage", kind, str(value.number), "cpu", value.stored.shape.numel())


def _description(layout: Mapping[str, StoredAs]) -> bytes:
    """The pickle."""
    content = io.BytesIO()
    described = {name: _Described(number, stored) for number, (name, stored) in enumerate(layout.items())}
    _Pickler(content, protocol=PROTOCOL).dump(described)
    return content.getvalue()
