"""Conversations: what is said, how it is streamed, which form it has."""

import json
from collections.abc import Sequence
from typing import Any

from tests.server.conformance.cases import OPENAI_CLIENTS, Call, Case, chat, check_usage, user
from tests.server.conformance.engine import Engine
from tests.server.conformance.outcomes import Choice, Outcome

STORY = "讲一个故事"
EMOJI = "👩‍👩‍👧‍👦 𝔘𝔫𝔦 e\u0301 \u202eabc 龘"
LONG_REPLY = 250
TRIP = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["北京", "上海"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "天气", "parameters": TRIP}}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": NOTHING}}
TOOLS = [WEATHER, CLOCK]
NAMED_CLOCK = {"type": "function", "function": {"name": "get_time"}}
CALL_TOKENS = 140


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """A `response_format` of that schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def tools(choice: object, **fields: Any) -> dict[str, Any]:
    """A chat that offers two functions."""
    return chat("北京天气怎么样？", tools=TOOLS, tool_choice=choice, max_tokens=CALL_TOKENS, **fields)


def check_plain(outcomes: Sequence[Outcome], engine: Engine) -> None:
    (outcome,) = outcomes
    assert outcome.choice.text
    assert outcome.choice.finish_reason in ("stop", "length")
    assert outcome.roles == ["assistant"]
    assert outcome.models == [engine.model]
    assert all(outcome.ids)
    check_usage(outcome)


def check_same_in_chunks(outcomes: Sequence[Outcome], _: Engine) -> None:
    whole, stream = outcomes
    assert stream.choice.text == whole.choice.text
    assert stream.choice.finish_reason == whole.choice.finish_reason
    assert stream.num_chunks > 2
    assert len(stream.ids) == 1
    assert stream.roles == ["assistant"]
    assert stream.models == whole.models


def check_no_usage(outcomes: Sequence[Outcome], engine: Engine) -> None:
    check_same_in_chunks(outcomes, engine)
    assert outcomes[1].usage is None


def check_usage_last(outcomes: Sequence[Outcome], engine: Engine) -> None:
    check_same_in_chunks(outcomes, engine)
    check_usage(outcomes[1])
    for name in ("prompt_tokens", "completion_tokens"):
        assert outcomes[1].usage[name] == outcomes[0].usage[name]


def check_length(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        assert outcome.usage["completion_tokens"] == 5
        assert outcome.choice.finish_reason == "length"


def check_calls(choice: Choice) -> None:
    """Each call is one of the functions offered, with arguments that fit."""
    assert choice.calls
    assert len({call["id"] for call in choice.calls}) == len(choice.calls)
    for call in choice.calls:
        arguments = json.loads(call["arguments"])
        if call["name"] == "get_weather":
            check_trip(arguments)
        else:
            assert (call["name"], arguments) == ("get_time", {})


def check_trip(value: Any) -> None:
    assert set(value) == {"city", "days"}
    assert value["city"] in ("北京", "上海")
    assert value["days"] in range(1, 8)


def check_required(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        check_calls(outcome.choice)
        assert outcome.choice.finish_reason == "tool_calls"
        assert not outcome.choice.text
        assert len(outcome.choice.calls) == 1
    named = [[(call["name"], call["arguments"]) for call in outcome.choice.calls] for outcome in outcomes]
    assert all(calls == named[0] for calls in named)


def check_several(outcomes: Sequence[Outcome], _: Engine) -> None:
    check_calls(outcomes[0].choice)
    assert outcomes[0].choice.finish_reason in ("tool_calls", "length")


def check_named(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        check_calls(outcome.choice)
        assert {call["name"] for call in outcome.choice.calls} == {"get_time"}
        assert outcome.choice.finish_reason in ("tool_calls", "stop")  # OpenAI's own service says stop here


def check_auto(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        choice = outcome.choice
        if choice.finish_reason == "tool_calls":
            check_calls(choice)
        else:
            assert choice.text
            assert not choice.calls or choice.finish_reason == "length"


def check_no_calls(outcomes: Sequence[Outcome], _: Engine) -> None:
    assert outcomes[0].choice.text
    assert not outcomes[0].choice.calls


def check_told(outcomes: Sequence[Outcome], _: Engine) -> None:
    """More is read with the functions' results than without."""
    assert outcomes[1].usage["prompt_tokens"] > outcomes[0].usage["prompt_tokens"]
    assert outcomes[1].choice.text


def check_object(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        text = outcome.choice.text
        assert text.lstrip().startswith("{")
        if outcome.choice.finish_reason == "stop":  # small models are seldom brief
            assert isinstance(json.loads(text), dict)


def check_schema(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        assert outcome.choice.finish_reason == "stop"
        check_trip(json.loads(outcome.choice.text))
    assert len({outcome.choice.text for outcome in outcomes}) == 1


def check_emoji(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        assert json.loads(outcome.choice.text) == EMOJI


def check_choice(outcomes: Sequence[Outcome], _: Engine) -> None:
    assert [outcome.choice.text for outcome in outcomes] == ["绿", "2026-11"]


def check_logprobs(outcomes: Sequence[Outcome], _: Engine) -> None:
    whole, stream = (outcome.choice for outcome in outcomes)
    assert len(whole.logprobs) == 6
    for token in whole.logprobs:
        assert token["logprob"] <= 0
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert len(tops) == 3
        assert tops == sorted(tops, reverse=True)
        assert token["top_logprobs"][0]["token"] == token["token"]  # the most likely one was taken
        assert bytes(token["bytes"]).decode("utf-8", "replace") == token["token"]
    assert b"".join(bytes(token["bytes"]) for token in whole.logprobs).decode() == whole.text
    assert [token["token"] for token in stream.logprobs] == [token["token"] for token in whole.logprobs]


def check_stopped(outcomes: Sequence[Outcome], _: Engine) -> None:
    free, *stopped = outcomes
    stop = stop_of(free)
    for outcome in stopped:
        assert outcome.choice.text == free.choice.text.partition(stop)[0]
        assert outcome.choice.finish_reason == "stop"


def stop_of(free: Outcome) -> str:
    """Two characters out of a reply, which may well be of two tokens."""
    return free.choice.text[4:6]


def check_three(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        assert len(outcome.choices) == 3
        assert all(choice.text and choice.finish_reason in ("stop", "length") for choice in outcome.choices)
        assert len({choice.text for choice in outcome.choices}) > 1
        assert outcome.usage["completion_tokens"] > 3
        assert len(outcome.ids) == 1


def check_seeds(outcomes: Sequence[Outcome], _: Engine) -> None:
    first, again, *others = (outcome.choice.text for outcome in outcomes)
    assert first == again
    assert any(other != first for other in others)


def check_system(outcomes: Sequence[Outcome], _: Engine) -> None:
    """What stands in front is read, whichever of the two roles it has."""
    without, *told = outcomes
    assert all(outcome.choice.text for outcome in told)
    counts = {outcome.usage["prompt_tokens"] for outcome in told}
    assert len(counts) == 1
    assert counts.pop() > without.usage["prompt_tokens"]


def check_answered(outcomes: Sequence[Outcome], _: Engine) -> None:
    for outcome in outcomes:
        assert outcome.choice.text
        check_usage(outcome)


def check_same(outcomes: Sequence[Outcome], _: Engine) -> None:
    assert len({outcome.choice.text for outcome in outcomes}) == 1
    assert len({outcome.usage["prompt_tokens"] for outcome in outcomes}) == 1


def check_long(outcomes: Sequence[Outcome], _: Engine) -> None:
    (stream,) = outcomes
    assert stream.choice.finish_reason == "length"
    assert stream.usage["completion_tokens"] == LONG_REPLY
    assert len(stream.choice.text) > 100
    assert "\ufffd" not in stream.choice.text


def check_left(outcomes: Sequence[Outcome], _: Engine) -> None:
    left, after = outcomes  # that its place was free in time is measured when it leaves
    assert left.num_chunks == 3
    assert not left.choice.finish_reasons
    assert after.choice.text


def stopping(as_list: bool, *, stream: bool) -> Call:
    """The story again, up to what `stop_of` says."""

    def body(outcomes: Sequence[Outcome]) -> dict[str, Any]:
        stop = stop_of(outcomes[0])
        return chat(STORY, stop=["@@@@", stop] if as_list else stop)

    return Call(body=body, stream=stream)


ONE_CALL = {"parallel_tool_calls": False}
WITH_USAGE = {"stream_options": {"include_usage": True}}
PARTS = [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]
BEFORE = chat("北京天气怎么样？", tools=[CLOCK], max_tokens=16)
RESULTS = [
    user("北京天气怎么样？"),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
]
SYSTEM = "你是一个诗人。"
SAMPLED = {"temperature": 1.2, "max_tokens": 16}
LONG = chat(STORY, max_tokens=LONG_REPLY, ignore_eos=True)

CHAT_CASES = [
    Case(name="plain", features=("chat",), calls=(Call(body=chat()),), check=check_plain),
    Case(
        name="stream",
        features=("chat",),
        calls=(Call(body=chat()), Call(body=chat(), stream=True)),
        check=check_no_usage,
    ),
    Case(
        name="stream with usage",
        features=("chat",),
        calls=(Call(body=chat()), Call(body=chat(**WITH_USAGE), stream=True)),
        check=check_usage_last,
    ),
    Case(
        name="length",
        features=("chat", "ignore_eos"),
        calls=(
            Call(body=chat(max_tokens=5, ignore_eos=True)),
            Call(body={"messages": [user("你好")], "max_completion_tokens": 5, "ignore_eos": True}),
        ),
        check=check_length,
    ),
    Case(
        name="tools required",
        features=("tools",),
        calls=(Call(body=tools("required", **ONE_CALL)), Call(body=tools("required", **ONE_CALL), stream=True)),
        check=check_required,
    ),
    Case(
        name="tools several times",
        features=("tools",),
        calls=(Call(body=tools("required")),),
        check=check_several,
    ),
    Case(
        name="tools named",
        features=("tools",),
        calls=(Call(body=tools(NAMED_CLOCK)), Call(body=tools(NAMED_CLOCK), stream=True)),
        check=check_named,
    ),
    Case(
        name="tools auto",
        features=("tools_auto",),
        calls=(Call(body=tools("auto")), Call(body=tools("auto"), stream=True)),
        check=check_auto,
    ),
    Case(name="tools none", features=("chat",), calls=(Call(body=tools("none")),), check=check_no_calls),
    Case(
        name="tool results",
        features=("tools_auto",),
        calls=(Call(body=BEFORE), Call(body=BEFORE | {"messages": RESULTS})),
        check=check_told,
    ),
    Case(
        name="JSON object",
        features=("json_object",),
        calls=(
            Call(body=chat(response_format={"type": "json_object"}, max_tokens=40)),
            Call(body=chat(response_format={"type": "json_object"}, max_tokens=40), stream=True),
        ),
        check=check_object,
        clients=OPENAI_CLIENTS,  # LangChain's raises where the object is cut off
    ),
    Case(
        name="JSON schema",
        features=("json_schema",),
        calls=(
            Call(body=chat(response_format=form(TRIP), max_tokens=200)),
            Call(body=chat(response_format=form(TRIP), max_tokens=200), stream=True),
        ),
        check=check_schema,
    ),
    Case(
        name="emoji in chunks",
        features=("json_schema",),
        calls=(
            Call(body=chat(EMOJI, response_format=form({"enum": [EMOJI]}), max_tokens=200)),
            Call(body=chat(EMOJI, response_format=form({"enum": [EMOJI]}), max_tokens=200), stream=True),
        ),
        check=check_emoji,
    ),
    Case(
        name="choice and expression",
        features=("guided",),
        calls=(
            Call(body=chat(guided_choice=["绿"])),
            Call(body=chat(guided_regex="2026-11")),
        ),
        check=check_choice,
    ),
    Case(
        name="logprobs",
        features=("logprobs",),
        calls=(
            Call(body=chat(STORY, logprobs=True, top_logprobs=3, max_tokens=6)),
            Call(body=chat(STORY, logprobs=True, top_logprobs=3, max_tokens=6), stream=True),
        ),
        check=check_logprobs,
    ),
    Case(
        name="stop strings",
        features=("chat",),
        calls=(
            Call(body=chat(STORY)),
            stopping(False, stream=False),
            stopping(True, stream=False),
            stopping(False, stream=True),
        ),
        check=check_stopped,
    ),
    Case(
        name="three replies",
        features=("chat",),
        calls=(
            Call(body=chat(STORY, n=3, seed=7, **SAMPLED)),
            Call(body=chat(STORY, n=3, seed=7, **SAMPLED, **WITH_USAGE), stream=True),
        ),
        check=check_three,
        clients=OPENAI_CLIENTS,  # LangChain's joins the streams of several replies to one
    ),
    Case(
        name="seeds",
        features=("chat",),
        calls=tuple(Call(body=chat(STORY, seed=seed, **SAMPLED)) for seed in (11, 11, 12, 13, 14)),
        check=check_seeds,
    ),
    Case(
        name="system",
        features=("chat",),
        calls=(
            Call(body=chat()),
            Call(body=chat(messages=[{"role": "system", "content": SYSTEM}, user("你好")])),
        ),
        check=check_system,
    ),
    Case(
        name="developer",
        features=("developer",),
        calls=(
            Call(body=chat()),
            Call(body=chat(messages=[{"role": "system", "content": SYSTEM}, user("你好")])),
            Call(body=chat(messages=[{"role": "developer", "content": SYSTEM}, user("你好")])),
        ),
        check=check_system,
    ),
    Case(
        name="several turns",
        features=("chat",),
        calls=(Call(body=chat(messages=[user("你好"), {"role": "assistant", "content": "你好！"}, user("再见")])),),
        check=check_answered,
    ),
    Case(
        name="empty and odd texts",
        features=("chat",),
        calls=tuple(Call(body=chat(text)) for text in ("", " ", EMOJI, "\u0000\u0007\r\n\t", "<reserved_106>")),
        check=check_answered,
    ),
    Case(
        name="content in parts",
        features=("parts",),
        calls=(Call(body=chat()), Call(body=chat(messages=[{"role": "user", "content": PARTS}]))),
        check=check_same,
    ),
    Case(
        name="long stream",
        features=("chat", "ignore_eos"),
        calls=(Call(body=LONG | WITH_USAGE, stream=True),),
        check=check_long,
    ),
    Case(
        name="cancel",
        features=("cancel", "ignore_eos"),
        calls=(Call(body=LONG | {"max_tokens": 480}, stream=True, leave_after=3), Call(body=chat())),
        check=check_left,
    ),
]
