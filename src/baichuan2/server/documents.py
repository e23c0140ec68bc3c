"""What answers look like, for `/openapi.json`; the tests hold real answers against it."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

__all__ = ["answers_with", "describe"]


class Answer(BaseModel):
    """Fields that are always there, even if null."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Problem(Answer):
    """What is wrong, in a sentence; with which field; and in a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Every answer that is no success."""

    error: Problem


class CachedTokens(Answer):
    """Tokens of the prompt that did not have to be computed again."""

    cached_tokens: int


class Usage(Answer):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class TokenLogprob(Answer):
    """A token, the natural logarithm of its probability, and its bytes, perhaps a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenLogprob(TokenLogprob):
    """A token that was chosen, beside the most likely ones."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Answer):
    """How likely the tokens of a reply were."""

    content: list[ChosenLogprob]
    refusal: None


class Function(Answer):
    """A function's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


class Call(Answer):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: Function


class ReplyMessage(BaseModel):
    """What the model says; `tool_calls` is there if it makes some."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[Call] | None = None


class ChatChoice(Answer):
    """One of n replies."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Answer):
    """The replies to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(Answer):
    """How likely the tokens of a continuation were."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Answer):
    """Continuations of texts: n of the first prompt, then n of the next."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class Model(Answer):
    """A name of the served model, or an adapter, whose `parent` is that model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    parent: str | None


class ModelList(Answer):
    """All its names."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Answer):
    """Token ids, and how many the model takes."""

    count: int
    max_model_len: int
    tokens: list[int]


class Text(Answer):
    """The text of token ids."""

    prompt: str


class Health(Answer):
    """Replies can be had."""

    status: Literal["ok"]


ANSWERS: dict[str, type[Answer]] = {
    "/v1/chat/completions": ChatCompletion,
    "/v1/completions": Completion,
    "/v1/models": ModelList,
    "/v1/models/{name}": Model,
    "/tokenize": Tokens,
    "/detokenize": Text,
    "/health": Health,
}
PROBLEMS = {
    400: "a field is wrong, or the text too long",
    401: "no valid API key",
    403: "asked for by a name that is not this server's",
    404: "no such model or path",
    413: "the request is too large",
    415: "the request is no JSON",
    429: "too many requests are waiting: again after Retry-After",
    500: "the server failed",
    501: "the server lacks an optional package",
    503: "the server is shutting down, or its engine has stopped",
    504: "the reply took too long",
}
STREAMED = ("/v1/chat/completions", "/v1/completions")


def answers_with(path: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of the route at `path`."""
    good: dict[str, Any] = {"description": "done"}
    if path in ANSWERS:
        good["model"] = ANSWERS[path]
    if path in STREAMED:
        good["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    if path == "/metrics":
        good["content"] = {"text/plain": {"schema": {"type": "string"}}}
    answers: dict[int | str, dict[str, Any]] = {200: good}
    for status, text in PROBLEMS.items():
        answers[status] = {"description": text, "model": ErrorAnswer}
    return answers


def describe(app: FastAPI) -> None:
    """Takes the framework's own answer to wrong fields, 422, out of the description: ours is 400."""
    schema = app.openapi()
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema.get("components", {}).get("schemas", {}).pop(name, None)
