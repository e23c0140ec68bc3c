"""The page of `benchmarks/serve.py`: targets first, then the figures, each with the run that it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve_figures import Figures, pooled
from serve_targets import Verdict, later_share, verdicts

MARKS = {True: "met", False: "**missed**", None: "not measured"}
SIZES = ("rss", "pss", "anonymous")
SHOWN_SAMPLES = 9
READING = (
    "All servers are loaded at the same time and take turns with the same seeded prompts of random ids, new ones in "
    "each turn; half of them begin with the same system text. Replies are greedy and have a fixed length. Clients send "
    "their next request when a reply has ended, stream by SSE, one connection a request; they run in one process on "
    "the same cores as the servers, as there are no others. Time to first token: from before the connection is made "
    "until the first text. Time per token: of one reply, after its first. Gap: between neighbouring pieces of text. "
    "Percentiles are over all requests of all turns, gaps the worst turn's; throughput (new tokens) is the median of "
    "turns. Ratios are of neighbouring turns, median and range. `naive loop`: the same model and kernels behind a "
    "lock, one reply after the other, streamed by Python's `http.server`. llama.cpp runs at its defaults but for the "
    "number of threads and of places, each of which holds a long prompt; it keeps earlier prompts in up to 8 GiB of "
    "memory (`--cache-ram`), beside the places."
)


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    parts, runs = report["parts"], report["runs"]
    numbers = {run: str(number) for number, run in enumerate(runs, 1)}
    lines = [f"# Serving on a processor ({report['date']})", ""]
    for run, facts in runs.items():
        lines += [f"Run {numbers[run]}, {run}:", "", *_head(facts), ""]
    lines += _prediction(report.get("prediction"))
    found = verdicts(parts)
    if found:
        counts = [sum(verdict.is_met is value for verdict in found) for value in (True, False, None)]
        lines += ["## Targets", "", *table(("what", "value", "range", "target", ""), map(_verdict, found)), ""]
        lines += [f"{counts[0]} targets met, {counts[1]} missed, {counts[2]} not measured.", "", READING, ""]
    for key, part in parts.items():
        scenario, _, model = key.partition("/")
        lines += _SECTIONS[scenario](model, part, f"run {numbers[part['run']]}")
    return "\n".join(lines).rstrip() + "\n"


def table(header: Sequence[str], lines: Any) -> list[str]:
    """A table of the page."""
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def seconds(value: float | None) -> str:
    """A time for people, with three digits."""
    if value is None:
        return ""
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def mebibytes(value: float | None) -> str:
    """A size for people."""
    return "" if value is None else f"{value / (1 << 20):,.1f} MiB"


def _head(facts: Mapping[str, Any]) -> list[str]:
    hardware = facts["hardware"]
    instructions = ", ".join(hardware["instructions"]) or "none of those asked for"
    return [
        f"    {facts['command']}",
        "",
        f"{facts['date']}, commit {facts['commit']}; Python {facts['python']}, torch {facts['torch']}, "
        f"{facts['packages']}; threads of a server: {facts['threads']}; {hardware['cores']} cores of "
        f"{hardware['processor']} ({instructions}), {hardware['memory_gib']} GiB of memory, {hardware['system']}. "
        f"llama.cpp's server: {facts['peer'] or 'not run'}." + (f" {facts['note']}" if facts.get("note") else ""),
    ]


def _prediction(prediction: Mapping[str, str] | None) -> list[str]:
    if not prediction:
        return []
    head = f"Written {prediction['date']}, at commit {prediction['commit']}, before the first run of this page:"
    return ["## Prediction", "", head, "", prediction["text"].strip(), ""]


def _verdict(verdict: Verdict) -> list[str]:
    is_share = verdict.target < 0.1 and verdict.target > 0
    shape = "{:.1%}" if is_share else "{:.0f}" if verdict.target == 0 else "{:.2f} ×"
    sign = "≥" if verdict.better == ">=" else "≤"
    value = "" if verdict.value is None else shape.format(verdict.value)
    has_range = verdict.low is not None and verdict.low != verdict.high
    span = f"{verdict.low:.2f} to {verdict.high:.2f}" if has_range else ""
    return [verdict.what, value, span, f"{sign} {shape.format(verdict.target)}", MARKS[verdict.is_met]]


def _load(model: str, part: Figures, run: str) -> list[str]:
    header = ("clients", "server", "tokens/s", "first token p50", "p99", "per token p50", "p99", "gap p99", "max",
              "turns", "requests", "failed")  # fmt: skip
    rows = [
        [clients, name, *_under_load(pooled(turns))]
        for clients, servers in part["levels"].items()
        for name, turns in servers.items()
        if turns
    ]
    idle = f"Servers whose turn it was not computed on {part['idle_cores']:.2f} cores at most."
    told = f"{part['what']}. {part['lengths']}"
    return [f"## Load: {model} ({run})", "", told, "", *table(header, rows), "", idle, ""]


def _under_load(found: Figures) -> list[str]:
    speed = found["tokens_per_second"]
    times = [found[name][share] for name in ("first_token", "per_token") for share in ("p50", "p99")]
    return [
        "" if speed is None else f"{speed:.1f}",
        *(seconds(value) for value in (*times, found["gap_p99"], found["gap_max"])),
        str(found["turns"]),
        str(found["requests"]),
        f"{found['failed']} ({_cell(found['errors'][0])})" if found["failed"] else "0",
    ]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:120]


def _failures(found: Figures) -> str:
    return _cell("; ".join(found["errors"])) or "0"


def _intruder(model: str, part: Figures, run: str) -> list[str]:
    header = ("server", "gap before, p50", "gap meanwhile, p50", "p99", "max", "the prompt's first token", "failed")
    rows = [
        [name, seconds(found["before"]["p50"]), *(seconds(found["gap"][key]) for key in ("p50", "p99", "max")),
         seconds(found["wait"]), _failures(found)]
        for name, found in _servers(part)
    ]  # fmt: skip
    return [f"## A long prompt amid replies: {model} ({run})", "", part["lengths"], "", *table(header, rows), ""]


def _servers(part: Figures) -> list[tuple[str, Figures]]:
    """The figures of a part that are of servers, not words about it."""
    return [(name, found) for name, found in part.items() if isinstance(found, dict)]


def _prefix(model: str, part: Figures, run: str) -> list[str]:
    header = ("server", "first request", "later ones", "median / first", "prompt tokens from the cache", "failed")
    rows = []
    for name, found in _servers(part):
        later = [value for value in found["later"] if value is not None]
        span = f"{seconds(min(later))} to {seconds(max(later))}" if later else ""
        share = later_share(found)
        cached = ", ".join("?" if value is None else str(value) for value in found["cached"])
        rows.append([name, seconds(found["first"]), span, "" if share is None else f"{share:.2f}", cached,
                     _failures(found)])  # fmt: skip
    title = f"## Time to the first token of prompts that begin alike: {model} ({run})"
    return [title, "", part["lengths"], "", *table(header, rows), ""]


def _memory(model: str, part: Figures, run: str) -> list[str]:
    header = ("server", "requests so far", "RSS", "PSS", "anonymous", "tokens/s in this block")
    rows, told = [], []
    for name, found in _servers(part):
        samples = found["samples"]
        last = len(samples) - 1
        for place in sorted({round(step * last / (SHOWN_SAMPLES - 1)) for step in range(SHOWN_SAMPLES)}):
            sample = samples[place]
            speed = sample.get("tokens_per_second")
            rows.append([name, f"{sample['requests']:,}", *(mebibytes(sample[key]) for key in SIZES),
                         "" if speed is None else f"{speed:.0f}"])  # fmt: skip
        grown = found["growth"]
        if grown["share"] is not None:
            told.append(f"{name}: anonymous memory grew by {mebibytes(grown['bytes'])} ({grown['share']:.2%}).")
    return [f"## Memory: {model} ({run})", "", part["lengths"], "", *table(header, rows), "", *told, ""]


_SECTIONS = {"load": _load, "intruder": _intruder, "prefix": _prefix, "memory": _memory}
