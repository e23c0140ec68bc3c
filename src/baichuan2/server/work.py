"""One request's replies while they are written: put into the scheduler, taken out as pieces of text, or given up.

Everything that can happen to a request comes through its mailbox: tokens, failures, the end of its time, the leaving of
its client. So whoever reads the pieces waits in one place, and giving up is a plain call that waits for nothing: a task
that is being cancelled can't wait.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from time import perf_counter

from baichuan2.chat.writer import ReplyPiece, ReplyWriter
from baichuan2.engine.generate import TokenStep
from baichuan2.engine.scheduler import Request, Scheduler, Ticket
from baichuan2.errors import BaichuanError
from baichuan2.server.deliveries import Mailbox, Mailroom
from baichuan2.server.problems import ClientGoneError, problem_from, timed_out

__all__ = ["Delivery", "Work"]

Delivery = tuple[int, TokenStep | BaichuanError]
"""Which reply, and what came of it."""


class Work:
    """The replies to one request. `close` it, however it ends."""

    def __init__(
        self,
        scheduler: Scheduler,
        box: Mailbox[Delivery],
        requests: Sequence[Request],
        new_writer: Callable[[], ReplyWriter],
        *,
        num_choices: int,
        seconds: float,
        keep_texts: bool = False,
    ) -> None:
        """Takes all of `requests` into the scheduler, or none of them: raises what `Scheduler.submit` raises.

        `num_choices`: so many that follow each other have the same prompt. `seconds`: how long all may take together.
        `keep_texts`: also collect what is said.
        """
        self.num_prompt_tokens = sum(len(request.prompt_ids) for request in requests[::num_choices])
        """Each prompt counts once, however many replies it gets."""
        self.num_new_tokens = 0
        self.started = perf_counter()
        self.first_token: float | None = None
        """`perf_counter()` when the first token of any reply came."""
        self.last_token: float | None = None
        self.failure: str | None = None
        """The code of what ended the request before its replies were finished."""
        self.texts = [""] * len(requests) if keep_texts else None
        self._box = box
        self._num_choices = num_choices
        self._writers = [new_writer() for _ in requests]
        self._tickets: list[Ticket] = []
        self._open: set[int] = set()
        self._begun: set[int] = set()
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(seconds, self._box.put, (-1, timed_out(seconds)))
        try:
            for index, request in enumerate(requests):
                self._tickets.append(scheduler.submit(request, partial(_deliver, box, index)))
                self._open.add(index)
        except BaseException:
            self.close()
            raise

    @property
    def num_reused_tokens(self) -> int:
        """Prompt tokens that were in the cache already, known with the first tokens."""
        return sum(ticket.num_reused for ticket in self._tickets[:: self._num_choices])

    @property
    def num_choices_begun(self) -> int:
        """Replies of which there is a token."""
        return len(self._begun)

    def leave(self) -> None:
        """Nobody wants the rest: frees the places at once; who reads the pieces gets ClientGoneError."""
        self.fail(ClientGoneError())

    def fail(self, error: BaichuanError) -> None:
        """Frees the places at once; who reads the pieces gets `error`."""
        self.close()
        self._box.put((-1, error))

    def close(self) -> None:
        """Ends what is still being worked on; waits for nothing."""
        self._alarm.cancel()
        for ticket in self._tickets:
            ticket.cancel()

    async def pieces(self) -> AsyncIterator[list[tuple[int, ReplyPiece]]]:
        """What is new, reply by reply, as often as there is anything; ends when all replies have.

        Of each reply all that came meanwhile makes one piece. Raises the BaichuanError that ends the request.
        """
        while self._open:
            new: dict[int, ReplyPiece] = {}
            for index, item in await self._box.take():
                if isinstance(item, BaichuanError):
                    self.close()
                    self.failure = problem_from(item).code or "error"
                    raise item
                if index in self._open:  # else a token behind a stop string, on its way before its end was known
                    piece = self._write(index, item)
                    new[index] = piece if index not in new else joined(new[index], piece)
            told = [(index, piece) for index, piece in new.items() if piece.text or piece.tokens or piece.finish_reason]
            if told:
                yield told
        self._alarm.cancel()

    def _write(self, index: int, step: TokenStep) -> ReplyPiece:
        self.num_new_tokens += 1
        self._begun.add(index)
        self.last_token = perf_counter()
        if self.first_token is None:
            self.first_token = self.last_token
        piece = self._writers[index].push(step)
        if self.texts is not None:
            self.texts[index] += piece.text
        if piece.finish_reason is not None:
            self._open.discard(index)
            self._tickets[index].cancel()  # the engine knows no stop strings
        return piece


def _deliver(box: Mailbox[Delivery], index: int, item: TokenStep | BaichuanError) -> None:
    """In the scheduler's thread. It knows the box alone: a way back to the work would close a circle."""
    box.put((index, item))


def joined(first: ReplyPiece, second: ReplyPiece) -> ReplyPiece:
    """Two pieces of a reply that follow each other as one."""
    return ReplyPiece(first.text + second.text, second.finish_reason, first.tokens + second.tokens)


def new_mailroom() -> Mailroom[Delivery]:
    """The mailroom of the running event loop."""
    return Mailroom(asyncio.get_running_loop())
