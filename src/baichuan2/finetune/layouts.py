"""Layouts of training rows: a row as it stands in a file -> a conversation, a pair of replies or a document.

Nothing is guessed within a row: what does not fit the layout is a DataError that names the field, what was expected
and what was received.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from baichuan2.errors import DataError
from baichuan2.finetune.dataset import Conversation, Turn

__all__ = ["Document", "Layout", "Pair", "Row", "detect_layout", "read_row"]

Layout = Literal["conversations", "alpaca", "sharegpt", "messages", "preference", "text"]

USER, ASSISTANT = "human", "gpt"  # the official names of speakers
SPEAKERS: Final[Mapping[str, str]] = {
    "human": USER,
    "user": USER,
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "system": "system",
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
    "model": ASSISTANT,
}
ROLES: Final[Mapping[str, str]] = {
    "user": USER,
    "assistant": ASSISTANT,
    "system": "system",
    "developer": "system",
}
TOOL_NAMES: Final = frozenset(
    ("tool", "tools", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
)
LONGEST_SHOWN = 60  # characters of a received value in a message


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt, of which the first is the better one."""

    chosen: Conversation
    """Prompt and reply; only the turns of the reply are learnt."""
    rejected: Conversation

    @property
    def texts(self) -> list[str]:
        """The texts of both conversations."""
        return [*self.chosen.texts, *self.rejected.texts]


@dataclass(frozen=True)
class Document:
    """Plain text, every token of which is learnt."""

    text: str

    @property
    def texts(self) -> list[str]:
        """The one text."""
        return [self.text]


Row = Conversation | Pair | Document


def detect_layout(value: Any, place: str) -> Layout:
    """The layout of a row, seen from its fields. Raises DataError that says what was seen and what is known."""
    if not isinstance(value, Mapping):
        raise DataError(f"{place}: must be an object, got {_shown(value)}")
    if "chosen" in value or "rejected" in value:
        return "preference"
    if "messages" in value:
        return "messages"
    if "conversations" in value:
        return "sharegpt"
    if "instruction" in value:
        return "alpaca"
    if isinstance(value.get("text"), str):
        return "text"
    fields = ", ".join(map(str, list(value)[:8])) or "none"
    raise DataError(
        f"{place}: the layout is unknown, its fields are {_cut(fields)}; known are conversations (official, sharegpt), "
        "messages (OpenAI), instruction and output (alpaca), prompt, chosen and rejected (preference), text"
    )


def read_row(value: Any, layout: Layout, place: str, identity: str) -> Row:
    """The row in that layout; `identity` names it where it holds no id.

    Raises:
        DataError: it is malformed; the message begins with `place` and names the field.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"{place}: must be an object, got {_shown(value)}")
    reader = _READERS[layout]
    return reader(value, place, str(value.get("id", identity)))


def _conversations(value: Mapping[str, Any], place: str, identity: str) -> Row:
    """The official layout by the official rule: whoever is not `human` is the assistant."""
    turns = _turns(value, "conversations", place, speakers=None)
    return _conversation(turns, place, identity)


def _sharegpt(value: Mapping[str, Any], place: str, identity: str) -> Row:
    turns = _turns(value, "conversations", place, speakers=SPEAKERS)
    return _conversation(turns, place, identity, system=_optional(value, "system", place))


def _messages(value: Mapping[str, Any], place: str, identity: str) -> Row:
    if value.get("tools") or value.get("functions"):
        raise DataError(f"{place}: tools cannot be trained on: leave tools and tool turns out of the row")
    return _conversation(_turns(value, "messages", place, speakers=ROLES), place, identity)


def _alpaca(value: Mapping[str, Any], place: str, identity: str) -> Row:
    history = value.get("history") or []
    if not isinstance(history, Sequence) or isinstance(history, str):
        raise DataError(f"{place}: history must be a list of pairs of texts, got {_shown(history)}")
    turns: list[Turn] = []
    for number, pair in enumerate(history):
        here = f"{place}, history[{number}]"
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise DataError(f"{here}: must be a pair of texts, of user and assistant, got {_shown(pair)}")
        turns += [Turn(USER, _text(pair[0], here, "the first")), Turn(ASSISTANT, _text(pair[1], here, "the second"))]
    turns += [_alpaca_prompt(value, place), Turn(ASSISTANT, _text(value.get("output"), place, "output"))]
    return _conversation(turns, place, identity, system=_optional(value, "system", place))


def _alpaca_prompt(value: Mapping[str, Any], place: str) -> Turn:
    instruction, more = _text(value.get("instruction"), place, "instruction"), _optional(value, "input", place)
    return Turn(USER, f"{instruction}\n{more}" if instruction and more else instruction or more or "")


def _document(value: Mapping[str, Any], place: str, identity: str) -> Row:
    del identity
    text = _text(value.get("text"), place, "text")
    if not text:
        raise DataError(f"{place}: text must not be empty")
    return Document(text)


def _preference(value: Mapping[str, Any], place: str, identity: str) -> Row:
    """A pair whose prompt is a text, messages, a conversation, or what both lists begin with."""
    prompt = _preference_prompt(value, place)
    chosen, rejected = (_reply(value, name, place) for name in ("chosen", "rejected"))
    if chosen[0].speaker != ASSISTANT or rejected[0].speaker != ASSISTANT:  # whole conversations, prompt included
        num_shared = next(
            (index for index, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other),
            min(len(chosen), len(rejected)) - 1,
        )
        shared = chosen[:num_shared]
        if (
            prompt
            and [turn.text for turn in prompt if turn.speaker == USER][-1:]
            != [turn.text for turn in shared if turn.speaker == USER][-1:]
        ):
            raise DataError(f"{place}: chosen and rejected must begin with the prompt, or hold the reply alone")
        prompt, chosen, rejected = shared, chosen[num_shared:], rejected[num_shared:]
    if not prompt or prompt[-1].speaker != USER:
        last = "nothing" if not prompt else "a turn of the assistant"
        raise DataError(f"{place}: prompt must end with a turn of the user, whom both replies answer, got {last}")
    for name, reply in (("chosen", chosen), ("rejected", rejected)):
        if reply[0].speaker != ASSISTANT:
            raise DataError(f"{place}: {name} must begin with a turn of the assistant, got one of {reply[0].speaker}")
    system = _optional(value, "system", place)
    seen = [Turn(turn.speaker, turn.text, is_learnt=False) for turn in prompt]
    both = [_conversation([*seen, *reply], place, identity, system=system) for reply in (chosen, rejected)]
    return Pair(chosen=both[0], rejected=both[1])


def _preference_prompt(value: Mapping[str, Any], place: str) -> list[Turn]:
    for name, speakers in (("prompt", None), ("conversations", SPEAKERS), ("messages", ROLES)):
        given = value.get(name)
        if isinstance(given, str):
            return [Turn(USER, _text(given, place, name))]
        if given is not None:
            return _turns(value, name, place, speakers=speakers or {**SPEAKERS, **ROLES})
    if "instruction" in value:
        history = _alpaca({**value, "output": ""}, place, "") if value.get("history") else None
        return list(history.turns[:-1]) if isinstance(history, Conversation) else [_alpaca_prompt(value, place)]
    return []


def _reply(value: Mapping[str, Any], name: str, place: str) -> list[Turn]:
    given = value.get(name)
    if isinstance(given, str):
        return [Turn(ASSISTANT, _text(given, place, name))]
    if isinstance(given, Mapping):
        return [_turn(given, f"{place}, {name}", {**SPEAKERS, **ROLES})]
    if given is None:
        raise DataError(f"{place}: {name} must be a text or messages, got nothing")
    return _turns(value, name, place, speakers={**SPEAKERS, **ROLES})


def _conversation(turns: Sequence[Turn], place: str, identity: str, system: str | None = None) -> Conversation:
    """Turns as a conversation, a system text taken off its beginning."""
    if turns[0].speaker == "system":
        if system is not None and system != turns[0].text:
            raise DataError(f"{place}: system must stand in one place only, got the field and a turn")
        system, turns = turns[0].text, turns[1:]
    for number, turn in enumerate(turns):
        if turn.speaker == "system":
            raise DataError(f"{place}: a system turn must be the first one, got one at turn {number + 1}")
    if not any(turn.speaker != USER and turn.is_learnt and turn.text for turn in turns):
        raise DataError(f"{place}: nothing can be learnt: expected a text of the assistant, got none")
    return Conversation(identity, tuple(turns), system or None)


def _turns(value: Mapping[str, Any], name: str, place: str, *, speakers: Mapping[str, str] | None) -> list[Turn]:
    turns = value.get(name)
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError(f"{place}: {name} must be a list of turns that is not empty, got {_shown(turns)}")
    return [_turn(turn, f"{place}, {name}[{number}]", speakers) for number, turn in enumerate(turns)]


def _turn(turn: Any, place: str, speakers: Mapping[str, str] | None) -> Turn:
    """One turn; `speakers`: which names stand for whom; None: the official rule, by which all others assist."""
    if not isinstance(turn, Mapping):
        raise DataError(f"{place}: must be an object with from and value, or role and content, got {_shown(turn)}")
    who, what = ("role", "content") if speakers is not None and "role" in turn else ("from", "value")
    name = _text(turn.get(who), place, who)
    if speakers is None:
        return Turn(USER if name == USER else ASSISTANT, _text(turn.get(what), place, what))
    if name.lower() in TOOL_NAMES or turn.get("tool_calls") or turn.get("function_call"):
        raise DataError(f"{place}: turns of tools cannot be trained on, got {who} {_shown(name)}: leave the row out")
    if name not in speakers:
        known = ", ".join(speakers)
        hint = "; --data-format conversations takes all but human for the assistant" if who == "from" else ""
        raise DataError(f"{place}: {who} must be one of {known}, got {_shown(name)}{hint}")
    return Turn(speakers[name], _content(turn.get(what), place, what), is_learnt=_is_learnt(turn, place))


def _is_learnt(turn: Mapping[str, Any], place: str) -> bool:
    """OpenAI's `weight` of a message: 0 means that the assistant's text is read but not learnt."""
    weight = turn.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise DataError(f"{place}: weight must be 0 or 1, got {_shown(weight)}")
    return bool(weight)


def _content(value: Any, place: str, name: str) -> str:
    """A text, also where it is given as OpenAI's list of parts."""
    if not isinstance(value, list):
        return _text(value, place, name)
    texts = []
    for number, part in enumerate(value):
        here = f"{place}, {name}[{number}]"
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise DataError(f"{here}: must be a part of type text, got {_shown(kind)}")
        texts.append(_text(part.get("text"), here, "text"))
    return "".join(texts)


def _optional(value: Mapping[str, Any], name: str, place: str) -> str | None:
    """A text that may be missing, null or empty."""
    return _text(value[name], place, name) or None if value.get(name) is not None else None


def _text(value: Any, place: str, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {name} must be a string, got {_shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {name} holds half a character at index {error.start}") from error
    return value


def _shown(value: Any) -> str:
    """A received value in a message: its kind where it is a container, itself where it is short."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "an empty list" if not value else "a list"
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


_READERS: Final[Mapping[Layout, Callable[[Mapping[str, Any], str, str], Row]]] = {
    "conversations": _conversations,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "preference": _preference,
    "text": _document,
}
assert set(_READERS) == set(get_args(Layout))
