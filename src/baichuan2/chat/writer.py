"""Token steps in, text out: what a reader of a reply gets to see, when, and which tokens it was made of.

Whoever has the steps pushes them, an iterator as well as a server. This module knows neither model nor clock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baichuan2.chat.detokenizer import Detokenizer
from baichuan2.chat.stop_strings import StopStrings
from baichuan2.engine.generate import TokenStep
from baichuan2.engine.stopping import FinishReason

__all__ = ["ReplyPiece", "ReplyWriter", "WrittenToken"]


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token of the text; `piece_bytes` is its part of the text in UTF-8, perhaps a part of a character.

    `logprob` and `top_logprobs` as in `TokenStep`.
    """

    token_id: int
    piece_bytes: bytes
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class ReplyPiece:
    """The next text, often none, and the tokens that end in it; with a finish reason it is the last piece."""

    text: str
    finish_reason: FinishReason | None
    tokens: tuple[WrittenToken, ...]


class ReplyWriter:
    """Writes one reply: whole characters only, nothing from the first stop string on, no closing stop token."""

    def __init__(self, piece_bytes: Callable[[int], bytes], stop_strings: Sequence[str] = ()) -> None:
        """`piece_bytes`: the tokenizer's; `stop_strings`: see `StopStrings`. Raises SettingsError."""
        self._piece_bytes = piece_bytes
        self._detokenizer = Detokenizer(piece_bytes)
        self._stops = StopStrings(stop_strings)
        self._num_read = 0  # characters given to the stop strings
        self._num_written = 0
        self._waiting: deque[tuple[int, int, WrittenToken]] = deque()  # where in the text a token begins and ends
        self.is_finished = False
        """Whether the last piece has come; what is pushed afterwards is taken for nothing."""

    def push(self, step: TokenStep) -> ReplyPiece:
        """The piece that this step completes.

        Its finish reason is the step's, but "stop" where a stop string is complete: then the caller cancels.
        """
        if self.is_finished:
            return ReplyPiece("", None, ())
        if step.finish_reason == "stop":
            return self.finish("stop")
        begin = self._num_read
        text = self._detokenizer.push(step.token_id)
        # an unfinished character counts as one that is to come
        end = begin + len(text) + bool(self._detokenizer.unfinished)
        token = WrittenToken(step.token_id, self._piece_bytes(step.token_id), step.logprob, step.top_logprobs)
        self._waiting.append((begin, end, token))
        shown = self._read(text)
        if step.finish_reason is not None:
            return self._end(step.finish_reason, shown)
        return self._write(shown, "stop" if self._stops.is_found else None)

    def finish(self, reason: FinishReason) -> ReplyPiece:
        """The last piece of a reply that ends without a further step: all that was held back."""
        return ReplyPiece("", None, ()) if self.is_finished else self._end(reason, "")

    def _end(self, reason: FinishReason, shown: str) -> ReplyPiece:
        """The last piece; `shown` was let go, but is not written yet."""
        shown += self._read(self._detokenizer.finish())
        if self._stops.is_found:
            return self._write(shown, "stop")
        return self._write(shown + self._stops.finish(), reason)

    def _read(self, text: str) -> str:
        self._num_read += len(text)
        return self._stops.push(text)

    def _write(self, text: str, reason: FinishReason | None) -> ReplyPiece:
        self._num_written += len(text)
        self.is_finished = reason is not None
        tokens: list[WrittenToken] = []
        # a token is handed on with the end of its text; one that reaches into a stop string, with what stands before
        while self._waiting:
            begin, end, token = self._waiting[0]
            if end > self._num_written and not (self.is_finished and begin < self._num_written):
                break
            self._waiting.popleft()
            tokens.append(token)
        return ReplyPiece(text, reason, tuple(tokens))
