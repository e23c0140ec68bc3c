"""The page of `benchmarks/cpu.py`: one table of all targets, and what is needed to read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpu_limits import peaks_text
from cpu_rows import Row

COLUMNS = (
    "what",
    "model",
    "against",
    "ours",
    "the other",
    "ratio",
    "range",
    "turns",
    "target",
    "",
    "KL",
    "run",
    "note",
)
MARKS = {True: "met", False: "**missed**", None: "not measured"}
QUALITY_OF = {
    "int4-g64-head8": "int4, groups of 64, head in int8",
    "int4-g64-head4": "int4, groups of 64, head in int4",
    "int8-head8": "int8, head in int8",
    "official4": "nf4 (official 4bits files)",
    "bnb-nf4": "nf4 (official 4bits files)",
    "Q4_0": "Q4_0",
    "Q4_K_M": "Q4_K_M",
    "Q8_0": "Q8_0",
}
"""The format of a model's key, as `quantisation.py` names it."""
SHOWN_FUNCTIONS = 12
SHOWN_SHARE = 0.005
READING = (
    "A ratio is taken within each turn, of figures that lie seconds apart; the table shows the median of all turns and "
    "their range, and speeds as medians. A row takes as many turns as fit into its time. `decode`: seconds of a step, "
    "the median of a turn's steps; `prefill`: a prompt of random ids until its first new token; where the same prompt "
    "length was read for a row of decoding in the same run, that is the first turn. Weights are random: speed does not "
    "depend on them. Our side is `load_for_replies` with `generate_tokens` and `iter_batch`, as in `baichuan2 chat`; "
    "prompt look-up is off but in its own row. llama.cpp runs at its library's defaults. transformers' Llama has "
    "the official model's shape; where a note says so, its figures are those of a few layers, extrapolated. `KL`: what "
    "the two formats cost in quality on the demo model, ours / the other; see below."
)


@dataclass(frozen=True)
class Measured:
    """A row and the run that it comes from."""

    row: Row
    run: str


def cells(row: Row) -> list[str]:
    """What a line of the table says of a row by itself, up to the verdict, and its note."""
    unit = " s" if row.group == "load" else " ×"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}{unit}"
    span = "" if row.low is None or row.high is None or row.turns < 2 else f"{row.low:.2f} to {row.high:.2f}"
    sign = "≥" if row.better == ">=" else "≤"
    return [row.what, row.model, row.against, row.ours, row.other, ratio, span, str(row.turns or ""),
            f"{sign} {row.target:g}{unit}", MARKS[row.is_met], row.note]  # fmt: skip


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table of the page."""
    rule = "|" + "---|" * len(header)
    return ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]


def page(
    rows: Sequence[Measured],
    *,
    runs: Mapping[str, Mapping[str, Any]],
    quality: Mapping[str, Any],
    profiles: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
) -> str:
    """The whole page. `missing`: groups whose rows are not all there, with what they measure."""
    numbers = {run: str(number) for number, run in enumerate(runs, 1)}
    divergences = {row["name"]: row["qualities"]["conversations"]["kl_mean"] for row in quality.get("rows", ())}
    dates = sorted({facts["date"] for facts in runs.values()})
    lines = [f"# Speed on a processor ({' to '.join(dict.fromkeys(dates[:1] + dates[-1:]))})", ""]
    for run, facts in runs.items():
        lines += [f"Run {numbers[run]}, {run}:", "", *_head(facts), "", _limits(facts["limits"]), ""]
    shown = [
        [*cells(measured.row)[:-1], _divergence(measured.row, divergences), numbers[measured.run], measured.row.note]
        for measured in rows
    ]
    lines += table(COLUMNS, shown)
    counts = [sum(measured.row.is_met is value for measured in rows) for value in (True, False, None)]
    lines += ["", f"{counts[0]} targets met, {counts[1]} missed, {counts[2]} not measured.", ""]
    if missing:
        begun = {measured.row.group for measured in rows}
        lines += ["Groups without rows, or without all of them, as no run has come to their end:", ""]
        lines += [f"- `{name}`{' (begun)' if name in begun else ''}: {told}" for name, told in missing.items()]
        lines += [""]
    lines += [READING, ""]
    sizes = {key: size for facts in runs.values() for key, size in facts["bytes"].items()}
    lines += _bytes(sizes) + _quality(quality, numbers) + _profiles(rows, profiles, numbers)
    return "\n".join(lines).rstrip() + "\n"


def _divergence(row: Row, divergences: Mapping[str, float]) -> str:
    """KL of both formats, as far as it is known."""
    found = [divergences.get(QUALITY_OF.get(key.partition("-")[2], "")) for key in (row.model, row.other_model)]
    ours, other = (None if value is None else f"{value:.1e}" for value in found)
    return ours if ours and not other else f"{ours or '?'} / {other}" if other else ""


def _head(facts: Mapping[str, Any]) -> list[str]:
    hardware, peer = facts["hardware"], facts["peer"]
    instructions = ", ".join(hardware["instructions"]) or "none of those asked for"
    return [
        f"    {facts['command']}",
        "",
        f"{facts['date']}, commit {facts['commit']}; Python {facts['python']}, torch {facts['torch']}, transformers "
        f"{facts['transformers']}, bitsandbytes {facts['bitsandbytes'] or 'absent'}; {facts['threads']} threads of "
        f"{hardware['cores']} cores of {hardware['processor']} ({instructions}), {hardware['memory_gib']} GiB of "
        f"memory, {hardware['system']}. Our kernels: {facts['kernels'] or 'none, torch alone'}. llama.cpp: "
        + (f"llama-cpp-python {peer['version']}, {peer['system'].strip(' |')}." if peer else "not run.")
        + (f" {facts['note']}" if facts.get("note") else ""),
    ]


def _limits(limits: Mapping[str, Any]) -> str:
    if limits["reason"]:
        return f"The limits of the machine were not measured: {limits['reason']}."
    low, median, high = (limits["bandwidth"][name] / 1e9 for name in ("low", "median", "high"))
    return (
        f"Measured in the same run: read bandwidth {median:.1f} GB/s (of {limits['turns']} turns, {low:.1f} to "
        f"{high:.1f}); from registers alone, all threads: {peaks_text(limits['peaks'])}."
    )


def _bytes(sizes: Mapping[str, int]) -> list[str]:
    if not sizes:
        return []
    lines = table(("model", "GB of weights a token reads"), [(key, f"{size / 1e9:.3f}") for key, size in sizes.items()])
    return ["## What a token reads", "", "As stored, scales included; of the embedding one row only.", "", *lines, ""]


def _quality(quality: Mapping[str, Any], numbers: Mapping[str, str]) -> list[str]:
    lines = ["## Quality of the same formats", ""]
    if not quality.get("rows"):
        return [*lines, f"Not measured: {quality.get('reason', 'left out')}.", ""]
    run = f"run {numbers[quality['run']]}" if "run" in quality else ""
    header = ("engine", "format", "bits (linear)", "bits (all)", "KL", "KL, replies", "KL, prose", "top-1", "measured")
    cells_of = [
        [row["engine"], row["name"], f"{row['linear_bits']:.3f}", f"{row['all_bits']:.3f}",
         *(f"{row['qualities'][text]['kl_mean']:.2e}" for text in ("conversations", "replies", "prose")),
         f"{row['qualities']['conversations']['agreement']:.4f}", row["source"].replace("this run", run)]
        for row in quality["rows"]
    ]  # fmt: skip
    told = (
        "On the demo model, as each engine runs, by `quantisation.py`: nats per token beside the model's own weights."
    )
    if quality.get("reason"):
        told += f" Not complete: {quality['reason']}."
    return [*lines, told, "", *table(header, cells_of), ""]


def _profiles(
    rows: Sequence[Measured], profiles: Mapping[str, Mapping[str, Any]], numbers: Mapping[str, str]
) -> list[str]:
    lines = ["## Where the time goes", ""]
    missed = sorted({measured.row.group for measured in rows if measured.row.is_met is False})
    if not profiles:
        why = f"Groups that missed: {', '.join(missed)}; run again with --profile." if missed else "No row missed."
        return [*lines, f"No profile was taken. {why}", ""]
    for title, found in profiles.items():
        lines += [f"### {title} (run {numbers[found['run']]})", ""]
        if "samples" in found:
            lines += _samples(found["samples"])
        else:
            lines += _stages(found["stages"])
    return lines


def _samples(samples: Mapping[str, Any]) -> list[str]:
    functions = [entry for entry in samples["functions"] if entry["share"] >= SHOWN_SHARE][:SHOWN_FUNCTIONS]
    shares = [(name, f"{share:.1%}") for name, share in samples["libraries"].items() if share >= SHOWN_SHARE]
    return [
        f"{samples['count']} samples by perf over {samples['seconds']:.1f} s, of all threads; in libgomp they wait.",
        "",
        *table(("library", "share"), shares),
        "",
        *table(
            ("function", "library", "share"),
            [(_function(entry["function"]), entry["library"], f"{entry['share']:.1%}") for entry in functions],
        ),
        "",
    ]


def _function(name: str) -> str:
    """A library without symbols has addresses alone."""
    return "(without a name)" if name.startswith("0x") else f"`{name}`"


def _stages(stages: Mapping[str, float]) -> list[str]:
    total = stages["step"]
    shares = [(name, f"{took * 1e3:.2f}", f"{took / total:.1%}" if total else "") for name, took in stages.items()]
    return ["Without perf: stages by torch.", "", *table(("stage", "ms a step", "share"), shares), ""]
