"""The page of `benchmarks/finetune.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"ours": "ours", "llama": "transformers' Llama", "official": "the official way"}
TARGETS = {"official": (1.5, 0.5), "llama": (1.1, None)}
"""What we must reach beside each: times its tokens/s, and at most this part of its peak memory."""


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `finetune.summary` as a table in Markdown."""
    lines = [
        "| learnt | way | tokens/s | seconds a step | peak memory | we are faster | target | our part of its memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = row["seconds"]
        cells = [
            f"{row['share']:.0%}",
            NAMES[row["way"]],
            f"{row['tokens_per_second']:.0f}",
            f"{times[len(times) // 2]:.1f} ({times[0]:.1f} to {times[-1]:.1f})",
            f"{row['peak_bytes'] / 1e9:.2f} GB",
            *_beside(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(row: Mapping[str, Any]) -> list[str]:
    """How we stand beside a row: speed (and its range over the turns), target, memory."""
    if row["way"] not in TARGETS or not row["ratios"]:
        return ["", "", ""]
    ratios = sorted(row["ratios"])
    middle = ratios[len(ratios) // 2]
    least, most = TARGETS[row["way"]]
    memory = f"{row['memory_ratio']:.2f}"
    if most is not None:
        memory += f" (target {most}: {'met' if row['memory_ratio'] <= most else '**missed**'})"
    span = f"{middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return [span, f"{least}: {'met' if middle >= least else '**missed**'}", memory]


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    facts = report["facts"]
    hardware = ", ".join(f"{name}: {value}" for name, value in facts["hardware"].items())
    parts = [
        "# Fine-tuning on a processor",
        f"{facts['time']}, commit {facts['commit']}:",
        f"    {facts['command']}",
        f"Python {facts['python']}, torch {facts['torch']}, transformers {facts['transformers']}; {hardware}. "
        f"{report['remark']}".rstrip(),
    ]
    if report.get("prediction"):
        parts += ["## Prediction", report["prediction"]]
    parts += [
        "## Figures",
        "A network 512 wide with 8 layers and the whole vocabulary of 125,696 (154 million parameters), batches of 8 x "
        "512, float32, AdamW. Speeds are medians of all timed steps; how much faster we are is taken within each turn, "
        "the table shows the median of the turns and their range. Peak memory is what the system saw resident at most, "
        "libraries, weights, gradients and the optimizer's state included. 50 %: the second half of each row is "
        "learnt, as in a conversation. `benchmarks/finetune_ways.py` says what each way computes.",
        table(report["rows"]),
    ]
    return "\n\n".join(parts) + "\n"
