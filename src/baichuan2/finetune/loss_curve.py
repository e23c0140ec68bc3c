"""The loss of a run as a file for programs, `loss.jsonl`, and as a picture for people, `loss.png`."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from baichuan2.finetune.folders import write_text

__all__ = ["LossCurve"]

LOG = "loss.jsonl"
PICTURE = "loss.png"
SECONDS_BETWEEN = 60.0  # drawing takes a good part of a second


class LossCurve:
    """Keeps every logged loss of a run.

    Args:
        output_dir: where both files lie.
        history: what was logged before the run went on; lines of the file beyond it are those of steps that are done
            again.
        note: is told once when something cannot be written.
    """

    def __init__(self, output_dir: Path, history: Sequence[Mapping[str, Any]], note: Callable[[str], None]) -> None:
        self._output_dir = output_dir
        self._note = note
        self._has_failed = False
        self._drawn = time.monotonic()
        self._lines = [dict(entry) for entry in history if "loss" in entry or "eval_loss" in entry]
        with self._told():
            write_text(output_dir / LOG, "".join(map(_line, self._lines)))

    def add(self, values: Mapping[str, Any]) -> None:
        """A line more."""
        self._lines.append(dict(values))
        with self._told(), (self._output_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(_line(values))

    def draw(self, *, is_last: bool = False) -> None:
        """The picture anew, where that is not too soon; nothing without matplotlib, which the first try tells."""
        is_due = is_last or time.monotonic() - self._drawn >= SECONDS_BETWEEN
        if self._has_failed or not self._lines or not is_due:
            return
        self._drawn = time.monotonic()
        with self._told():
            try:
                from matplotlib.figure import Figure
            except ImportError:
                self._fail("no loss.png: run  pip install 'baichuan2[train]'  for matplotlib")
                return
            figure = Figure(figsize=(7, 4))
            axes = figure.add_subplot(xlabel="step", ylabel="loss")
            for name, label, style in (("loss", "training", "-"), ("eval_loss", "held out", "o-")):
                points = [(entry["step"], entry[name]) for entry in self._lines if name in entry]
                if points:
                    axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
            axes.grid(alpha=0.3)
            axes.legend()
            beside = self._output_dir / f".{PICTURE}.tmp"
            figure.savefig(beside, format="png", dpi=120)
            beside.replace(self._output_dir / PICTURE)

    def _told(self) -> "_Told":
        return _Told(self._fail)

    def _fail(self, text: str) -> None:
        if not self._has_failed:
            self._note(text)
        self._has_failed = True


class _Told:
    """What a full disk does to the curve is told, and stops nothing: the next checkpoint finds out by itself."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, OSError):
            return False
        self._fail(f"the loss curve cannot be written: {error.strerror or error}")
        return True


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
