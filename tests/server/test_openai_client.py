"""The official client against a running server."""

import openai
import pytest


@pytest.fixture(scope="module")
def client(running_server):
    with openai.OpenAI(base_url=f"{running_server}/v1", api_key="none", max_retries=0) as client:
        yield client


QUESTION = [{"role": "user", "content": "你好"}]


def test_a_reply(client):
    reply = client.chat.completions.create(model="demo-chat", messages=QUESTION)
    choice = reply.choices[0]
    assert reply.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert "百川" in choice.message.content
    assert choice.finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_says_the_same(client):
    whole = client.chat.completions.create(model="demo-chat", messages=QUESTION)
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="demo-chat", messages=QUESTION, stream=True, stream_options=options)
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    *parts, last = chunks
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert [part.choices[0].finish_reason for part in parts if part.choices[0].finish_reason] == ["stop"]
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens
