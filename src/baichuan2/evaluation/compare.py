"""Two results of the same suites beside each other, item by item: what changed, and whether that may be chance.

Such as 4 bits against 16, or a Base model against a tuned one. Both answered the same questions, so a model is compared
with the other on each item, which sees differences that the intervals of two separate scores hide.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.bleu import bleu_difference
from baichuan2.evaluation.records import ItemRecord, Key
from baichuan2.evaluation.report import read_results, table_lines
from baichuan2.evaluation.results import averages
from baichuan2.evaluation.statistics import PairCounts, difference_interval, mcnemar, scale_of
from baichuan2.evaluation.suite_folder import LOG, read_log, write_whole

__all__ = ["compare_folders", "comparison_text", "write_comparison"]

DECIDING = ("recipe", "task_digest", "split", "shots", "changes", "chat_format")
PAGE, VALUES = "compare.md", "compare.json"
FLIPS_ON_THE_PAGE = 20


def compare_folders(first: Path, second: Path, *, force: bool = False) -> list[dict[str, Any]]:
    """A comparison for each suite that both folders hold, plain values.

    `difference`: the second's score less the first's, in the average that the recipe names, with `interval`; `p_value`:
    McNemar's exact test over all items; `lost` and `won`: the items that only the first, and only the second, got
    right. Of translations, which nobody judges one by one, BLEU from 0 to 100 and paired resampling. `reasons`: in
    what the results were not made alike, where `force` compares them nevertheless.

    Raises:
        DataError: a folder holds no results, or its log is damaged or not whole.
        SettingsError: no suite is in both, or results were not made alike and `force` is not given.
    """
    sides = [{result["suite"]: (result, folder) for result, folder in _results(place)} for place in (first, second)]
    shared = [suite for suite in sides[0] if suite in sides[1]]
    if not shared:
        names = [", ".join(side) for side in sides]
        raise SettingsError(f"nothing to compare: {first} holds {names[0]}, {second} holds {names[1]}")
    return [_compare(sides[0][suite], sides[1][suite], force=force) for suite in shared]


def comparison_text(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons as Markdown: a table, then the first items that changed."""
    models = comparisons[0]["models"]
    lines = [
        f"# {models[1]['name']} against {models[0]['name']}",
        "",
        *(
            f"- {side}: {model['name']}, {model['dtype']}, quantisation {model['quantization']}, {model['folder']}"
            for side, model in zip("AB", models, strict=True)
        ),
        "",
    ]
    header = ("suite", "items", "A", "B", "B - A", "95 %", "only A right", "only B right", "p")
    rows = [
        (
            found["suite"],
            f"{found['items']:,}",
            *(f"{scale_of(found['metric']) * found[side]:.2f}" for side in ("first", "second")),
            f"{scale_of(found['metric']) * found['difference']:+.2f}",
            " to ".join(f"{scale_of(found['metric']) * end:+.2f}" for end in found["interval"]),
            str(len(found["lost"])),
            str(len(found["won"])),
            f"{found['p_value']:.2g}",
        )
        for found in comparisons
    ]
    lines += table_lines(header, rows)
    lines += [
        "",
        "In per cent and points. p: McNemar's exact test, two-sided, over all items; paired resampling for BLEU; each "
        "suite by itself. Intervals and p tell how it would be with other items of the same kind, not with other "
        "prompts.",
    ]
    for found in comparisons:
        if found["reasons"]:
            lines += ["", f"**{found['suite']} was not made alike**: {'; '.join(found['reasons'])}."]
        for title, flips in (("A right, B wrong", found["lost"]), ("A wrong, B right", found["won"])):
            if flips:
                lines += ["", f"## {found['suite']}: {title}", ""]
                names = ("subject", "number", "answer", "first", "second")
                shown = [[str(flip[name]) for name in names] for flip in flips[:FLIPS_ON_THE_PAGE]]
                lines += table_lines(("subject", "number", "right", "A", "B"), shown)
            if len(flips) > FLIPS_ON_THE_PAGE:
                lines += ["", f"{len(flips) - FLIPS_ON_THE_PAGE} more in {VALUES}."]
    return "\n".join(lines) + "\n"


def write_comparison(folder: Path, comparisons: Sequence[Mapping[str, Any]]) -> Path:
    """Writes page and values into `folder`; the page's path.

    Raises:
        SettingsError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--output-dir {folder} cannot be written: {error.strerror or error}") from error
    write_whole(folder / VALUES, json.dumps(list(comparisons), ensure_ascii=False, indent=1) + "\n")
    write_whole(folder / PAGE, comparison_text(comparisons))
    return folder / PAGE


def _results(place: Path) -> list[tuple[dict[str, Any], Path]]:
    if not place.is_dir():
        raise DataError(f"there is no folder {place}: give one that baichuan2 evaluate wrote")
    results = read_results(place)
    is_suite = (place / LOG).is_file()
    return [(result, place if is_suite else place / result["suite"]) for result in results]


def _compare(first: tuple[dict[str, Any], Path], second: tuple[dict[str, Any], Path], *, force: bool) -> dict[str, Any]:
    results = [first[0], second[0]]
    suite = results[0]["suite"]
    logs = [_records(result, folder) for result, folder in (first, second)]
    reasons = _reasons(results, logs)
    if reasons and not force:
        raise SettingsError(
            f"{suite} was not made alike in {first[1]} and {second[1]} ({'; '.join(reasons)}): evaluate one of them "
            "again, or --force compares the items that both hold"
        )
    pairs = [(record, logs[1][key]) for key, record in logs[0].items() if key in logs[1]]
    metric = results[0]["metric"]
    if metric != "bleu":
        pairs = [pair for pair in pairs if pair[0].is_right is not None and pair[1].is_right is not None]
    if not pairs:
        raise SettingsError(f"{suite}: no item was judged in both {first[1]} and {second[1]}, so nothing is compared")
    return {
        "suite": suite,
        "title": results[0]["title"],
        "recipe": results[0]["recipe"],
        "metric": metric,
        "average": results[0]["average"],
        "items": len(pairs),
        **(_bleu(pairs) if metric == "bleu" else _shares(pairs, is_macro=results[0]["average"] == "macro")),
        "models": [
            {
                "name": result["model"]["name"],
                "folder": str(folder),
                "dtype": result["model"]["dtype"],
                "quantization": result["model"]["quantization"],
            }
            for result, folder in (first, second)
        ],
        "reasons": reasons,
    }


def _bleu(pairs: Sequence[tuple[ItemRecord, ItemRecord]]) -> dict[str, Any]:
    found = bleu_difference([one for one, _ in pairs], [other for _, other in pairs], seed=0)
    return {**found, "lost": [], "won": []}


def _shares(pairs: Sequence[tuple[ItemRecord, ItemRecord]], *, is_macro: bool) -> dict[str, Any]:
    """How two models differ on items that are right or wrong."""
    parts = _counts(pairs) if is_macro else [_count(pairs)]
    whole = _count(pairs)
    lost = [_flip(one, other) for one, other in pairs if one.is_right and not other.is_right]
    won = [_flip(one, other) for one, other in pairs if other.is_right and not one.is_right]
    scores = [averages(side) for side in zip(*pairs, strict=True)]
    first, second = ((one.macro if is_macro else one.micro) for one in scores if one is not None)
    return {
        "first": first,
        "second": second,
        "difference": sum(part.difference for part in parts) / len(parts),
        "interval": list(difference_interval(parts)),
        "p_value": mcnemar(whole.only_first, whole.only_second),
        "lost": lost,
        "won": won,
    }


def _records(result: Mapping[str, Any], folder: Path) -> dict[Key, ItemRecord]:
    records = read_log(folder / LOG)
    if len(records) != result["items"]:
        raise DataError(
            f"{folder / LOG} holds {len(records)} items, its result is of {result['items']}: run that evaluation again"
        )
    return records


def _reasons(results: Sequence[Mapping[str, Any]], logs: Sequence[Mapping[Key, ItemRecord]]) -> list[str]:
    """In what two results were not made alike."""
    names = [*DECIDING, *(["seed"] if "shuffled" in (results[0].get("order"), results[1].get("order")) else [])]
    changed = [name for name in names if results[0][name] != results[1][name]]
    reasons = [
        f"other {name.replace('_', ' ')}"
        + ("" if name in ("task_digest", "changes") else f": {results[0][name]} and {results[1][name]}")
        for name in changed
    ]
    shared = set(results[0]["data"]) & set(results[1]["data"])
    if any(results[0]["data"][subject] != results[1]["data"][subject] for subject in shared):
        reasons.append("other files of the benchmark")
    if set(logs[0]) != set(logs[1]):
        reasons.append(f"{len(set(logs[0]) ^ set(logs[1]))} items are in one of them only")
    return reasons


def _counts(pairs: Sequence[tuple[ItemRecord, ItemRecord]]) -> list[PairCounts]:
    by_subject: dict[str, list[tuple[ItemRecord, ItemRecord]]] = {}
    for pair in pairs:
        by_subject.setdefault(pair[0].subject, []).append(pair)
    return [_count(found) for found in by_subject.values()]


def _count(pairs: Sequence[tuple[ItemRecord, ItemRecord]]) -> PairCounts:
    only_first = sum(bool(one.is_right) and not other.is_right for one, other in pairs)
    only_second = sum(bool(other.is_right) and not one.is_right for one, other in pairs)
    return PairCounts(len(pairs), only_first, only_second)


def _flip(one: ItemRecord, other: ItemRecord) -> dict[str, str | None]:
    return {
        "subject": one.subject,
        "number": one.number,
        "answer": one.answer,
        "first": one.prediction,
        "second": other.prediction,
    }
