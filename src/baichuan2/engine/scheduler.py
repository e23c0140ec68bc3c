"""Many requests on one model: they wait in a bounded queue, join between steps, and leave when done or cancelled.

One thread owns the model. Before each step it lets requests in and out; a step computes the next token of every reply,
and beside them a piece of the prompts that are not computed yet, so that a long prompt holds nobody up. Whoever
submits a request gets its tokens by a call in that thread, as soon as each is chosen. This module never sees a string.
"""

import gc
import logging
import queue
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from baichuan2.engine.batch import Batch
from baichuan2.engine.batches import Batches
from baichuan2.engine.generate import LanguageModel, TokenStep, check_prompt, context_length
from baichuan2.engine.job import Job, Request
from baichuan2.engine.rounds import Round
from baichuan2.errors import BaichuanError, GenerationError, OverloadedError

__all__ = ["Deliver", "Load", "Request", "Scheduler", "Ticket"]

logger = logging.getLogger(__name__)
Deliver = Callable[[TokenStep | BaichuanError], None]
LEAST_SHARED = 64  # tokens of a beginning that another request is just computing, for which a request waits


@dataclass(frozen=True, kw_only=True)
class Load:
    """How busy a scheduler is, and what it has done since its start."""

    num_running: int
    num_waiting: int
    cache_tokens: int
    """Tokens in the key/value cache that requests in work see."""
    cache_capacity: int
    """How many it can hold."""
    total_prompt_tokens: int
    total_reused_tokens: int
    """Prompt tokens whose keys and values were there already."""
    total_new_tokens: int
    total_preempted: int
    """How often a reply gave its place in the cache up, to be computed again later."""
    is_alive: bool
    """Whether the thread that computes is there."""


class Ticket:
    """A request that was taken."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def request(self) -> Request:
        """What was asked."""
        return self._job.request

    @property
    def num_reused(self) -> int:
        """Prompt tokens that were in the cache already; known with the first token."""
        return self._job.num_reused

    def cancel(self) -> None:
        """Ends the work before the next step; after this call nothing is delivered but what is on its way."""
        self._job.is_cancelled = True

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants the rest."""
        return self._job.is_cancelled


class Scheduler:
    """Takes requests for one model and computes them together, until it is closed.

    A request's tokens are those that it gets alone: each row has its own seed, penalties and constraint. Where a model
    rounds several tokens differently than one (a GPU, or torch alone, in 16 bits) a close choice can tip.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_running: int = 16,
        max_waiting: int = 64,
        cache_bytes: int | None = None,
        kv_cache: Literal["same", "int8"] = "same",
    ) -> None:
        """`max_running`: requests computed together; `max_waiting`: those beyond that are kept, not refused.

        `cache_bytes`: memory for keys and values of all requests; None: as much as `max_running` whole contexts take.
        `kv_cache`: their numbers, whatever a request's sampling says.

        Raises SettingsError when the memory holds not even one context.
        """
        self._model = model
        self._batches = Batches(model, max_running=max_running, cache_bytes=cache_bytes, kv_cache=kv_cache)
        self._batch: Batch = self._batches.new()
        self._max_running = min(max_running, self._batches.most_sequences)
        self._max_waiting = max_waiting
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._num_submitted = 0
        self._is_closing = False
        self._cache_tokens, self._cache_capacity = 0, self._batch.capacity
        self._changed = threading.Condition()
        self._totals: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Takes the request; its tokens go to `deliver`, in the scheduler's thread, which must not be held up.

        The last delivery is a step with a finish reason, or an error, which at a shutdown comes from the thread that
        closes; after `Ticket.cancel` there may be none.

        Raises ContextLengthError, SettingsError and TokenizerError as `generate_tokens` does, and OverloadedError when
        too many requests are waiting or the scheduler is closing.
        """
        check_prompt(self._model, request.prompt_ids, request.sampling)
        with self._changed:
            if self._is_closing:
                raise OverloadedError("no more requests are taken: the engine is shutting down", is_closing=True)
            num_in_hand = sum(not (job.is_done or job.is_cancelled) for job in (*self._running, *self._waiting))
            if num_in_hand >= self._max_running + self._max_waiting:
                raise OverloadedError(
                    f"{num_in_hand - self._max_running} requests are waiting already: try again in some seconds"
                )
            self._num_submitted += 1
            job = Job(request, deliver, self._num_submitted, context_length(self._model))
            self._waiting.append(job)
            self._changed.notify_all()
        return Ticket(job)

    def generate_tokens(self, request: Request) -> Iterator[TokenStep]:
        """The request's tokens as an iterator; closing it ends the work. Raises what `submit` raises, at the call."""
        delivered: queue.SimpleQueue[TokenStep | BaichuanError] = queue.SimpleQueue()
        ticket = self.submit(request, delivered.put)
        steps = _steps(ticket, delivered)
        # an iterator that is dropped before its first step never reaches its own end
        weakref.finalize(steps, ticket.cancel).atexit = False
        return steps

    def load(self) -> Load:
        """How busy it is now."""
        with self._changed:
            return Load(
                num_running=len(self._running),
                num_waiting=len(self._waiting),
                cache_tokens=self._cache_tokens,  # the batch itself is the other thread's
                cache_capacity=self._cache_capacity,
                total_prompt_tokens=self._totals["prompt"],
                total_reused_tokens=self._totals["reused"],
                total_new_tokens=self._totals["new"],
                total_preempted=self._totals["preempted"],
                is_alive=self._thread.is_alive(),
            )

    def close(self, seconds: float = 0.0) -> None:
        """Takes no more requests, gives those it has that long to finish, and ends the rest with an error."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running and not self._waiting, timeout=seconds)
            left = [*self._running, *self._waiting]
            self._waiting.clear()
        for job in left:
            job.fail(OverloadedError("the engine was shut down before the reply was finished", is_closing=True))
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=60)

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            logger.exception("the engine has stopped")
        finally:  # whatever ended it, nobody waits for ever
            with self._changed:
                self._is_closing = True
                left = [*self._running, *self._waiting]
                self._running, self._waiting = [], []
                self._changed.notify_all()
            for job in left:
                job.fail(GenerationError("the engine has stopped and replies no more: start it anew"))

    def _work(self) -> None:
        while True:
            try:
                if self._wait_and_let_in():
                    self._advance()
                elif self._is_closing:
                    return
            except Exception as error:
                self._fail(error)

    def _wait_and_let_in(self) -> bool:
        """Waits for requests, lets them out and in; whether there is anything to compute."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._is_closing)
            self._leave()
            self._join()
            self._cache_tokens = self._batch.num_used
            return bool(self._running or self._waiting)

    def _leave(self) -> None:
        """Takes those out that are done or that nobody wants any more."""
        for job in [job for job in self._running if job.is_done or job.is_cancelled]:
            self._running.remove(job)
            self._put_away(job)
        if any(job.is_cancelled for job in self._waiting):
            self._waiting = [job for job in self._waiting if not job.is_cancelled]
        self._changed.notify_all()

    def _put_away(self, job: Job) -> None:
        if job.held is not None:
            self._batch.close(job.held, job.token_ids)
            job.held = None

    def _join(self) -> None:
        """Lets requests in, first those of whoever has the fewest in work, then in the order of their coming."""
        passed: set[int] = set()
        while len(self._running) < self._max_running:
            in_work = Counter(job.request.client for job in self._running)
            ready = [job for job in self._waiting if job.number not in passed]
            if not ready:
                return
            job = min(ready, key=lambda job: (not job.was_preempted, in_work[job.request.client], job.number))
            if self._is_being_computed(job):
                passed.add(job.number)
                continue
            self._waiting.remove(job)
            self._running.append(job)  # also where opening fails: then it ends with the others
            job.held = self._batch.open(job.token_ids, job.request.adapter)
            if job.held is None:
                assert len(self._running) > 1, "an empty cache has no room"
                self._waiting.append(self._running.pop())
                return
            if not job.was_preempted:
                job.num_reused = job.held.num_tokens
                self._totals["prompt"] += len(job.request.prompt_ids)
                self._totals["reused"] += job.num_reused

    def _is_being_computed(self, job: Job) -> bool:
        """Whether a running prompt that begins alike will soon have what this one needs."""
        for other in self._running:
            held = other.held
            if held is None or other.num_pending == 1:
                continue
            if job.begins_like(other, max(LEAST_SHARED, held.num_tokens + 1)):
                return True
        return False

    def _advance(self) -> None:
        """One step: parts of prompts and of replies computed, tokens chosen and delivered; of nobody, none."""
        step = Round(self._batch, self._running)
        with self._changed:
            for job in step.preempted:
                self._running.remove(job)
                self._put_away(job)
                job.was_preempted = True
                self._waiting.append(job)
                self._totals["preempted"] += 1
        step.compute()
        for job in step.jobs:
            self._totals["new"] += step.choose(job)

    def _fail(self, error: Exception) -> None:
        """After a step that could not be computed: all that were in it end, and others start on an empty cache."""
        cause = error if isinstance(error, BaichuanError) else None
        if cause is None:
            logger.exception("a step of %d requests failed", len(self._running))
            line = str(error).strip().split("\n")[0] or "no message"
            cause = GenerationError(f"the model failed while replying: {type(error).__name__}: {line}")
            cause.__cause__ = error
        with self._changed:
            failed, self._running = self._running, []
        for job in failed:
            job.held = None
            job.fail(cause)
        traceback.clear_frames(error.__traceback__)  # whoever keeps the error keeps no cache with it
        del self._batch
        gc.collect()  # tables that are open and their pool refer to each other, and the pool may be half of the memory
        self._batch = self._batches.new()


def _steps(ticket: Ticket, delivered: "queue.SimpleQueue[TokenStep | BaichuanError]") -> Iterator[TokenStep]:
    try:
        while True:
            step = delivered.get()
            if isinstance(step, BaichuanError):
                raise step
            yield step
            if step.finish_reason is not None:
                return
    finally:
        ticket.cancel()
