"""The sidebar: the model, a new conversation, system text, sampling, the conversation as a file, the language."""

from dataclasses import asdict
from datetime import datetime

import streamlit as st

from baichuan2.settings import SamplingSettings
from baichuan2.web.controls import draw_sampling
from baichuan2.web.export import as_json, as_markdown, file_name
from baichuan2.web.launch import PageSettings
from baichuan2.web.picture import logo_markdown
from baichuan2.web.sharing import SharedModel
from baichuan2.web.state import PageState, as_text, page_state, stop_reply
from baichuan2.web.text import Words

__all__ = ["draw_sidebar"]

LANGUAGES = {"zh": "中文", "en": "English"}


def draw_sidebar(settings: PageSettings, state: PageState, model: SharedModel, words: Words) -> SamplingSettings:
    """Draws it; what the sampling controls are set to."""
    with st.sidebar:
        _draw_model(settings, state, model, words)
        st.button(words.new_chat, icon=":material/add_comment:", key="clear", width="stretch", on_click=_on_clear)
        if "system" not in st.session_state:
            st.session_state["system"] = settings.chat.system or ""
        st.text_area(words.system, key="system", placeholder=words.system_hint, height=100)
        with st.expander(words.sampling, icon=":material/tune:"):
            sampling = draw_sampling(model, settings.sampling, words)
        _draw_downloads(state, model, sampling, words)
        st.segmented_control(
            "语言 / Language", LANGUAGES, format_func=LANGUAGES.__getitem__, key="language", required=True
        )
    return sampling


def _draw_model(settings: PageSettings, state: PageState, model: SharedModel, words: Words) -> None:
    is_demo = settings.load.model is None
    st.markdown(f"## {logo_markdown(36)} Baichuan 2", anchors=False)
    st.markdown(f"**{words.demo_model if is_demo else as_text(model.ready.name)}**")
    if is_demo:
        st.caption(words.demo_note)
    usages = [turn.usage for turn in state.dialogue.turns if turn.usage is not None]
    used = usages[-1].prompt_tokens + usages[-1].completion_tokens if usages else 0
    st.caption(words.context.format(used=used, size=model.context))


def _draw_downloads(state: PageState, model: SharedModel, sampling: SamplingSettings, words: Words) -> None:
    messages = state.dialogue.messages(st.session_state["system"])
    now = datetime.now().astimezone()
    name = model.ready.name
    values = {key: value for key, value in asdict(sampling).items() if value is not None}
    st.caption(words.save)
    with st.container(horizontal=True):
        for label, ending, mime, data in (
            (
                words.save_markdown,
                "md",
                "text/markdown",
                as_markdown(messages, model=name, names=dict(words.roles), now=now),
            ),
            (words.save_json, "json", "application/json", as_json(messages, model=name, settings=values, now=now)),
        ):
            st.download_button(
                label,
                data,
                file_name=file_name(now, ending),
                mime=mime,
                key=f"save-{ending}",
                icon=":material/download:",
                on_click="ignore",
                disabled=not state.dialogue.turns,
            )


def _on_clear() -> None:
    state = page_state()
    stop_reply(state)
    state.dialogue.clear()
    state.editing = None
