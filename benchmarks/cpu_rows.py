"""The rows of `benchmarks/cpu.py`: who takes turns with whom, and the ratios that come of it.

A ratio is taken within each turn, of figures that lie seconds apart, and the row shows the median of all turns and
their range: a machine that is slower for a minute is slower for both.
"""

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
Series = list[float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One target and what was measured: `ratio` is the median of the turns, `low` and `high` their range.

    `ours` and `other`: figures for people, such as "6.84 tokens/s". `note`: how to read it, or why there is no figure.
    """

    group: str
    what: str
    model: str
    against: str
    target: float
    better: Literal[">=", "<="] = ">="
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
    """What all groups of rows share. `details` keeps every turn of every measurement, for the JSON."""

    engines: Engines
    limits: Limits
    turns: int
    tokens: int
    shape: Shape
    large_shape: Shape
    formats: Mapping[str, str]
    contexts: tuple[int, int]
    prompts: tuple[int, int]
    batches: tuple[int, ...]
    details: dict[str, Any] = field(default_factory=dict)

    def own(self, kind: str, shape: Shape | None = None) -> str:
        """The key of one of our models."""
        return f"{(shape or self.shape).name}-{self.formats[kind]}"

    def other(self, name: str, shape: Shape | None = None) -> str:
        """The key of another engine's model."""
        return f"{(shape or self.shape).name}-{name}"


Action = Callable[[], float]


def take_turns(actions: Mapping[str, Action], turns: int) -> dict[str, Series]:
    """The figure of each action in each turn; every other turn runs backwards, so that drift favours nobody."""
    found: dict[str, Series] = {name: [] for name in actions}
    for turn in range(turns):
        for name in list(actions) if turn % 2 == 0 else reversed(list(actions)):
            found[name].append(actions[name]())
            time.sleep(SETTLE_SECONDS)
    return found


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
        for layers in layer_counts:
            engines.call(key, "start", name=f"{name}/{layers}", context=context, batch=batch, layers=layers)

        def extrapolated() -> float:
            few, more = (
                statistics.median(engines.call(key, "decode", name=f"{name}/{layers}", tokens=bench.tokens))
                for layers in layer_counts
            )
            return extrapolate(few, more, layer_counts, whole)

        return extrapolated
    engines.call(key, "start", name=name, context=context, batch=batch)
    return lambda: statistics.median(engines.call(key, "decode", name=name, tokens=bench.tokens))


def prefill_action(bench: Bench, key: str, length: int) -> Action:
    """Seconds in which a prompt is read."""
    engines = bench.engines

    def seconds(**extra: int) -> float:
        taken = engines.call(key, "start", name="prefill", context=length, batch=1, **extra)
        engines.call(key, "stop", name="prefill")
        return float(taken)

    if not engines.is_official(key):
        return seconds
    layer_counts, whole = engines.official_layers, Shape(key.partition("-")[0]).layers
    return lambda: extrapolate(*(seconds(layers=layers) for layers in layer_counts), layer_counts, whole)


BANDWIDTH = "bandwidth"


def measure(
    bench: Bench, label: str, make: Mapping[str, Callable[[], Action]], turns: int | None = None
) -> tuple[dict[str, Series], dict[str, str]]:
    """Series of all engines that work, the bandwidth among them, and why the others do not."""
    actions: dict[str, Action] = {}
    failures: dict[str, str] = {}
    for key, start in make.items():
        try:
            actions[key] = start()
        except EngineError as error:
            failures[key] = str(error)
    if bench.limits.bandwidth() is not None:
        actions[BANDWIDTH] = lambda: bench.limits.bandwidth() or 1.0
    try:
        series = take_turns(actions, turns or bench.turns)
    except EngineError as error:
        return {}, dict.fromkeys(make, str(error))
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
    """A row that compares two series of one measurement; the figures shown are `amount` tokens over the seconds."""

    group: str
    what: str
    ours: str
    other: str
    target: float
    amount: float = 1.0
    note: str = ""

    def row(self, series: Mapping[str, Series], failures: Mapping[str, str]) -> Row:
        """The row; without a figure where one side failed."""
        shared: dict[str, Any] = {
            "group": self.group, "what": self.what, "model": self.ours, "target": self.target,
            "against": name_of(self.other),
        }  # fmt: skip
        for key in (self.ours, self.other):
            if key not in series:
                return Row(**shared, note=failures.get(key, "not measured"))
        median, low, high = ratios(series[self.other], series[self.ours])
        return Row(
            **shared,
            ours=speed(series[self.ours], self.amount),
            other=speed(series[self.other], self.amount),
            ratio=median,
            low=low,
            high=high,
            note=self.note,
        )


def speed(series: Series, amount: float) -> str:
    """The median speed, for people."""
    return f"{amount / statistics.median(series):.2f} tokens/s"


def floor_row(bench: Bench, group: str, shape: Shape, key: str, series: Mapping[str, Series]) -> Row:
    """How near decoding comes to the time in which memory delivers the weights and the cache."""
    context = bench.contexts[0]
    what = f"decode, batch 1, context {context}"
    shared: dict[str, Any] = {"group": group, "what": what, "model": key, "against": "the bandwidth floor"}
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
        note=f"{gigabytes:.3f} GB a token, {bandwidth:.1f} GB/s",
    )


def context_row(bench: Bench, group: str, shape: Shape, key: str, both: Sequence[Series], bandwidths: Series) -> Row:
    """What a long context costs over a short one, beside the time in which memory delivers its keys and values."""
    short, long = bench.contexts
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
        ours=f"{statistics.median(extra) * 1e3:.1f} ms",
        other=f"{statistics.median(floors) * 1e3:.1f} ms",
        ratio=median,
        low=low,
        high=high,
        note=f"{num_bytes / 1e9:.3f} GB of 16-bit keys and values",
    )
