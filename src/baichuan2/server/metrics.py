"""Numbers for Prometheus: what was asked, how long it took, how busy the engine is."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from baichuan2.engine.scheduler import Load
from baichuan2.server.work import Work

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
REPLY_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, load: Callable[[], Load]) -> None:
        """`load`: asks the engine; at each look at the numbers."""
        self._registry = registry = CollectorRegistry()
        registry.register(_Engine(load))
        self._requests = Counter("baichuan2_requests", "Answers sent", ["route", "method", "status"], registry=registry)
        self._failures = Counter(
            "baichuan2_request_failures", "Requests that ended before their reply did", ["code"], registry=registry
        )
        self._seconds = Histogram(
            "baichuan2_request_seconds",
            "From request to end of answer",
            ["route"],
            buckets=REPLY_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "baichuan2_time_to_first_token_seconds",
            "From request to its first token",
            buckets=REPLY_SECONDS,
            registry=registry,
        )
        self._each = Histogram(
            "baichuan2_time_per_output_token_seconds",
            "Mean time between tokens of a reply, after the first",
            buckets=TOKEN_SECONDS,
            registry=registry,
        )

    def record(self, route: str, method: str, status: int, seconds: float, work: Work | None) -> None:
        """A request is over. `status` 0: the client left before there was an answer."""
        method = method if method in ("GET", "POST", "OPTIONS", "HEAD") else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if work is None:
            return
        if work.failure is not None:
            self._failures.labels(work.failure).inc()
        if work.first_token is not None:
            self._first.observe(work.first_token - work.started)
            num_later = work.num_new_tokens - work.num_choices_begun
            if num_later > 0 and work.last_token is not None:
                # replies that are written together share the time, so it counts once for each of them
                self._each.observe((work.last_token - work.first_token) * work.num_choices_begun / num_later)

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


class _Engine(Collector):
    """What the engine knows by itself."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterator[Metric]:
        load = self._load()
        for name, text, value in (
            ("requests_running", "Requests that are computed", load.num_running),
            ("requests_waiting", "Requests in the queue", load.num_waiting),
            ("cache_tokens", "Tokens in the key/value cache that are in use", load.cache_tokens),
            ("cache_capacity_tokens", "Tokens that the key/value cache holds", load.cache_capacity),
            ("engine_alive", "1 while the engine's thread is there", int(load.is_alive)),
        ):
            yield GaugeMetricFamily(f"baichuan2_{name}", text, value)
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts that were begun", load.total_prompt_tokens),
            ("reused_prompt_tokens", "Of these, found in the cache", load.total_reused_tokens),
            ("generated_tokens", "Tokens of replies", load.total_new_tokens),
            ("preemptions", "Replies that had to give their place up for a while", load.total_preempted),
        ):
            yield CounterMetricFamily(f"baichuan2_{name}", text, value)
