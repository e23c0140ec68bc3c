"""Messages in, one reply out: whole, or in pieces while it is being written.

Prompt ids come from `chat.template`, new ids from the engine, text from the detokenizer; counts and timings are taken
here, once, for everybody. This module never sees a logit, nor how the text reaches a reader.
"""

import queue
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

from baichuan2.chat.messages import Message
from baichuan2.chat.template import RenderedPrompt, render_prompt
from baichuan2.chat.writer import ReplyWriter
from baichuan2.engine.generate import TokenStep, generate_tokens
from baichuan2.engine.sampling import Sampling, resolve
from baichuan2.engine.stopping import FinishReason, stop_ids_from
from baichuan2.errors import BaichuanError
from baichuan2.settings import SamplingSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel
    from baichuan2.engine.scheduler import Scheduler, Ticket

__all__ = ["Reply", "ReplyChunk", "Usage", "collect", "prompt_of", "reply", "stream_completion", "stream_reply"]

SECONDS_UNASKED = 0.1  # how long a reply that waits for its turn may go on after it was cancelled


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a reply cost.

    `completion_tokens` counts every new token, the closing stop token included; the time until the first of them is
    `seconds_prefill`, the rest `seconds_decode`, without the time that the reader of the stream took.
    `dropped_messages`: how many of the oldest messages did not fit into the context. `reused_tokens`: prompt tokens
    whose keys and values were in the cache already.
    """

    prompt_tokens: int
    completion_tokens: int
    seconds_prefill: float
    seconds_decode: float
    dropped_messages: int = 0
    reused_tokens: int = 0


@dataclass(frozen=True)
class ReplyChunk:
    """The next piece of text, never half a character; the last chunk alone has a finish reason and the usage."""

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


@dataclass(frozen=True)
class Reply:
    """A finished reply."""

    text: str
    finish_reason: FinishReason
    usage: Usage


def reply(
    loaded: "ReadyModel",
    messages: Sequence[Message | Mapping[str, str]],
    sampling: SamplingSettings | None = None,
    *,
    stop: Sequence[str] = (),
) -> Reply:
    """The reply to a conversation; see `stream_reply`."""
    return collect(stream_reply(loaded, messages, sampling, stop=stop))


def stream_reply(
    loaded: "ReadyModel",
    messages: Sequence[Message | Mapping[str, str]],
    sampling: SamplingSettings | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
    stop: Sequence[str] = (),
    scheduler: "Scheduler | None" = None,
) -> Iterator[ReplyChunk]:
    """The reply to a conversation, in chunks while it is written; their texts joined are the whole text.

    Closing the iterator stops the work, and so does `cancelled` turning true; it is asked once a token. The text ends
    before the first of the strings in `stop`, which are found across the borders of tokens. With a `scheduler` of the
    same model the reply is computed there, together with others; the time that it waits for its turn counts as prefill.

    Raises at the call: MessageError (malformed messages), ContextLengthError (the last round and the system text do
    not fit), SettingsError (a sampling value, a stop string), OverloadedError (the scheduler takes no more). Raises on
    the way: GenerationError (the model failed).
    """
    chosen = resolve(sampling, loaded.generation_config)
    return _stream(loaded, prompt_of(loaded, messages, chosen), chosen, cancelled, stop, scheduler)


def stream_completion(
    loaded: "ReadyModel",
    text: str,
    sampling: SamplingSettings | None = None,
    *,
    cancelled: Callable[[], bool] | None = None,
    stop: Sequence[str] = (),
    scheduler: "Scheduler | None" = None,
) -> Iterator[ReplyChunk]:
    """What follows a text, in chunks: how a Base model, which knows no roles, is used; see `stream_reply`."""
    chosen = resolve(sampling, loaded.generation_config)
    prompt = RenderedPrompt(ids=loaded.tokenizer.encode_text(text), num_dropped_messages=0)
    return _stream(loaded, prompt, chosen, cancelled, stop, scheduler)


def collect(chunks: Iterable[ReplyChunk]) -> Reply:
    """The reply that a whole stream of chunks makes."""
    texts: list[str] = []
    for chunk in chunks:
        texts.append(chunk.text)
        if chunk.finish_reason is not None and chunk.usage is not None:
            return Reply("".join(texts), chunk.finish_reason, chunk.usage)
    raise AssertionError("the stream ended without a last chunk")


def prompt_of(
    loaded: "ReadyModel", messages: Sequence[Message | Mapping[str, str]], sampling: Sampling
) -> RenderedPrompt:
    """The prompt of a conversation, with room kept for the reply.

    The room is `max_new_tokens`, but at most half of the context: a longer limit is a wish, no reason to refuse.
    """
    context = loaded.model.config.model_max_length
    assert context is not None  # the config derives it where the file leaves it out
    room = min(sampling.max_new_tokens, context // 2)
    return render_prompt(loaded.tokenizer, messages, model_max_length=context, max_new_tokens=room)


def _stream(
    loaded: "ReadyModel",
    prompt: RenderedPrompt,
    sampling: Sampling,
    cancelled: Callable[[], bool] | None,
    stop: Sequence[str],
    scheduler: "Scheduler | None",
) -> Iterator[ReplyChunk]:
    writer = ReplyWriter(loaded.tokenizer.piece_bytes, stop)
    stop_ids = stop_ids_from(loaded.generation_config)
    if scheduler is not None:
        return _scheduled(scheduler, prompt, sampling, stop_ids, cancelled, writer)
    steps = generate_tokens(loaded.model, prompt.ids, sampling, stop_ids=stop_ids, cancelled=cancelled)
    return _chunks(steps, writer, prompt, lambda: 0)


def _scheduled(
    scheduler: "Scheduler",
    prompt: RenderedPrompt,
    sampling: Sampling,
    stop_ids: frozenset[int],
    cancelled: Callable[[], bool] | None,
    writer: ReplyWriter,
) -> Iterator[ReplyChunk]:
    from baichuan2.engine.scheduler import Request  # not for everybody who only talks to a model of his own

    delivered: queue.SimpleQueue[TokenStep | BaichuanError] = queue.SimpleQueue()
    request = Request(prompt_ids=prompt.ids, sampling=sampling, stop_ids=stop_ids)
    ticket = scheduler.submit(request, delivered.put)
    steps = _delivered_steps(ticket, delivered, cancelled)
    # an iterator that is dropped before its first step never reaches its own end
    weakref.finalize(steps, ticket.cancel).atexit = False
    return _chunks(steps, writer, prompt, lambda: ticket.num_reused)


def _delivered_steps(
    ticket: "Ticket",
    delivered: "queue.SimpleQueue[TokenStep | BaichuanError]",
    cancelled: Callable[[], bool] | None,
) -> Iterator[TokenStep]:
    """What the scheduler delivers, until nobody wants more; `cancelled` is asked while nothing comes as well."""
    try:
        while cancelled is None or not cancelled():
            try:
                step = delivered.get(timeout=None if cancelled is None else SECONDS_UNASKED)
            except queue.Empty:
                continue
            if isinstance(step, BaichuanError):
                raise step
            if step.finish_reason is None and cancelled is not None and cancelled():
                step = replace(step, finish_reason="cancelled")
            yield step
            if step.finish_reason is not None:
                return
    finally:
        ticket.cancel()


def _chunks(
    steps: Iterator[TokenStep], writer: ReplyWriter, prompt: RenderedPrompt, num_reused: Callable[[], int]
) -> Iterator[ReplyChunk]:
    num_new = 0
    seconds = [0.0, 0.0]  # prefill, decode
    last = None
    started = perf_counter()
    for step in steps:
        seconds[min(num_new, 1)] += perf_counter() - started
        num_new += 1
        piece = writer.push(step)
        if piece.finish_reason is not None:
            last = piece
            break
        if piece.text:
            yield ReplyChunk(piece.text)
        started = perf_counter()
    last = last or writer.finish("cancelled")
    usage = Usage(
        prompt_tokens=len(prompt.ids),
        completion_tokens=num_new,
        seconds_prefill=seconds[0],
        seconds_decode=seconds[1],
        dropped_messages=prompt.num_dropped_messages,
        reused_tokens=num_reused(),
    )
    yield ReplyChunk(last.text, last.finish_reason, usage)
