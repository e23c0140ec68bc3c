"""Example conversations of many kinds, asked of a model one after the other.

What is asked stands in `showcase.yaml`. A Chat model is asked in turns, each in view of its own earlier replies; a Base
model continues a text. Where an answer can be told right from wrong, it is. How replies reach a reader is the affair of
whoever gives `show`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import Reply, ReplyChunk, collect, stream_completion, stream_reply
from baichuan2.checkpoints.adapters import base_of
from baichuan2.checkpoints.load import read_config, read_generation_config
from baichuan2.checkpoints.locate import locate
from baichuan2.errors import SettingsError
from baichuan2.settings import LoadSettings, SamplingSettings, ShowcaseSettings
from baichuan2.settings.showing import SHOWCASE_KINDS

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["Answer", "Example", "Turn", "choose_examples", "holds_any", "play", "read_examples", "style_and_questions"]

Style = Literal["chat", "base"]
Questions = Literal["official", "demo"]
SMALLEST_OFFICIAL_VOCABULARY = 64_000  # pieces of Baichuan 1; the demo models have 4,096
BASE_NAME = re.compile(r"base|intermediate", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """What the user says, or the text to continue; a right answer holds one of `expect`, none: nobody can tell."""

    say: str
    expect: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """One conversation, or one text to continue (`style` base), with its title by language.

    `stop`: the string before which a continuation ends. `max_new_tokens`: a bound of its own, None: the usual one.
    """

    kind: str
    style: Style
    title: Mapping[str, str]
    turns: tuple[Turn, ...]
    system: str | None = None
    stop: str | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said in a turn; `is_right` None: it cannot be told."""

    turn: Turn
    reply: Reply
    is_right: bool | None


Show = Callable[[Turn, Iterator[ReplyChunk]], object]
"""Is given each turn and its reply while that is written, and reads it to the end."""


@cache
def read_examples(questions: Questions, style: Style) -> tuple[Example, ...]:
    """All examples for a kind of model, in the order in which they are shown."""
    import yaml

    content = files("baichuan2.chat").joinpath("showcase.yaml").read_text(encoding="utf-8")
    rows = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))[questions][style]
    examples = [_example(style, row) for row in rows]
    return tuple(sorted(examples, key=lambda example: SHOWCASE_KINDS.index(example.kind)))


def choose_examples(settings: ShowcaseSettings, questions: Questions, style: Style) -> tuple[Example, ...]:
    """Those of the kinds asked for.

    Raises SettingsError: there are none of a kind that was asked for.
    """
    examples = read_examples(questions, style)
    there = list(dict.fromkeys(example.kind for example in examples))
    for kind in settings.kinds:
        if kind not in there:
            raise SettingsError(
                f"--kind {kind}: the {questions} questions for {style} models have none; they have {', '.join(there)}"
            )
    return tuple(example for example in examples if not settings.kinds or example.kind in settings.kinds)


def style_and_questions(settings: ShowcaseSettings, load: LoadSettings) -> tuple[Style, Questions]:
    """What suits the model that `load` names, where the settings leave it open; its weights are not read.

    A Base model is one whose name says so, or whose generation config names no role tokens; with an adapter it is taken
    for one that was taught to talk. A vocabulary smaller than any official one is that of a demo model, which can read
    nothing but what it was taught.

    Raises: as `load_model`, for what stands in the descriptions of a model.
    """
    style, questions = settings.style, settings.questions
    name = load.model
    if name is None and load.adapter is not None and not load.named_adapters:
        name = base_of(Path(load.adapter).expanduser()) or None
    if style == "auto" or questions == "auto":
        folder = locate(name, revision=load.revision, offline=load.offline, with_weights=False)
        if questions == "auto":
            questions = "demo" if read_config(folder).vocab_size < SMALLEST_OFFICIAL_VOCABULARY else "official"
        if style == "auto":
            knows_roles = getattr(read_generation_config(folder), "user_token_id", None) is not None
            is_base = not knows_roles or any(BASE_NAME.search(part) for part in _names(name or "demo", folder))
            style = "base" if is_base and load.adapter is None else "chat"
    return style, questions


def _names(name: str, folder: Path) -> list[str]:
    """What a model is called: the last part of what was given, and its repository where it lies in the hub's cache."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return [last, *(part for part in folder.parts if part.startswith("models--"))]


def play(
    loaded: "ReadyModel", example: Example, sampling: SamplingSettings | None = None, show: Show | None = None
) -> Iterator[Answer]:
    """Asks turn by turn, the model's own replies being the conversation; an answer for each, once it is complete.

    Raises: as `stream_reply`.
    """
    sampling = sampling if sampling is not None else SamplingSettings(do_sample=False)
    if example.max_new_tokens is not None:
        bound = min(example.max_new_tokens, sampling.max_new_tokens or example.max_new_tokens)
        sampling = replace(sampling, max_new_tokens=bound)
    history = [Message("system", example.system)] if example.system else []
    for turn in example.turns:
        if example.style == "base":
            stop = () if example.stop is None else (example.stop,)
            chunks = stream_completion(loaded, turn.say, sampling, stop=stop)
        else:
            history.append(Message("user", turn.say))
            chunks = stream_reply(loaded, history, sampling)
        kept: list[ReplyChunk] = []
        if show is not None:
            show(turn, _kept(chunks, kept))
        reply = collect([*kept, *chunks])  # what nobody has read is read here
        history.append(Message("assistant", reply.text))
        yield Answer(turn, reply, holds_any(reply.text, turn.expect) if turn.expect else None)


def holds_any(text: str, keys: Sequence[str]) -> bool:
    """Whether `text` holds one of `keys`, in any case; letters and digits count as whole words and numbers: 17 is no 7.

    300 is found in "300.00", and neither in "1,300" nor in "300.5".
    """
    return any(_pattern(key.casefold()).search(text.casefold()) for key in keys)


def _pattern(key: str) -> re.Pattern[str]:
    # \b would not do: Python counts Chinese characters as part of a word
    before = after = ""
    if _is_latin(key[0]):
        before = "(?<![a-z0-9])" + (r"(?<!\d[.,])" if key[0].isdigit() else "")
    if _is_latin(key[-1]):
        after = "(?![a-z0-9])" + (r"(?!\.\d*[1-9]|,\d)" if key[-1].isdigit() else "")
    return re.compile(before + re.escape(key) + after)


def _is_latin(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _kept(chunks: Iterator[ReplyChunk], kept: list[ReplyChunk]) -> Iterator[ReplyChunk]:
    for chunk in chunks:
        kept.append(chunk)
        yield chunk


def _example(style: Style, row: Mapping[str, Any]) -> Example:
    turns = tuple(Turn(turn["say"], tuple(turn.get("expect", ()))) for turn in row["turns"])
    rest = {name: row[name] for name in ("kind", "title", "system", "stop", "max_new_tokens") if name in row}
    return Example(style=style, turns=turns, **rest)
