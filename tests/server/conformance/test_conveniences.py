"""What the official clients offer beyond plain calls: replies as objects, streams that are put together, retries."""

import json
import subprocess
from typing import Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from tests.server.conformance.chat_cases import TOOLS, TRIP, check_trip, form
from tests.server.conformance.drivers import NODE_DIR, missing_for_node

QUESTION = [{"role": "user", "content": "你好"}]
NODE_PROGRAM = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[1], apiKey: process.argv[2], maxRetries: 0 });
const { model, form, messages } = JSON.parse(process.argv[3]);
const body = { model, messages, temperature: 0, max_tokens: 200, response_format: form };
const events = [];
const runner = client.chat.completions.stream(body);
runner.on("content.delta", ({ delta }) => events.push(delta));
const final = await runner.finalChatCompletion();
const parsed = await client.chat.completions.parse(body);
console.log(JSON.stringify({
  text: events.join(""),
  final: final.choices[0].message.content,
  parsed: parsed.choices[0].message.content,
  usage: (await runner.totalUsage()).total_tokens,
}));
"""


class Trip(BaseModel):
    """A journey."""

    city: Literal["北京", "上海"]
    days: int = Field(ge=1, le=7)


@pytest.fixture(scope="module")
def client(engine):
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key=engine.key, max_retries=0) as made:
        yield made


def needs(engine, feature: str) -> None:
    if not engine.has(feature):
        pytest.skip(f"{feature}: {engine.lacking[feature]}")


def test_a_reply_becomes_an_object(client, engine):
    needs(engine, "json_schema")
    reply = client.chat.completions.parse(
        model=engine.model, messages=QUESTION, response_format=Trip, temperature=0, max_tokens=200
    )
    trip = reply.choices[0].message.parsed
    assert isinstance(trip, Trip)
    with client.chat.completions.stream(
        model=engine.model, messages=QUESTION, response_format=Trip, temperature=0, max_tokens=200
    ) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_completion().choices[0].message.parsed == trip
    assert "content.delta" in kinds
    assert kinds[-1] == "content.done"


def test_a_stream_of_calls_is_put_together(client, engine):
    needs(engine, "tools")
    with client.chat.completions.stream(
        model=engine.model,
        messages=QUESTION,
        tools=TOOLS[:1],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=140,
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    check_trip(json.loads(message.tool_calls[0].function.arguments))
    assert "tool_calls.function.arguments.done" in [event.type for event in events]


def test_raw_answers_bear_the_name_of_the_request(client, engine):
    needs(engine, "request_id")
    answer = client.chat.completions.with_raw_response.create(model=engine.model, messages=QUESTION, max_tokens=1)
    assert answer.headers["x-request-id"]
    assert answer.parse().choices
    assert client.models.list()._request_id != answer.headers["x-request-id"]


def test_a_client_that_waits_too_short_frees_its_place(client, engine):
    needs(engine, "cancel")
    needs(engine, "ignore_eos")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=httpx.Timeout(0.3)).chat.completions.create(
            model=engine.model, messages=QUESTION, temperature=1, max_tokens=480, n=8, extra_body={"ignore_eos": True}
        )
    assert engine.seconds_until(0) < 1


def test_the_javascript_client_puts_a_stream_together(engine):
    needs(engine, "json_schema")
    if reason := missing_for_node():
        pytest.skip(reason)
    told = {"model": engine.model, "form": form(TRIP), "messages": QUESTION}
    command = ["node", "--input-type=module", "-e", NODE_PROGRAM, f"{engine.url}/v1", engine.key, json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=NODE_DIR, timeout=60)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    check_trip(json.loads(result["final"]))
    assert result["text"] == result["final"] == result["parsed"]
