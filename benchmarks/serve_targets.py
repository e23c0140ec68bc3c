"""What the figures of `benchmarks/serve.py` are held against, and whether they reach it."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from serve_figures import Figures, ratios
from serve_scenarios import NAIVE, OURS, PEER, WHOLE

LEAST_BESIDE_PEER = 1.0
LEAST_ALONE = 0.95  # of the naive loop's speed with one client: what HTTP and the scheduler may cost
LEAST_TOGETHER = 1.1  # times the naive loop's speed with several clients
MOST_WAIT_BESIDE_NAIVE = 0.5  # of its time to the first token (99th percentile), with several clients
MOST_GAP = 0.25  # of the longest gap (99th percentile) without pieces
MOST_LATER_FIRST_TOKEN = 0.15  # of the first request's, with 1,000 of 1,032 prompt tokens in the cache
MOST_GROWTH = 0.02


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One target. `value` None: not measured. `low` and `high` are those of the turns."""

    what: str
    target: float
    better: Literal[">=", "<="]
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.better == ">=" else self.value <= self.target


def verdicts(parts: dict[str, Figures]) -> list[Verdict]:
    """All targets of what was measured. `parts`: by "SCENARIO/MODEL"."""
    found: list[Verdict] = []
    for key, part in parts.items():
        scenario, _, model = key.partition("/")
        found += list(
            {"load": _load, "intruder": _intruder, "prefix": _prefix, "memory": _memory}[scenario](model, part)
        )
    return found


def _of_turns(what: str, values: list[float], target: float, better: Literal[">=", "<="]) -> Verdict:
    if not values:
        return Verdict(what=what, target=target, better=better)
    median = statistics.median(values)
    return Verdict(what=what, target=target, better=better, value=median, low=min(values), high=max(values))


def _load(model: str, part: Figures) -> Iterator[Verdict]:
    failed = 0
    for clients, servers in part["levels"].items():
        where = f"{model}, {clients} client{'s' * (clients != '1')}"
        ours = servers[OURS]
        failed += sum(found["failed"] for found in ours)
        if servers.get(PEER):
            other = servers[PEER]
            yield _of_turns(f"{where}: tokens/s, ours / llama.cpp", ratios(ours, other, "tokens_per_second"),
                            LEAST_BESIDE_PEER, ">=")  # fmt: skip
            for name, text in (("first_token", "time to first token"), ("per_token", "time per token")):
                yield _of_turns(f"{where}: {text}, median, ours / llama.cpp", ratios(ours, other, name, "p50"),
                                1 / LEAST_BESIDE_PEER, "<=")  # fmt: skip
        naive = servers[NAIVE]
        least = LEAST_ALONE if clients == "1" else LEAST_TOGETHER
        yield _of_turns(f"{where}: tokens/s, ours / naive loop", ratios(ours, naive, "tokens_per_second"), least, ">=")
        if clients != "1":
            yield _of_turns(f"{where}: time to first token, p99, ours / naive loop",
                            ratios(ours, naive, "first_token", "p99"), MOST_WAIT_BESIDE_NAIVE, "<=")  # fmt: skip
    yield Verdict(what=f"{model}: our requests that failed under load", target=0, better="<=", value=failed)


def _intruder(model: str, part: Figures) -> Iterator[Verdict]:
    ours, whole = part[OURS]["gap"]["p99"], part[WHOLE]["gap"]["p99"]
    yield Verdict(what=f"{model}, a long prompt amid replies: p99 of their gaps, in pieces / whole", target=MOST_GAP,
                  better="<=", value=ours / whole if ours and whole else None)  # fmt: skip
    if PEER in part:
        other = part[PEER]["gap"]["p99"]
        yield Verdict(what=f"{model}, a long prompt amid replies: p99 of their gaps, ours / llama.cpp", target=1.0,
                      better="<=", value=ours / other if ours and other else None)  # fmt: skip


def _prefix(model: str, part: Figures) -> Iterator[Verdict]:
    yield Verdict(what=f"{model}, same beginning: time to first token, later / first request",
                  target=MOST_LATER_FIRST_TOKEN, better="<=", value=later_share(part[OURS]))  # fmt: skip


def later_share(found: Figures) -> float | None:
    """The median of the later requests' times to the first token, as a part of the first one's."""
    later: list[Any] = [value for value in found["later"] if value is not None]
    return statistics.median(later) / found["first"] if later and found["first"] else None


def _memory(model: str, part: Figures) -> Iterator[Verdict]:
    requests = part[OURS]["samples"][-1]["requests"]
    yield Verdict(what=f"{model}: growth of anonymous memory until {requests:,} requests, as a part",
                  target=MOST_GROWTH, better="<=", value=part[OURS]["growth"]["share"])  # fmt: skip
    yield Verdict(what=f"{model}: of {requests:,} requests, failed", target=0, better="<=", value=part[OURS]["failed"])
