"""Many requests on one model: they wait in a bounded queue, join between steps, and leave when done or cancelled.

One thread owns the model. Whoever submits a request gets its tokens by a call in that thread, as soon as each is
chosen; `Scheduler.generate_tokens` turns that into an iterator. This module never sees a string.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from baichuan2.engine.constraint import Constraint
from baichuan2.engine.generate import LanguageModel, TokenStep, check_prompt, generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.errors import BaichuanError, GenerationError, OverloadedError

__all__ = ["Deliver", "Load", "Request", "Scheduler", "Ticket"]

logger = logging.getLogger(__name__)
Deliver = Callable[[TokenStep | BaichuanError], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to continue, and how; see `generate_tokens`."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    stop_ids: frozenset[int]
    constraint: Constraint | None = None


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


class Ticket:
    """A request that was taken."""

    def __init__(self, request: Request, deliver: Deliver) -> None:
        self.request = request
        self.deliver = deliver
        self.num_reused = 0
        """Prompt tokens that were in the cache already; known with the first token."""
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the work between two steps; nothing is delivered after this call returns but what is on its way."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants the rest."""
        return self._cancelled.is_set()


class Scheduler:
    """Takes requests for one model and computes them together, until it is closed."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_running: int = 16,
        max_waiting: int = 64,
        cache_bytes: int | None = None,
    ) -> None:
        """`max_running`: requests computed together; `max_waiting`: those beyond that are kept, not refused.

        `cache_bytes`: memory for keys and values of all requests; None: a part of what is free.
        """
        self._model = model
        self._max_running, self._max_waiting, self._cache_bytes = max_running, max_waiting, cache_bytes
        self._waiting: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._is_closing = False
        self._changed = threading.Condition()
        self._prompt_tokens = self._new_tokens = 0
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Takes the request; its tokens go to `deliver`, in the scheduler's thread, which must not be held up.

        The last delivery is a step with a finish reason, or an error; after `Ticket.cancel` there may be none.

        Raises ContextLengthError, SettingsError and TokenizerError as `generate_tokens` does, and OverloadedError when
        too many requests are waiting or the scheduler is closing.
        """
        check_prompt(self._model, request.prompt_ids)
        ticket = Ticket(request, deliver)
        with self._changed:
            if self._is_closing:
                raise OverloadedError("no more requests are taken: the engine is shutting down", is_closing=True)
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(f"{len(self._waiting)} requests are waiting already: try again in some seconds")
            self._waiting.append(ticket)
            self._changed.notify_all()
        return ticket

    def generate_tokens(self, request: Request) -> Iterator[TokenStep]:
        """The request's tokens as an iterator; closing it ends the work. Raises what `submit` raises, at the call."""
        delivered: queue.SimpleQueue[TokenStep | BaichuanError] = queue.SimpleQueue()
        return _steps(self.submit(request, delivered.put), delivered)

    def load(self) -> Load:
        """How busy it is now."""
        with self._changed:
            return Load(
                num_running=int(self._running is not None),
                num_waiting=len(self._waiting),
                cache_tokens=0,
                cache_capacity=0,
                total_prompt_tokens=self._prompt_tokens,
                total_reused_tokens=0,
                total_new_tokens=self._new_tokens,
            )

    def close(self, seconds: float = 0.0) -> None:
        """Takes no more requests, gives those in work that long to finish, ends the rest with an error."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._running is None and not self._waiting, timeout=seconds)
            left = [*self._waiting, *([self._running] if self._running else [])]
            self._waiting.clear()
        for ticket in left:
            ticket.cancel()
            ticket.deliver(OverloadedError("the engine was shut down before the reply was finished", is_closing=True))
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                ticket = self._running = self._waiting.popleft()
            try:
                self._serve(ticket)
            except BaichuanError as error:
                ticket.deliver(error)
            except Exception as error:
                logger.exception("a request failed")
                ticket.deliver(GenerationError(f"the request failed: {type(error).__name__}"))
            with self._changed:
                self._running = None
                self._changed.notify_all()

    def _serve(self, ticket: Ticket) -> None:
        request = ticket.request
        steps = generate_tokens(
            self._model,
            request.prompt_ids,
            request.sampling,
            stop_ids=request.stop_ids,
            cancelled=lambda: ticket.is_cancelled,
        )
        self._prompt_tokens += len(request.prompt_ids)
        for step in steps:
            self._new_tokens += 1
            if ticket.is_cancelled:
                return
            ticket.deliver(step)


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
