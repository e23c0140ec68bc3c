"""What belongs to one user of the page, and the steps that change it."""

from dataclasses import dataclass, field

import streamlit as st

from baichuan2.web.background import BackgroundReply
from baichuan2.web.dialogue import Dialogue

__all__ = ["PageState", "as_text", "page_state", "settle_reply", "stop_reply"]

KEY = "baichuan2"
MARKUP = "\\`*_{}[]()<>#+-.!|~$:"


@dataclass
class PageState:
    """The conversation of one user, and what is going on in it.

    `wants_reply`: the next run of the page starts a reply; `editing`: the number of the message that is being changed;
    `error`: why the last message has no reply.
    """

    dialogue: Dialogue = field(default_factory=Dialogue)
    reply: BackgroundReply | None = None
    wants_reply: bool = False
    editing: int | None = None
    error: str | None = None


def page_state() -> PageState:
    """The state of the user whose script is running."""
    if KEY not in st.session_state:
        st.session_state[KEY] = PageState()
    state: PageState = st.session_state[KEY]
    return state


def settle_reply(state: PageState) -> None:
    """Moves a reply that has ended into the conversation."""
    reply, state.reply = state.reply, None
    if reply is None:
        return
    if reply.error is not None:
        state.error = as_text(str(reply.error))
        state.dialogue.answer(reply.text, "failed")
    else:
        state.dialogue.answer(reply.text, reply.finish_reason or "cancelled", reply.usage)


def stop_reply(state: PageState) -> None:
    """Ends the reply that is being written, if there is one; what was said stays in the conversation."""
    state.wants_reply, state.error = False, None
    if state.reply is not None:
        state.reply.cancel()
        settle_reply(state)


def as_text(text: str) -> str:
    """`text` on one line, for what reads Markdown, where every sign shall be taken as it stands."""
    return "".join(f"\\{sign}" if sign in MARKUP else sign for sign in " ".join(text.split()))
