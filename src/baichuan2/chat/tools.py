"""Functions that a reply may call, in OpenAI's form: told to the model, and what it may say held to them.

Baichuan 2 never learnt to call functions, so this is best effort: the functions and the form of a call stand in front
of the system text, and a grammar lets nothing be called but what was offered, with arguments that fit. Whether the
model calls the right one is up to the model.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from baichuan2.chat.grammar import GrammarConstraint, Grammars, schema_source
from baichuan2.chat.messages import Message
from baichuan2.chat.tool_calls import CALL_BEGIN, CALL_END, RESULT_BEGIN, RESULT_END, CallReader, to_turns
from baichuan2.errors import SettingsError

__all__ = ["Tool", "ToolUse", "read_tool_use"]

MOST_TOOLS: Final = 128  # OpenAI's limit
MOST_CALLS: Final = 16  # in one reply, so that a model that repeats itself comes to an end
Choice = Literal["auto", "none", "required"]
Language = Literal["zh", "en"]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_WORDS: Final[Mapping[Language, Mapping[str, str]]] = {
    "en": {
        "offer": "You can call these functions:",
        "form": "To call a function, reply with nothing but this:",
        "example": '{"name": "function name", "arguments": {"parameter": "value"}}',
        "several": "Several calls may follow each other.",
        "result": f"The result then comes as {RESULT_BEGIN}result{RESULT_END}; answer the user with it.",
        "auto": "If no function is needed, answer the user directly.",
        "required": "Now call a function.",
    },
    "zh": {
        "offer": "你可以调用以下函数：",
        "form": "调用函数时，只输出下面这种内容，不要输出别的：",
        "example": '{"name": "函数名", "arguments": {"参数名": "参数值"}}',
        "several": "可以连续输出多个调用。",
        "result": f"函数的结果会写成 {RESULT_BEGIN}结果{RESULT_END}，请根据结果回答用户。",
        "auto": "不需要调用函数时，直接回答用户。",
        "required": "现在请调用函数。",
    },
}


@dataclass(frozen=True)
class Tool:
    """A function that may be called; `parameters`: the JSON schema of its arguments, an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    def __str__(self) -> str:
        told = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return json.dumps({key: value for key, value in told.items() if value}, ensure_ascii=False)


@dataclass(frozen=True)
class ToolUse:
    """Which functions one request offers, and whether it wants one called; made by `read_tool_use`.

    `choice`: "auto" (text or calls), "required" (calls alone) or "none" (text alone). `is_parallel`: a reply may hold
    several calls.
    """

    tools: tuple[Tool, ...] = ()
    choice: Choice = "none"
    is_parallel: bool = True

    def prepare(self, messages: Sequence[Message | Mapping[str, Any]]) -> list[Message]:
        """The conversation as turns that the model knows, see `to_turns`, with the functions told in front.

        They are told in Chinese where the user's last message holds Chinese, else in English. Raises MessageError.
        """
        turns = to_turns(messages)
        if self.choice == "none":
            return turns
        told = self.system_text("zh" if _CHINESE.search(_last_question(messages)) else "en")
        if turns and turns[0].role == "system":
            return [Message("system", f"{told}\n\n{turns[0].content}"), *turns[1:]]
        return [Message("system", told), *turns]

    def system_text(self, language: Language) -> str:
        """What the model is told of the functions; empty where none may be called."""
        if self.choice == "none":
            return ""
        words = _WORDS[language]
        lines = [words["offer"], *map(str, self.tools)]
        lines += [words["form"], f"{CALL_BEGIN}{words['example']}{CALL_END}"]
        lines += [words["several"]] if self.is_parallel else []
        lines += [words["result"], words[self.choice]]
        return "\n".join(lines)

    def constraint(
        self, grammars: Grammars, *, text_schema: Mapping[str, Any] | None = None
    ) -> GrammarConstraint | None:
        """What such a reply may be, None where no function may be called.

        With "required" arguments fit their schemas exactly; with "auto" keywords that cannot be held to are passed
        over. `text_schema`: a reply that is no call has to be JSON of this schema.

        Raises SettingsError, which names the function whose schema cannot be used.
        """
        if self.choice == "none":
            return None
        try:
            return grammars.lark(self._grammar(text_schema), name="tools")
        except SettingsError:
            if text_schema is not None:
                grammars.json_schema(text_schema, name="response_format.json_schema.schema")
            for place, tool in enumerate(self.tools):  # which one it is, if it is a single one
                alone = ToolUse((tool,), self.choice, self.is_parallel)
                grammars.lark(alone._grammar(None), name=f"tools[{place}].function.parameters")
            raise

    def reader(self) -> CallReader | None:
        """Finds the calls in a reply; None where there can be none."""
        if self.choice == "none":
            return None
        return CallReader((tool.name for tool in self.tools), most=None if self.is_parallel else 1)

    def _grammar(self, text_schema: Mapping[str, Any] | None) -> str:
        """Calls, or text that goes over to calls at the first mark; what follows a call is another one or the end."""
        lenient = self.choice == "auto"
        begin, end = json.dumps(CALL_BEGIN), json.dumps(CALL_END)
        more = f'("\\n"? {begin} call){{0,{MOST_CALLS - 1}}}' if self.is_parallel else ""
        if self.choice == "required":
            lines = [f"start: {begin} call {more}"]
        elif text_schema is not None:
            lines = [f"start: text | {begin} call {more}", f"text: %json {schema_source(text_schema)}"]
        else:
            lines = [f"start: TEXT | head call {more}", f"head[lazy]: TEXT {begin}", r"TEXT: /(.|\n)*/"]
        lines.append("call: " + " | ".join(f"call_{place}" for place in range(len(self.tools))))
        for place, tool in enumerate(self.tools):
            opening = json.dumps(f'{{"name": "{tool.name}", "arguments": ')
            lines.append(f'call_{place}: {opening} arguments_{place} "}}" {end}')
            lines.append(f"arguments_{place}: %json {schema_source(_closed(tool.parameters), lenient=lenient)}")
        return "\n".join(lines)


def _last_question(messages: Sequence[Message | Mapping[str, Any]]) -> str:
    """What a user said last; results of functions stand in a user's turn, but no user said them."""
    for message in reversed(messages):
        role, content = (
            (message.role, message.content)
            if isinstance(message, Message)
            else (message["role"], message.get("content"))
        )
        if role == "user":
            return str(content)
    return ""


def read_tool_use(tools: object, tool_choice: object = None, parallel_tool_calls: object = None) -> ToolUse:
    """The fields `tools`, `tool_choice` and `parallel_tool_calls` of a request, as JSON values; None: left out.

    Raises SettingsError, which names the field that is wrong, `tools[2].function.name` for instance.
    """
    offered = _read_tools(tools)
    if parallel_tool_calls is not None and not isinstance(parallel_tool_calls, bool):
        raise SettingsError(f"parallel_tool_calls must be true or false, got {parallel_tool_calls!r:.40}")
    is_parallel = parallel_tool_calls is not False
    if tool_choice is None:
        return ToolUse(offered, "auto" if offered else "none", is_parallel)
    if isinstance(tool_choice, str) and tool_choice in ("auto", "none", "required"):
        if not offered and tool_choice == "required":
            raise SettingsError("tool_choice 'required' needs tools")
        return ToolUse(offered, tool_choice if offered else "none", is_parallel)  # type: ignore[arg-type]
    function = tool_choice.get("function") if isinstance(tool_choice, Mapping) else None
    if (
        not isinstance(tool_choice, Mapping)
        or tool_choice.get("type") != "function"
        or not isinstance(function, Mapping)
    ):
        raise SettingsError(
            'tool_choice must be "auto", "none", "required" or {"type": "function", "function": {"name": ...}}, '
            f"got {tool_choice!r:.80}"
        )
    named = tuple(tool for tool in offered if tool.name == function.get("name"))
    if not named:
        raise SettingsError(
            f"tool_choice names the function {function.get('name')!r:.80}, which is not among the tools"
        )
    return ToolUse(named, "required", is_parallel=False)


def _read_tools(values: object) -> tuple[Tool, ...]:
    if values is None:
        return ()
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise SettingsError(f"tools must be a list, got {type(values).__name__}")
    if len(values) > MOST_TOOLS:
        raise SettingsError(f"tools must hold at most {MOST_TOOLS} functions, got {len(values)}")
    tools = tuple(_read_tool(value, f"tools[{place}]") for place, value in enumerate(values))
    names = [tool.name for tool in tools]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise SettingsError(f"tools[{place}].function.name {name!r} is the name of another function already")
    return tools


def _read_tool(value: object, name: str) -> Tool:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{name} must be an object, got {type(value).__name__}")
    if value.get("type", "function") != "function":
        raise SettingsError(f"{name}.type must be 'function', got {value['type']!r:.40}")
    function = value.get("function")
    if not isinstance(function, Mapping):
        raise SettingsError(f"{name}.function must be an object, got {type(function).__name__}")
    called, description = function.get("name"), function.get("description")
    if not isinstance(called, str) or not _NAME.fullmatch(called):
        raise SettingsError(f"{name}.function.name must be 1 to 64 of a-z, A-Z, 0-9, _ and -, got {called!r:.80}")
    if description is not None and not isinstance(description, str):
        raise SettingsError(f"{name}.function.description must be a string, got {type(description).__name__}")
    parameters = function.get("parameters")
    if parameters is None:
        return Tool(called, description or "")
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise SettingsError(f'{name}.function.parameters must be a JSON schema of "type": "object"')
    return Tool(called, description or "", parameters)


def _closed(schema: Any) -> Any:
    """A schema whose objects hold nothing but the properties that it names, where it leaves that open.

    A model that never learnt to call functions invents arguments where it may. Schemas that are put together from
    parts stay as they are, as a property that one part does not know may come from another.
    """
    if not isinstance(schema, Mapping) or not _PARTS.isdisjoint(schema):
        return schema
    closed = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        closed["properties"] = {name: _closed(value) for name, value in properties.items()}
        required = schema.get("required", ())
        if isinstance(required, list | tuple) and all(
            isinstance(name, str) and name in properties for name in required
        ):
            closed.setdefault("additionalProperties", False)
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    return closed


_PARTS = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef", "patternProperties"})
