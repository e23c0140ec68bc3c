"""Continuations of texts, the list of models, and requests that have to be refused."""

from collections.abc import Sequence

from tests.server.conformance.cases import (
    CLIENTS,
    INVALID,
    OPENAI_CLIENTS,
    Call,
    Case,
    chat,
    check_failure,
    check_usage,
    completion,
    fails,
    user,
)
from tests.server.conformance.engine import WRONG_KEY, Engine
from tests.server.conformance.outcomes import Outcome

BAD = ("BadRequestError", 400)
TEXT = "今天天气👩‍👩‍👧‍👦"


def check_completion(outcomes: Sequence[Outcome], engine: Engine) -> None:
    whole, stream = outcomes
    assert whole.choice.text
    assert stream.choice.text == whole.choice.text
    assert stream.choice.finish_reason == whole.choice.finish_reason
    assert stream.num_chunks > 1
    check_usage(whole)
    for name in ("prompt_tokens", "completion_tokens"):
        assert stream.usage[name] == whole.usage[name]
    assert whole.models == [engine.model]


def check_echo(outcomes: Sequence[Outcome], _: Engine) -> None:
    bare, *echoed = outcomes
    for outcome in echoed:
        assert outcome.choice.text == TEXT + bare.choice.text


def check_text_logprobs(outcomes: Sequence[Outcome], _: Engine) -> None:
    whole, stream = (outcome.choice for outcome in outcomes)
    (told,) = whole.text_logprobs
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["top_logprobs"]) == 5
    assert "".join(told["tokens"]) == whole.text
    assert told["text_offset"] == [sum(map(len, told["tokens"][:place])) for place in range(5)]
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
        assert logprob <= 0
        assert len(top) == 2
        assert top[token] == max(top.values()) == logprob
    assert [token for part in stream.text_logprobs for token in part["tokens"]] == told["tokens"]


def check_each(outcomes: Sequence[Outcome], _: Engine) -> None:
    """Two prompts in one request give what each of them gives alone."""
    *alone, together = outcomes
    assert [choice.text for choice in together.choices] == [outcome.choice.text for outcome in alone]
    for name in ("prompt_tokens", "completion_tokens"):
        assert together.usage[name] == sum(outcome.usage[name] for outcome in alone)


def check_listed(outcomes: Sequence[Outcome], engine: Engine) -> None:
    assert engine.model in outcomes[0].models


def check_single(outcomes: Sequence[Outcome], engine: Engine) -> None:
    single, unknown = outcomes
    assert single.models == [engine.model]
    check_failure(unknown, engine, "NotFoundError", 404, code="model_not_found")


def check_full(outcomes: Sequence[Outcome], engine: Engine) -> None:
    refused, stream, after = outcomes
    for outcome in (refused, stream):
        check_failure(outcome, engine, "RateLimitError", 429, code="queue_full")
        assert int(outcome.failure.retry_after) > 0
    assert after.choice.text


def refused(
    field: str,
    value: object,
    param: str | None = None,
    *,
    clients: tuple[str, ...] = OPENAI_CLIENTS,
    feature: str = "validation",
) -> Case:
    """A chat whose field has a value that it must not have."""
    return Case(
        name=f"wrong {param or field}",
        features=(feature,),
        calls=(Call(body=chat(**{field: value})), Call(body=chat(**{field: value}), stream=True)),
        check=fails(*BAD, code=INVALID, param=param or field),
        clients=clients,
    )


def unsupported(name: str, param: str, **fields: object) -> Case:
    """A continuation that our server refuses rather than give something else."""
    return Case(
        name=name,
        features=("completions", "refusals"),
        calls=(Call(route="completions", body=completion(**fields)),),
        check=fails(*BAD, code="unsupported_parameter", param=param),
        clients=OPENAI_CLIENTS,
    )


def each(name: str, first: object, second: object) -> Case:
    """Two prompts in one request."""
    return Case(
        name=name,
        features=("completions",),
        calls=tuple(Call(route="completions", body=completion(prompt)) for prompt in (first, second, [first, second])),
        check=check_each,
        clients=OPENAI_CLIENTS,
    )


WITH_USAGE = {"stream_options": {"include_usage": True}}

COMPLETION_CASES = [
    Case(
        name="completion",
        features=("completions",),
        calls=(
            Call(route="completions", body=completion()),
            Call(route="completions", body=completion(**WITH_USAGE), stream=True),
        ),
        check=check_completion,
        clients=OPENAI_CLIENTS,
    ),
    Case(
        name="echo",
        features=("completions",),
        calls=(
            Call(route="completions", body=completion(TEXT)),
            Call(route="completions", body=completion(TEXT, echo=True)),
            Call(route="completions", body=completion(TEXT, echo=True), stream=True),
        ),
        check=check_echo,
        clients=OPENAI_CLIENTS,
    ),
    Case(
        name="completion logprobs",
        features=("completions_logprobs",),
        calls=(
            Call(route="completions", body=completion(logprobs=2, max_tokens=5)),
            Call(route="completions", body=completion(logprobs=2, max_tokens=5), stream=True),
        ),
        check=check_text_logprobs,
        clients=OPENAI_CLIENTS,
    ),
    each("several prompts", "床前", "今天天气"),
    each("token ids", [2000, 2001], [2002]),
    unsupported("suffix", "suffix", suffix="。"),
    unsupported("best_of", "best_of", best_of=3),
    unsupported("echo with logprobs", "logprobs", echo=True, logprobs=1),
    Case(
        name="models",
        features=("models",),
        calls=(Call(route="models", body={}),),
        check=check_listed,
        clients=OPENAI_CLIENTS,
    ),
    Case(
        name="one model",
        features=("model",),
        calls=(Call(route="model", body={}), Call(route="model", body={}, model="nobody")),
        check=check_single,
        clients=OPENAI_CLIENTS,
    ),
]

REFUSAL_CASES = [
    Case(
        name="wrong key",
        features=("keys",),
        calls=(Call(body=chat(), key=WRONG_KEY), Call(body=chat(), key=WRONG_KEY, stream=True)),
        check=fails("AuthenticationError", 401, code="invalid_api_key"),
    ),
    Case(
        name="full queue",
        features=("queue", "cancel", "ignore_eos"),
        calls=(
            Call(body=chat(), on_full_queue=True),
            Call(body=chat(), stream=True, on_full_queue=True),
            Call(body=chat()),
        ),
        check=check_full,
    ),
    Case(
        name="wrong model",
        features=("chat",),
        calls=(Call(body=chat(), model="nobody"), Call(body=chat(), model="nobody", stream=True)),
        check=fails("NotFoundError", 404, code="model_not_found", param="model"),
    ),
    Case(
        name="context",
        features=("context",),
        calls=(Call(body=chat("字" * 3000)), Call(body=chat("字" * 3000), stream=True)),
        check=fails(*BAD, code="context_length_exceeded", param="messages"),
    ),
    Case(
        name="context of a completion",
        features=("context", "completions"),
        calls=(Call(route="completions", body=completion("字" * 3000)),),
        check=fails(*BAD, code="context_length_exceeded", param="prompt"),
        clients=OPENAI_CLIENTS,
    ),
    refused("temperature", -1, clients=CLIENTS),
    refused("top_p", 5, clients=CLIENTS),
    refused("max_tokens", "many"),
    refused("n", 0),
    refused("messages", []),
    refused("messages", [{"role": "nobody", "content": "你好"}], "messages[0].role"),
    refused("messages", [user("你好"), {"role": "user", "content": 5}], "messages[1].content"),
    refused("response_format", {"type": "poem"}, "response_format.type"),
    refused("logit_bias", {"x": 1}),
    refused("stop", ["a", "b", "c", "d", "e"]),
    refused(
        "tools", [{"type": "function", "function": {"name": "no name"}}], "tools[0].function.name", feature="tool_names"
    ),
]
