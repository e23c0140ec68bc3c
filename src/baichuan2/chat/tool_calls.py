"""Calls of functions as the text of a conversation: how they and their results are written, and found in a reply.

    <tool_call>{"name": "get_weather", "arguments": {"city": "Beijing"}}</tool_call>       in an assistant's turn
    <tool_response>{"temperature": 21}</tool_response>                                     in a user's turn

Baichuan 2 knows two roles and learnt no form of its own, so calls and results are plain text in them. Nothing trusts
that text: who may speak is settled by role tokens, which no text can become.
"""

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from baichuan2.chat.messages import Message
from baichuan2.errors import MessageError

__all__ = ["CALL_BEGIN", "CALL_END", "RESULT_BEGIN", "RESULT_END", "CallReader", "ToolCall", "read_calls", "to_turns"]

CALL_BEGIN: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"
RESULT_BEGIN: Final = "<tool_response>"
RESULT_END: Final = "</tool_response>"
BARE_BEGINNINGS: Final = ('{"name":', '```{"name":', '```json{"name":')  # without blanks: calls that lack their marks
_NAME_THEN_ARGUMENTS = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*')


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: which function, and its arguments as the text of a JSON object, as in OpenAI's messages."""

    name: str
    arguments: str
    id: str = field(default_factory=_new_id)

    def __str__(self) -> str:
        return f'{CALL_BEGIN}{{"name": {_json(self.name)}, "arguments": {self.arguments}}}{CALL_END}'


class CallReader:
    """Finds the calls in a reply while it is written; what is no call of a known function stays text.

    Read are `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` anywhere, and a reply that is nothing but such
    JSON without the marks, as models that never learnt them like to write.
    """

    def __init__(self, names: Iterable[str], *, most: int | None = None) -> None:
        """`names`: of the functions; `most`: how many calls are read, those beyond are dropped."""
        self._names = frozenset(names)
        self._most = most
        self._held = ""  # not handed out yet
        self._state = _START
        self._scanned = 0  # of what is held, inside a call
        self._in_string = False
        self.num_calls = 0
        """Calls found so far."""

    def push(self, text: str) -> list[str | ToolCall]:
        """What this text completes, in order: pieces of plain text, and calls."""
        self._held += text
        found: list[str | ToolCall] = []
        while self._step(found):
            pass
        return found

    def finish(self) -> list[str | ToolCall]:
        """The rest of a reply that has ended: a call without its closing mark, or what was held back as text."""
        held, state = self._held, self._state
        self._held, self._state = "", _TEXT
        if state == _CALL:
            return self._call_or_text(held, f"{CALL_BEGIN}{held}")
        if state == _BARE:
            return self._call_or_text(_without_fence(held), held)
        return [held] if held.strip() or (held and not self.num_calls) else []

    def _step(self, found: list[str | ToolCall]) -> bool:
        """Goes on as far as it is clear what the held text is; whether the next state may go further."""
        if self._state == _START:
            compact = "".join(self._held.lstrip()[:80].split())
            if compact.startswith(BARE_BEGINNINGS):
                self._state = _BARE
            elif not any(beginning.startswith(compact) for beginning in BARE_BEGINNINGS):
                self._state = _TEXT
                return True
            return False
        if self._state == _TEXT:
            return self._read_text(found)
        return self._state == _CALL and self._read_call(found)

    def _read_text(self, found: list[str | ToolCall]) -> bool:
        text, mark, rest = self._held.partition(CALL_BEGIN)
        if not mark:
            kept = _possible_beginning(self._held)
            text, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
            if text:
                found.append(text)
            return False
        if text.strip():
            found.append(text.rstrip())
        self._held, self._state, self._scanned, self._in_string = rest, _CALL, 0, False
        return True

    def _read_call(self, found: list[str | ToolCall]) -> bool:
        """Looks for the closing mark outside of strings, each character once."""
        held, place = self._held, self._scanned
        while place < len(held):
            if self._in_string and held[place] == "\\":
                if place + 1 == len(held):
                    break
                place += 1
            elif held[place] == '"':
                self._in_string = not self._in_string
            elif held[place] == "<" and not self._in_string:
                if held.startswith(CALL_END, place):
                    body, self._held = held[:place], held[place + len(CALL_END) :]
                    self._state = _TEXT
                    found += self._call_or_text(body, f"{CALL_BEGIN}{body}{CALL_END}")
                    return True
                if CALL_END.startswith(held[place:]):
                    break
            place += 1
        self._scanned = place
        return False

    def _call_or_text(self, body: str, text: str) -> list[str | ToolCall]:
        call = _call_from(body, self._names)
        if call is None:
            return [text]
        self.num_calls += 1
        return [call] if self._most is None or self.num_calls <= self._most else []


_START, _TEXT, _CALL, _BARE = range(4)


def read_calls(reply: str, names: Iterable[str], *, most: int | None = None) -> tuple[str, list[ToolCall]]:
    """The plain text and the calls of a whole reply; see `CallReader`."""
    reader = CallReader(names, most=most)
    found = [*reader.push(reply), *reader.finish()]
    return (
        "".join(part for part in found if isinstance(part, str)),
        [part for part in found if isinstance(part, ToolCall)],
    )


def to_turns(messages: Sequence[Message | Mapping[str, Any]]) -> list[Message]:
    """A conversation in OpenAI's form as turns of the roles that the model knows.

    An assistant's `tool_calls` are written behind its content; messages of role "tool" become a user's turn, those
    that follow each other one turn. Others stay as they are.

    Raises MessageError, naming the message by its index from 0: a malformed call, or a result of a call that no
    earlier message made.
    """
    turns: list[Message] = []
    known: dict[str, str] = {}  # id of a call -> name of its function
    was_result = False
    for index, message in enumerate(messages):
        if isinstance(message, Message):
            turns.append(message)
            was_result = False
            continue
        try:
            if not isinstance(message, Mapping):
                raise MessageError(f"must be an object, got {type(message).__name__}")
            if message.get("role") == "tool":
                text = _result_text(message, known)
                if was_result:
                    text = f"{turns.pop().content}\n{text}"
                turns.append(Message("user", text))
            else:
                turns.append(_turn(message, known))
        except MessageError as error:
            raise MessageError(f"messages[{index}]: {error}") from error
        was_result = message.get("role") == "tool"
    return turns


def _turn(message: Mapping[str, Any], known: dict[str, str]) -> Message:
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is None or message.get("role") != "assistant":
        if "content" not in message or content is None:
            raise MessageError("content is missing")
        return Message(message.get("role"), content)  # type: ignore[arg-type]  # Message looks at it
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise MessageError(f"tool_calls must be a list, got {type(calls).__name__}")
    parts = [content] if content else []
    for place, value in enumerate(calls):
        call = _call_of_message(value, f"tool_calls[{place}]")
        known[call.id] = call.name
        parts.append(str(call))
    if not all(isinstance(part, str) for part in parts):
        raise MessageError(f"content must be a string, got {type(content).__name__}")
    return Message("assistant", "\n".join(parts))


def _call_of_message(value: object, name: str) -> ToolCall:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping):
        raise MessageError(f"{name}.function must be an object")
    fields = {
        "id": value.get("id"),
        "function.name": function.get("name"),
        "function.arguments": function.get("arguments"),
    }
    for field_name, text in fields.items():
        if not isinstance(text, str):
            raise MessageError(f"{name}.{field_name} must be a string, got {type(text).__name__}")
    return ToolCall(str(function["name"]), str(function["arguments"]) or "{}", str(value["id"]))


def _result_text(message: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """A result between its marks; a closing mark that it holds itself is written so that it closes nothing."""
    content, call_id = message.get("content"), message.get("tool_call_id")
    if not isinstance(content, str):
        raise MessageError(f"content must be a string, got {type(content).__name__}")
    if not isinstance(call_id, str):
        raise MessageError(f"tool_call_id must be a string, got {type(call_id).__name__}")
    if call_id not in known:
        raise MessageError(f"tool_call_id {call_id[:80]!r} is the id of no call in an earlier message")
    harmless = content.replace(RESULT_END, RESULT_END.replace("/", "\\/"))
    return f"{RESULT_BEGIN}{harmless}{RESULT_END}"


def _call_from(body: str, names: frozenset[str]) -> ToolCall | None:
    """The call that this JSON is; None for anything else."""
    try:
        head = _NAME_THEN_ARGUMENTS.match(body)
        if head is not None and body[head.end() : head.end() + 1] == "{":
            _, end = _CHECKER.raw_decode(body, head.end())
            if body[end:].strip() == "}":  # the arguments exactly as they were written
                return _known(ToolCall(json.loads(head[1]), body[head.end() : end]), names)
        value = _CHECKER.decode(body)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if isinstance(arguments, str):  # a JSON text in a JSON string
            arguments = _CHECKER.decode(arguments)
        return _known(ToolCall(value["name"], _json(arguments)), names) if isinstance(arguments, dict) else None
    except (ValueError, RecursionError):
        return None


def _known(call: ToolCall, names: frozenset[str]) -> ToolCall | None:
    return call if call.name in names else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_CHECKER = json.JSONDecoder(parse_constant=_refuse)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _without_fence(text: str) -> str:
    return text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")


def _possible_beginning(text: str) -> int:
    """How much of the end of `text` may belong to a call: blanks, and a beginning of its mark behind them."""
    size = next(
        (size for size in range(min(len(CALL_BEGIN) - 1, len(text)), 0, -1) if text.endswith(CALL_BEGIN[:size])), 0
    )
    return len(text) - len(text[: len(text) - size].rstrip())
