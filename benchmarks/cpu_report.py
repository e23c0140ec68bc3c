"""What `benchmarks/cpu.py` has measured so far: rows, each with the run that it comes from, in one JSON and one page.

Every run takes up the report of the day and puts its own rows in the place of older ones of the same groups, so a page
can be completed, or a row measured again, without the rest. A row keeps its own commit, command and machine. Runs that
go on at the same time, each on cores of its own, may share a page.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpu_groups import GROUPS
from cpu_page import Measured, page
from cpu_rows import Row, Work

try:
    import fcntl
except ImportError:  # not on Windows, where one run at a time may write a page
    fcntl = None  # type: ignore[assignment]

Facts = dict[str, Any]


@dataclass
class Report:
    """The content of one page. `runs`: what ran, where and how, by the time at which the run began."""

    runs: dict[str, Facts] = field(default_factory=dict)
    rows: list[Measured] = field(default_factory=list)
    quality: Facts = field(default_factory=dict)
    profiles: dict[str, Facts] = field(default_factory=dict)
    details: Facts = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Report":
        """The report in a JSON file; an empty one where there is no file.

        Raises:
            ValueError: the file is not such a report.
        """
        if not path.is_file():
            return cls()
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            rows = [Measured(_row(entry["row"]), entry["run"]) for entry in stored.pop("rows")]
            report = cls(rows=rows, **stored)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no report of this script ({error}); move it away or give --page") from error
        return report

    def put(self, group: str, rows: Sequence[Row], run: str, order: Sequence[str]) -> None:
        """Puts `rows` in the place of those of their group; groups stand in `order`. Profiles of older rows go."""
        kept = [measured for measured in self.rows if measured.row.group != group]
        every = kept + [Measured(row, run) for row in rows]
        self.rows = sorted(every, key=lambda measured: list(order).index(measured.row.group))
        self.profiles = {key: found for key, found in self.profiles.items() if found["group"] != group}

    def groups(self) -> set[str]:
        """Those that have all their rows."""
        return {measured.row.group for measured in self.rows} - self.unfinished()

    def unfinished(self) -> set[str]:
        """Those of which a run has not measured the last row: it goes on, or was cut off."""
        begun = {run: facts.get("group") for run, facts in self.runs.items()}
        return {measured.row.group for measured in self.rows if begun.get(measured.run) == measured.row.group}

    def write(self, path: Path) -> None:
        """Writes the JSON to `path` and the page beside it; a file is there whole or as it was."""
        used = {measured.run for measured in self.rows} | {found["run"] for found in self.profiles.values()}
        used |= {self.quality["run"]} if "run" in self.quality else set()
        self.runs = {run: facts for run, facts in sorted(self.runs.items()) if run in used}
        stored = {**vars(self), "rows": [_entry(measured) for measured in self.rows]}
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(_without_nan(stored), ensure_ascii=False, indent=1) + "\n")
        done = self.groups()
        missing = {name: group.__doc__ or "" for name, group in GROUPS.items() if name not in done}
        text = page(self.rows, runs=self.runs, quality=self.quality, profiles=self.profiles, missing=missing)
        _replace(path.with_suffix(".md"), text)


@contextlib.contextmanager
def updated(path: Path) -> Iterator[Report]:
    """The report in `path`, to be changed; it is written at the end. Runs that share a page wait for one another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        report = Report.read(path)
        yield report
        report.write(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _entry(measured: Measured) -> Facts:
    row = {**dataclasses.asdict(measured.row), "is_met": measured.row.is_met}
    return {"run": measured.run, "row": row}


def _row(stored: Mapping[str, Any]) -> Row:
    known = {item.name: stored[item.name] for item in dataclasses.fields(Row)}
    known["work"] = None if known["work"] is None else Work(**known["work"])
    known["target"] = math.nan if known["target"] is None else known["target"]
    return Row(**known)


def _without_nan(value: Any) -> Any:
    """What was not measured is NaN, which JSON has no word for."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
