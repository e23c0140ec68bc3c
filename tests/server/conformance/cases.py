"""The form of a case: calls that any client makes, and what must hold of their outcomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.server.conformance.engine import Engine
from tests.server.conformance.outcomes import Outcome

Body = Mapping[str, Any]
OPENAI_CLIENTS = ("python", "python-async", "node")
CLIENTS = (*OPENAI_CLIENTS, "langchain")
INVALID = "invalid_value"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a client. `body`: its fields but the model's name, or a function of the outcomes before."""

    body: Body | Callable[[Sequence[Outcome]], Body]
    route: Literal["chat", "completions", "models", "model"] = "chat"
    stream: bool = False
    model: str | None = None
    """Another name than the served one."""
    key: str | None = None
    """Another key than the right one."""
    leave_after: int | None = None
    """So many chunks are read, then the client leaves."""
    on_full_queue: bool = False
    """Made while other requests take all places."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """`features`: those of `engine.FEATURES` that an engine must have. `check`: fails where it does not conform."""

    name: str
    features: tuple[str, ...]
    calls: tuple[Call, ...]
    check: Callable[[Sequence[Outcome], Engine], None]
    clients: tuple[str, ...] = CLIENTS
    """Those that can say it."""


def user(text: str) -> dict[str, str]:
    """What a user says."""
    return {"role": "user", "content": text}


def chat(text: str = "你好", **fields: Any) -> dict[str, Any]:
    """The body of a chat of one message, greedy unless said otherwise."""
    return {"messages": [user(text)], "temperature": 0, "max_tokens": 24} | fields


def completion(text: Any = "今天天气", **fields: Any) -> dict[str, Any]:
    """The body of a completion, greedy unless said otherwise."""
    return {"prompt": text, "temperature": 0, "max_tokens": 12} | fields


def check_usage(outcome: Outcome) -> None:
    """Tokens are counted, and add up."""
    usage = outcome.usage
    assert usage is not None
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def check_failure(
    outcome: Outcome, engine: Engine, kind: str, status: int, *, code: str | None = None, param: str | None = None
) -> None:
    """The client raised what OpenAI's own service has it raise."""
    failure = outcome.failure
    assert failure is not None, outcome
    assert (failure.kind, failure.status) == (kind, status), failure
    assert failure.message
    if code is not None and engine.has("error_codes"):
        assert failure.code == code, failure
    if param is not None and engine.has("error_params"):
        assert failure.param == param, failure


def fails(kind: str, status: int, **told: str) -> Callable[[Sequence[Outcome], Engine], None]:
    """A check that every call failed, see `check_failure`."""

    def check(outcomes: Sequence[Outcome], engine: Engine) -> None:
        for outcome in outcomes:
            check_failure(outcome, engine, kind, status, **told)

    return check
