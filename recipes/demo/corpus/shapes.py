"""Whole-sentence shapes and noise for conversations.

Pre-training documents and the tokenizer's text are drawn from the plain wordings alone, so that a trained Base stays
valid while Chat's wordings grow. Inside `widened()` the generators of conversations draw half of their questions from
the shapes and disturb about a third of all questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from random import Random

from recipes.demo.corpus.roughening import roughen
from recipes.demo.corpus.shapes_zh import SHAPES_ZH
from recipes.demo.corpus.shapes_zh_more import SHAPES_ZH_MORE
from recipes.demo.corpus.wording import ask, expand

SHAPE_SHARE = 0.5
_active = False


def _english() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in ("shapes_en", "shapes_en_more"):
        if find_spec(f"recipes.demo.corpus.{name}"):
            module = import_module(f"recipes.demo.corpus.{name}")
            found |= getattr(module, "SHAPES_EN", {}) | getattr(module, "SHAPES_EN_MORE", {})
    return found


_CHINESE = SHAPES_ZH | SHAPES_ZH_MORE
_ENGLISH = _english()


@contextmanager
def widened() -> Iterator[None]:
    """Within it, conversations use shapes and noise."""
    global _active  # noqa: PLW0603  (a switch through ten generators would only add an argument to each)
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before


def is_widened() -> bool:
    """Whether the caller runs inside `widened()`."""
    return _active


def draw(task: str, rng: Random) -> tuple[str, str] | None:
    """A shape of the task with its choices made, and its language; None where a plain wording is due."""
    if not _active or rng.random() >= SHAPE_SHARE:
        return None
    pool = [(text, "zh") for text in _CHINESE.get(task, ())] + [(text, "en") for text in _ENGLISH.get(task, ())]
    if not pool:
        return None
    template, language = rng.choice(pool)
    return _marks(expand(template, rng), language, rng), language


def message(task: str, plain: tuple[str, str], fields: Mapping[str, str], rng: Random) -> str:
    """A question of the task: a shape, or `plain` (template and language) with opening and ending."""
    template, language = plain
    if not _active:
        return ask(expand(template, rng, fields), language, rng)
    drawn = draw(task, rng)
    if drawn is None:
        text = ask(expand(template, rng), language, rng)
    else:
        text, language = drawn
    return roughen(text, language, rng).format_map(fields)


def pick(task: str, plain: Sequence[str], rng: Random) -> str:
    """A wording for generators that add their own marks: a shape without its final mark, or one of `plain`."""
    if not _active or rng.random() >= SHAPE_SHARE:
        return rng.choice(plain)
    pool = [*_CHINESE.get(task, ()), *_ENGLISH.get(task, ())]
    return rng.choice(pool or plain).rstrip("。？?.!")


def _marks(text: str, language: str, rng: Random) -> str:
    """The shape as written, or as hasty people type it."""
    order = text.endswith("!") and language == "en"
    if language == "en":  # English shapes come without their mark, like the plain wordings
        marks = ["", ".", ".", " please.", ", please", "!"] if order else ["?", "?", "?", "", " ?"]
        text = text.removesuffix("!") + ("" if text[-1] in "?.:" else rng.choice(marks))
    chance = rng.random()
    if chance < 0.2 and text[-1] in "。？?！.":
        text = text[:-1]
    elif chance < 0.3:
        text = text.replace("？", "?").replace("，", rng.choice([",", " ", "，"]))
    if language == "en" and "{" not in text[:2]:
        text = text[0].upper() + text[1:] if rng.random() < 0.6 else text
    return text
