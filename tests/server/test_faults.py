"""Requests that are wrong: the status, the field's name, and an error object in OpenAI's form, always."""

import json

import pytest

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "你好"}
FUNCTION = {"type": "function", "function": {"name": "f"}}


def refused(client, path, body, status=400):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER, 5]}, "messages[1]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [USER, {"role": "user", "content": [{"type": "text"}]}]}, "messages[1].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [USER, {"role": "system", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "nobody"}]}, "messages[0]"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 101}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"one": 1}}, "logit_bias"),
        ({"logit_bias": {"4096": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}}, None),
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "no json"}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"guided_regex": "a", "tools": [FUNCTION]}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools[1].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_wrong_field_is_named(client, fields, param):
    error = refused(client, CHAT, {"messages": [USER], **fields})
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": [5, "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [4096]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_wrong_field_of_a_completion_is_named(client, fields, param):
    assert refused(client, TEXT, fields)["param"] in (param, f"{param}[0]")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "字" * 512}]}),
        (CHAT, {"messages": [{"role": "user", "content": "字" * 100_000}]}),
        (CHAT, {"messages": [{"role": "user", "content": "字" * 300}, {"role": "user", "content": "字" * 300}]}),
        (TEXT, {"prompt": "字" * 512}),
        (TEXT, {"prompt": [2000] * 512}),
        (TEXT, {"prompt": "字" * 100_000}),
    ],
)
def test_what_exceeds_the_context(client, path, fields):
    error = refused(client, path, fields)
    assert error["code"] == "context_length_exceeded"
    assert "max_new_tokens" not in error["message"]
    assert "512" in error["message"]


def test_what_just_fits_the_context_ends_by_its_length(client):
    answer = client.post(TEXT, json={"prompt": [2000] * 511, "max_tokens": 400, "ignore_eos": True}).json()
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 1)


def test_another_model_is_not_found(client):
    for path, body in ((CHAT, {"messages": [USER]}), (TEXT, {"prompt": "a"}), ("/tokenize", {"prompt": "a"})):
        error = refused(client, path, body | {"model": "gpt-9"}, 404)
        assert (error["param"], error["code"]) == ("model", "model_not_found")
        assert "demo-chat" in error["message"]
    assert client.get("/v1/models/gpt-9").status_code == 404
    assert client.get("/v1/models/some/body/else").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "guided_choice": ["\\uDFFF"]}',
        b'{"messages": [{"role": "user", "content": "x"}], "guided_json": {"const": "\\uD800"}}',
    ],
    ids=range(14),
)
def test_bodies_that_are_no_requests(client, content):
    answer = client.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_whole_characters_that_json_writes_in_halves_are_fine(client):
    content = b'{"prompt": "\\ud83e\\udd8a"}'
    answer = client.post("/tokenize", content=content, headers={"content-type": "application/json"})
    assert client.post("/detokenize", json={"tokens": answer.json()["tokens"]}).json()["prompt"] == "\U0001f98a"


def test_images_are_refused_in_so_many_words(client):
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    error = refused(client, CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert (error["param"], error["code"]) == ("messages[0].content[0].type", "unsupported_content")
    assert "text only" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/none", 404),
        ("GET", CHAT, 405),
        ("POST", "/health", 405),
        *((method, CHAT, 405) for method in ("PUT", "PATCH", "DELETE")),
        ("DELETE", "/v1/none", 404),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_other_paths_and_methods(client, method, path, status, kind):
    if method == "POST" and kind != "application/json":
        status = 415
    answer = client.request(method, path, content=b"{}", headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert ("allow" in answer.headers) == (status == 405)


def test_tokenize_wants_one_of_two(client):
    assert refused(client, "/tokenize", {})["param"] == "prompt"
    assert refused(client, "/tokenize", {"prompt": "a", "messages": [USER]})["param"] == "prompt"
    assert refused(client, "/tokenize", {"prompt": "a" * 400_001})["param"] == "prompt"
    assert refused(client, "/tokenize", {"messages": [USER | {"content": "a" * 400_001}]})["param"] == "messages"
    assert refused(client, "/detokenize", {"tokens": [4096]})["param"] == "tokens"
    assert refused(client, "/detokenize", {"tokens": [10**30]})["param"] == "tokens"
    assert refused(client, "/detokenize", {"tokens": [-1]})["param"] == "tokens[0]"
