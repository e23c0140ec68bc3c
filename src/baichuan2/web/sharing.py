"""The one model that all users of the page share, and the replies that it writes for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import streamlit as st

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import ReplyChunk, stream_reply
from baichuan2.checkpoints.cache_memory import cache_memory
from baichuan2.engine.scheduler import Scheduler
from baichuan2.settings import LoadSettings, SamplingSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["SharedModel", "shared_model"]


@dataclass(frozen=True)
class SharedModel:
    """A loaded model, and who computes the replies of all users together."""

    ready: "ReadyModel"
    scheduler: Scheduler

    @property
    def context(self) -> int:
        """The longest conversation, in tokens."""
        return self.ready.model.config.model_max_length or 0

    def stream_reply(
        self, messages: list[Message], sampling: SamplingSettings, cancelled: Callable[[], bool]
    ) -> Iterator[ReplyChunk]:
        """The reply to a conversation; see `chat.reply.stream_reply`."""
        return stream_reply(self.ready, messages, sampling, cancelled=cancelled, scheduler=self.scheduler)


@st.cache_resource(show_spinner=False, max_entries=1)
def shared_model(
    load: LoadSettings, max_running: int, kv_cache: Literal["same", "int8"], _ready: "ReadyModel | None" = None
) -> SharedModel:
    """The model, `_ready` or loaded at the first call in this process; raises what `load_for_replies` raises."""
    if _ready is None:
        from baichuan2.checkpoints.load import load_for_replies

        _ready = load_for_replies(load.model, load)
    memory = cache_memory(_ready.model, num_sequences=max_running, kv_cache=kv_cache)
    scheduler = Scheduler(_ready.model, max_running=max_running, cache_bytes=memory, kv_cache=kv_cache)
    return SharedModel(_ready, scheduler)
