"""GET /metrics: numbers that add up to what was asked; and one line for each request in the log."""

import logging
import re

import pytest

from baichuan2.server.escaping import escaped
from tests.server.apps import asking

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}


def numbers(client) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


@pytest.fixture
def fresh(demo):
    with asking(demo) as client:
        yield client


def test_requests_tokens_and_times(fresh):
    usage = fresh.post(CHAT, json=BODY).json()["usage"]
    fresh.post(CHAT, json=BODY | {"stream": True, "n": 2})
    fresh.post(CHAT, json=BODY | {"n": 0})
    fresh.get("/v1/models/none")
    for number in range(20):
        fresh.get(f"/path/{number}")
    found = numbers(fresh)
    requests = 'baichuan2_requests_total{method="%s",route="%s",status="%s"}'
    assert found[requests % ("POST", CHAT, 200)] == 2
    assert found[requests % ("POST", CHAT, 400)] == 1
    assert found[requests % ("GET", "/v1/models/{name}", 404)] == 1
    assert found[requests % ("GET", "other", 404)] == 20  # one row, whatever paths there are
    assert found["baichuan2_generated_tokens_total"] == 12
    assert found["baichuan2_prompt_tokens_total"] == 3 * usage["prompt_tokens"]
    assert found["baichuan2_reused_prompt_tokens_total"] <= found["baichuan2_prompt_tokens_total"]
    assert found["baichuan2_time_to_first_token_seconds_count"] == 2
    assert found["baichuan2_time_per_output_token_seconds_count"] == 2
    assert (
        0
        < found["baichuan2_time_per_output_token_seconds_sum"]
        < found[f'baichuan2_request_seconds_sum{{route="{CHAT}"}}']
    )
    assert found["baichuan2_engine_alive"] == 1
    assert found["baichuan2_requests_running"] == found["baichuan2_requests_waiting"] == 0
    assert found["baichuan2_cache_capacity_tokens"] >= 512


def test_failures_are_counted_by_their_kind(fresh):
    fresh.service.scheduler.close()
    fresh.post(CHAT, json=BODY)
    assert numbers(fresh)["baichuan2_engine_alive"] == 0


def test_every_request_makes_one_line_without_text(fresh, caplog):
    caplog.set_level(logging.INFO, "baichuan2.server")
    reply = fresh.post(CHAT, json=BODY)
    text = reply.json()["choices"][0]["message"]["content"]
    fresh.get("/a%0Ab?key=secret")
    first, second = (record.getMessage() for record in caplog.records)
    request_id = reply.headers["x-request-id"]
    assert re.fullmatch(rf"{request_id} POST {CHAT} 200 \d+ ms, 3 \+ 4 tokens", first)
    assert re.fullmatch(r"req_\w+ GET /a\\nb 404 \d+ ms", second)
    assert text not in caplog.text


def test_an_error_inside_is_logged_with_its_cause_and_told_without(fresh, caplog, monkeypatch):
    monkeypatch.setattr(fresh.service, "plan_chat", lambda body: 1 // 0)
    answer = fresh.post(CHAT, json=BODY)
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "message": "the request failed inside the server",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/v1/你好", "/v1/你好"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[31m\x07\x7f\x9b", r"\x1b[31m\x07\x7f\x9b"),
        ("\u2028\u202e\ud800", r"\u2028\u202e\ud800"),
        ("x" * 300, "x" * 200 + "..."),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert escaped(text) == shown
