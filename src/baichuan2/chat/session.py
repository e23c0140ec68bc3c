"""One conversation: who said what so far, and what stays of a reply that was interrupted."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import Reply, ReplyChunk, collect, stream_reply
from baichuan2.settings import SamplingSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["ChatSession"]


class ChatSession:
    """A conversation with a model that remembers the earlier turns.

    The history is complete; what does not fit into the model's context is left out of a prompt, oldest rounds first,
    and told by `usage.dropped_messages`.
    """

    def __init__(
        self, loaded: "ReadyModel", system: str | None = None, sampling: SamplingSettings | None = None
    ) -> None:
        self._loaded = loaded
        self._system = system
        self._sampling = sampling
        self._messages: list[Message] = []
        self.clear()

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, the system text first where there is one; a copy."""
        return list(self._messages)

    def clear(self) -> None:
        """Forgets everything but the system text."""
        self._messages = [Message("system", self._system)] if self._system else []

    def ask(self, text: str) -> Reply:
        """The whole reply to `text`; see `send`."""
        return collect(self.send(text))

    def send(self, text: str, *, cancelled: Callable[[], bool] | None = None) -> Iterator[ReplyChunk]:
        """The reply to `text`, in chunks; raises what `stream_reply` raises, and then nothing was said.

        The round enters the history with the first chunk of text, and the reply there grows with each further one. So
        whatever ends the stream early (closing it, Ctrl-C, a failing model), the history holds what was said; and a
        round without a word of reply leaves no trace.
        """
        history = self._messages  # `clear` starts a new list: a reply that is still coming can't get into it
        question = Message("user", text)
        chunks = stream_reply(self._loaded, [*history, question], self._sampling, cancelled=cancelled)
        return _recorded(chunks, history, question)


def _recorded(chunks: Iterator[ReplyChunk], history: list[Message], question: Message) -> Iterator[ReplyChunk]:
    """The same chunks; question and reply are in the history before a chunk is handed on."""
    said = ""
    place: int | None = None
    for chunk in chunks:
        said += chunk.text
        is_complete = chunk.finish_reason in ("stop", "length")
        if place is None and (said or is_complete):
            history.append(question)
            place = len(history)
            history.append(Message("assistant", said))
        elif place is not None and chunk.text:
            history[place] = Message("assistant", said)
        yield chunk
