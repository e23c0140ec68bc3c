"""The page of `benchmarks/evaluate.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

TARGET = 3.0
"""How many times the harness's items/s we must reach in five-shot multiple choice."""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `evaluate.summary` as a table in Markdown."""
    lines = [
        "| model | suite | items | tokens each | ours, items/s | harness, items/s | we are faster | target | "
        "same choice | largest difference of a log-probability |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratios = row["ratios"]
        middle = ratios[len(ratios) // 2] if len(ratios) % 2 else sum(ratios[len(ratios) // 2 - 1 :][:2]) / 2
        cells = [
            row["model"],
            row["suite"],
            str(row["items"]),
            f"{row['tokens_per_item']:.0f}",
            f"{row['ours']:.2f}",
            f"{row['harness']:.2f}",
            f"**{middle:.1f}** ({ratios[0]:.1f} to {ratios[-1]:.1f})",
            f"{TARGET:g}: {'met' if middle >= TARGET else '**missed**'}",
            f"{row['alike']} of {row['items']}",
            f"{row['largest_difference']:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def batch_table(batches: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What the harness reached with each batch size, as a table in Markdown."""
    lines = ["| model | batch size of the harness | items/s |", "|---|---|---|"]
    for model, runs in batches.items():
        for run in runs:
            speed = f"failed: {run['error']}" if "error" in run else f"{run['items'] / run['seconds']:.2f}"
            lines.append(f"| {model} | {run['batch']} | {speed} |")
    return "\n".join(lines)


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    facts = report["facts"]
    hardware = ", ".join(f"{name}: {value}" for name, value in facts["hardware"].items())
    parts = [
        "# Evaluation on a processor, beside lm-evaluation-harness",
        f"{facts['time']}, commit {facts['commit']}:",
        f"    {facts['command']}",
        f"Python {facts['python']}, torch {facts['torch']}, transformers {facts['transformers']}, lm_eval "
        f"{facts['lm_eval']}; {hardware}. {report['remark']}".rstrip(),
    ]
    if report.get("prediction"):
        parts += ["## Prediction", report["prediction"]]
    parts += [
        "## Figures",
        "Five-shot multiple choice, recipe lm-eval, float32: the same files, the same prompts, the same model object. "
        "demo-base: 256 wide, 4,096 pieces, its context lifted to 4,096 tokens. wide: random weights, 512 wide, 8 "
        "layers, the whole vocabulary of 125,696 and the real tokenizer. Items/s are medians of all turns, from the "
        "files (ours) or the requests (the harness) to the scores, without loading; how much faster we are is taken "
        "within each turn, the table shows the median and the range. The examples of a subject are shared by few items "
        "here; the whole sets ask 26 (C-Eval) to 250 (MMLU) items of a subject, so there more is saved.",
        table(report["rows"]),
        "What the harness reached with each batch size, on the first items of the first suite; the turns above use its "
        "best. Its `auto` tries 64 prompts at once, whose logits take 29 GB with the whole vocabulary.",
        batch_table(report["batches"]),
    ]
    return "\n\n".join(parts) + "\n"
