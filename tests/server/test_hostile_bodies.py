"""Bodies that no client of good manners sends, to a server process: each is answered soon, and rightly."""

import json
import threading
import time
from typing import Any

import httpx
import pytest

from tests.server.raw_http import CHAT

SECONDS = 15.0  # for any of them, on a busy machine
PING_SECONDS = 3.0  # for others, meanwhile
COMPLETIONS = "/v1/completions"
USER = '[{"role": "user", "content": "你好"}]'
DEEP = 100_000
INVALID, NO_JSON, TOO_LONG = "invalid_value", "invalid_json", "context_length_exceeded"
BIG = "x" * 3_900_000  # below the limit for bodies
SURROGATE = r"\ud800"
BOMB = "((a{1,1000}){1,1000}){1,1000}"
PATTERNS = [{"anyOf": [{"properties": {f"p{place}": {"const": value}}} for value in range(3)]} for place in range(20)]
LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}


def chat(fields: str, messages: str = USER) -> str:
    """A chat with more fields, each as it is to be sent."""
    return f'{{"messages": {messages}, "max_tokens": 2, {fields}}}'


def said(content: str) -> str:
    """A chat whose content is sent as it is written here."""
    return f'{{"messages": [{{"role": "user", "content": {content}}}], "max_tokens": 2}}'


def field(name: str, value: Any) -> str:
    """A chat with one more field."""
    return chat(f'"{name}": {json.dumps(value)}')


def nested(depth: int, inner: str = "1") -> str:
    return "[" * depth + inner + "]" * depth


def brief(value: object) -> str:
    """What tells one body from the others, for the name of a test."""
    text = str(value)
    return text.removeprefix(chat("")[:-1])[:40]


@pytest.fixture(scope="module")
def client(running_server):
    with httpx.Client(base_url=running_server, timeout=60) as made:
        yield made


@pytest.fixture(autouse=True)
def check_it_is_well(client):
    """After each test an ordinary request is answered."""
    yield
    assert client.post(CHAT, json={"messages": json.loads(USER), "max_tokens": 1}).status_code == 200


def check(client, body: str | bytes, status: int, code: str | None, param: str | None, path: str = CHAT) -> None:
    """The answer to `body` is an error object with these words, or good for status 200; and it came soon."""
    raw = body if isinstance(body, bytes) else body.encode()
    started = time.monotonic()
    answer = client.post(path, content=raw, headers={"content-type": "application/json"})
    assert time.monotonic() - started < SECONDS
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.text) < 5_000
    if status == 200:
        assert answer.json()["choices"]
    else:
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, param), error


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ("[" * DEEP, NO_JSON, None),
        (nested(DEEP), NO_JSON, None),
        (chat(f'"x": {nested(DEEP)}'), NO_JSON, None),
        (said(nested(900)), INVALID, "messages[0].content[0]"),
        (chat('"guided_json": ' + '{"properties":{"a":' * 200 + "{}" + "}}" * 200), INVALID, "guided_json"),
        (chat('"guided_json": ' + '{"properties":{"a":' * DEEP), NO_JSON, None),
        ('{"a":' * DEEP, NO_JSON, None),
        ("", INVALID, None),
        ("null", INVALID, None),
        ("[]", INVALID, None),
        ('"text"', INVALID, None),
        ("{}", "missing_required_parameter", "messages"),
        ("{", NO_JSON, None),
        (chat('"n": 1') + "x", NO_JSON, None),
        (b'{"messages": "\xff\xfe"}', NO_JSON, None),
        (said('"\x01"'), NO_JSON, None),
    ],
    ids=brief,
)
def test_broken_and_deep_json(client, body, code, param):
    check(client, body, 400, code, param)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "true", '"1"', "[]"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "seed", "max_tokens", "n", "top_k", "presence_penalty"])
def test_numbers_that_are_none(client, name, number):
    check(client, f'{{"messages": {USER}, "{name}": {number}}}', 400, INVALID, name)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ('"seed": ' + "9" * 400, 400, INVALID, "seed"),
        ('"seed": ' + "9" * 5_000, 400, NO_JSON, None),
        ('"temperature": 0.' + "1" * 5_000, 200, None, None),
        ('"logit_bias": {"5": 1e999}', 400, INVALID, "logit_bias.5"),
        ('"logit_bias": {"99999999999999999999": 1}', 400, INVALID, "logit_bias"),
        ('"logit_bias": {"٣": 1}', 400, INVALID, "logit_bias"),
        ('"guided_json": {"maximum": 1e999, "type": "number"}', 400, INVALID, "guided_json"),
        ('"guided_json": {"const": NaN}', 400, INVALID, "guided_json"),
        ('"temperature": 0, "temperature": -1', 400, INVALID, "temperature"),
        ('"temperature": -1, "temperature": 0', 200, None, None),
        (f'"messages": [], "messages": {USER}', 200, None, None),
        ('"model": "demo-chat", "model": "other"', 404, "model_not_found", "model"),
    ],
    ids=brief,
)
def test_odd_numbers_and_fields_that_are_sent_twice(client, fields, status, code, param):
    check(client, chat(fields), status, code, param)  # of two the last one counts


@pytest.mark.parametrize(
    "body",
    [
        said(f'"a{SURROGATE}b"'),
        said(f'[{{"type": "text", "text": "{SURROGATE}"}}]'),
        said('"\\udc00\\ud800"'),
        said('"a"').replace('"user"', f'"{SURROGATE}"'),
        chat(f'"stop": "{SURROGATE}"'),
        chat(f'"stop": ["a", "{SURROGATE}"]'),
        chat(f'"{SURROGATE}": 1'),
        chat(f'"user": "{SURROGATE}"'),
        chat(f'"n": "{SURROGATE}"'),
        chat(f'"logit_bias": {{"{SURROGATE}": 1}}'),
        chat(f'"guided_choice": ["{SURROGATE}"]'),
        chat(f'"guided_regex": "{SURROGATE}"'),
        chat(f'"guided_json": {{"const": "{SURROGATE}"}}'),
        chat(f'"guided_json": {{"properties": {{"{SURROGATE}": {{}}}}}}'),
        b'{"messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
    ],
)
def test_halves_of_characters(client, body):
    raw = body if isinstance(body, bytes) else body.encode()
    answer = client.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == INVALID


def test_whole_pairs_are_characters(client):
    check(client, said(r'"\ud83d\ude00"'), 200, None, None)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (said(json.dumps("x" * 5_000_000)), 413, "request_too_large", None),
        (said(json.dumps(BIG)), 400, TOO_LONG, "messages"),
        (said(json.dumps([{"type": "text", "text": "a"}] * 50_000)), 400, TOO_LONG, "messages"),
        (field("user", BIG), 200, None, None),
        (field("unknown", BIG), 200, None, None),
        (field("model", BIG), 404, "model_not_found", "model"),
        (field("stop", BIG), 400, INVALID, "stop"),
        (field("logit_bias", {str(token_id): 1.5 for token_id in range(100_000)}), 400, INVALID, "logit_bias"),
        (field("tools", [{"type": "function", "function": {"name": "f"}}] * 20_000), 400, INVALID, "tools"),
        (field("guided_regex", BIG), 400, INVALID, "guided_regex"),
        (field("guided_regex", "(" * 50_000 + ")" * 50_000), 400, INVALID, "guided_regex"),
        (field("guided_choice", [BIG]), 400, INVALID, "guided_choice"),
        (field("guided_json", {"enum": [str(value) for value in range(100_000)]}), 400, INVALID, "guided_json"),
        (field("guided_json", {"allOf": PATTERNS}), 400, INVALID, "guided_json"),
    ],
    ids=brief,
)
def test_large_values(client, body, status, code, param):
    check(client, body, status, code, param)


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("guided_regex", BOMB, 200),
        ("guided_regex", "a{1,100000000}", 200),
        ("guided_regex", "(x+x+)+y", 200),
        ("guided_regex", "(a|b)*a(a|b){30}", 200),
        ("guided_regex", "([", 400),
        ("guided_json", {"type": "string", "pattern": f"^{BOMB}$"}, 200),
        ("guided_json", {"type": "string", "minLength": 100_000_000}, 200),
        ("guided_json", {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000}, 200),
        ("guided_json", {"type": "number", "multipleOf": 1e-300}, 400),
        ("guided_json", {"$ref": "#"}, 400),
        ("guided_json", LOOP, 400),
        ("guided_json", {"$ref": "file:///etc/passwd"}, 400),
        ("guided_json", {"$ref": "http://127.0.0.1:1/schema"}, 400),
        ("guided_json", {"type": "string", "enum": [1]}, 400),
    ],
    ids=brief,
)
def test_forms_that_are_dear_or_impossible(client, name, value, status):
    check(client, field(name, value), status, INVALID, name)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("application/xml", 415),
        ("application/jsonx", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        (None, 415),
        ("APPLICATION/JSON", 200),
        ("application/json; charset=utf-8", 200),
    ],
)
def test_kinds_of_content(client, kind, status):
    headers = {} if kind is None else {"content-type": kind}
    assert client.post(CHAT, content=chat('"n": 1').encode(), headers=headers).status_code == status


class Pinger(threading.Thread):
    """Another client, which asks again and again how the server is, and notes how long the longest answer took."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url, self._is_over = url, threading.Event()
        self.longest = 0.0

    def run(self) -> None:
        with httpx.Client(timeout=120) as client:
            while not self._is_over.wait(0.02):
                started = time.monotonic()
                client.get(f"{self._url}/health")
                self.longest = max(self.longest, time.monotonic() - started)

    def __enter__(self) -> "Pinger":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self.join()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [5] * 300_000}),
        (CHAT, {"messages": [{"role": "user", "content": [5] * 300_000}]}),
        (COMPLETIONS, {"prompt": [[5]] * 300_000}),
        (COMPLETIONS, {"prompt": ["a", 5] * 150_000}),
        ("/detokenize", {"tokens": ["a"] * 300_000}),
        (CHAT, {"messages": json.loads(USER), "logit_bias": {str(number): "a" for number in range(200_000)}}),
    ],
    ids=["messages", "parts", "prompts", "wrong prompts", "ids", "biases"],
)
def test_long_lists_of_wrong_values_hold_nobody_up(client, running_server, path, body):
    with Pinger(running_server) as pinger:
        answer = client.post(path, json=body)
        assert answer.status_code in (400, 413)
        assert len(answer.text) < 5_000
        time.sleep(0.1)
    assert pinger.longest < PING_SECONDS
