"""The folder of one suite's results: its log of items, what decided the run, and nobody else in it meanwhile.

`run.json` is written before the first answer: by it the same command goes on, and another one is refused. `items.jsonl`
gets a line for each answer, at once. Killed at any moment, a run has lost what was being computed, and nothing else: a
line that was cut short is dropped. Further processes of a run write logs of their own, `items.part-N.jsonl`, which are
joined at its end, or when it goes on. Knows records, nothing of models.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.records import ItemRecord, Key, line_of, record_of

__all__ = ["ItemLog", "SuiteFolder", "read_log", "write_whole"]

LOG = "items.jsonl"
PARTS = "items.part-*.jsonl"
RESULT = "result.json"
RUN = "run.json"
SUBMISSION = "submission.json"


class ItemLog:
    """A log that is open for further records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _writable(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def append(self, record: ItemRecord) -> None:
        """Writes a record; from then on a killed process loses it no more.

        Raises:
            SettingsError: the disk is full.
        """
        left = line_of(record).encode("utf-8")
        with _writable(self._path):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def close(self) -> None:
        """Ends the log."""
        os.close(self._descriptor)


class SuiteFolder:
    """One suite's folder. Its files are looked at and written by the process that holds `alone`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Makes the folder and keeps other runs on this machine out of it, until the process ends however it ends.

        Raises:
            SettingsError: another run has it, or it cannot be written.
        """
        with _writable(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = None if os.name == "nt" else os.open(self.path, os.O_RDONLY)
        try:
            self._lock(descriptor)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _lock(self, descriptor: int | None) -> None:
        if descriptor is None:  # Windows cannot lock folders
            return
        import fcntl

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"another run is writing into {self.path}: wait for its end, or give another --output-dir"
            ) from None
        except OSError:  # some network file systems
            return

    def clear(self) -> None:
        """Deletes what an earlier run left: its own files, nothing else."""
        with _writable(self.path):
            # run.json last: whatever a kill leaves can be cleared again
            names = [*self.path.glob(PARTS), *(self.path / name for name in (SUBMISSION, RESULT, LOG, RUN))]
            for path in names:
                path.unlink(missing_ok=True)

    def identity(self) -> dict[str, Any] | None:
        """What decided the run that lies here; None: there is none.

        Raises:
            SettingsError: items lie here of which nobody knows how they were made.
        """
        found = _read_object(self.path / RUN)
        if found is None and (self.path / LOG).exists():
            raise SettingsError(
                f"{self.path} holds answers without a readable {RUN}, so nobody knows what they are of: give another "
                "--output-dir, or --overwrite to start anew"
            )
        return found

    def write_identity(self, values: Mapping[str, Any]) -> None:
        """Notes what decides the run."""
        write_whole(self.path / RUN, _json_text(values))

    def records(self) -> dict[Key, ItemRecord]:
        """All answers so far; logs of several processes are joined into one, and what was cut short is dropped.

        Raises:
            DataError: a log is damaged elsewhere than at its end.
        """
        log, parts = self.path / LOG, sorted(self.path.glob(PARTS))
        records = read_log(log)
        for part in parts:
            records = read_log(part) | records
        if parts:
            self.rewrite(records.values())
        return records

    def rewrite(self, records: Iterable[ItemRecord]) -> None:
        """Writes the log anew, in this order, and removes those of further processes."""
        write_whole(self.path / LOG, "".join(map(line_of, records)))
        for part in self.path.glob(PARTS):
            part.unlink(missing_ok=True)

    def open_log(self, part: int = 0) -> ItemLog:
        """The log for further answers of one of the run's processes."""
        return ItemLog(self.path / (LOG if part == 0 else PARTS.replace("*", str(part))))

    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; None: there is none."""
        return _read_object(self.path / RESULT)

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Writes the result at once: it is the old or the new one at any time."""
        write_whole(self.path / RESULT, _json_text(values))

    def drop_result(self) -> None:
        """Removes the result of fewer items before a run goes on to more."""
        with _writable(self.path):
            (self.path / RESULT).unlink(missing_ok=True)

    def write_submission(self, answers: Mapping[str, Mapping[str, str]]) -> Path:
        """Writes what a leaderboard takes: for each subject the letter of each item; gives the file's path."""
        path = self.path / SUBMISSION
        write_whole(path, _json_text(answers))
        return path


def read_log(path: Path) -> dict[Key, ItemRecord]:
    """The records of a log, each item once; a last line that was cut short is taken off the file.

    Raises:
        DataError: the log is damaged elsewhere, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    records: dict[Key, ItemRecord] = {}
    lines = content.split(b"\n")
    if lines[-1]:
        with _writable(path):
            os.truncate(path, len(content) - len(lines[-1]))
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = record_of(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number} is damaged ({str(error)[:80]}): delete that line, and its item is answered "
                "again, or start anew with --overwrite"
            ) from error
        records.setdefault(record.key, record)
    return records


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and renames it.

    Raises:
        SettingsError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writable(path):
        try:
            # half characters, of a folder whose name is no text, become escapes: UTF-8 has no place for them
            data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


def _json_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _read_object(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written: {error.strerror or error}: make room or give another --output-dir; the same "
            "command goes on from what is there"
        ) from error
