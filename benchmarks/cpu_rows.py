"""The rows of `benchmarks/cpu.py`: who takes turns with whom, and the ratios that come of it.

A ratio is taken within each turn, of figures that lie seconds apart, and the row shows the median of all turns and
their range: a machine that is slower for a minute is slower for both. A row takes as many turns as fit into its time,
so rows whose turns are minutes long have one.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cpu_child import EngineError
from cpu_engines import OFFICIAL_WAYS, Engines, Shape
from cpu_limits import Limits
from cpu_models import PEER_FORMATS

SETTLE_SECONDS = 0.05  # threads that wait actively go to sleep in that time
PATIENCE_SECONDS = 4.0  # for the steps of a turn of transformers, some of whose ways take seconds for one
LEAST_TOKENS = 2
Series = list[float]


@dataclass(frozen=True)
class Work:
    """What the engines do in a row; a profile has ours do it again."""

    kind: Literal["decode", "prefill", "lookup", "load"]
    length: int = 0
    batch: int = 1

    @property
    def what(self) -> str:
        """For people."""
        if self.kind == "decode":
            return f"decode, batch {self.batch}, context {self.length}"
        return f"{self.kind} {self.length}" if self.length else self.kind

    @property
    def tokens(self) -> int:
        """That the seconds of a figure are for."""
        return self.length if self.kind == "prefill" else self.batch


@dataclass(frozen=True, kw_only=True)
class Row:
    """One target and what was measured: `ratio` is the median of `turns` turns, `low` and `high` their range.

    `model` and `other_model`: keys of the engines, the latter where there is one. `ours` and `other`: figures for
    people, such as "6.84 tokens/s". `note`: how to read it, or why there is no figure.
    """

    group: str
    what: str
    model: str
    against: str
    target: float
    better: Literal[">=", "<="] = ">="
    work: Work | None = None
    other_model: str = ""
    turns: int = 0
    ours: str = ""
    other: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None where there is no figure."""
        if self.ratio is None:
            return None
        return self.ratio >= self.target if self.better == ">=" else self.ratio <= self.target


@dataclass
class Bench:
    """What all groups of rows share.

    `turns`: of each engine in each row, or fewer where they take more than `row_seconds`. `details` keeps every turn of
    every measurement, for the JSON. `reads`: seconds in which prompts were read for decoding, by model and length.
    """

    engines: Engines
    limits: Limits
    turns: int
    row_seconds: float
    tokens: int
    shape: Shape
    large_shape: Shape
    formats: Mapping[str, str]
    contexts: tuple[int, int]
    prompts: tuple[int, int]
    batches: tuple[int, ...]
    batch_context: int
    large_context: int
    lookup_tokens: int
    details: dict[str, Any] = field(default_factory=dict)
    reads: dict[tuple[str, int], float] = field(default_factory=dict)

    def own(self, kind: str, shape: Shape | None = None) -> str:
        """The key of one of our models."""
        return f"{(shape or self.shape).name}-{self.formats[kind]}"

    def other(self, name: str, shape: Shape | None = None) -> str:
        """The key of another engine's model."""
        return f"{(shape or self.shape).name}-{name}"


Action = Callable[[], float]


def take_turns(
    actions: Mapping[str, Action], turns: int, *, seconds: float = math.inf
) -> tuple[dict[str, Series], dict[str, str]]:
    """The figure of each action in each turn, and why those that failed are missing.

    Every other turn runs backwards, so that drift favours nobody. A turn that would end after `seconds` is not begun,
    but for the first.
    """
    found: dict[str, Series] = {name: [] for name in actions}
    failures: dict[str, str] = {}
    start, longest = time.perf_counter(), 0.0
    for turn in range(turns):
        began = time.perf_counter()
        if turn and began - start + longest > seconds:
            break
        for name in list(found) if turn % 2 == 0 else reversed(list(found)):
            try:
                found[name].append(actions[name]())
            except EngineError as error:
                failures[name] = str(error)
                del found[name]
            time.sleep(SETTLE_SECONDS)
        longest = max(longest, time.perf_counter() - began)
    return found, failures


def extrapolate(few: float, more: float, layers: tuple[int, int], wanted: int) -> float:
    """The time of `wanted` layers, from those of two smaller numbers of layers."""
    return few + (more - few) / (layers[1] - layers[0]) * (wanted - layers[0])


def ratios(numerator: Series, denominator: Series) -> tuple[float, float, float]:
    """Median, least and greatest of the ratios of the turns."""
    each = [above / below for above, below in zip(numerator, denominator, strict=True)]
    return statistics.median(each), min(each), max(each)


def decode_action(bench: Bench, key: str, context: int, batch: int = 1) -> Action:
    """Seconds of a step (the median of a turn) of a session that is started now."""
    engines, name = bench.engines, f"{context}x{batch}"
    if engines.is_official(key):
        layer_counts, whole = engines.official_layers, Shape(key.partition("-")[0]).layers
        tokens: dict[int, int] = {}
        for layers in layer_counts:
            engines.call(key, "start", name=f"{name}/{layers}", context=context, batch=batch, layers=layers)
            once = engines.call(key, "decode", name=f"{name}/{layers}", tokens=1)[0]
            tokens[layers] = min(bench.tokens, max(LEAST_TOKENS, int(PATIENCE_SECONDS / once)))

        def extrapolated() -> float:
            few, more = (
                statistics.median(engines.call(key, "decode", name=f"{name}/{layers}", tokens=tokens[layers]))
                for layers in layer_counts
            )
            return extrapolate(few, more, layer_counts, whole)

        return extrapolated
    taken = engines.call(key, "start", name=name, context=context, batch=batch)
    if batch == 1:
        bench.reads[key, context] = float(taken)
    return lambda: statistics.median(engines.call(key, "decode", name=name, tokens=bench.tokens))


def prefill_action(bench: Bench, key: str, length: int) -> Action:
    """Seconds in which a prompt is read; the first is that of a prompt of this length read for decoding, if any was."""
    engines = bench.engines

    def seconds(**extra: int) -> float:
        taken = engines.call(key, "start", name="prefill", context=length, batch=1, **extra)
        engines.call(key, "stop", name="prefill")
        return float(taken)

    if not engines.is_official(key):
        return lambda: bench.reads.pop((key, length), None) or seconds()
    layer_counts, whole = engines.official_prefill_layers, Shape(key.partition("-")[0]).layers
    return lambda: extrapolate(*(seconds(layers=layers) for layers in layer_counts), layer_counts, whole)


BANDWIDTH = "bandwidth"


def measure(
    bench: Bench, label: str, make: Mapping[str, Callable[[], Action]], *, patience: float = 1
) -> tuple[dict[str, Series], dict[str, str]]:
    """Series of all engines that work, the bandwidth among them, and why the others do not.

    `patience`: how many times the usual time the turns may take.
    """
    actions: dict[str, Action] = {}
    failures: dict[str, str] = {}
    for key, start in make.items():
        try:
            actions[key] = start()
        except (EngineError, OSError) as error:
            failures[key] = str(error)
    if actions and bench.limits.bandwidth() is not None:
        actions[BANDWIDTH] = lambda: bench.limits.bandwidth() or 1.0
    series, failed = take_turns(actions, bench.turns, seconds=patience * bench.row_seconds)
    failures |= failed
    bench.details[label] = {"series": series, "failures": failures}
    for key, values in series.items():
        unit = "B/s" if key == BANDWIDTH else "s"
        shown = " ".join(f"{value:.4g}" for value in values)
        print(f"  {label:22} {key:28} median {statistics.median(values):10.4g} {unit}  [{shown}]", flush=True)
    for key, reason in failures.items():
        print(f"  {label:22} {key:28} {reason}", flush=True)
    return series, failures


def name_of(key: str) -> str:
    """The engine and its format, for people."""
    way = key.partition("-")[2]
    if way in PEER_FORMATS:
        return f"llama.cpp {way}"
    if way == "bnb-nf4":
        return "bitsandbytes NF4 on transformers"
    if way in OFFICIAL_WAYS:
        attention, _, dtype = way.partition("-")
        return f"transformers {dtype}, {attention} attention"
    return f"our own {way}"


@dataclass(frozen=True)
class Comparison:
    """A row that compares two series of one measurement."""

    group: str
    work: Work
    ours: str
    other: str
    target: float
    what: str = ""
    note: str = ""

    def row(self, series: Mapping[str, Series], failures: Mapping[str, str]) -> Row:
        """The row; without a figure where one side failed."""
        shared: dict[str, Any] = {
            "group": self.group, "what": self.what or self.work.what, "model": self.ours, "target": self.target,
            "against": name_of(self.other), "other_model": self.other, "work": self.work,
        }  # fmt: skip
        for key in (self.ours, self.other):
            if key not in series:
                return Row(**shared, note=failures.get(key, "not measured"))
        median, low, high = ratios(series[self.other], series[self.ours])
        return Row(
            **shared,
            ours=speed(series[self.ours], self.work.tokens),
            other=speed(series[self.other], self.work.tokens),
            ratio=median,
            low=low,
            high=high,
            turns=len(series[self.ours]),
            note=self.note,
        )


def speed(series: Series, amount: float) -> str:
    """The median speed, for people."""
    return f"{amount / statistics.median(series):.2f} tokens/s"


def floor_row(bench: Bench, group: str, shape: Shape, key: str, series: Mapping[str, Series]) -> Row:
    """How near decoding comes to the time in which memory delivers the weights and the cache."""
    context = bench.contexts[0]
    work = Work("decode", context)
    shared: dict[str, Any] = {
        "group": group, "what": work.what, "model": key, "against": "the bandwidth floor", "work": work,
    }  # fmt: skip
    if key not in series or BANDWIDTH not in series:
        return Row(**shared, target=0.90, note=bench.limits.reason or "not measured")
    num_bytes = bench.engines.bytes_per_token(key) + shape.cache_bytes(context)
    floors = [num_bytes / bandwidth for bandwidth in series[BANDWIDTH]]
    median, low, high = ratios(floors, series[key])
    gigabytes, bandwidth = num_bytes / 1e9, statistics.median(series[BANDWIDTH]) / 1e9
    return Row(
        **shared,
        target=0.90,
        ours=speed(series[key], 1),
        other=speed(floors, 1),
        ratio=median,
        low=low,
        high=high,
        turns=len(floors),
        note=f"{gigabytes:.3f} GB a token, {bandwidth:.1f} GB/s",
    )


def context_row(
    lengths: tuple[int, int], group: str, shape: Shape, key: str, both: Sequence[Series], bandwidths: Series
) -> Row:
    """What a long context costs over a short one, beside the time in which memory delivers its keys and values."""
    short, long = lengths
    num_bytes = shape.cache_bytes(long) - shape.cache_bytes(short)
    extra = [slow - fast for fast, slow in zip(*both, strict=True)]
    floors = [num_bytes / bandwidth for bandwidth in bandwidths]
    median, low, high = ratios(extra, floors)
    return Row(
        group=group,
        what=f"context {long} over {short}",
        model=key,
        against="the time of its bytes",
        target=1.3,
        better="<=",
        work=Work("decode", long),
        turns=len(extra),
        ours=f"{statistics.median(extra) * 1e3:.1f} ms",
        other=f"{statistics.median(floors) * 1e3:.1f} ms",
        ratio=median,
        low=low,
        high=high,
        note=f"{num_bytes / 1e9:.3f} GB of 16-bit keys and values",
    )
