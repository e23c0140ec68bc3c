"""The groups of rows of `benchmarks/cpu.py`, in the order in which they run: engines that are shared stay loaded.

Groups of several measurements yield the rows of each when it is done, so that a run that is cut off keeps them.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cpu_child import EngineError
from cpu_engines import SCRIPTS, Shape
from cpu_limits import instructions
from cpu_rows import (
    BANDWIDTH,
    Action,
    Bench,
    Comparison,
    Row,
    Work,
    context_row,
    decode_action,
    floor_row,
    measure,
    prefill_action,
    ratios,
    speed,
)

MOST_LOADS = 3
FIRST_TOKEN_SECONDS = 3.0
READ_TWICE = 5  # times the usual patience, for prompts that take most of a minute in the slowest engine

Starts = dict[str, Callable[[], Action]]


def _decoders(bench: Bench, keys: Sequence[str], context: int, batch: int = 1) -> Starts:
    return {key: (lambda key=key: decode_action(bench, key, context, batch)) for key in keys}


def _readers(bench: Bench, keys: Sequence[str], length: int) -> Starts:
    return {key: (lambda key=key: prefill_action(bench, key, length)) for key in keys}


def decode(bench: Bench) -> list[Row]:
    """One sequence at a short context, beside llama.cpp's 4-bit formats and the bandwidth floor."""
    own, plain, mixed = bench.own("int4"), bench.other("Q4_0"), bench.other("Q4_K_M")
    bench.engines.keep_only([own, plain, mixed])
    length = bench.contexts[0]
    series, failures = measure(bench, f"decode {length}", _decoders(bench, [own, plain, mixed], length))
    work = Work("decode", length)
    return [
        Comparison("decode", work, own, plain, 1.10).row(series, failures),
        Comparison("decode", work, own, mixed, 1.5).row(series, failures),
        floor_row(bench, "decode", bench.shape, own, series),
    ]


def context(bench: Bench) -> list[Row]:
    """One sequence at a long context; what the context costs is taken from turns at both lengths."""
    return _context(bench, "context", bench.shape, bench.contexts[1])


def _context(bench: Bench, group: str, shape: Shape, long: int) -> list[Row]:
    own, plain = bench.own("int4", shape), bench.other("Q4_0", shape)
    bench.engines.keep_only([own, plain])
    short = bench.contexts[0]
    starts = _decoders(bench, [own, plain], long)
    starts["short"] = lambda: decode_action(bench, own, short)
    series, failures = measure(bench, f"{group} {long}", starts)
    _stop(bench, [own, plain], f"{long}x1")
    rows = [Comparison(group, Work("decode", long), own, plain, 1.25).row(series, failures)]
    if own in series and "short" in series and BANDWIDTH in series:
        both = (series["short"], series[own])
        rows.append(context_row((short, long), group, shape, own, both, series[BANDWIDTH]))
    else:
        reason = failures.get(own) or failures.get("short") or bench.limits.reason or "not measured"
        rows.append(
            Row(group=group, what=f"context {long} over {short}", model=own, against="the time of its bytes",
                target=1.3, better="<=", note=reason)
        )  # fmt: skip
    return rows


def batch(bench: Bench) -> Iterator[Row]:
    """Several sequences at once."""
    own, plain = bench.own("int4"), bench.other("Q4_0")
    bench.engines.keep_only([own, plain])
    length = bench.batch_context
    for size in bench.batches:
        series, failures = measure(bench, f"batch {size}", _decoders(bench, [own, plain], length, size))
        _stop(bench, [own, plain], f"{length}x{size}")
        yield Comparison("batch", Work("decode", length, size), own, plain, 2.0).row(series, failures)


def prefill(bench: Bench) -> Iterator[Row]:
    """A prompt until its first token."""
    own, plain, fused = bench.own("int4"), bench.other("Q4_0"), bench.other("sdpa-bf16")
    bench.engines.keep_only([own, plain, fused])
    for number, length in enumerate(bench.prompts):
        patience = 1 if number else READ_TWICE
        readers = _readers(bench, [own, plain, fused], length)
        series, failures = measure(bench, f"prefill {length}", readers, patience=patience)
        work = Work("prefill", length)
        note = _layers_note(bench, bench.shape, work)
        yield Comparison("prefill", work, own, plain, 3.0).row(series, failures)
        yield Comparison("prefill", work, own, fused, 1.2, note=note).row(series, failures)


def official(bench: Bench) -> Iterator[Row]:
    """The official way, eager attention in 32 and 16 bits, by extrapolation from a few layers."""
    own, full, half = bench.own("int4"), bench.other("eager-fp32"), bench.other("eager-bf16")
    short, length = bench.contexts[0], bench.prompts[0]
    for key, decode_target, prefill_target in ((full, 6.0, 6.0), (half, 4.0, 1.2)):
        bench.engines.keep_only([own, key])
        series, failures = measure(bench, f"official {key} {short}", _decoders(bench, [own, key], short))
        work = Work("decode", short)
        note = _layers_note(bench, bench.shape, work)
        yield Comparison("official", work, own, key, decode_target, note=note).row(series, failures)
        series, failures = measure(bench, f"official {key} {length}", _readers(bench, [own, key], length))
        work = Work("prefill", length)
        note = _layers_note(bench, bench.shape, work)
        yield Comparison("official", work, own, key, prefill_target, note=note).row(series, failures)


def lookup(bench: Bench) -> list[Row]:
    """Prompt look-up beside our own plain decoding, on text that repeats itself; the ids must be the same."""
    own = bench.own("int4")
    bench.engines.keep_only([own])
    what = "prompt look-up on a copy-heavy task"
    shared: dict[str, Any] = {
        "group": "lookup", "what": what, "model": own, "against": "our own plain decoding", "target": 2.0,
        "work": Work("lookup"),
    }  # fmt: skip
    replies: dict[bool, list[int]] = {}
    try:
        prompt = bench.engines.call(own, "copy_prompt", tokens=bench.lookup_tokens)
    except EngineError as error:
        return [Row(**shared, note=str(error))]

    def seconds(with_lookup: bool) -> float:
        found = bench.engines.call(own, "reply", ids=prompt, tokens=bench.lookup_tokens, with_lookup=with_lookup)
        replies[with_lookup] = found["ids"]
        return float(found["seconds"]) / (bench.lookup_tokens - 1)

    makes: Starts = {"with look-up": lambda: lambda: seconds(True), "without": lambda: lambda: seconds(False)}
    series, failures = measure(bench, "lookup", makes)
    if "with look-up" not in series or "without" not in series:
        return [Row(**shared, note=next(iter(failures.values()), "not measured"))]
    if replies[True] != replies[False]:
        return [Row(**shared, note="the texts differ")]
    median, low, high = ratios(series["without"], series["with look-up"])
    ours, other = speed(series["with look-up"], 1), speed(series["without"], 1)
    distinct = len(set(replies[True]))
    told = f"{bench.lookup_tokens} tokens, {distinct} distinct; the same ids"
    note = f"7 guesses; a random model's own repetitions: {told}"
    turns = len(series["without"])
    return [Row(**shared, ours=ours, other=other, ratio=median, low=low, high=high, turns=turns, note=note)]


def nf4(bench: Bench) -> list[Row]:
    """Official 4-bit files."""
    own, files, library = bench.own("int4"), bench.own("official4"), bench.other("bnb-nf4")
    bench.engines.keep_only([own, files, library])
    length = bench.contexts[0]
    series, failures = measure(bench, f"nf4 {length}", _decoders(bench, [files, own, library], length))
    work, what = Work("decode", length), f"decode, official NF4 files, context {length}"
    note = _layers_note(bench, bench.shape, work)
    if "avx512_bf16" not in instructions():
        note += "; the library's fast products on processors need AVX512-BF16, which this one lacks"
    return [
        Comparison("nf4", work, files, own, 0.9, what=what).row(series, failures),
        Comparison("nf4", work, files, library, 4.0, what=what, note=note).row(series, failures),
    ]


def int8(bench: Bench) -> list[Row]:
    """Eight bits."""
    own, peer = bench.own("int8"), bench.other("Q8_0")
    bench.engines.keep_only([own, peer])
    length = bench.contexts[0]
    series, failures = measure(bench, f"int8 {length}", _decoders(bench, [own, peer], length))
    return [Comparison("int8", Work("decode", length), own, peer, 1.05).row(series, failures)]


def large(bench: Bench) -> Iterator[Row]:
    """The same ratios for the larger model, whose positions are ALiBi; two engines at a time, for their memory."""
    size = bench.large_shape
    own, plain, mixed = bench.own("int4", size), bench.other("Q4_0", size), bench.other("Q4_K_M", size)
    fused = bench.other("sdpa-bf16", size)
    short, length = bench.contexts[0], bench.prompts[0]
    for other, target in ((mixed, 1.5), (plain, 1.10)):
        bench.engines.keep_only([own, other])
        series, failures = measure(bench, f"large {other} {short}", _decoders(bench, [own, other], short))
        yield Comparison("large", Work("decode", short), own, other, target).row(series, failures)
    yield floor_row(bench, "large", size, own, series)
    yield from _context(bench, "large", size, bench.large_context)
    for read in dict.fromkeys((length, bench.large_context)):
        series, failures = measure(bench, f"large prefill {read}", _readers(bench, [own, plain], read))
        yield Comparison("large", Work("prefill", read), own, plain, 3.0).row(series, failures)
    bench.engines.keep_only([own, fused])
    series, failures = measure(bench, f"large {fused} {length}", _readers(bench, [own, fused], length))
    work = Work("prefill", length)
    note = _layers_note(bench, size, work) + "; with rotation in ALiBi's place"
    yield Comparison("large", work, own, fused, 1.2, note=note).row(series, failures)


def load(bench: Bench) -> list[Row]:
    """From `load_for_replies` to the first token, in fresh processes, with the file in the page cache."""
    bench.engines.keep_only()
    own = bench.own("int4")
    shared: dict[str, Any] = {
        "group": "load", "what": "load, warm cache, to the first token", "model": own, "work": Work("load"),
        "against": f"{FIRST_TOKEN_SECONDS:g} s", "target": FIRST_TOKEN_SECONDS, "better": "<=",
    }  # fmt: skip
    parts: list[dict[str, float]] = []
    for _ in range(min(MOST_LOADS, bench.turns) + 1):
        try:
            parts.append(_first_token(bench.engines.path(own), bench.engines.call_seconds))
        except (EngineError, OSError) as error:
            return [Row(**shared, note=str(error))]
    parts = parts[1:]  # the first one has filled the cache
    bench.details["load"] = parts
    totals = [part["load"] + part["first token"] for part in parts]
    imports = statistics.median(part["import"] for part in parts)
    loading = statistics.median(part["load"] for part in parts)
    whole = statistics.median(sum(part.values()) for part in parts)
    print(f"  load                   {own:28} {totals}", flush=True)
    return [
        Row(
            **shared,
            ours=f"{statistics.median(totals):.2f} s",
            other=f"{FIRST_TOKEN_SECONDS:g} s",
            ratio=statistics.median(totals),
            low=min(totals),
            high=max(totals),
            turns=len(totals),
            note=f"loading {loading:.2f} s; with the import of torch and transformers ({imports:.2f}) {whole:.2f} s",
        )
    ]


def first_token_command(folder: Path) -> list[str]:
    """What prints the seconds to the first token."""
    return [sys.executable, str(SCRIPTS / "cpu_own.py"), "--first-token", str(folder)]


def _first_token(folder: Path, most_seconds: float) -> dict[str, float]:
    command = first_token_command(folder)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=most_seconds)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{folder.name}: ended, as it took more than {most_seconds:g} s") from error
    if done.returncode != 0:
        raise EngineError(f"{folder.name}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    parts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return parts


def _layers_note(bench: Bench, shape: Shape, work: Work) -> str:
    engines = bench.engines
    few, more = engines.official_prefill_layers if work.kind == "prefill" else engines.official_layers
    return f"{shape.layers} layers extrapolated from {few} and {more}"


def _stop(bench: Bench, keys: Sequence[str], name: str) -> None:
    """Frees sessions; an engine that is not there any more has none."""
    for key in keys:
        bench.engines.stop(key, name)


GROUPS: dict[str, Callable[[Bench], Iterable[Row]]] = {
    "decode": decode,
    "context": context,
    "prefill": prefill,
    "batch": batch,
    "official": official,
    "lookup": lookup,
    "nf4": nf4,
    "int8": int8,
    "large": large,
    "load": load,
}
