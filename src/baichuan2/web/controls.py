"""The sidebar's sampling controls: bounds from the settings, first values from the checkpoint."""

from dataclasses import fields
from typing import Any, NamedTuple

import streamlit as st

from baichuan2.engine.sampling import resolve
from baichuan2.settings import SamplingSettings
from baichuan2.web.sharing import SharedModel
from baichuan2.web.text import Words

__all__ = ["draw_sampling"]


class Reach(NamedTuple):
    """How far a slider goes: as far as is of use, never beyond the bounds of the setting."""

    low: float
    high: float
    step: float


SLIDERS = {
    "temperature": Reach(0.0, 2.0, 0.05),
    "top_p": Reach(0.0, 1.0, 0.01),
    "top_k": Reach(0, 100, 1),
    "min_p": Reach(0.0, 0.5, 0.01),
    "repetition_penalty": Reach(0.8, 2.0, 0.01),
    "presence_penalty": Reach(-2.0, 2.0, 0.1),
    "frequency_penalty": Reach(-2.0, 2.0, 0.1),
}


def draw_sampling(model: SharedModel, given: SamplingSettings, words: Words) -> SamplingSettings:
    """Draws the controls in the current container; what they are set to, in the form that replies take.

    `given`: what the page was started with; it decides the first values, before the checkpoint's own.
    """
    first = resolve(given, model.ready.generation_config)
    values: dict[str, Any] = {item.name: getattr(given, item.name) for item in fields(given)}
    name, explanation = words.controls["max_new_tokens"]
    values["max_new_tokens"] = st.slider(
        name,
        min_value=1,
        max_value=max(model.context, 2),
        value=min(first.max_new_tokens, model.context),
        help=explanation,
        key="max_new_tokens",
    )
    for field, reach in SLIDERS.items():
        start = 0.0 if field == "temperature" and first.is_greedy else getattr(first, field)
        values[field] = _slider(field, _within_bounds(field, reach), start, words)
    name, explanation = words.controls["seed"]
    values["seed"] = st.number_input(
        name, min_value=0, value=given.seed, step=1, placeholder=words.seed_hint, help=explanation, key="seed"
    )
    values["do_sample"] = values["temperature"] > 0
    return SamplingSettings(**values)


def _within_bounds(field: str, reach: Reach) -> Reach:
    bounds = next(item.metadata for item in fields(SamplingSettings) if item.name == field)
    low = reach.low if bounds["minimum"] is None else max(reach.low, bounds["minimum"])
    high = reach.high if bounds["maximum"] is None else min(reach.high, bounds["maximum"])
    return Reach(low, high, reach.step)


def _slider(field: str, reach: Reach, start: float, words: Words) -> float:
    name, explanation = words.controls[field]
    kind = int if isinstance(reach.step, int) else float
    low, high = min(reach.low, start), max(reach.high, start)  # a checkpoint may start beyond what is usual
    return kind(
        st.slider(
            name,
            min_value=kind(low),
            max_value=kind(high),
            value=kind(start),
            step=kind(reach.step),
            help=explanation,
            key=field,
        )
    )
