"""/openapi.json: what it promises is what comes; two hundred bodies that it forbids leave the server answering."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from baichuan2.server.documents import ANSWERS, PROBLEMS, ErrorAnswer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "你好"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
POSTS = [CHAT, TEXT, "/tokenize", "/detokenize"]
NUM_BODIES = {GenerationMode.NEGATIVE: 50, GenerationMode.POSITIVE: 20}  # for each of the four


@pytest.fixture(scope="module")
def described(client):
    return client.get("/openapi.json").json()


def check(answer, path):
    """Raises unless an answer is as it is described."""
    if answer.status_code == 200:
        ANSWERS[path].model_validate_json(answer.content)
    else:
        assert answer.status_code in PROBLEMS
        assert answer.status_code < 500, answer.text
        ErrorAnswer.model_validate_json(answer.content)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [USER]}),
        (CHAT, {"messages": [USER], "n": 2, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}),
        (CHAT, {"messages": [USER], "tools": [TOOL], "tool_choice": "required", "max_tokens": 100}),
        (TEXT, {"prompt": "今天"}),
        (TEXT, {"prompt": ["今天", [2000]], "logprobs": 1}),
        ("/tokenize", {"prompt": "今天"}),
        ("/tokenize", {"messages": [USER]}),
        ("/detokenize", {"tokens": [2000]}),
    ],
)
def test_answers_are_as_described(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200
    check(answer, path)


def test_facts_are_as_described(client):
    for path, route in (
        ("/v1/models", "/v1/models"),
        ("/v1/models/demo-chat", "/v1/models/{name}"),
        ("/health", "/health"),
    ):
        check(client.get(path), route)
    check(client.get("/v1/models/none"), "/v1/models/{name}")


def test_every_route_is_described_with_every_status(described):
    assert set(described["paths"]) == {*ANSWERS, "/metrics"}
    for methods in described["paths"].values():
        for operation in methods.values():
            assert set(operation["responses"]) == {"200", *map(str, PROBLEMS)}


@pytest.mark.slow
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("mode", [GenerationMode.NEGATIVE, GenerationMode.POSITIVE], ids=lambda mode: mode.name.lower())
def test_bodies_out_of_the_description(client, described, path, mode):
    operation = schemathesis.openapi.from_dict(described)[path]["POST"]
    statuses = []

    @settings(
        max_examples=NUM_BODIES[mode],
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case):
        kwargs = case.as_transport_kwargs(base_url="http://localhost")
        kwargs["content"] = kwargs.pop("data", None)
        known = ("method", "url", "headers", "json", "content")
        answer = client.request(**{name: value for name, value in kwargs.items() if name in known})
        statuses.append(answer.status_code)
        check(answer, path)

    send()
    assert len(statuses) >= NUM_BODIES[mode]
    if mode is GenerationMode.NEGATIVE:
        assert set(statuses) <= {400, 413, 415}  # 413: a text that is larger than any body may be
    assert client.post(CHAT, json={"messages": [USER], "max_tokens": 1}).status_code == 200
