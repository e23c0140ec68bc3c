"""The page and the JSON of one run of `benchmarks/cpu.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

from cpu_rows import Row

COLUMNS = ("what", "model", "against", "ours", "the other", "ratio", "range", "target", "", "note")
MARKS = {True: "met", False: "**missed**", None: "not measured"}


def cells(row: Row) -> list[str]:
    """One line of the table."""
    is_seconds = row.group == "load"
    unit = " s" if is_seconds else " ×"
    digits = 2 if row.ratio is not None else 0
    ratio = "" if row.ratio is None else f"{row.ratio:.{digits}f}{unit}"
    span = "" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}"
    sign = "≥" if row.better == ">=" else "≤"
    return [row.what, row.model, row.against, row.ours, row.other, ratio, span, f"{sign} {row.target:g}{unit}",
            MARKS[row.is_met], row.note]  # fmt: skip


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table of the page."""
    rule = "|" + "---|" * len(header)
    return ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]


def page(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """The whole page."""
    hardware, limits = facts["hardware"], facts["limits"]
    lines = [f"# Speed on a processor ({facts['date']})", "", *_head(facts, hardware), "", *_limits(limits), ""]
    lines += table(COLUMNS, [cells(row) for row in rows])
    counts = [sum(row.is_met is value for row in rows) for value in (True, False, None)]
    lines += ["", f"{counts[0]} targets met, {counts[1]} missed, {counts[2]} not measured.", ""]
    lines += [
        "A ratio is taken within each turn, of figures that lie seconds apart; the table shows the median of all turns "
        "and their range, and speeds as medians. `decode`: seconds of a step, the median of a turn's steps; `prefill`: "
        "a prompt of random ids until its first new token. Weights are random: speed does not depend on them. Our side "
        "is `load_model` with `generate_tokens` and `iter_batch`, which is what `baichuan2 chat` uses; prompt look-up "
        "is off but in its own row. llama.cpp runs at its library's defaults. transformers' Llama has the official "
        "7B's shape; where a note says so, its figures are those of a few layers, extrapolated.",
        "",
    ]
    lines += _bytes(facts["bytes"]) + _quality(facts["quality"]) + _profile(rows, facts["profile"])
    return "\n".join(lines).rstrip() + "\n"


def _head(facts: Mapping[str, Any], hardware: Mapping[str, Any]) -> list[str]:
    instructions = ", ".join(hardware["instructions"]) or "none of those asked for"
    peer = facts["peer"]
    return [
        f"    {facts['command']}",
        "",
        f"Commit {facts['commit']}; Python {facts['python']}, torch {facts['torch']}, transformers "
        f"{facts['transformers']}; {facts['threads']} threads of {hardware['cores']} cores of {hardware['processor']} "
        f"({instructions}), {hardware['memory_gib']} GiB of memory, {hardware['system']}. Our kernels: "
        f"{facts['kernels'] or 'none, torch alone'}. llama.cpp: "
        + (f"llama-cpp-python {peer['version']}, {peer['system'].strip(' |')}." if peer else "left out."),
    ]


def _limits(limits: Mapping[str, Any]) -> list[str]:
    if limits["reason"]:
        return [f"The limits of the machine were not measured: {limits['reason']}."]
    peaks = limits["matrix_peak"]
    matrix = (
        f"matrix units (AMX) from registers {peaks['bf16_tflops']} TFLOP/s in bfloat16, "
        f"{peaks['int8_tops']} TOP/s in 8 bits"
        if peaks
        else "no matrix units"
    )
    low, median, high = (limits["bandwidth"][name] / 1e9 for name in ("low", "median", "high"))
    return [
        f"Measured in the same run: read bandwidth {median:.1f} GB/s (of {limits['turns']} turns, {low:.1f} to "
        f"{high:.1f}); {matrix}."
    ]


def _bytes(sizes: Mapping[str, int]) -> list[str]:
    if not sizes:
        return []
    lines = table(("model", "GB of weights a token reads"), [(key, f"{size / 1e9:.3f}") for key, size in sizes.items()])
    return ["## What a token reads", "", "As stored, scales included; of the embedding one row only.", "", *lines, ""]


def _quality(quality: Mapping[str, Any]) -> list[str]:
    lines = ["## Quality of the same formats", ""]
    if not quality.get("rows"):
        return [*lines, f"Not measured in this run: {quality.get('reason', 'left out')}.", ""]
    header = ("engine", "format", "bits (linear)", "bits (all)", "KL", "KL, replies", "KL, prose", "top-1")
    cells_of = [
        [row["engine"], row["name"], f"{row['linear_bits']:.3f}", f"{row['all_bits']:.3f}",
         *(f"{row['qualities'][text]['kl_mean']:.2e}" for text in ("conversations", "replies", "prose")),
         f"{row['qualities']['conversations']['agreement']:.4f}"]
        for row in quality["rows"]
    ]  # fmt: skip
    told = f"On the demo model, measured in this run by `{quality['command']}`: nats per token beside its own weights."
    return [*lines, told, "", *table(header, cells_of), ""]


def _profile(rows: Sequence[Row], profile: Mapping[str, Any]) -> list[str]:
    lines = ["## Where the time goes", ""]
    if not profile:
        missed = sorted({row.group for row in rows if row.is_met is False})
        why = f"Groups that missed: {', '.join(missed)}; run again with --profile." if missed else "No row missed."
        return [*lines, f"No profile was taken. {why}", ""]
    for key, stages in profile.items():
        total = stages["step"]
        shares = [(name, f"{took * 1e3:.2f}", f"{took / total:.1%}" if total else "") for name, took in stages.items()]
        lines += [f"{key}:", "", *table(("stage", "ms a step", "share"), shares), ""]
    return lines
