"""The one model that all users of the page share, and the replies it writes for them."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import ReplyChunk, stream_reply
from baichuan2.settings import LoadSettings, SamplingSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["SharedModel", "shared_model"]

LOOK = 0.1  # seconds between two looks whether a reply that waits for its turn is still wanted


@dataclass(frozen=True)
class SharedModel:
    """A loaded model; replies are written one at a time, the others wait."""

    ready: "ReadyModel"
    turn: threading.Lock

    @property
    def context(self) -> int:
        """The longest conversation, in tokens."""
        return self.ready.model.config.model_max_length or 0

    def stream_reply(
        self, messages: list[Message], sampling: SamplingSettings, cancelled: Callable[[], bool]
    ) -> Iterator[ReplyChunk]:
        """The reply to a conversation once its turn has come; see `chat.reply.stream_reply`."""
        while not self.turn.acquire(timeout=LOOK):
            if cancelled():
                return
        try:
            yield from stream_reply(self.ready, messages, sampling, cancelled=cancelled)
        finally:
            self.turn.release()


@st.cache_resource(show_spinner=False, max_entries=1)
def shared_model(load: LoadSettings, _ready: "ReadyModel | None" = None) -> SharedModel:
    """The model, `_ready` or loaded at the first call in this process; raises what `load_for_replies` raises."""
    if _ready is None:
        from baichuan2.checkpoints.load import load_for_replies

        _ready = load_for_replies(load.model, load)
    return SharedModel(_ready, threading.Lock())
