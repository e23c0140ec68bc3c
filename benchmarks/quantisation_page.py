"""The rows of `benchmarks/quantisation.py`, and the page that they become."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from baichuan2.bench.quality import Quality


@dataclasses.dataclass(kw_only=True)
class Row:
    """One format measured one way; bits per weight of the decoder's linear layers, and of all weights.

    `memory`: resident bytes that loading and a first pass added to a fresh process. `qualities`: by text.
    """

    engine: str
    name: str
    way: str
    linear_bits: float
    all_bits: float
    file_bytes: int | None
    memory: int | None = None
    types: dict[str, Any] | None = None
    qualities: dict[str, Quality]
    accuracy: float


COLUMNS = (
    "engine",
    "format",
    "measured",
    "bits (linear)",
    "bits (all)",
    "file, MB",
    "memory, MB",
    "KL",
    "KL p99",
    "top-1",
    "KL, replies",
    "perplexity, replies",
    "KL, prose",
    "accuracy",
)


def cells(row: Row) -> list[str]:
    """One row of the table."""

    def megabytes(count: int | None) -> str:
        return "" if count is None else f"{count / 1e6:.1f}"

    whole, replies, prose = (row.qualities[name] for name in ("conversations", "replies", "prose"))
    return [
        row.engine,
        row.name,
        row.way,
        f"{row.linear_bits:.3f}",
        f"{row.all_bits:.3f}",
        megabytes(row.file_bytes),
        megabytes(row.memory),
        f"{whole.kl_mean:.2e}",
        f"{whole.kl_percentile_99:.2e}",
        f"{whole.agreement:.4f}",
        f"{replies.kl_mean:.2e}",
        f"{replies.perplexity:.4f}",
        f"{prose.kl_mean:.2e}",
        f"{row.accuracy:.3f}",
    ]


def page(rows: Sequence[Row], facts: dict[str, Any]) -> str:
    """The result as Markdown."""
    peer = (
        f"llama.cpp: {facts['peer']['llama_cpp_python']} (llama-cpp-python), {facts['peer']['system_info'].strip()}. "
        f"In float32 its mean KL to the reference is {facts['peer_float32_kl']:.0e}: the file is the same model."
        if facts["peer"]
        else "llama.cpp was left out: no `--peer-python` was given."
    )
    counts = ", ".join(f"{count:,} in {name}" for name, count in facts["tokens"].items())
    lines = [
        f"# What quantising costs ({facts['date']})",
        "",
        f"`{facts['command']}`, commit {facts['commit']}, torch {facts['torch']}, "
        f"transformers {facts['transformers']}, {facts['threads']} thread(s) of {facts['hardware']}. {peer}",
        "",
        f"Model: {facts['model']}. Reference: its bfloat16 weights in float32 (accuracy "
        f"{facts['reference_accuracy']:.3f}, perplexity of its own replies {facts['reference_perplexity']:.4f}). KL is "
        f"KL(reference || format) in nats per token over the held-out {facts['set']} conversations, over their replies "
        f"alone, and over prose. Places: {counts}. The model never learned to foretell questions, so perplexity is "
        f"given for replies only. Accuracy: {facts['questions']} held-out questions, greedy. Bits per weight include "
        "scales; `linear` are the five quantised kinds of the decoder. Memory: resident bytes that loading and a first "
        "pass add to a fresh process; of this small model mostly the libraries' own.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
    ]
    fallbacks = [
        f"- {row.name}: "
        + "; ".join(
            f"{kind} {' + '.join(f'{count} {type_name}' for type_name, count in types.items())}"
            for kind, types in row.types.items()
            if "norm" not in kind
        )
        for row in rows
        if row.types and row.way == "as it runs"
    ]
    if fallbacks:
        lines += ["What llama.cpp's files really hold (number of tensors and type):", "", *fallbacks, ""]
    return "\n".join(lines)
