"""The conversation on the page: messages with their buttons, the reply that grows, the greeting of an empty one."""

import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from baichuan2.chat.reply import Usage
from baichuan2.web.background import BackgroundReply
from baichuan2.web.dialogue import Turn
from baichuan2.web.markup import Code, Markdown, parts_of
from baichuan2.web.picture import LOGO, logo_markdown
from baichuan2.web.state import PageState, page_state, stop_reply
from baichuan2.web.text import Words

__all__ = ["draw_dialogue", "follow_reply"]

USER_AVATAR = ":material/person:"
LOOK = 0.25  # seconds; how long the page waits for text before it looks whether its user clicked elsewhere
PAUSE = 0.04  # seconds between two drawings of a growing reply
CURSOR = "▍"


def draw_dialogue(state: PageState, words: Words, *, is_demo: bool) -> None:
    """Draws every message, or the greeting where there is none yet."""
    turns = state.dialogue.turns
    if not turns:
        _draw_greeting(words, words.demo_suggestions if is_demo else words.suggestions)
    dropped = 0
    for turn in turns:
        if turn.role == "user":
            _draw_question(turn, words, is_edited=state.editing == turn.number)
        else:
            dropped = _draw_answer(turn, words, dropped, is_last=turn is turns[-1])
    if state.error is not None:
        st.error(state.error, icon=":material/error:")
    if state.dialogue.waits_for_reply and state.reply is None:
        st.button(words.again, icon=":material/refresh:", key="again-unanswered", on_click=_on_again)


def follow_reply(reply: BackgroundReply, words: Words) -> None:
    """Draws a reply while it is being written, until it has ended; a click anywhere tears the page away from it."""
    with st.chat_message("assistant", avatar=LOGO):
        view = _ReplyView(st.container(), words)
        text = reply.wait(0, 0)
        view.show(text)
        while not reply.is_done:
            text = reply.wait(LOOK, len(text))
            view.show(text)
            time.sleep(PAUSE)


class _ReplyView:
    """A growing reply, of which only the parts that changed are sent to the browser."""

    def __init__(self, container: DeltaGenerator, words: Words) -> None:
        self._container, self._words = container, words
        self._places: list[DeltaGenerator] = []
        self._shown: list[Markdown | Code] = []

    def show(self, text: str) -> None:
        parts = parts_of(text)
        if parts and isinstance(parts[-1], Markdown):
            parts[-1] = Markdown(parts[-1].text + CURSOR)
        while len(self._places) < max(len(parts), 1):
            self._places.append(self._container.empty())
        if not parts:
            self._places[0].markdown(f":gray[{self._words.thinking}]")
        for place, part, shown in zip(self._places, parts, [*self._shown, *[None] * len(parts)], strict=False):
            # the last one always: while it draws, Streamlit looks whether its user has clicked or gone
            if part != shown or part is parts[-1]:
                _draw_part(place, part)
        for place in self._places[max(len(parts), 1) :]:
            place.empty()
        self._shown = parts


def _draw_part(place: DeltaGenerator, part: Markdown | Code) -> None:
    if isinstance(part, Code):
        place.code(part.text, language=part.language or None, wrap_lines=False)
    else:
        place.markdown(part.text, anchors=False)


def _draw_greeting(words: Words, suggestions: tuple[str, ...]) -> None:
    with st.container(horizontal_alignment="center", key="greeting"):
        st.space("large")
        st.markdown(logo_markdown(72), text_alignment="center")
        st.markdown(f"## {words.greeting}", anchors=False, text_alignment="center")
        st.caption(words.greeting_note, text_alignment="center")
        with st.container(horizontal=True, horizontal_alignment="center"):
            for number, suggestion in enumerate(suggestions):
                st.button(suggestion, key=f"suggestion-{number}", on_click=_on_suggestion, args=(suggestion,))


def _draw_question(turn: Turn, words: Words, *, is_edited: bool) -> None:
    with st.chat_message("user", avatar=USER_AVATAR):
        if is_edited:
            with st.form(f"form-{turn.number}", border=False):
                st.text_area(words.edit_label, value=turn.text, key=f"edited-{turn.number}")
                with st.container(horizontal=True):
                    st.form_submit_button(words.send, type="primary", on_click=_on_resend, args=(turn.number,))
                    st.form_submit_button(words.keep, on_click=_on_edit, args=(None,))
            return
        with st.container(horizontal=True, vertical_alignment="top", wrap=False):
            st.text(turn.text, width="stretch")
            st.button(
                "",
                help=words.edit,
                icon=":material/edit:",
                key=f"edit-{turn.number}",
                type="tertiary",
                on_click=_on_edit,
                args=(turn.number,),
            )


def _draw_answer(turn: Turn, words: Words, dropped: int, *, is_last: bool) -> int:
    """`dropped`: how many messages the last reply before this one had not seen; gives the same for this one."""
    with st.chat_message("assistant", avatar=LOGO):
        with st.container():
            for part in parts_of(turn.text):
                _draw_part(st.empty(), part)
        notes = {"length": words.length_limit, "cancelled": words.stopped, "failed": words.failed}
        if turn.end in notes:
            st.caption(notes[turn.end])
        if turn.usage is not None and turn.usage.dropped_messages > dropped:
            dropped = turn.usage.dropped_messages
            st.warning(words.dropped.format(count=dropped), icon=":material/history_toggle_off:")
        with st.container(horizontal=True, vertical_alignment="center"):
            if is_last:
                st.button(
                    words.again,
                    icon=":material/refresh:",
                    key=f"again-{turn.number}",
                    type="tertiary",
                    on_click=_on_again,
                )
            with st.popover(words.raw, icon=":material/content_copy:", type="tertiary"):
                st.code(turn.text, language=None, wrap_lines=True)
            if turn.usage is not None:
                st.caption(_speed(turn.usage, words))
    return dropped


def _speed(usage: Usage, words: Words) -> str:
    # the first token comes out of the prefill; a reply of one token has no decoding speed
    num_decoded = usage.completion_tokens - 1
    speed = num_decoded / usage.seconds_decode if usage.seconds_decode > 0 else 0.0
    return words.speed.format(tokens=usage.completion_tokens, speed=speed, prefill=usage.seconds_prefill)


def _on_suggestion(text: str) -> None:
    state = page_state()
    state.dialogue.ask(text)
    state.wants_reply = True


def _on_again() -> None:
    state = page_state()
    stop_reply(state)
    state.dialogue.take_back_reply()
    state.wants_reply = state.dialogue.waits_for_reply


def _on_edit(number: int | None) -> None:
    page_state().editing = number


def _on_resend(number: int) -> None:
    state = page_state()
    text = str(st.session_state[f"edited-{number}"])
    if text.strip():
        stop_reply(state)
        state.dialogue.edit(number, text)
        state.editing = None
        state.wants_reply = True
