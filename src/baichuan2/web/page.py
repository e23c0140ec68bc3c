"""The page: one run of it draws the conversation as it is, and follows the reply that is being written.

Streamlit runs it from top to bottom at every click. Clicks are handled by the functions named `_on_...`, which change
the state of their own user only; what takes time is left to the run that follows.
"""

from pathlib import Path

import streamlit as st

from baichuan2 import __version__
from baichuan2.errors import BaichuanError
from baichuan2.settings import SamplingSettings
from baichuan2.web.background import BackgroundReply
from baichuan2.web.launch import PageSettings, ask_nobody_for_our_address
from baichuan2.web.picture import LOGO
from baichuan2.web.sharing import SharedModel, shared_model
from baichuan2.web.sidebar import draw_sidebar
from baichuan2.web.state import PageState, as_text, page_state, settle_reply, stop_reply
from baichuan2.web.text import Words, is_chinese, words_for
from baichuan2.web.turns import draw_dialogue, follow_reply

__all__ = ["show_page", "show_problem"]

STYLE = Path(__file__).with_name("style.css")


def show_page(settings: PageSettings) -> None:
    """Draws the page for the user whose script this is."""
    ask_nobody_for_our_address()  # here as well, as `streamlit run` does not come by `run_page`
    words = _words(settings)
    about = words.about.format(version=__version__)
    st.set_page_config(page_title="Baichuan 2", page_icon=LOGO, menu_items={"About": about})
    st.html(STYLE)
    state = page_state()
    try:
        with st.spinner(words.loading):
            model = _model(settings)
    except BaichuanError as error:
        show_problem(error)
        return
    sampling = draw_sidebar(settings, state, model, words)
    if state.wants_reply:
        _start_reply(state, model, sampling)
    _draw_input(settings, state, words)
    draw_dialogue(state, words, is_demo=settings.load.model is None)
    if state.reply is not None:
        follow_reply(state.reply, words)
        settle_reply(state)
        st.rerun()


def _model(settings: PageSettings) -> SharedModel:
    return shared_model(settings.load, settings.web.max_running, settings.sampling.kv_cache, settings.ready)


def show_problem(error: BaichuanError) -> None:
    """Draws what is wrong, in one line, in place of the page."""
    st.error(as_text(str(error)), icon=":material/error:")


def _words(settings: PageSettings) -> Words:
    if "language" not in st.session_state:
        chosen = settings.web.language
        if chosen == "auto":
            chosen = "zh" if is_chinese(st.context.locale) else "en"
        st.session_state["language"] = chosen
    return words_for(st.session_state["language"])


def _start_reply(state: PageState, model: SharedModel, sampling: SamplingSettings) -> None:
    messages = state.dialogue.messages(st.session_state.get("system") or "")
    state.wants_reply = False
    state.error = None
    state.reply = BackgroundReply(lambda cancelled: model.stream_reply(messages, sampling, cancelled))


def _draw_input(settings: PageSettings, state: PageState, words: Words) -> None:
    if state.reply is not None:
        with st.bottom, st.container(horizontal_alignment="center", key="stop-row"):
            st.button(words.stop, icon=":material/stop_circle:", key="stop", on_click=_on_stop)
    # not in a container: only where Streamlit places it itself does the page follow a growing reply
    st.chat_input(words.input_hint, key="message", max_chars=settings.web.max_message_chars, on_submit=_on_send)


def _on_send() -> None:
    state = page_state()
    text = str(st.session_state["message"] or "")
    if text.strip():
        stop_reply(state)
        state.editing = None
        state.dialogue.ask(text)
        state.wants_reply = True


def _on_stop() -> None:
    stop_reply(page_state())
