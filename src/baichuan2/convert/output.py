"""The folder that is written: beside its final place until it is whole, so that a killed run can go on.

Each weight file is written under another name, flushed to the disk, read again, compared with what was meant, and only
then given its name and noted with its digest. A run that finds such notes of the same job goes on behind them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from baichuan2.checkpoints.bin_file import is_whole_bin, stream_bin
from baichuan2.checkpoints.shard_file import StoredAs, byte_pieces, save_shard, stream_shard
from baichuan2.checkpoints.shards import read_json
from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.quantization.freed_memory import release_pages

__all__ = ["PartialFolder", "check_target", "read_shard", "same_bytes"]

SUFFIX = ".partial"
PROGRESS_FILE = "baichuan2-progress.json"
DIGEST_FILE = "SHA256SUMS"
Made = Tensor | Iterator[Tensor]
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")


def check_target(target: str | Path, source: Path) -> Path:
    """The absolute path of the folder to write.

    Raises:
        SettingsError: it exists, lies inside `source`, or has no parent folder.
    """
    if not str(target).isprintable():
        raise SettingsError(f"TARGET cannot be a folder ({str(target)!r}): give another name")
    try:
        path = Path(target).expanduser().absolute()
        exists = path.exists() or path.is_symlink()
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"TARGET cannot be a folder ({' '.join(str(error).split())}): give another name") from error
    if exists:
        raise SettingsError(f"TARGET {target} exists, and nothing is overwritten: give a new name, or remove it")
    if path.parent.resolve().joinpath(path.name).is_relative_to(source.resolve()):
        raise SettingsError(f"TARGET {target} lies inside SOURCE: give a folder elsewhere")
    if not path.parent.is_dir():
        raise SettingsError(f"TARGET {target}: there is no folder {path.parent}: make it first")
    return path


class PartialFolder:
    """The unfinished folder of one job, `TARGET.partial`; a context manager that keeps other runs out.

    `job`: everything that decides the result; another one's leftovers are refused.

    Raises:
        SettingsError: the leftovers of another job are there, or another run is at work.
        CheckpointError: the folder cannot be written.
    """

    def __init__(self, target: Path, job: Mapping[str, Any]) -> None:
        self.target = target
        self.path = target.with_name(target.name + SUFFIX)
        self.job = json.loads(json.dumps(job))
        self.notes: dict[str, dict[str, Any]] = {}
        self._lock: int | None = None

    def __enter__(self) -> "PartialFolder":
        try:
            self.path.mkdir(exist_ok=True)
            self._take_lock()
        except BlockingIOError:
            self._unlock()
            raise SettingsError(f"another run is writing {self.path}: wait for it, or give another TARGET") from None
        except OSError as error:
            self._unlock()
            raise CheckpointError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            self._resume()
        except OSError as error:
            self._unlock()
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from error
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_if_empty()
        self._unlock()

    def _remove_if_empty(self) -> None:
        """Removes the folder of a run that failed before its first file: nothing in it is worth going on with."""
        with contextlib.suppress(OSError):
            if [path.name for path in self.path.iterdir()] == [PROGRESS_FILE]:
                (self.path / PROGRESS_FILE).unlink()
                self.path.rmdir()

    def _take_lock(self) -> None:
        """Raises BlockingIOError where another run holds the folder; Windows has no such locks."""
        if sys.platform != "win32":
            import fcntl

            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _resume(self) -> None:
        progress = self.path / PROGRESS_FILE
        if not progress.is_file():
            strangers = sorted(path.name for path in self.path.iterdir() if path.name != PROGRESS_FILE + SUFFIX)
            if strangers:
                raise SettingsError(
                    f"{self.path} exists and holds {strangers[0]}, which no unfinished run left: remove the folder, or "
                    "give another TARGET"
                )
            self._write_progress()
            return
        try:
            written = read_json(progress)
        except CheckpointError as error:
            raise CheckpointError(f"{progress} is damaged: remove {self.path} to start anew") from error
        if written.get("job") != self.job:
            raise SettingsError(
                f"{self.path} was begun {_difference(written.get('job'), self.job)}: give the same source, settings "
                "and version to go on, or remove the folder"
            )
        files = written.get("files")
        if not isinstance(files, dict) or not all(map(_is_note, files.values())):
            raise CheckpointError(f"{progress} is damaged: remove {self.path} to start anew")
        # what is noted but gone is written again, or is no longer in the source
        names = [name for name in files if Path(name).name == name and (self.path / name).is_file()]
        self.notes = {name: files[name] for name in names}

    def has(self, name: str) -> bool:
        """Whether the file is there, whole; a damaged one is forgotten."""
        note, path = self.notes.get(name), self.path / name
        try:
            if note is not None and path.is_file() and digest_of(path) == note["sha256"]:
                return True
        except OSError:  # what cannot be read is written again
            pass
        self.notes.pop(name, None)
        return False

    def write_shard(
        self, name: str, tensors: Mapping[str, Tensor], check: Callable[[Mapping[str, Tensor]], dict[str, float]]
    ) -> None:
        """Writes a safetensors file, reads it again and notes it; `check` gets what was read, and returns notes.

        Raises:
            CheckpointError: what was read is not what was meant, or the disk is full.
        """

        def write(path: Path) -> None:
            save_shard(tensors, path)

        def verify(path: Path) -> dict[str, float]:
            found = read_shard(path)
            if found.keys() != tensors.keys():
                raise CheckpointError(f"{path} holds other tensors than were written: the disk is damaged")
            for key, meant in tensors.items():
                if not same_bytes(found[key], meant):
                    raise CheckpointError(
                        f"{self.path / name}: {key} differs from what was written: the disk is damaged"
                    )
                release_pages(found[key])
            return check(found)

        self.write_file(name, write, verify)

    def write_streamed(self, name: str, layout: Mapping[str, StoredAs], make: Callable[[str], Made]) -> None:
        """Writes a file of weights, safetensors or .bin by its name, made one tensor after the other; checks, notes it.

        `layout` and `make` as in `stream_shard`.

        Raises:
            CheckpointError: what was read again is not what was meant, or the disk is full.
        """
        is_bin = name.endswith(".bin")

        def write(path: Path) -> str | None:
            if not is_bin:
                return stream_shard(layout, make, path)
            stream_bin(layout, make, path)
            return None

        def verify(path: Path) -> dict[str, float]:
            if is_bin and not is_whole_bin(path, layout):
                raise CheckpointError(f"{self.path / name} differs from what was written: the disk is damaged")
            return {}

        self.write_file(name, write, verify)

    def write_file(
        self, name: str, write: Callable[[Path], str | None], verify: Callable[[Path], dict[str, float]]
    ) -> None:
        """Writes any file by `write`, which `verify` then reads; it gets its name and its note only afterwards.

        `write` returns the SHA-256 of what it meant to write where it knows that, which is compared.
        """
        unfinished, path = self.path / (name + SUFFIX), self.path / name
        try:
            meant = write(unfinished)
            _flush(unfinished)
            errors = verify(unfinished)
            digest = digest_of(unfinished)
            if meant is not None and digest != meant:
                raise CheckpointError(f"{path} differs from what was written: the disk is damaged")
            unfinished.replace(path)
            _flush(self.path)
        except (OSError, SafetensorError) as error:
            _remove(unfinished)  # on a full disk half a file would be in the way of others
            raise CheckpointError(f"{path} cannot be written: {' '.join(str(error).split())}") from error
        except BaseException:
            _remove(unfinished)
            raise
        self.notes[name] = {"sha256": digest, "errors": errors}
        self._write_progress()

    def write_text(self, name: str, text: str) -> None:
        """Writes a small text file."""

        def write(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        def verify(path: Path) -> dict[str, float]:
            if path.read_text(encoding="utf-8") != text:
                raise CheckpointError(f"{path} differs from what was written: the disk is damaged")
            return {}

        self.write_file(name, write, verify)

    def copy(self, path: Path) -> None:
        """Copies a file of the source."""

        def verify(copied: Path) -> dict[str, float]:
            if digest_of(copied) != digest_of(path):
                raise CheckpointError(f"{copied} differs from {path}: the disk is damaged")
            return {}

        self.write_file(path.name, lambda unfinished: _copy(path, unfinished), verify)

    def remove(self, name: str) -> None:
        """Removes a file that was only needed on the way."""
        self.notes.pop(name, None)
        self._write_progress()
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.path / name} cannot be removed: {error.strerror}") from error

    def num_bytes(self) -> int:
        """What finished files take on the disk, and unfinished ones, whose room is used again.

        Raises:
            CheckpointError: the folder cannot be read.
        """
        try:
            paths = [path for path in self.path.iterdir() if path.name in self.notes or path.name.endswith(SUFFIX)]
            return sum(map(_bytes_on_disk, paths))
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be read: {error.strerror}") from error

    def finish(self) -> Path:
        """Writes the digests of all files and gives the folder its name.

        Raises:
            SettingsError: something has taken the name in the meantime.
            CheckpointError: the disk is full, or a file cannot be written or renamed.
        """
        try:
            self._write_digests()
            if self.target.exists() or self.target.is_symlink():
                raise SettingsError(f"TARGET {self.target} came into being meanwhile: the result is in {self.path}")
            self.path.rename(self.target)
            (self.target / PROGRESS_FILE).unlink()
            _flush(self.target)
            _flush(self.target.parent)
        except OSError as error:
            place = self.path if self.path.is_dir() else self.target
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{self.target} cannot be finished, the result is in {place}: {reason}") from error
        return self.target

    def _write_digests(self) -> None:
        for stray in self.path.glob("*" + SUFFIX):
            stray.unlink()
        lines = [f"{self.notes[name]['sha256']}  {name}\n" for name in sorted(self.notes)]
        # a name that is no UTF-8 is written with the bytes that it has
        (self.path / DIGEST_FILE).write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        _flush(self.path / DIGEST_FILE)

    def _write_progress(self) -> None:
        path = self.path / PROGRESS_FILE
        unfinished = path.with_name(path.name + SUFFIX)
        try:
            unfinished.write_text(json.dumps({"job": self.job, "files": self.notes}, indent=1), encoding="utf-8")
            _flush(unfinished)
            unfinished.replace(path)
        except OSError as error:
            _remove(unfinished)
            with contextlib.suppress(OSError):
                self.path.rmdir()  # if there is nothing else in it
            raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error


def files_to_copy(folder: Path) -> list[Path]:
    """The files that a quantised folder takes over as they are: tokenizer and settings, never code or weights.

    A link is followed only within the folder, or from a snapshot of the hub's cache to its blobs; one that leads
    elsewhere is left out with a warning: what it leads to may be nothing of the model's.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    ours = ("config.json", DIGEST_FILE, PROGRESS_FILE)
    try:
        paths = [
            path
            for path in sorted(folder.iterdir())
            if path.is_file()
            and path.name not in ours
            and not path.name.startswith(".")
            and path.suffix != ".py"
            and not path.name.endswith((*WEIGHT_SUFFIXES, SUFFIX))
        ]
        outside = [path for path in paths if path.is_symlink() and not _stays_inside(path)]
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    for path in outside:
        warnings.warn(f"{path} is a link that leads out of its folder: it is not copied", stacklevel=2)
    return [path for path in paths if path not in outside]


def _stays_inside(link: Path) -> bool:
    """Whether a link leads to a file of its own folder, or of the hub's cache that the folder is a snapshot in."""
    folder, file = link.parent.resolve(), link.resolve()
    is_snapshot = folder.parent.name == "snapshots"
    return file.is_relative_to(folder) or (is_snapshot and file.is_relative_to(folder.parent.parent / "blobs"))


def read_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read again: {' '.join(str(error).split())}") from error


def same_bytes(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have one shape, one number format and the same bits, NaN included."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return all(torch.equal(one, other) for one, other in zip(byte_pieces(first), byte_pieces(second), strict=True))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_note(note: object) -> bool:
    """Whether an entry of the progress notes has the form in which they are written."""
    if not isinstance(note, dict) or not isinstance(note.get("sha256"), str):
        return False
    errors = note.get("errors")
    return isinstance(errors, dict) and all(type(error) in (int, float) for error in errors.values())


def _bytes_on_disk(path: Path) -> int:
    """What a file takes, which is less than its size while it has holes."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)


def _difference(begun: object, job: Mapping[str, Any]) -> str:
    """How the job that left an unfinished folder differs from this one, as the end of a sentence."""
    if not isinstance(begun, dict):
        return "by something else"
    for name in job:
        if begun.get(name) != job[name]:
            if isinstance(job[name], dict):
                return f"with another {name}"
            return f"with {name} {begun.get(name)}, not {job[name]}"
    return "by something else"


def _copy(path: Path, destination: Path) -> None:
    shutil.copyfile(path, destination)


def _remove(unfinished: Path) -> None:
    with contextlib.suppress(OSError):
        unfinished.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk; Windows cannot open folders."""
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
