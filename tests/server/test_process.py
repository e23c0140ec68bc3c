"""The command as a process: what it prints, how it ends, what it refuses to start with."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from baichuan2.cli.main import main
from tests.server.processes import serving

LONG = {
    "messages": [{"role": "user", "content": "讲一个故事"}],
    "stream": True,
    "max_tokens": 480,
    "logit_bias": {"2": -100, "195": -100},
}


def refusal(capsys, *flags: str) -> str:
    """The one line with which the command does not even start."""
    assert main(["serve", "--port", "0", *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


class Stream:
    """A stream that is read by a thread of the test."""

    def __init__(self, url: str, body: dict) -> None:
        self.events: list[str] = []
        self.is_begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(url, body))
        self._thread.start()
        assert self.is_begun.wait(20)

    def _read(self, url: str, body: dict) -> None:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line:
                    self.events.append(line.removeprefix("data: "))
                    self.is_begun.set()

    def end(self) -> list[str]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.events


def test_it_says_where_it_listens_and_a_stopped_one_finishes_replies_and_takes_no_new_ones():
    with serving() as server:
        lines = server.log().splitlines()
        example = next(line for line in lines if line.strip().startswith("curl "))
        assert f"{server.url}/v1/chat/completions" in example
        done = subprocess.run(["bash", "-c", example], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["content"]
        stream = Stream(server.url, LONG)
        server.process.send_signal(signal.SIGTERM)
        while "stopping" not in server.log():
            time.sleep(0.01)
        refused = httpx.post(f"{server.url}/v1/chat/completions", json=LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_closing")
        assert int(refused.headers["retry-after"]) > 0
        assert httpx.get(f"{server.url}/health").status_code == 503
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        events = stream.end()
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert events[-1] == "[DONE]"
        assert server.process.wait(20) == 0


def test_a_second_signal_ends_at_once_and_ctrl_c_is_told_by_the_exit_code():
    with serving("--shutdown-seconds", "100", "--max-running", "1") as server:
        stream = Stream(server.url, LONG | {"n": 16})
        server.process.send_signal(signal.SIGINT)
        while "stopping" not in server.log():
            time.sleep(0.01)
        time.sleep(0.2)
        assert server.process.poll() is None
        started = time.monotonic()
        assert server.stop(signal.SIGINT) == 130
        assert time.monotonic() - started < 5
        assert stream.end()[-1] == "[DONE]"
        assert "Traceback" not in server.log()


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = refusal(capsys, "--port", port, "--model", "/there/is/no/such/model")
    assert error.startswith(f"error: cannot listen on 127.0.0.1 port {port}: ")
    assert "--port" in error


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--host", ""], "--host"),
        (["--port", "70000"], "--port must lie in [0, 65535]"),
        (["--api-key", "short"], "an API key must be 8 characters or more"),
        (["--api-key", " , "], "--api-key holds no key"),
        (["--api-key-file", "/nonexistent"], "--api-key-file /nonexistent: cannot be read"),
        (["--max-body", "4"], "--max-body: a size is a number with a unit"),
        (["--cache-memory", "1kB"], "too few"),
    ],
)
def test_what_it_cannot_start_with_is_told_in_one_line(capsys, flags, told):
    assert told in refusal(capsys, *flags)


def test_a_key_is_needed_where_one_is_set_and_an_idle_server_ends_at_once(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# ours\nkey-of-the-file\n")
    environment = {"BAICHUAN2_API_KEY": "key-one-of-two,key-two-of-two"}
    flags = ["--host", "0.0.0.0", "--api-key-file", str(file), "--shutdown-seconds", "100"]
    with serving(*flags, environment=environment) as server, httpx.Client() as client:
        assert "warning" not in server.log()
        for key in ("key-one-of-two", "key-two-of-two", "key-of-the-file"):
            headers = {"Authorization": f"Bearer {key}"}
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
        for headers in ({}, {"Authorization": "Bearer key-one"}, {"Authorization": "Basic key-one-of-two"}):
            refused = httpx.get(f"{server.url}/v1/models", headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert "key-one" not in server.log()
        client.get(f"{server.url}/health")  # its connection is kept open
        started = time.monotonic()
        assert server.stop(signal.SIGINT) == 130
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("logs_messages", [False, True])
def test_texts_are_logged_only_if_asked_for_and_an_open_address_without_a_key_is_warned_of(logs_messages):
    secret = "夜来风雨声"
    body = {"messages": [{"role": "user", "content": secret}], "max_tokens": 4}
    flags = ["--log-messages"] if logs_messages else ["--no-log-messages", "--host", "0.0.0.0"]
    with serving(*flags) as server:
        assert ("warning: other machines can reach" in server.log()) == (not logs_messages)
        any_name = httpx.get(f"{server.url}/v1/models", headers={"host": "any.name"})
        assert any_name.status_code == (403 if logs_messages else 200)
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        httpx.get(f"{server.url}/a%0Ab%1b[31m")
        server.stop()
        log = server.log()
    assert r"GET /a\nb\x1b[31m 404" in log
    assert "\x1b" not in log
    for text in (secret, reply):
        assert (text in log or json.dumps(text)[1:-1] in log) == logs_messages


def test_help_needs_no_server_packages():
    probe = (
        "import sys; from baichuan2.cli.main import main; code = main(['serve', '--help']);"
        "heavy = {'torch', 'transformers', 'fastapi', 'uvicorn', 'pydantic', 'prometheus_client'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--api-key" in done.stdout


def test_a_server_imports_what_it_needs():
    probe = (
        "import sys; import baichuan2.server.run; from baichuan2.checkpoints.load import load_for_replies;"
        "load_for_replies(); packages = {name.partition('.')[0] for name in sys.modules};"
        "needless = {'llguidance', 'openai', 'pandas', 'rich', 'prompt_toolkit', 'streamlit'} & packages;"
        "ours = {f'baichuan2.{name}' for name in ('bench', 'convert', 'finetune', 'web', 'model.modeling_baichuan')};"
        "needless |= ours & set(sys.modules) | {'transformers.modeling_utils'} & set(sys.modules);"
        "sys.exit(str(needless) if needless else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
