"""Replies of a fixed length, as load tests ask for them."""

import httpx
import pytest

QUESTION = [{"role": "user", "content": "你好"}]


def ask(url, **fields):
    body = {"messages": QUESTION, "temperature": 0, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()


@pytest.mark.parametrize("ignore_eos", [False, None])
def test_a_reply_ends_where_its_text_does(running_server, ignore_eos):
    reply = ask(running_server, max_tokens=150, ignore_eos=ignore_eos)
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_a_reply_that_ignores_its_end_has_the_length_that_was_asked_for(running_server):
    short = ask(running_server, max_tokens=150)
    reply = ask(running_server, max_tokens=150, ignore_eos=True)
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 150 > short["usage"]["completion_tokens"]
    assert reply["choices"][0]["message"]["content"].startswith(short["choices"][0]["message"]["content"])
