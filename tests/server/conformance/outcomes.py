"""What one call by a client came to, in one form for all clients: the same checks then hold for each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Failure:
    """An exception of a client. `kind`: the name of its class, which the Python and the JavaScript client share."""

    kind: str
    status: int | None = None
    code: Any = None
    param: str | None = None
    message: str = ""
    retry_after: str | None = None


@dataclass
class Choice:
    """One of n replies, put together from its chunks if there were some."""

    text: str = ""
    finish_reasons: list[str] = field(default_factory=list)
    calls: list[dict[str, str]] = field(default_factory=list)
    """Of functions, each with `id`, `name` and `arguments`."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Of a chat: one mapping a token."""
    text_logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Of a completion: as they came, one for each chunk."""

    @property
    def finish_reason(self) -> str:
        """Why it ended; told once."""
        (reason,) = self.finish_reasons
        return reason


@dataclass
class Outcome:
    """The replies to a call, or its failure."""

    choices: list[Choice] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    failure: Failure | None = None
    ids: set[str] = field(default_factory=set)
    roles: list[str | None] = field(default_factory=list)
    """Of a stream: that of each choice's first chunk; else of each message."""
    num_chunks: int = 0
    models: list[str] = field(default_factory=list)
    """Names of a list of models, or the one that answered."""

    @property
    def choice(self) -> Choice:
        """The only reply."""
        assert self.failure is None, self.failure
        (choice,) = self.choices
        return choice

    def at(self, index: int) -> Choice:
        """The reply of that index, made where there is none yet."""
        while len(self.choices) <= index:
            self.choices.append(Choice())
        return self.choices[index]


def read_answer(answer: Mapping[str, Any]) -> Outcome:
    """A whole answer: of a chat, of a completion, a model or a list of them."""
    if answer.get("object") == "list":
        return Outcome(models=[model["id"] for model in answer["data"]])
    if answer.get("object") == "model":
        return Outcome(models=[answer["id"]])
    outcome = Outcome(usage=answer.get("usage"), ids={answer["id"]}, models=[answer["model"]])
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(answer["choices"])))
    for told in answer["choices"]:
        choice = outcome.at(told["index"])
        choice.finish_reasons.append(told["finish_reason"])
        if "message" in told:
            outcome.roles.append(told["message"]["role"])
            _add(choice, told["message"], told.get("logprobs"))
        else:
            _add(choice, {"content": told["text"]}, told.get("logprobs"))
    return outcome


def read_chunks(chunks: Sequence[Mapping[str, Any]]) -> Outcome:
    """A stream, as far as it was read."""
    outcome = Outcome(num_chunks=len(chunks))
    for chunk in chunks:
        assert outcome.usage is None, "something came behind the usage"
        outcome.ids.add(chunk["id"])
        outcome.models = [chunk["model"]]
        if chunk.get("usage") is not None:
            assert chunk["choices"] == []
            outcome.usage = dict(chunk["usage"])
        for told in chunk["choices"]:
            choice = outcome.at(told["index"])
            assert not choice.finish_reasons, "something came behind the end of a reply"
            delta = told["delta"] if "delta" in told else {"content": told["text"]}
            if delta.get("role") is not None:
                outcome.roles.append(delta["role"])
            _add(choice, delta, told.get("logprobs"))
            if told.get("finish_reason") is not None:
                choice.finish_reasons.append(told["finish_reason"])
    return outcome


def _add(choice: Choice, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None) -> None:
    """Puts a message, or the next part of one, to what is known of a reply."""
    choice.text += delta.get("content") or ""
    for call in delta.get("tool_calls") or ():
        place = call.get("index", len(choice.calls))
        if place is None:
            place = len(choice.calls)
        if place == len(choice.calls):
            choice.calls.append({"id": call["id"], "name": call["function"]["name"], "arguments": ""})
        choice.calls[place]["arguments"] += call["function"].get("arguments") or ""
    if logprobs is not None and "tokens" in logprobs:
        choice.text_logprobs.append(dict(logprobs))
    elif logprobs is not None:
        choice.logprobs += logprobs.get("content") or []
