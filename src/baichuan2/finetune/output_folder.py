"""The output folder before a run: can it be written, is there room, and what of an earlier run lies in it.

Training over an earlier run by mistake would lose it. The same command as before goes on with it, as all long work here
does; any other is refused unless it says what to do: `--resume-from-checkpoint True` goes on,
`--overwrite-output-dir True` starts anew.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baichuan2.errors import SettingsError, TrainingError
from baichuan2.finetune import folders, run_record
from baichuan2.finetune.arguments import FinetuneArguments

__all__ = ["EarlierRun", "alone_in", "check_room", "check_writable", "clear", "find_earlier_run"]

SECONDS_OF_WORKERS = 8.0
"""So long the data loaders of a killed run may outlive it and hold its folder; they look for it every 5 s."""
MODEL_FILES = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class EarlierRun:
    """What an output folder holds that a run has to do with."""

    checkpoint: Path | None
    """To go on from; None: from the beginning."""
    record: Mapping[str, Any] | None
    """What decided how the run went that the checkpoint is of; None: unknown."""
    is_finished: bool
    """It came to its end: its model lies in the folder."""
    place: Path
    """The checkpoint, or the output folder."""
    refusal: str | None = None
    """What to say where the command differs from that run's in any way, as it did not ask to go on; None: it did."""


def check_writable(output_dir: Path, model_folder: Path) -> None:
    """Makes the folder, and sees whether files can be written there.

    Raises:
        SettingsError: they cannot, or it is the folder of the model that training starts from.
    """
    if output_dir.resolve() == model_folder.resolve():
        raise SettingsError(
            f"--output-dir {output_dir} is the folder of the model that training starts from: give another one, so "
            "that nothing of it is overwritten"
        )
    probe = output_dir / f".writable-{os.getpid()}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"--output-dir {output_dir} cannot be written: {reason}: give another folder") from error


@contextlib.contextmanager
def alone_in(output_dir: Path) -> Iterator[None]:
    """Keeps other runs on this machine out of the folder: two would delete each other's files.

    The lock is on the folder itself and ends with the process, however that ends; where folders cannot be locked, there
    is none.

    Raises:
        SettingsError: another run has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        end = time.monotonic() + SECONDS_OF_WORKERS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise SettingsError(
                        f"--output-dir {output_dir}: another run is training into it: wait for its end, or give "
                        "another folder"
                    ) from None
                time.sleep(0.1)
                continue
            except OSError:  # some network file systems
                pass
            break
        yield
    finally:
        os.close(descriptor)


def find_earlier_run(output_dir: Path, arguments: FinetuneArguments, note: Callable[[str], None]) -> EarlierRun:
    """What of an earlier run there is, by what the command says about that.

    Raises:
        SettingsError: there is one, and the command does not say what to do; or there is no such checkpoint.
    """
    wish = str(arguments.resume_from_checkpoint or "").strip()
    if wish.lower() not in ("", "true", "false"):
        return _named_checkpoint(Path(wish))
    found = folders.whole_checkpoints(output_dir)
    record = run_record.read_record(output_dir)
    is_finished = run_record.is_finished(record)
    refusal = _refusal(output_dir, found, is_finished)
    is_silent = not wish and not arguments.overwrite_output_dir and record is not None and refusal is not None
    if wish.lower() == "true" or is_silent:
        while found and (damaged := folders.damaged_files(found[-1])):
            note(f"{found[-1]} is damaged ({damaged[0]} is not as it was written): going on from the one before it")
            found.pop()
        if not found and not is_finished:
            note(f"{output_dir} holds no checkpoint: training starts from the beginning")
            return EarlierRun(None, None, False, output_dir)
        checkpoint = found[-1] if found else None
        return EarlierRun(
            checkpoint,
            record if is_finished else run_record.read_record(found[-1]),
            is_finished,
            checkpoint or output_dir,
            refusal if is_silent else None,
        )
    if arguments.overwrite_output_dir:
        return EarlierRun(None, None, False, output_dir)
    if refusal is not None:
        raise SettingsError(refusal)
    return EarlierRun(None, None, False, output_dir)


def _refusal(output_dir: Path, checkpoints: list[Path], is_finished: bool) -> str | None:
    """Why a command that says nothing about an earlier run is not taken; None: the folder holds none."""
    if not checkpoints and not any((output_dir / name).exists() for name in MODEL_FILES):
        return None
    held = "a finished run" if is_finished else "a model"
    if checkpoints and not is_finished:
        held = f"{checkpoints[-1].name} of an earlier run"
    going_on = "--resume-from-checkpoint True goes on with it, " if checkpoints else ""
    return (
        f"--output-dir {output_dir} holds {held}: {going_on}--overwrite-output-dir True deletes it and starts anew, "
        "another --output-dir leaves it as it is"
    )


def clear(output_dir: Path) -> None:
    """Deletes the checkpoints of an earlier run; its final model stays until the new one takes its place."""
    for folder in folders.whole_checkpoints(output_dir):
        folders.delete_folder(folder)
    (output_dir / run_record.RUN_RECORD).unlink(missing_ok=True)


def check_room(output_dir: Path, num_bytes: int, note: Callable[[str], None]) -> None:
    """Notes it when there is no room for a checkpoint of so many bytes."""
    free = shutil.disk_usage(output_dir).free
    if free < num_bytes:
        note(
            f"warning: a checkpoint takes about {_size(num_bytes)}, and {output_dir} has room for {_size(free)}: make "
            "room, or give --output-dir on another disk"
        )


def check_whole(checkpoint: Path) -> None:
    """Sees whether a run can go on from a checkpoint.

    Raises:
        TrainingError: files are missing or damaged.
    """
    damaged = folders.damaged_files(checkpoint)
    if damaged:
        raise TrainingError(f"{checkpoint} is damaged: {damaged[0]} is not as it was written: give an earlier one")


def _named_checkpoint(folder: Path) -> EarlierRun:
    if not (folder / "trainer_state.json").is_file() or folders.checkpoint_step(folder) < 0:
        raise SettingsError(
            f"--resume-from-checkpoint {folder} is no checkpoint of a run: give its folder checkpoint-N, or True for "
            "the newest one in --output-dir"
        )
    check_whole(folder)
    return EarlierRun(folder, run_record.read_record(folder), False, folder)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
