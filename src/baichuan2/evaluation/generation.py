"""Many prompts continued greedily: the passes behind every test whose answer is a text.

Prompts go to the engine's scheduler in their order, some at a time, so examples that all of them begin with are
computed once. A reply ends at a stop string, at the model's own end of text, or as soon as nothing that it could still
say would change its score.
"""

import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

from baichuan2.chat.writer import ReplyWriter
from baichuan2.checkpoints.cache_memory import cache_memory
from baichuan2.engine.generate import TokenStep
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.scheduler import Request, Scheduler, Ticket
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import BaichuanError

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["AT_ONCE", "Generated", "TextRequest", "generate_texts"]

AT_ONCE = 16  # texts that are written side by side

Delivered = queue.SimpleQueue[tuple[int, TokenStep | BaichuanError]]


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A prompt as token ids, and when its reply ends.

    `stop`: strings before which the text ends. `is_settled` is asked with the text so far whenever it has grown by a
    line: whether what follows no longer matters.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    is_settled: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What a model wrote.

    `finish_reason`: stop: a stop string, the end of text, or nothing more that matters; length: it was cut off.
    `num_new_tokens`: all that were computed. `num_reused_tokens`: of the prompt, those that were computed already.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    num_new_tokens: int
    num_reused_tokens: int


def generate_texts(
    loaded: "ReadyModel", requests: Iterable[TextRequest], *, at_once: int = AT_ONCE
) -> Iterator[tuple[int, Generated]]:
    """The text of each request with its index, as soon as it is finished, which is in any order.

    Requests are taken as there is room for them, so that thousands of prompts are not in memory together.
    Each text is the one that its prompt gets alone; where a model rounds several tokens differently than one (a GPU, or
    torch alone, in 16 bits) a close choice can tip. No sampling and no penalties, whatever the checkpoint's own values.

    Raises:
        ContextLengthError: a prompt leaves no room for a single token.
        GenerationError: the model failed.
    """
    following: Iterator[tuple[int, TextRequest]] = enumerate(requests)
    first = list(islice(following, at_once))
    if not first:
        return
    following, at_once = chain(first, following), len(first)
    cache_bytes = cache_memory(loaded.model, num_sequences=at_once, kv_cache="same")
    scheduler = Scheduler(loaded.model, max_running=at_once, max_waiting=at_once, cache_bytes=cache_bytes)
    stop_ids = stop_ids_from(loaded.generation_config)
    delivered: Delivered = queue.SimpleQueue()
    open_texts: dict[int, _OpenText] = {}
    with closing(scheduler):
        while True:
            # some wait behind those that run, so that a place that becomes free is taken at once
            while len(open_texts) < 2 * at_once and (entry := next(following, None)) is not None:
                open_texts[entry[0]] = _submit(loaded, scheduler, entry[0], entry[1], stop_ids, delivered)
            if not open_texts:
                return
            index, step = delivered.get()
            if index not in open_texts:  # a step that was on its way when its text ended
                continue
            if isinstance(step, BaichuanError):
                raise step
            generated = open_texts[index].push(step)
            if generated is not None:
                del open_texts[index]
                yield index, generated


class _OpenText:
    """A text while it is written."""

    def __init__(self, request: TextRequest, ticket: Ticket, writer: ReplyWriter) -> None:
        self._request, self._ticket, self._writer = request, ticket, writer
        self._text = ""
        self._num_new = 0

    def push(self, step: TokenStep) -> Generated | None:
        """Takes the next token; the whole text when it was the last."""
        self._num_new += 1
        piece = self._writer.push(step)
        self._text += piece.text
        reason = piece.finish_reason
        if reason is None and "\n" in piece.text and self._request.is_settled is not None:
            reason = "stop" if self._request.is_settled(self._text) else None
        if reason is None:
            return None
        self._ticket.cancel()
        return Generated(
            text=self._text,
            finish_reason="length" if reason == "length" else "stop",
            num_new_tokens=self._num_new,
            num_reused_tokens=self._ticket.num_reused,
        )


def _submit(
    loaded: "ReadyModel",
    scheduler: Scheduler,
    index: int,
    request: TextRequest,
    stop_ids: frozenset[int],
    delivered: Delivered,
) -> _OpenText:
    writer = ReplyWriter(loaded.tokenizer.piece_bytes, request.stop)
    sampling = Sampling(max_new_tokens=request.max_new_tokens)
    asked = Request(prompt_ids=request.prompt_ids, sampling=sampling, stop_ids=stop_ids)
    return _OpenText(request, scheduler.submit(asked, partial(_deliver, delivered, index)), writer)


def _deliver(delivered: Delivered, index: int, step: TokenStep | BaichuanError) -> None:
    delivered.put((index, step))
