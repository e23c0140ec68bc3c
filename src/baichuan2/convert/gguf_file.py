"""A GGUF file written tensor by tensor beside its final place, so that a stopped run goes on where it stopped.

The header says where every tensor lies, so the file gets its full size at once, and a journal beside it names the
tensors whose bytes are on the disk, with their digests. Knows files and bytes, no model.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from baichuan2.convert.output import PartialFolder, digest_of
from baichuan2.errors import CheckpointError, SettingsError

__all__ = ["DIGEST_SUFFIX", "Place", "TensorFile", "check_digest_file", "publish"]

DIGEST_SUFFIX = ".sha256"
JOURNAL = "tensors.sha256"
CHUNK = 1 << 22  # bytes read at a time
ALIGNMENT = 32  # of tensors; the format's default


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the file, in bytes from its start."""

    name: str
    start: int
    num_bytes: int


def places_behind(header_bytes: int, sizes: Iterable[tuple[str, int]]) -> list[Place]:
    """The places of tensors of these names and sizes, behind a header that is padded already."""
    places, start = [], header_bytes
    for name, size in sizes:
        places.append(Place(name, start, size))
        start += aligned(size)
    return places


def aligned(size: int) -> int:
    """The size with its padding."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class TensorFile:
    """The unfinished file in the folder of its job: header and places known, tensors written in any order.

    `room_for_another`: the disk must also take a smaller file beside it.

    Raises:
        CheckpointError: it cannot be written or read; the disk is full.
    """

    def __init__(
        self, folder: Path, name: str, header: bytes, places: Sequence[Place], *, room_for_another: bool = False
    ) -> None:
        self.path, self.journal = folder / name, folder / JOURNAL
        self.header, self.places = header, list(places)
        last = self.places[-1]
        self.num_bytes = last.start + aligned(last.num_bytes)
        self.room_for_another = room_for_another
        self.written: dict[str, str] = {}

    def missing(self) -> list[Place]:
        """The tensors that are not there yet, after the file was made or found; a damaged one is written again."""
        try:
            if not self.path.is_file():
                self.journal.unlink(missing_ok=True)
            self._read_journal()
            self._check_disk_space()
            with self.path.open("r+b" if self.path.exists() else "w+b") as file:
                file.write(self.header)
                file.truncate(self.num_bytes)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                if file.read(len(self.header)) != self.header:
                    raise CheckpointError(f"{self.path}: the header differs from what was written: a damaged disk")
                for place in self.places:
                    if place.name in self.written and _digest(file, place) != self.written[place.name]:
                        del self.written[place.name]
        except OSError as error:
            raise self._failure(error) from error
        return [place for place in self.places if place.name not in self.written]

    def write(self, place: Place, blocks: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Writes the bytes of a tensor, reads them again, and notes that they are there."""
        digest = hashlib.sha256()
        count = 0
        try:
            with self.path.open("r+b", buffering=0) as file:
                file.seek(place.start)
                for block in blocks:
                    view = block.reshape(-1).data
                    _write_all(file, view)
                    digest.update(view)
                    count += block.nbytes
                os.fsync(file.fileno())
                assert count == place.num_bytes, f"{place.name}: {count} bytes, not {place.num_bytes}"
                if _digest(file, place) != digest.hexdigest():
                    raise CheckpointError(f"{self.path}: {place.name} differs from what was written: a damaged disk")
            self._note(place.name, digest.hexdigest())
        except OSError as error:
            raise self._failure(error) from error

    def _note(self, name: str, digest: str) -> None:
        self.written[name] = digest
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(f"{digest}  {name}\n")
            file.flush()
            os.fsync(file.fileno())

    def _read_journal(self) -> None:
        """What an earlier run has noted; a line that it did not finish does not count."""
        self.written = {}
        if not self.journal.is_file():
            return
        known = {place.name for place in self.places}
        text = self.journal.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.journal.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            digest, _, name = line.partition("  ")
            if name in known:
                self.written[name] = digest

    def _check_disk_space(self) -> None:
        there = sum(aligned(place.num_bytes) for place in self.places if place.name in self.written)
        needed = self.num_bytes - there + (self.num_bytes // 2 if self.room_for_another else 0)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise CheckpointError(
                f"the disk of {self.path.parent.parent} has {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are "
                "needed: make room, or give a TARGET elsewhere"
            )

    def _failure(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path} cannot be written: {error.strerror or error}")


def check_digest_file(target: Path) -> None:
    """Raises SettingsError where the digest file of `target` exists and no unfinished run can have left it."""
    path = _digest_file(target)
    if (path.exists() or path.is_symlink()) and not target.with_name(target.name + ".partial").exists():
        raise SettingsError(f"{path} exists, and nothing is overwritten: remove it, or give another TARGET")


def publish(partial: PartialFolder, finished: Path) -> Path:
    """Gives the finished file its name, its digest file beside it, and removes the folder of the job.

    Raises:
        SettingsError: something has taken a name in the meantime.
        CheckpointError: a file cannot be written or renamed.
    """
    target = partial.target
    digest_path = _digest_file(target)
    try:
        digest = digest_of(finished)
        line = f"{digest}  {target.name}\n".encode()
        if not (digest_path.is_file() and digest_path.read_bytes() == line):
            written = partial.path / digest_path.name
            written.write_bytes(line)
            _take_name(written, digest_path)
        _take_name(finished, target)
        shutil.rmtree(partial.path)
    except FileExistsError as error:
        raise SettingsError(
            f"{error.filename2 or error.filename} came into being meanwhile: nothing is overwritten, "
            f"the result is in {partial.path}"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{target} cannot be finished ({error.strerror or error}): see {partial.path}") from error
    return target


def _digest_file(target: Path) -> Path:
    return target.with_name(target.name + DIGEST_SUFFIX)


def _take_name(path: Path, name: Path) -> None:
    """Renames without overwriting, which a plain rename would do. Raises FileExistsError."""
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if name.exists() or name.is_symlink():
            raise FileExistsError(17, "File exists", str(name)) from None
        path.rename(name)
    else:
        path.unlink()


def _digest(file: BinaryIO, place: Place) -> str:
    """The digest of a tensor's bytes as they are in the file."""
    digest = hashlib.sha256()
    file.seek(place.start)
    left = place.num_bytes
    while left:
        chunk = file.read(min(left, CHUNK))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _write_all(file: BinaryIO, view: memoryview) -> None:
    while len(view):
        view = view[file.write(view) :]
