"""A benchmark of a few questions in C-Eval's layout, and somebody who hears what an evaluation tells."""

import contextlib
import csv
from pathlib import Path

from baichuan2.settings import EvaluationSettings, LoadSettings

SUBJECTS = ("law", "logic")
LOAD = LoadSettings(device="cpu", threads=1, dtype="float32")


def write_ceval(folder: Path, *, items: int = 4, examples: int = 2, subjects: tuple[str, ...] = SUBJECTS) -> Path:
    """Writes `items` questions a subject in val and test, and `examples` in dev; gives the folder for --data."""
    head = ["id", "question", *"ABCD"]
    for subject in subjects:
        for split, count in (("dev", examples), ("val", items), ("test", items)):
            path = folder / "ceval" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            more = {"dev": ["answer", "explanation"], "val": ["answer"], "test": []}[split]
            rows = [
                [
                    number,
                    f"{subject}{split}第{number}题" + "，" * number,
                    "一",
                    "二",
                    "三",
                    "四",
                    "ABCD"[number % 4],
                    "-",
                ]
                for number in range(count)
            ]
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([[*head, *more], *(row[: 6 + len(more)] for row in rows)])
    return folder


def settings_for(data: Path, output_dir: Path | None, **changes: object) -> EvaluationSettings:
    """Both subjects by the official recipe, with two examples."""
    values = {"suite": "ceval", "data": str(data), "subjects": ",".join(SUBJECTS), "shots": 2}
    values |= {"output_dir": None if output_dir is None else str(output_dir)}
    return EvaluationSettings(**{**values, **changes})


class Listener:
    """What an evaluation tells, and how often the model was asked."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.steps: list[tuple[int, int]] = []
        self.finished: list[str] = []
        self.remarks: list[str] = []
        self.pages: list[Path] = []

    @contextlib.contextmanager
    def suite(self, plan, place, answered):
        self.started.append((plan.task.name, answered))
        yield lambda done, total: self.steps.append((done, total))

    def finished_before(self, plan, place):
        self.finished.append(plan.task.name)

    def remark(self, text):
        self.remarks.append(text)

    def written(self, page, no_picture):
        assert no_picture is None
        self.pages.append(page)
