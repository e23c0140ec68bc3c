"""Figures of served requests: percentiles of what clients saw, and ratios of servers that took turns."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Figures = dict[str, Any]
KEPT_ERRORS = 3


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest value that at least `share` of all do not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def spread(values: Sequence[float]) -> Figures:
    """Median, 99th percentile and largest of some seconds."""
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values, default=None)}


def first_token_seconds(result: Figures) -> float | None:
    """Time from sending until the first text; None where there was none."""
    return float(result["times"][0] - result["sent"]) if result["times"] else None


def seconds_per_token(result: Figures) -> float | None:
    """Mean time of a token after the first; None for replies of one token."""
    if result["tokens"] < 2 or len(result["times"]) < 2:
        return None
    return float((result["times"][-1] - result["times"][0]) / (result["tokens"] - 1))


def gaps(result: Figures) -> list[float]:
    """Times between neighbouring pieces of text of a reply."""
    return [later - earlier for earlier, later in zip(result["times"], result["times"][1:], strict=False)]


def flat(answer: Figures) -> list[Figures]:
    """All results of an answer of the clients, in no particular order."""
    return [result for stream in answer["streams"] for result in stream]


def turn(answer: Figures) -> Figures:
    """What one turn showed; times of single requests are kept, so that turns can be pooled.

    `tokens_per_second` counts the tokens of replies that went well, over the time from the first request to the end of
    the last.
    """
    results = flat(answer)
    good = [result for result in results if result["error"] is None]
    ends = [result["done"] for result in good]
    seconds = max(ends) - min(result["sent"] for result in good) if good else None
    tokens = sum(result["tokens"] for result in good)
    cached = [result["cached_tokens"] for result in good if result["cached_tokens"] is not None]
    return {
        "requests": len(results),
        "failed": len(results) - len(good),
        "errors": [result["error"] for result in results if result["error"] is not None][:KEPT_ERRORS],
        "seconds": seconds,
        "tokens": tokens,
        "prompt_tokens": sum(result["prompt_tokens"] for result in good),
        "cached_tokens": sum(cached) if cached else None,
        "tokens_per_second": tokens / seconds if seconds else None,
        "first_token": [value for value in map(first_token_seconds, good) if value is not None],
        "per_token": [value for value in map(seconds_per_token, good) if value is not None],
        "gap": spread([gap for result in good for gap in gaps(result)]),
    }


def pooled(turns: Sequence[Figures]) -> Figures:
    """All turns of one server together: the median of their throughputs, percentiles over all their requests."""
    speeds = [found["tokens_per_second"] for found in turns if found["tokens_per_second"]]
    return {
        "turns": len(turns),
        "requests": sum(found["requests"] for found in turns),
        "failed": sum(found["failed"] for found in turns),
        "errors": [error for found in turns for error in found["errors"]][:KEPT_ERRORS],
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "first_token": spread([value for found in turns for value in found["first_token"]]),
        "per_token": spread([value for found in turns for value in found["per_token"]]),
        # of each turn's percentile, as gaps themselves are not kept
        "gap_p99": max((found["gap"]["p99"] for found in turns if found["gap"]["p99"] is not None), default=None),
        "gap_max": max((found["gap"]["max"] for found in turns if found["gap"]["max"] is not None), default=None),
    }


def ratios(ours: Sequence[Figures], other: Sequence[Figures], name: str, part: str | None = None) -> list[float]:
    """Ours through the other's of each turn that both took; of lists of seconds, their `part`: "p50" or "p99"."""
    found = []
    for mine, its in zip(ours, other, strict=False):
        values = [value[name] if part is None else spread(value[name])[part] for value in (mine, its)]
        if values[0] and values[1]:
            found.append(values[0] / values[1])
    return found


def during(answer: Figures) -> Figures:
    """What a late request did to the others: the gaps of theirs that overlap the time until its first text.

    "wait": that time; "gap": their spread; "before": the spread of the gaps that ended before it was sent.
    """
    late = answer["late"]
    results = flat(answer)
    errors = [result["error"] for result in [*results, late] if result["error"] is not None]
    if not late["times"]:
        return {"wait": None, "gap": spread([]), "before": spread([]), "errors": errors[:KEPT_ERRORS]}
    start, end = late["sent"], late["times"][0]
    inside, before = [], []
    for result in results:
        for earlier, later in zip(result["times"], result["times"][1:], strict=False):
            if later <= start:
                before.append(later - earlier)
            elif earlier < end:
                inside.append(later - earlier)
    return {
        "wait": end - start,
        "gap": spread(inside),
        "before": spread(before),
        "num_gaps": len(inside),
        "errors": errors[:KEPT_ERRORS],
    }


def growth(samples: Sequence[Figures], after: int) -> Figures:
    """How much anonymous memory grew from the sample at `after` requests on: "bytes", and "share" of what it was then.

    That of files is left out: what counts of it depends on who else has them open. The last fifth's median is compared
    with that of as many samples from `after` on, as single ones vary by what the allocator holds at that moment.
    """
    later = [sample["anonymous"] for sample in samples if sample["requests"] >= after]
    if len(later) < 2:
        return {"bytes": None, "share": None}
    count = max(1, len(later) // 5)
    start, end = statistics.median(later[:count]), statistics.median(later[-count:])
    return {"bytes": end - start, "share": (end - start) / start}
