"""The groups of rows of `benchmarks/cpu.py`, in the order in which they run: engines that are shared stay loaded."""

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cpu_child import EngineError
from cpu_engines import SCRIPTS, Shape
from cpu_rows import (
    BANDWIDTH,
    Action,
    Bench,
    Comparison,
    Row,
    context_row,
    decode_action,
    floor_row,
    measure,
    prefill_action,
    ratios,
    speed,
)

FEWER_TURNS = 3  # where a turn takes a minute
FIRST_TOKEN_SECONDS = 3.0
LOOKUP_TOKENS = 64

Starts = dict[str, Callable[[], Action]]


def _decoders(bench: Bench, keys: list[str], context: int, batch: int = 1) -> Starts:
    return {key: (lambda key=key: decode_action(bench, key, context, batch)) for key in keys}


def _readers(bench: Bench, keys: list[str], length: int) -> Starts:
    return {key: (lambda key=key: prefill_action(bench, key, length)) for key in keys}


def decode(bench: Bench, shape: Shape | None = None, group: str = "decode") -> list[Row]:
    """One sequence at a short context, beside llama.cpp's 4-bit formats and the bandwidth floor."""
    size = shape or bench.shape
    own, plain, mixed = bench.own("int4", size), bench.other("Q4_0", size), bench.other("Q4_K_M", size)
    bench.engines.keep_only([own, plain, mixed])
    context = bench.contexts[0]
    series, failures = measure(bench, f"{group} {context}", _decoders(bench, [own, plain, mixed], context))
    what = f"decode, batch 1, context {context}"
    return [
        Comparison(group, what, own, plain, 1.10).row(series, failures),
        Comparison(group, what, own, mixed, 1.5).row(series, failures),
        floor_row(bench, group, size, own, series),
    ]


def context(bench: Bench, shape: Shape | None = None, group: str = "context") -> list[Row]:
    """One sequence at a long context; what the context costs is taken from turns at both lengths."""
    size = shape or bench.shape
    own, plain = bench.own("int4", size), bench.other("Q4_0", size)
    bench.engines.keep_only([own, plain])
    short, long = bench.contexts
    starts = _decoders(bench, [own, plain], long)
    starts["short"] = lambda: decode_action(bench, own, short)
    series, failures = measure(bench, f"{group} {long}", starts)
    rows = [Comparison(group, f"decode, batch 1, context {long}", own, plain, 1.25).row(series, failures)]
    if own in series and "short" in series and BANDWIDTH in series:
        rows.append(context_row(bench, group, size, own, (series["short"], series[own]), series[BANDWIDTH]))
    else:
        reason = failures.get(own) or failures.get("short") or bench.limits.reason or "not measured"
        rows.append(
            Row(group=group, what=f"context {long} over {short}", model=own, against="the time of its bytes",
                target=1.3, better="<=", note=reason)
        )  # fmt: skip
    return rows


def batch(bench: Bench) -> list[Row]:
    """Several sequences at once."""
    own, plain = bench.own("int4"), bench.other("Q4_0")
    bench.engines.keep_only([own, plain])
    rows = []
    length = bench.contexts[0]
    for size in bench.batches:
        series, failures = measure(bench, f"batch {size}", _decoders(bench, [own, plain], length, size))
        what = f"decode, batch {size}, context {length}"
        rows.append(Comparison("batch", what, own, plain, 2.0, amount=size).row(series, failures))
        for key in (own, plain):
            _stop(bench, key, f"{length}x{size}")
    return rows


def prefill(bench: Bench) -> list[Row]:
    """A prompt until its first token."""
    own, plain, fused = bench.own("int4"), bench.other("Q4_0"), bench.other("sdpa-bf16")
    bench.engines.keep_only([own, plain, fused])
    rows = []
    for number, length in enumerate(bench.prompts):
        turns = min(FEWER_TURNS, bench.turns) if number else bench.turns
        series, failures = measure(bench, f"prefill {length}", _readers(bench, [own, plain, fused], length), turns)
        what = f"prefill {length}"
        rows.append(Comparison("prefill", what, own, plain, 3.0, amount=length).row(series, failures))
        note = _layers_note(bench)
        rows.append(Comparison("prefill", what, own, fused, 1.2, amount=length, note=note).row(series, failures))
    return rows


def official(bench: Bench) -> list[Row]:
    """The official way, eager attention in 32 and 16 bits, by extrapolation from a few layers."""
    own, full, half = bench.own("int4"), bench.other("eager-fp32"), bench.other("eager-bf16")
    bench.engines.keep_only([own])
    short, length = bench.contexts[0], bench.prompts[0]
    rows = []
    for key, decode_target, prefill_target in ((full, 6.0, 6.0), (half, 4.0, 1.2)):
        bench.engines.keep_only([own, key])
        note = _layers_note(bench)
        series, failures = measure(bench, f"official {key} {short}", _decoders(bench, [own, key], short))
        what = f"decode, batch 1, context {short}"
        rows.append(Comparison("official", what, own, key, decode_target, note=note).row(series, failures))
        turns = min(FEWER_TURNS, bench.turns)
        series, failures = measure(bench, f"official {key} {length}", _readers(bench, [own, key], length), turns)
        comparison = Comparison("official", f"prefill {length}", own, key, prefill_target, amount=length, note=note)
        rows.append(comparison.row(series, failures))
    return rows


def lookup(bench: Bench) -> list[Row]:
    """Prompt look-up beside our own plain decoding, on text that repeats itself; the ids must be the same."""
    own = bench.own("int4")
    bench.engines.keep_only([own])
    what = "prompt look-up on a copy-heavy task"
    shared = {"group": "lookup", "what": what, "model": own, "against": "our own plain decoding", "target": 2.0}
    replies: dict[bool, list[int]] = {}
    try:
        prompt = bench.engines.call(own, "copy_prompt", tokens=LOOKUP_TOKENS)

        def seconds(with_lookup: bool) -> float:
            found = bench.engines.call(own, "reply", ids=prompt, tokens=LOOKUP_TOKENS, with_lookup=with_lookup)
            replies[with_lookup] = found["ids"]
            return float(found["seconds"]) / (LOOKUP_TOKENS - 1)

        makes: Starts = {
            "with look-up": lambda: lambda: seconds(True),
            "without": lambda: lambda: seconds(False),
        }
        series, failures = measure(bench, "lookup", makes, min(FEWER_TURNS, bench.turns))
    except EngineError as error:
        return [Row(**shared, note=str(error))]
    if "with look-up" not in series:
        return [Row(**shared, note=next(iter(failures.values()), "not measured"))]
    if replies[True] != replies[False]:
        return [Row(**shared, note="the texts differ")]
    median, low, high = ratios(series["without"], series["with look-up"])
    ours, other = speed(series["with look-up"], 1), speed(series["without"], 1)
    distinct = len(set(replies[True]))
    note = (
        f"a real model's own repetitions: {LOOKUP_TOKENS} tokens, {distinct} of them distinct; the same ids both ways"
    )
    return [Row(**shared, ours=ours, other=other, ratio=median, low=low, high=high, note=note)]


def nf4(bench: Bench) -> list[Row]:
    """Official 4-bit files."""
    own, files, library = bench.own("int4"), bench.own("official4"), bench.other("bnb-nf4")
    bench.engines.keep_only([own, files, library])
    length = bench.contexts[0]
    series, failures = measure(bench, f"nf4 {length}", _decoders(bench, [files, own, library], length))
    what = f"decode, official NF4 files, context {length}"
    note = _layers_note(bench)
    return [
        Comparison("nf4", what, files, own, 0.9).row(series, failures),
        Comparison("nf4", what, files, library, 4.0, note=note).row(series, failures),
    ]


def int8(bench: Bench) -> list[Row]:
    """Eight bits."""
    own, peer = bench.own("int8"), bench.other("Q8_0")
    bench.engines.keep_only([own, peer])
    length = bench.contexts[0]
    series, failures = measure(bench, f"int8 {length}", _decoders(bench, [own, peer], length))
    return [Comparison("int8", f"decode, batch 1, context {length}", own, peer, 1.05).row(series, failures)]


def large(bench: Bench) -> list[Row]:
    """The same ratios for the larger model, whose positions are ALiBi."""
    size = bench.large_shape
    own, plain = bench.own("int4", size), bench.other("Q4_0", size)
    rows = decode(bench, size, "large") + context(bench, size, "large")
    length = bench.prompts[0]
    turns = min(FEWER_TURNS, bench.turns)
    series, failures = measure(bench, f"large prefill {length}", _readers(bench, [own, plain], length), turns)
    rows.append(Comparison("large", f"prefill {length}", own, plain, 3.0, amount=length).row(series, failures))
    return rows


def load(bench: Bench) -> list[Row]:
    """From `load_model` to the first token, in fresh processes, with the file in the page cache."""
    bench.engines.keep_only()
    own = bench.own("int4")
    shared = {
        "group": "load", "what": "load, warm cache, to the first token", "model": own,
        "against": "3 s", "target": FIRST_TOKEN_SECONDS, "better": "<=",
    }  # fmt: skip
    parts: list[dict[str, float]] = []
    for _ in range(bench.turns + 1):
        try:
            parts.append(_first_token(bench.engines.path(own)))
        except (EngineError, OSError) as error:
            return [Row(**shared, note=str(error))]  # type: ignore[arg-type]
    parts = parts[1:]  # the first one has filled the cache
    bench.details["load"] = parts
    totals = [part["load"] + part["first token"] for part in parts]
    imports = statistics.median(part["import"] for part in parts)
    loading = statistics.median(part["load"] for part in parts)
    whole = statistics.median(sum(part.values()) for part in parts)
    print(f"  load                   {own:28} {totals}", flush=True)
    return [
        Row(
            **shared,  # type: ignore[arg-type]
            ours=f"{statistics.median(totals):.2f} s",
            other=f"{FIRST_TOKEN_SECONDS:g} s",
            ratio=statistics.median(totals),
            low=min(totals),
            high=max(totals),
            note=f"load_model {loading:.2f} s; with the import of torch and transformers ({imports:.2f}) {whole:.2f} s",
        )
    ]


def _first_token(folder: Path) -> dict[str, float]:
    command = [sys.executable, str(SCRIPTS / "cpu_own.py"), "--first-token", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{folder.name}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts


def _layers_note(bench: Bench) -> str:
    few, more = bench.engines.official_layers
    return f"{bench.shape.layers} layers extrapolated from {few} and {more}"


def _stop(bench: Bench, key: str, name: str) -> None:
    with contextlib.suppress(EngineError):  # its row says so already
        bench.engines.call(key, "stop", name=name)


GROUPS: dict[str, Callable[[Bench], list[Row]]] = {
    "decode": decode,
    "context": context,
    "batch": batch,
    "prefill": prefill,
    "official": official,
    "lookup": lookup,
    "nf4": nf4,
    "int8": int8,
    "large": large,
    "load": load,
}
