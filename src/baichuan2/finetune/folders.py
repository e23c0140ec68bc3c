"""Checkpoint folders that are whole or not there: written beside their place, made durable, then renamed.

`checkpoint-N` in an output folder is therefore always complete. What lies under another name was being written, or
being deleted, when somebody pulled the plug; the next run removes it. Knows files and folders, nothing of training.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "FILES_RECORD",
    "checkpoint_step",
    "damaged_files",
    "delete_folder",
    "final_staging_folder",
    "move_files_in",
    "move_folder_in",
    "put_in_order",
    "reason_of_failure",
    "record_files",
    "staging_folder",
    "sync_folder",
    "whole_checkpoints",
    "write_text",
]

STAGING = ".saving-"
COMPLETE = ".complete-"
DELETED = ".deleting-"
REPLACED = ".replaced-"
FINAL = "model"
FILES_RECORD = "files.json"
"""In each checkpoint: the size of every other file, by its path in the folder."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
NAMES = ".names.json"
DESCRIPTIONS = ("config.json", "adapter_config.json")
LAST = "config.json"
"""Moved in after all other files: a folder without it is no model to anybody."""


def checkpoint_step(folder: Path) -> int:
    """The number of steps after which a checkpoint was written; -1 for any other folder."""
    match = CHECKPOINT.fullmatch(folder.name)
    return int(match[1]) if match is not None else -1


def whole_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints in `output_dir`, by their steps."""
    found = [path for path in output_dir.glob("checkpoint-*") if checkpoint_step(path) >= 0 and path.is_dir()]
    return sorted(found, key=checkpoint_step)


def staging_folder(target: Path) -> Path:
    """Where the files of `target` are written until they are complete; the final model's are those of its folder."""
    return target.with_name(STAGING + target.name)


def final_staging_folder(output_dir: Path) -> Path:
    """Where the final model is written until it is complete."""
    return output_dir / (STAGING + FINAL)


def move_folder_in(staging: Path, target: Path) -> None:
    """Gives the complete folder `staging` the name `target`; what had it before is deleted afterwards.

    Killed between the two, `put_in_order` gives the name back.
    """
    old = target.with_name(REPLACED + target.name)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    staging.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def move_files_in(staging: Path, output_dir: Path) -> None:
    """Moves the files of the complete folder `staging` into `output_dir`, in place of those with the same names.

    The folder is renamed first, so that a run that is killed between two files is ended by `put_in_order`. Where more
    than one file holds weights, `config.json` is away meanwhile: old and new weights never pass for one model.
    """
    complete = output_dir / (COMPLETE + FINAL)
    if staging != complete:
        names = sorted(path.name for path in staging.iterdir())
        (staging / NAMES).write_text(json.dumps(names), encoding="utf-8")
        _sync(staging / NAMES)
        shutil.rmtree(complete, ignore_errors=True)
        staging.rename(complete)
        _sync(output_dir)
    # also those that a killed run has moved already: without the list they would look like an older model's
    names = json.loads((complete / NAMES).read_text(encoding="utf-8"))
    stale = _stale_weights(output_dir, names)
    if (complete / LAST).exists() and (stale or sum(map(_holds_weights, names)) > 1):
        (output_dir / LAST).unlink(missing_ok=True)
    for path in stale:
        path.unlink()
    for name in sorted(names, key=lambda name: name == LAST):
        if not (complete / name).exists():
            continue
        target = output_dir / name
        if target.is_dir():
            shutil.rmtree(target)
        (complete / name).replace(target)
    _sync(output_dir)
    shutil.rmtree(complete)


def put_in_order(output_dir: Path) -> None:
    """Ends or removes what a killed run left half done in `output_dir`."""
    if not output_dir.is_dir():
        return
    complete = output_dir / (COMPLETE + FINAL)
    if (complete / NAMES).is_file():
        move_files_in(complete, output_dir)
    for path in list(output_dir.glob(f"{REPLACED}*")):
        place = path.with_name(path.name.removeprefix(REPLACED))
        if not place.exists():
            path.rename(place)
    for path in list(output_dir.iterdir()):
        if path.name.startswith((STAGING, DELETED, COMPLETE, REPLACED)):
            shutil.rmtree(path, ignore_errors=True)


def delete_folder(folder: Path) -> None:
    """Deletes a checkpoint; killed half-way, it leaves none that is half there."""
    hidden = folder.with_name(DELETED + folder.name)
    with contextlib.suppress(FileNotFoundError):  # another machine with the same folder was faster
        folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def record_files(folder: Path) -> None:
    """Writes into `folder` the size of each of its files."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(_files(folder))}
    sizes.pop(FILES_RECORD, None)
    (folder / FILES_RECORD).write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def damaged_files(folder: Path) -> list[str]:
    """Names of files of a checkpoint that are missing or have another size than when it was written."""
    try:
        sizes = json.loads((folder / FILES_RECORD).read_text(encoding="utf-8"))
        wanted = {str(name): int(size) for name, size in sizes.items()}
    except FileNotFoundError:
        return []  # written by another program, or an older version
    except (OSError, ValueError, AttributeError, TypeError):
        return [FILES_RECORD]
    return [name for name, size in wanted.items() if _size(folder / name) != size]


def sync_folder(folder: Path) -> None:
    """Waits until all files of `folder` are on the disk."""
    for path in _files(folder):
        _sync(path)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(path)


def reason_of_failure(error: BaseException, folder: Path) -> str:
    """Why writing into `folder` failed, in few words; a full disk under whatever name libraries give it."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    numbers = {item.errno for item in chain if isinstance(item, OSError)}
    text = " ".join(str(error).split())
    free = shutil.disk_usage(folder).free if folder.is_dir() else None
    # torch calls it a stream that is not where it should be
    is_full = numbers & {errno.ENOSPC, errno.EDQUOT} or "No space left" in text or (free is not None and free < 1 << 20)
    if is_full:
        return "the disk is full: make room there"
    return text or type(error).__name__


def write_text(path: Path, text: str) -> None:
    """Writes a text file at once: it is the old or the new one at any time."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _stale_weights(output_dir: Path, names: Iterable[str]) -> list[Path]:
    """Weights of an earlier model in `output_dir` that none of the new `names` replaces."""
    names = set(names)
    if not any(_holds_weights(name) for name in names):
        return []
    return [
        path
        for path in output_dir.iterdir()
        if (_holds_weights(path.name) or path.name in DESCRIPTIONS) and path.name not in names
    ]


def _holds_weights(name: str) -> bool:
    return name.startswith(("model", "pytorch_model", "adapter_model")) and name.endswith(
        (".safetensors", ".bin", ".index.json")
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder on Windows, where renaming needs no such thing
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)
