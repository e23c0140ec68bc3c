"""What `benchmarks/cpu.py` has measured so far: rows, each with the run that it comes from, in one JSON and one page.

Every run takes up the report of the day and puts its own rows in the place of older ones of the same groups, so a page
can be completed, or a row measured again, without the rest. A row keeps its own commit, command and machine.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpu_page import Measured, page
from cpu_rows import Row, Work

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
        """Those that have rows."""
        return {measured.row.group for measured in self.rows}

    def write(self, path: Path) -> None:
        """Writes the JSON to `path` and the page beside it; a file is there whole or as it was."""
        used = {measured.run for measured in self.rows} | {found["run"] for found in self.profiles.values()}
        used |= {self.quality["run"]} if "run" in self.quality else set()
        self.runs = {run: facts for run, facts in sorted(self.runs.items()) if run in used}
        stored = {**vars(self), "rows": [_entry(measured) for measured in self.rows]}
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, json.dumps(_without_nan(stored), ensure_ascii=False, indent=1) + "\n")
        text = page(self.rows, runs=self.runs, quality=self.quality, profiles=self.profiles)
        _replace(path.with_suffix(".md"), text)


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
