"""The page of `benchmarks/finetune_memory.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["page", "row_of"]


def row_of(result: Mapping[str, Any]) -> str:
    """One line of the table."""
    shown = f"| {result['name']} | {result['shape']} | {result['batch']} x {result['tokens']} |"
    if "error" in result:
        return f"{shown} | | failed: {result['error'].splitlines()[-1:]} |"
    planned, taken = result["planned"], result["taken"]
    return f"{shown} {planned / 1e6:.0f} MB | {taken / 1e6:.0f} MB | {planned / taken - 1:+.1%} |"


def _by_hand(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| run | rows | planned | taken | error | tokens/s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        error = f"{row['planned'] / row['taken'] - 1:+.1%}"
        sizes = f"{row['planned'] / 1e9:.2f} GB | {row['taken'] / 1e9:.2f} GB"
        lines.append(f"| {row['name']} | {row['rows']} | {sizes} | {error} | {row['tokens_per_second']:,} |")
    return lines


def page(report: Mapping[str, Any], cases: Sequence[str]) -> str:
    """The whole page; `cases`: names of all runs, in their order."""
    done = {item["name"]: item for item in report["cases"]}
    missing = [name for name in cases if name not in done]
    parts = [
        "# Memory of training, planned and taken",
        f"    {report['command']}",
        f"Commits {report['commit']}, torch {report['torch']}, transformers {report['transformers']}; "
        f"{report['machine']}.",
        "Each row is a run of `baichuan2 finetune` on random float32 weights in a process of its own, two steps on "
        "rows of full length. Taken: the highest memory of the process less what it had before the model was read; "
        "while the model is read without mapped pages of weight files, which the system drops where memory is short, "
        "afterwards all that is resident. With two processes the larger of both. Planned: what the run itself said, by "
        "the formulas of `baichuan2 plan --train`, without the program. The parts of each stand in the JSON file "
        "beside this page.",
        "\n".join(
            [
                "| run | shape | rows | planned | taken | error |",
                "| --- | --- | --- | --- | --- | --- |",
                *(row_of(done[name]) for name in cases if name in done),
            ]
        ),
    ]
    if missing:
        parts.append(f"Not measured: {'; '.join(missing)}.")
    parts += report.get("remarks", [])
    if report.get("by_hand"):
        parts += ["## On a GPU", report["by_hand_remark"], "\n".join(_by_hand(report["by_hand"]))]
    return "\n\n".join(parts) + "\n"
