"""A model that says what it is told to, and remembers what it was asked."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import ReplyChunk, Usage
from baichuan2.settings import SamplingSettings

GENERATION = {
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.85,
    "repetition_penalty": 1.05,
    "max_new_tokens": 2048,
}


class ScriptedModel:
    """Stands where `web.sharing.SharedModel` would: the replies come one after the other, the last one for ever.

    An exception among the replies is raised. `piece`: characters of a chunk;
    `pause`: seconds before each. While `may_go_on` is not set, a reply waits after its first chunk.
    """

    context = 4096

    def __init__(self, *replies: str | Exception, piece: int = 3, pause: float = 0.0, dropped: int = 0) -> None:
        self.ready = SimpleNamespace(name="example", generation_config=SimpleNamespace(**GENERATION))
        self.replies = list(replies)
        self.piece, self.pause, self.dropped = piece, pause, dropped
        self.asked: list[tuple[list[Message], SamplingSettings]] = []
        self.num_stopped = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def stream_reply(
        self, messages: list[Message], sampling: SamplingSettings, cancelled: Callable[[], bool]
    ) -> Iterator[ReplyChunk]:
        self.asked.append((messages, sampling))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        text = reply if isinstance(reply, str) else ""
        num_chunks = 0
        for start in range(0, len(text), self.piece):
            if cancelled():
                self.num_stopped += 1
                yield ReplyChunk("", "cancelled", self._usage(num_chunks))
                return
            time.sleep(self.pause)
            num_chunks += 1
            yield ReplyChunk(text[start : start + self.piece])
            while not self.may_go_on.wait(0.01) and not cancelled():
                pass
        if isinstance(reply, Exception):
            raise reply
        yield ReplyChunk("", "stop", self._usage(num_chunks + 1))

    def _usage(self, num_tokens: int) -> Usage:
        return Usage(
            prompt_tokens=50,
            completion_tokens=num_tokens,
            seconds_prefill=0.25,
            seconds_decode=max(num_tokens - 1, 1) * 0.02,
            dropped_messages=self.dropped,
        )
