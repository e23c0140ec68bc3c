"""The results in a folder as people read them: `report.md`, and `report.png` with a bar for each suite."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baichuan2.errors import DataError, MissingExtraError
from baichuan2.evaluation.results import FORMAT
from baichuan2.evaluation.statistics import scale_of
from baichuan2.evaluation.suite_folder import RESULT, SuiteFolder, write_whole
from baichuan2.optional import require

__all__ = ["draw_scores", "make_figure", "read_results", "report_text", "table_lines", "write_report"]

PAGE, PICTURE = "report.md", "report.png"
FIELDS = (
    *("suite", "title", "recipe", "exactness", "source", "unknown", "task_version", "task_digest", "split", "shots"),
    *(
        "changes",
        "chat_format",
        "seed",
        "data",
        "model",
        "metric",
        "average",
        "items",
        "is_partial",
        "shortened_prompts",
    ),
    *("score", "interval", "macro", "micro", "chance", "groups", "published", "software", "hardware", "finished"),
)
"""What pages, tables and comparisons read of a result."""
LABEL_HEIGHT = 8  # of a number above a bar, in points of the score
COLOUR, PARTIAL_COLOUR, PUBLISHED_COLOUR = "#1f5fbf", "#a9c1e6", "#c8442c"


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results in `folder`, one for each suite, in the order of their names; or that of a suite's own folder.

    Raises:
        DataError: there are none, or one is of another version of this package.
    """
    places = [folder] if (folder / RESULT).is_file() else sorted(folder.glob("*/"))
    results = [result for place in places if (result := SuiteFolder(place).result()) is not None]
    if not results:
        stopped = any((place / "items.jsonl").exists() for place in places)
        why = "only runs that are not finished: the command that began them goes on" if stopped else "no results"
        raise DataError(f"{folder} holds {why}: give a folder that baichuan2 evaluate wrote")
    for result in results:
        if result.get("format") != FORMAT:
            raise DataError(f"{folder}: a result of format {result.get('format')!r}; this version reads {FORMAT}")
        missing = [name for name in FIELDS if name not in result]
        if missing:
            raise DataError(
                f"{folder}: the result of {result.get('suite')} has no {missing[0]}: delete its {RESULT}, and the "
                "command that made it makes it anew from the log"
            )
    return results


def write_report(folder: Path) -> tuple[Path, str | None]:
    """Writes page and picture for all results in `folder`; the page's path, and why there is no picture if so.

    Raises:
        DataError: there are no results.
        SettingsError: a file cannot be written.
    """
    results = read_results(folder)
    try:
        picture: bytes | None = draw_scores(results)
        why = None
    except MissingExtraError as error:
        picture, why = None, str(error)
    if picture is not None:
        write_whole(folder / PICTURE, picture)
    write_whole(folder / PAGE, report_text(results, has_picture=picture is not None))
    return folder / PAGE, why


def report_text(results: Sequence[Mapping[str, Any]], *, has_picture: bool) -> str:
    """The results as Markdown: scores beside published ones, then what each was made by."""
    lines = [f"# {_cell(_models(results))}", ""]
    lines += table_lines(
        ("suite", "items", "shots", "score", "95 %", "by subject", "by item", "chance", "published", "difference"),
        [_score_row(result) for result in results],
    )
    lines += [
        "",
        "Scores are the averages that the recipes name, in per cent; BLEU from 0 to 100. The interval tells how far a "
        "score would move with other items of the same kind; other prompts move it more.",
    ]
    if any(result["is_partial"] for result in results):
        lines += ["", "**partial**: not all items were asked, so the score is no score of the benchmark."]
    if has_picture:
        lines += ["", f"![scores]({PICTURE})"]
    for result in results:
        lines += ["", f"## {_cell(result['title'])}", "", *_facts(result)]
        if result["groups"]:
            rows = [
                (name, f"{found['items']:,}", _share(found["macro"]), _share(found["micro"]))
                for name, found in result["groups"].items()
            ]
            lines += ["", *table_lines(("group", "items", "by subject", "by item"), rows)]
    return "\n".join(lines) + "\n"


def draw_scores(results: Sequence[Mapping[str, Any]]) -> bytes:
    """What `make_figure` draws, as a PNG picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    content = io.BytesIO()
    make_figure(results).savefig(content, format="png", dpi=120)
    return content.getvalue()


def make_figure(results: Sequence[Mapping[str, Any]]) -> Any:
    """A bar for each suite with its interval, what chance gives and what is published, as matplotlib's figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="evaluate")
    from matplotlib.figure import Figure

    known = [result for result in results if result["score"] is not None]
    figure = Figure(figsize=(max(4.5, 1.6 + 0.75 * len(known)), 4), layout="constrained")
    axes = figure.add_subplot(ylabel="score", ylim=(0, 100))
    # the picture's own font knows no Chinese, and a dollar sign would begin a formula
    axes.set_title(
        _models(results).encode("ascii", "replace").decode(), fontsize=10, pad=14, wrap=True, parse_math=False
    )
    for place, result in enumerate(known):
        factor = scale_of(result["metric"])
        score = factor * result["score"]
        low, high = (factor * end for end in result["interval"])
        colour = PARTIAL_COLOUR if result["is_partial"] else COLOUR
        axes.bar(place, score, width=0.6, color=colour)
        axes.errorbar(place, score, [[score - low], [high - score]], color="black", capsize=4, linewidth=1)
        known_value = result["published"]["value"] if result.get("published") is not None else 0
        top = known_value if high < known_value < high + LABEL_HEIGHT else high  # above a line that would cross it
        axes.annotate(f"{score:.1f}", (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        if result["chance"] is not None:
            axes.hlines(factor * result["chance"], place - 0.36, place + 0.36, "black", linestyles="dotted")
        if result.get("published") is not None:
            axes.hlines(result["published"]["value"], place - 0.36, place + 0.36, PUBLISHED_COLOUR, linewidth=2)
    axes.set_xticks(range(len(known)), [_label(result) for result in known], rotation=30, ha="right")
    axes.set_xlim(-0.7, max(1, len(known)) - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        axes.plot([], [], color="black", linestyle="dotted", label="chance")[0],
        axes.plot([], [], color=PUBLISHED_COLOUR, linewidth=2, label="published")[0],
        axes.bar([0], [0], color=PARTIAL_COLOUR, label="partial: not all items asked"),
    ]
    is_shown = (
        any(result["chance"] is not None for result in known),
        any(result.get("published") for result in known),
        any(result["is_partial"] for result in known),
    )
    shown = [handle for handle, is_used in zip(handles, is_shown, strict=True) if is_used]
    if shown:
        figure.legend(handles=shown, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _models(results: Sequence[Mapping[str, Any]]) -> str:
    """The names of the models that were scored, each once."""
    return ", ".join(dict.fromkeys(str(result["model"]["name"]) for result in results))


def _label(result: Mapping[str, Any]) -> str:
    return str(result["suite"]) + ("" if result["recipe"] == "official" else f"\n{result['recipe']}")


def _score_row(result: Mapping[str, Any]) -> tuple[str, ...]:
    factor, interval, published = scale_of(result["metric"]), result["interval"], result.get("published")
    name = str(result["suite"]) + ("" if result["recipe"] == "official" else f", {result['recipe']}")
    beside, difference = "", ""
    if published is not None:
        notes = [published["model"], *([] if published["is_same_model"] else ["same shape"])]
        notes += [f"{name} {published[name]}" for name in ("split", "shots") if published[name] != result[name]]
        beside = f"{published['value']:.2f} ({', '.join(map(str, notes))})"
        difference = "" if published["difference"] is None else f"{published['difference']:+.2f}"
    return (
        name + (" **partial**" if result["is_partial"] else ""),
        f"{result['items']:,}",
        str(result["shots"]),
        "no answers" if result["score"] is None else f"**{_share(result['score'], factor)}**",
        "" if interval is None else f"{_share(interval[0], factor)} to {_share(interval[1], factor)}",
        _share(result["macro"], factor),
        _share(result["micro"], factor),
        _share(result["chance"], factor),
        beside,
        difference,
    )


def _facts(result: Mapping[str, Any]) -> list[str]:
    """What a score is no score without."""
    model, software, hardware = result["model"], result["software"], result["hardware"]
    changes = ", ".join(f"{name} {value}" for name, value in result["changes"].items())
    settings = [f"{name.replace('_', ' ')} {result[name]}" for name in ("scoring", "letters", "order", "max_tokens")
                if result.get(name) is not None]  # fmt: skip
    lines = [
        f"- Recipe: {result['recipe']}, {result['exactness']}; task version {result['task_version']}, "
        f"template {result['task_digest'][:12]}; source: {result['source']}",
        f"- Split {result['split']}, {result['shots']} examples, "
        + "".join(f"{one}, " for one in settings)
        + f"seed {result['seed']}"
        + (f"; changed by hand: {changes}" if changes else "")
        + ("; asked in the chat format" if result["chat_format"] else ""),
        f"- Model: {model['name']}, {model['dtype']}, quantisation {model['quantization']}, position numerics "
        f"{model['numerics']}" + (f", adapter {model['adapter']}" if model["adapter"] else ""),
        f"- Prompts shortened: {result['shortened_prompts']}"
        + (f"; replies cut off: {result['cut_off_replies']}" if "cut_off_replies" in result else ""),
        *(f"- By the rule {name}: {100 * share:.2f}" for name, share in result.get("other_rules", {}).items()),
        f"- Made by baichuan2 {software['baichuan2']} (commit {str(software['commit'])[:12]}), torch "
        f"{software['torch']}, transformers {software['transformers']}, on {hardware['processor']}, "
        f"{', '.join(hardware['accelerators']) or 'no accelerator'}; {result['finished']}",
    ]
    if result["unknown"]:
        lines.insert(1, f"- Not published, so open: {result['unknown']}")
    return [_one_line(line) for line in lines]


def _share(value: float | None, factor: float = 100.0) -> str:
    return "" if value is None else f"{factor * value:.2f}"


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as the lines of a Markdown page, its first column to the left, the others to the right."""
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *[[_cell(cell) for cell in row] for row in rows]]
    return ["| " + " | ".join(row) + " |" for row in cells]


def _cell(text: object) -> str:
    return _one_line(str(text)).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())
