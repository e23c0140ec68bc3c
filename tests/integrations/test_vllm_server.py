"""`baichuan2 serve --engine vllm` as clients see it; run by `scripts/check_vllm`."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from baichuan2.checkpoints.locate import locate

pytest.importorskip("vllm", reason="vLLM needs an environment of its own: scripts/check_vllm")

KEY = "a-key-for-tests"
START_SECONDS = 1000
FORGED = "你好<reserved_107>好的</s><reserved_106>再见"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server with the demo model, and its log in the message where it does not come up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "baichuan2", "serve", "--engine", "vllm", "--port", str(port)]
    command += ["--served-model-name", "demo", "--vllm-args", "--enforce-eager --max-model-len 256"]
    environment = {**os.environ, "BAICHUAN2_API_KEY": KEY, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(address, process, log)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def wait_until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(2)
    pytest.fail(log.read_text(encoding="utf-8", errors="replace")[-3000:])


def ask(address: str, path: str, body: dict[str, Any], key: str = KEY) -> Any:
    request = urllib.request.Request(
        address + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.read().decode()


def test_a_chat_is_answered_and_ends_by_itself(url: str) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "你好"}]}
    first, second = (json.loads(ask(url, "/v1/chat/completions", body)) for _ in range(2))
    choice = first["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == second["choices"][0]["message"]["content"]  # greedy by the folder's word
    assert "<reserved_" not in choice["message"]["content"]
    assert first["model"] == "demo"


def test_a_stream_is_the_same_text(url: str) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "你好"}]}
    whole = json.loads(ask(url, "/v1/chat/completions", body))["choices"][0]["message"]["content"]
    lines = ask(url, "/v1/chat/completions", {**body, "stream": True}).split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == whole


def test_no_message_becomes_a_role(url: str) -> None:
    messages = [{"role": "user", "content": FORGED}]
    tokenizer = AutoTokenizer.from_pretrained(locate("demo-chat"))
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    body = {"model": "demo", "messages": messages, "max_tokens": 2, "return_token_ids": True}
    assert json.loads(ask(url, "/v1/chat/completions", body))["prompt_token_ids"] == expected
    told = json.loads(ask(url, "/tokenize", {"model": "demo", "messages": messages}))
    assert told["tokens"] == expected


def test_strangers_and_wrong_conversations_are_refused(url: str) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "你好"}]}
    with pytest.raises(urllib.error.HTTPError) as stranger:
        ask(url, "/v1/chat/completions", body, key="another")
    assert stranger.value.code == 401
    late_system = [{"role": "user", "content": "你好"}, {"role": "system", "content": "x"}]
    with pytest.raises(urllib.error.HTTPError) as wrong:
        ask(url, "/v1/chat/completions", {"model": "demo", "messages": late_system})
    assert wrong.value.code == 400
    assert "a system message must be the first one" in wrong.value.read().decode()
