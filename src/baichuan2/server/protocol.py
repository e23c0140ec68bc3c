"""What clients may send: every field with its kind and bounds, which are those of `settings/`.

Unknown fields are taken and ignored, as clients send ever new ones; a known one of the wrong kind is refused. What a
field does is `service.py`'s part.

Fields are checked in the event loop, which all others wait for: a list is left at its first wrong item, and
none that becomes one object an item may be longer than makes sense.
"""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from baichuan2.settings import SamplingSettings

__all__ = [
    "ChatMessage",
    "ChatRequest",
    "CompletionRequest",
    "ContentPart",
    "DetokenizeRequest",
    "ResponseFormat",
    "SamplingFields",
    "StreamOptions",
    "TokenizeRequest",
]

MOST_STOPS = 4  # OpenAI's limit
LONGEST_STOP = 1_000  # characters
MOST_TOP_LOGPROBS = 20  # OpenAI's limit
LARGEST_BIAS = 100.0  # OpenAI's limit
MOST_BIASES = 1_024
MOST_TEXTS = 1_024  # to choose from
MOST_PROMPTS = 1_024  # as many as --max-choices can be
MOST_MESSAGES = 16_384
MOST_PARTS = 65_536  # of a message
MOST_TOOLS = 128  # OpenAI's limit
_METADATA = {item.name: item.metadata for item in fields(SamplingSettings)}


def _bounded(name: str) -> Any:
    """The help and the bounds of the sampling setting `name`."""
    metadata = _METADATA[name]
    return Field(default=None, ge=metadata["minimum"], le=metadata["maximum"], description=metadata["help"])


class Fields(BaseModel):
    """Strict kinds (no "1" for 1), numbers that are numbers; what is unknown is kept apart, to be named in the log."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
StopStrings = Annotated[list[StopString], Field(max_length=MOST_STOPS, fail_fast=True)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Bias = Annotated[float, Field(ge=-LARGEST_BIAS, le=LARGEST_BIAS)]


def _few_biases(value: object) -> object:
    """Refuses too many before each is checked; pydantic counts a mapping's items afterwards."""
    if isinstance(value, dict) and len(value) > MOST_BIASES:
        raise PydanticCustomError("too_long", "Dictionary should have at most {most} items", {"most": MOST_BIASES})
    return value


Biases = Annotated[dict[str, Bias], Field(max_length=MOST_BIASES), BeforeValidator(_few_biases)]


class StreamOptions(Fields):
    """How a stream is written."""

    include_usage: bool | None = Field(default=None, description="a last chunk, without choices, tells the usage")


class JsonSchema(Fields):
    """A JSON schema with its name."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    """Which texts a reply may be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class SamplingFields(Fields):
    """What chats and completions have in common; null is the same as leaving a field out."""

    model: str | None = Field(default=None, description="one of /v1/models; the served one if left out")
    max_tokens: int | None = _bounded("max_new_tokens")
    temperature: float | None = _bounded("temperature")
    top_p: float | None = _bounded("top_p")
    top_k: int | None = _bounded("top_k")
    min_p: float | None = _bounded("min_p")
    repetition_penalty: float | None = _bounded("repetition_penalty")
    presence_penalty: float | None = _bounded("presence_penalty")
    frequency_penalty: float | None = _bounded("frequency_penalty")
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63, description="makes sampling repeatable")
    n: int | None = Field(default=None, ge=1, description="replies to each prompt")
    stop: StopString | StopStrings | None = Field(default=None, description="texts that end a reply before them")
    logit_bias: Biases | None = Field(
        default=None, description="token ids, written as strings, and what is added to their logits"
    )
    ignore_eos: bool | None = Field(
        default=None, description="go on behind the end of the text, up to max_tokens: for measurements"
    )
    stream: bool | None = Field(default=None, description="send the reply while it is being written")
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, description="ignored")
    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | bool | str | None = Field(default=None, description="a JSON schema for the reply")
    guided_regex: str | None = Field(default=None, description="a regular expression that the whole reply matches")
    guided_choice: Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS, fail_fast=True)] | None = Field(
        default=None, description="the reply is one of these"
    )


class ContentPart(Fields):
    """A part of a message; this model reads text alone."""

    type: str
    text: str | None = None


class CalledFunction(Fields):
    """A function as the model called it."""

    name: str
    arguments: str


class MessageToolCall(Fields):
    """A call that an earlier reply made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Fields):
    """Who said what."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(max_length=MOST_PARTS, fail_fast=True)] | None = None
    name: str | None = Field(default=None, description="ignored")
    tool_calls: Annotated[list[MessageToolCall], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = None
    tool_call_id: str | None = None


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]


class FunctionDefinition(Fields):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Fields):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Fields):
    """The name of a function."""

    name: str


class NamedTool(Fields):
    """The one tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = _bounded("max_new_tokens")
    logprobs: bool | None = Field(default=None, description="tell how likely each token was")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=MOST_TOP_LOGPROBS, description="so many of the most likely tokens at each place"
    )
    tools: Annotated[list[ToolDefinition], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = Field(
        default=None, description="best effort: not what the model learnt"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None


class CompletionRequest(SamplingFields):
    """POST /v1/completions."""

    prompt: (
        str | TokenIds | Annotated[list[str | TokenIds], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=MOST_TOP_LOGPROBS, description="so many of the most likely tokens at each place"
    )
    echo: bool | None = Field(default=None, description="the prompt stands before its continuation")
    best_of: int | None = Field(default=None, ge=1, description="only as large as n")
    suffix: str | None = Field(default=None, description="refused: this model cannot fill gaps")


class TokenizeRequest(Fields):
    """POST /tokenize: the ids of a text, or of a conversation as the model gets it."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = Field(default=None, description="ignored: a text has none, for this model")


class DetokenizeRequest(Fields):
    """POST /detokenize: the text of ids."""

    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]
