"""How scores went while a model was trained: a file for programs, a table, and the picture of the official README."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from baichuan2.errors import MissingExtraError
from baichuan2.evaluation.statistics import scale_of
from baichuan2.evaluation.suite_folder import write_whole
from baichuan2.optional import require

__all__ = ["PUBLISHED", "Dynamics", "Point", "draw", "make_figure", "published_score", "table", "write_dynamics"]

BILLIONS = (220, 440, 660, 880, 1100, 1320, 1540, 1760, 1980, 2200, 2420, 2640)
# read off the chart of the official README (Baichuan 2 7B, 5-shot); the last is the finished model
PUBLISHED: dict[str, tuple[float, ...]] = {
    "ceval": (23.9, 31.4, 44.4, 48.4, 48.5, 51.3, 51.5, 53.9, 54.9, 57.0, 55.2, 54.0),
    "mmlu": (24.3, 33.3, 46.6, 46.6, 48.6, 50.2, 51.1, 52.2, 53.1, 53.4, 53.4, 54.2),
    "cmmlu": (25.8, 37.4, 47.1, 48.3, 49.8, 51.6, 52.3, 55.3, 56.3, 56.7, 56.9, 57.1),
}
COLOURS = ("#1f5fbf", "#c8442c", "#2d8a4e", "#8a5bb5", "#b07a1e", "#3f8fa3", "#a8497d", "#5a6672")
MARKERS = "os^Dvph*"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One suite on one checkpoint. `score`, `interval` and `chance` as in result.json; `published`: in per cent."""

    revision: str
    at: int
    suite: str
    title: str
    metric: str
    recipe: str
    score: float | None
    interval: tuple[float, float] | None
    chance: float | None
    items: int
    is_partial: bool
    published: float | None

    def shown(self, value: float) -> float:
        """A score, one end of its interval or the chance, from 0 to 100."""
        return scale_of(self.metric) * value


@dataclass(frozen=True, kw_only=True)
class Dynamics:
    """The points of all suites, checkpoint by checkpoint. `unit`: of `Point.at`, billions of tokens or steps."""

    unit: Literal["steps", "tokens"]
    points: tuple[Point, ...]

    @property
    def suites(self) -> dict[str, list[Point]]:
        """The points of each suite, in order."""
        found: dict[str, list[Point]] = {}
        for point in sorted(self.points, key=lambda point: point.at):
            found.setdefault(point.suite, []).append(point)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        unit = "billions of tokens" if self.unit == "tokens" else "steps"
        return {"unit": unit, "points": [asdict(point) for point in self.points]}


def published_score(suite: str, billions: int) -> float | None:
    """What the official chart shows of the 7B after so many tokens, in per cent; None where it shows nothing."""
    values = PUBLISHED.get(suite)
    return values[BILLIONS.index(billions)] if values is not None and billions in BILLIONS else None


def write_dynamics(dynamics: Dynamics, folder: Path) -> str | None:
    """Writes dynamics.json, dynamics.md and dynamics.png; what to tell where the picture is missing.

    Raises:
        SettingsError: nothing can be written there.
    """
    write_whole(folder / "dynamics.json", json.dumps(dynamics.to_dict(), indent=1, ensure_ascii=False) + "\n")
    write_whole(folder / "dynamics.md", table(dynamics))
    try:
        draw(dynamics, folder / "dynamics.png")
    except MissingExtraError as error:
        return f"no dynamics.png: {error}"
    return None


def table(dynamics: Dynamics) -> str:
    """The scores as Markdown: a line for each checkpoint, a column for each suite, published ones beside them."""
    suites = dynamics.suites
    header = ["checkpoint", "tokens, billions" if dynamics.unit == "tokens" else "steps"]
    columns = []
    for suite, points in suites.items():
        header.append(f"{points[0].title}{' (partial)' if points[0].is_partial else ''}")
        columns.append((suite, False))
        if any(point.published is not None for point in points):
            header.append(f"{points[0].title}, published")
            columns.append((suite, True))
    rows = []
    for revision, at in dict.fromkeys((point.revision, point.at) for point in dynamics.points):
        found = {point.suite: point for point in dynamics.points if point.revision == revision}
        rows.append([revision, f"{at:,}", *(_cell(found.get(suite), is_known) for suite, is_known in columns)])
    lines = [header, ["---", *["---:" for _ in header[1:]]], *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    recipes = ", ".join(sorted({point.recipe for point in dynamics.points}))
    note = f"Scores from 0 to 100, recipe {recipes}; in brackets the 95 % interval."
    chances = [f"{points[0].title} {points[0].shown(points[0].chance):.1f}" for points in suites.values()
               if points[0].chance is not None]  # fmt: skip
    if chances:
        note += f" Guessing gives: {', '.join(chances)}."
    return f"{text}\n\n{note}\n"


def _cell(point: Point | None, is_published: bool) -> str:
    if point is None:
        return ""
    if is_published:
        return "" if point.published is None else f"{point.published:.1f}"
    if point.score is None:
        return "unknown"
    text = f"{point.shown(point.score):.1f}"
    if point.interval is None:
        return text
    low, high = (point.shown(end) for end in point.interval)
    return f"{text} ({low:.1f} to {high:.1f})"


def draw(dynamics: Dynamics, path: Path) -> None:
    """Draws the curves into the PNG `path`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SettingsError: the picture cannot be written.
    """
    content = io.BytesIO()
    make_figure(dynamics).savefig(content, format="png", dpi=110, metadata={"Software": None})
    write_whole(path, content.getvalue())


def make_figure(dynamics: Dynamics) -> Any:
    """The curves as matplotlib's figure: a line for each suite, intervals shaded, published ones dashed, chance dotted.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", extra="evaluate")
    figure = figures.Figure(figsize=(7, 4.2))
    unit = "training tokens, billions" if dynamics.unit == "tokens" else "training steps"
    axes = figure.add_subplot(xlabel=unit, ylabel="score")
    chances: set[float] = set()
    for number, points in enumerate(dynamics.suites.values()):
        colour = COLOURS[number % len(COLOURS)]
        _draw_suite(axes, points, colour, MARKERS[number % len(MARKERS)])
        chances |= {round(point.shown(point.chance), 1) for point in points if point.chance is not None}
    for chance in sorted(chances):
        axes.axhline(chance, linestyle=":", color="#777777", linewidth=1.2, label=f"guessing ({chance:g})")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    return figure


def _draw_suite(axes: Any, points: Sequence[Point], colour: str, marker: str) -> None:
    known = [(point, point.score) for point in points if point.score is not None]
    first = points[0]
    label = first.title + (" (partial)" if first.is_partial else "")
    places = [point.at for point, _ in known]
    scores = [point.shown(score) for point, score in known]
    axes.plot(places, scores, marker=marker, color=colour, linewidth=1.6, markersize=4.5, label=label)
    bounded = [(point, point.interval) for point, _ in known if point.interval is not None]
    if bounded:
        ends = [[point.shown(end) for end in interval] for point, interval in bounded]
        places = [point.at for point, _ in bounded]
        axes.fill_between(places, *zip(*ends, strict=True), color=colour, alpha=0.12, linewidth=0)
    published = PUBLISHED.get(first.suite)
    if published is not None and any(point.published is not None for point in points):
        axes.plot(
            BILLIONS,
            published,
            linestyle="--",
            color=colour,
            linewidth=1.2,
            alpha=0.8,
            label=f"{first.title}, published",
        )
