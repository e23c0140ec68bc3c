"""`baichuan2 serve --engine vllm`: what vLLM is started with, and what is refused; vLLM itself is not needed."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from baichuan2.checkpoints.locate import locate
from baichuan2.errors import SettingsError
from baichuan2.server.vllm_engine import start_of
from baichuan2.server.vllm_gate import VARIABLE, VllmGate
from baichuan2.settings import LoadSettings, SamplingSettings, ServeSettings


def value_of(arguments: tuple[str, ...], flag: str) -> str:
    """What stands behind the only `flag`."""
    assert arguments.count(flag) == 1
    return arguments[arguments.index(flag) + 1]


def settings(**fields: object) -> ServeSettings:
    return ServeSettings(engine="vllm", **fields)


def test_the_defaults_are_as_closed_as_our_own_server() -> None:
    start = start_of(LoadSettings(), SamplingSettings(), settings())
    assert start.folder == str(locate(None))
    assert value_of(start.arguments, "--host") == "127.0.0.1"
    assert value_of(start.arguments, "--allowed-origins") == "[]"
    assert value_of(start.arguments, "--served-model-name") == "demo-chat"
    assert value_of(start.arguments, "--max-num-seqs") == "16"
    assert value_of(start.arguments, "--max-num-queued-reqs") == str(16 + 64)
    assert "--override-generation-config" not in start.arguments
    assert start.environment.keys() == {VARIABLE}


def test_settings_become_arguments(tmp_path: Path) -> None:
    asked = settings(
        served_model_name="a, b",
        allow_origin="https://example.org",
        cache_memory="1GiB",
        max_reply_tokens=64,
        vllm_args="--tensor-parallel-size 2 --attention-backend 'TRITON_ATTN'",
    )
    sampling = SamplingSettings(temperature=0.5, top_k=3, seed=7)
    start = start_of(LoadSettings(model=str(tmp_path), dtype="bfloat16", offline=True), sampling, asked)
    names = start.arguments.index("--served-model-name")
    assert start.arguments[names + 1 : names + 3] == ("a", "b")
    assert json.loads(start.environment[VARIABLE])["origins"] == ["https://example.org"]
    assert value_of(start.arguments, "--kv-cache-memory-bytes") == str(2**30)
    assert value_of(start.arguments, "--dtype") == "bfloat16"
    assert value_of(start.arguments, "--seed") == "7"
    generation = json.loads(value_of(start.arguments, "--override-generation-config"))
    assert generation == {"temperature": 0.5, "top_k": 3, "max_new_tokens": 64}
    assert start.arguments[-4:] == ("--tensor-parallel-size", "2", "--attention-backend", "TRITON_ATTN")
    assert start.environment["HF_HUB_OFFLINE"] == "1"


def test_greedy_is_a_temperature_of_zero() -> None:
    start = start_of(LoadSettings(), SamplingSettings(do_sample=False, temperature=0.9), settings())
    assert json.loads(value_of(start.arguments, "--override-generation-config"))["temperature"] == 0.0


def answer_of(gate: VllmGate, path: str, method: str = "POST", **headers: str) -> int | str:
    """The status that the gate answers with; "let through" where it does not answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"content-type", b"application/json"), *named],
    }
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"] if sent else "let through"


async def all_routes(scope: Any, receive: Any, send: Any) -> None:
    """vLLM's routes, which answer everybody."""


def test_every_path_of_vllm_asks_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(api_key="one-long-secret,another-secret", host="0.0.0.0")
    start = start_of(LoadSettings(), SamplingSettings(), asked)
    assert "one-long-secret" not in " ".join(start.arguments)  # which other users can read
    assert value_of(start.arguments, "--middleware") == f"{VllmGate.__module__}.{VllmGate.__name__}"
    monkeypatch.setenv(VARIABLE, start.environment[VARIABLE])
    gate = VllmGate(all_routes)
    for path in ("/v1/chat/completions", "/invocations", "/tokenize", "/metrics", "/openapi.json"):
        assert answer_of(gate, path) == 401
        assert answer_of(gate, path, authorization="Bearer wrong-long-secret") == 401
        assert answer_of(gate, path, authorization="Bearer another-secret", host="any.example") == "let through"
    assert answer_of(gate, "/health") == "let through"


def test_a_page_that_may_ask_gets_its_first_question_answered_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = settings(api_key="one-long-secret", allow_origin="https://a.example")
    start = start_of(LoadSettings(), SamplingSettings(), asked)
    assert value_of(start.arguments, "--allowed-origins") == "[]"
    monkeypatch.setenv(VARIABLE, start.environment[VARIABLE])
    gate = VllmGate(all_routes)
    first = {"access_control_request_method": "POST", "method": "OPTIONS"}
    assert answer_of(gate, "/v1/models", origin="https://a.example", **first) == 200
    assert answer_of(gate, "/v1/models", origin="https://b.example", **first) == 400
    assert answer_of(gate, "/v1/models", origin="https://a.example") == 401


def test_without_a_key_vllm_answers_to_local_names_and_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    start = start_of(LoadSettings(), SamplingSettings(), settings(max_body="1b"))
    monkeypatch.setenv(VARIABLE, start.environment[VARIABLE])
    gate = VllmGate(all_routes)
    assert answer_of(gate, "/invocations", host="evil.example:8000") == 403
    assert answer_of(gate, "/invocations", host="localhost:8000") == 413


@pytest.mark.parametrize(
    ("group", "field", "value"),
    [
        (LoadSettings, "quantize", "int4"),
        (LoadSettings, "numerics", "official"),
        (LoadSettings, "device", "cuda:1"),
        (SamplingSettings, "kv_cache", "int8"),
        (SamplingSettings, "max_new_tokens", 5),
        (ServeSettings, "drop_oldest", True),
        (ServeSettings, "write_seconds", 1.0),
    ],
)
def test_what_vllm_cannot_follow_is_refused_by_name(group: type, field: str, value: object) -> None:
    groups = {LoadSettings: LoadSettings(), SamplingSettings: SamplingSettings(), ServeSettings: settings()}
    extra = {"engine": "vllm"} if group is ServeSettings else {}
    groups[group] = group(**{field: value}, **extra)
    with pytest.raises(SettingsError, match=f"--{field.replace('_', '-')} has no counterpart in vLLM"):
        start_of(*groups.values())


def test_arguments_for_vllm_need_vllm_and_whole_quotes() -> None:
    with pytest.raises(SettingsError, match="--vllm-args needs --engine vllm"):
        ServeSettings(vllm_args="--enforce-eager")
    with pytest.raises(SettingsError, match="--vllm-args cannot be split"):
        start_of(LoadSettings(), SamplingSettings(), settings(vllm_args="--served-model-name 'open"))


def test_without_vllm_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['vllm'] = None\nfrom baichuan2.cli.main import main\nsys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--engine", "vllm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "vLLM is not installed" in done.stderr
