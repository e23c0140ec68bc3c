"""Careless and hostile clients, against a server process: whatever they do, others are served, and nothing is left.

The clients that leave one at a time are in `test_leaving.py`; hostile bodies in `test_hostile_bodies.py`.
"""

import asyncio
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import openai
import pytest

from tests.server.conformance.drivers import NODE_DIR, missing_for_node
from tests.server.conformance.engine import Engine
from tests.server.processes import serving
from tests.server.raw_http import CHAT, connected, get, head, post, read_answers

FREE_SECONDS = 1.0  # within which a place has to be free
LIMIT_SECONDS = 2  # that the server gives to slow senders and readers
MAX_RUNNING, MAX_WAITING = 4, 16
SHORT = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 8}
LONG = {"messages": [{"role": "user", "content": "讲一个故事"}], "max_tokens": 480, "n": 16, "ignore_eos": True}
MANY_IDS = post({"prompt": "7" * 390_000}, "/tokenize") * 3  # 6 MB of answers; the kernel keeps 4 for a reader
PYTHON_CLIENT = """
import json, sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
body = json.loads(sys.argv[2])
extra = {"ignore_eos": body.pop("ignore_eos")}
for chunk in client.chat.completions.create(model="demo-chat", **body, stream=True, extra_body=extra):
    print(chunk.id, flush=True)
"""
NODE_CLIENT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[1], apiKey: "none", maxRetries: 0 });
const body = { model: "demo-chat", ...JSON.parse(process.argv[2]), stream: true };
for await (const chunk of await client.chat.completions.create(body)) console.log(chunk.id);
"""
COMMANDS = {
    "python": [sys.executable, "-c", PYTHON_CLIENT],
    "node": ["node", "--input-type=module", "-e", NODE_CLIENT],
}


@pytest.fixture(scope="module")
def server():
    limits = ["--write-seconds", str(LIMIT_SECONDS), "--receive-seconds", str(LIMIT_SECONDS)]
    with serving("--max-running", str(MAX_RUNNING), "--max-waiting", str(MAX_WAITING), *limits) as running:
        yield running


@pytest.fixture(scope="module")
def engine(server):
    return Engine(server.url, "none", "demo-chat")


@pytest.fixture(autouse=True)
def check_it_is_well(server, engine):
    """After each test: no place is taken, an ordinary request is answered, nothing went wrong unforeseen."""
    yield
    if server.process.poll() is None:
        engine.seconds_until(0)
        answer = httpx.post(f"{server.url}{CHAT}", json=SHORT, timeout=30)
        assert "你好" in answer.json()["choices"][0]["message"]["content"]
    assert "Traceback" not in server.log()


def files_of(server) -> int:
    """How many files and connections the process has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def memory_of(server) -> float:
    """Its memory in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1000


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def seconds_of_a_reply(server) -> float:
    """The median of five ordinary requests."""
    times = []
    for _ in range(5):
        started = time.monotonic()
        assert httpx.post(f"{server.url}{CHAT}", json=SHORT, timeout=30).status_code == 200
        times.append(time.monotonic() - started)
    return statistics.median(times)


@pytest.mark.parametrize("client", COMMANDS)
def test_a_client_that_is_killed_in_its_stream_frees_its_places(server, engine, client):
    if client == "node" and (reason := missing_for_node()):
        pytest.skip(reason)
    command = [*COMMANDS[client], f"{server.url}/v1", json.dumps(LONG)]
    num_gone = server.log().count("client_gone")
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=NODE_DIR) as process:
        assert process.stdout.readline().startswith(b"chatcmpl-")
        assert engine.busy() > 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert engine.seconds_until(0) < FREE_SECONDS
    wait_until(lambda: server.log().count("client_gone") == num_gone + 1)  # and not because it was done by then


def test_many_clients_that_leave_at_once_free_their_places(server, engine):
    num_gone = server.log().count("client_gone")
    with contextlib.ExitStack() as connections:
        for number in range(10):
            connection = connections.enter_context(connected(server.port))
            connection.sendall(post(LONG | {"n": 2, "stream": number % 2 == 0}))
        engine.seconds_until(MAX_RUNNING, "running")
        wait_until(lambda: engine.busy() == 20)
    assert engine.seconds_until(0) < FREE_SECONDS
    wait_until(lambda: server.log().count("client_gone") == num_gone + 10)


def test_slow_readers_hold_nobody_up_take_little_memory_and_are_left(server):
    alone, num_files = seconds_of_a_reply(server), files_of(server)
    memories = []
    for _ in range(2):  # what the first time takes is for the computing; it must not add up
        num_left = server.log().count("read nothing in time")
        with contextlib.ExitStack() as connections:
            readers = [connections.enter_context(connected(server.port, receive_buffer=4096)) for _ in range(3)]
            for reader in readers:
                reader.sendall(MANY_IDS)
            for reader in readers:
                assert reader.recv(1) == b"H"
            beside = seconds_of_a_reply(server)
            for reader in readers[::2]:  # half of them go on, byte by byte, the others take nothing more
                assert reader.recv(1) == b"T"
            assert beside < 3 * alone + 0.2
            wait_until(
                lambda num_left=num_left: server.log().count("read nothing in time") == num_left + 3, LIMIT_SECONDS + 10
            )
        memories.append(memory_of(server))
    assert memories[1] < memories[0] + 64
    wait_until(lambda: files_of(server) <= num_files)


def test_a_hundred_who_send_nothing_and_a_hundred_who_never_end_hold_nobody_up(server):
    alone, num_files = seconds_of_a_reply(server), files_of(server)
    beginnings = [
        post(LONG)[:-1],
        head(),
        head()[:-2],
        b"POST /v1/ch",
        head(CHAT, "Transfer-Encoding: chunked") + b"5\r\n{",
    ]
    with contextlib.ExitStack() as connections:
        silent = [connections.enter_context(connected(server.port)) for _ in range(100)]
        endless = [connections.enter_context(connected(server.port)) for _ in range(100)]
        for number, connection in enumerate(endless):
            connection.sendall(beginnings[number % len(beginnings)])
        wait_until(lambda: files_of(server) >= num_files + 150)
        assert seconds_of_a_reply(server) < 3 * alone + 0.2
        for connection in (*silent, *endless):
            connection.settimeout(LIMIT_SECONDS + 10)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) in (b"", b"H")  # closed; a head without a length is a body that is empty
    wait_until(lambda: files_of(server) <= num_files)


def test_of_a_hundred_requests_at_once_some_are_refused_and_all_others_finish(server):
    body = LONG | {"n": 1, "max_tokens": 120}

    async def ask(client: httpx.AsyncClient, is_stream: bool) -> httpx.Response:
        return await client.post(CHAT, json=body | {"stream": is_stream})

    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120) as client:
            return await asyncio.gather(*(ask(client, number % 2 == 0) for number in range(100)))

    answers = asyncio.run(ask_all())
    refused = [answer for answer in answers if answer.status_code == 429]
    taken = [answer for answer in answers if answer.status_code == 200]
    assert len(refused) + len(taken) == 100
    assert len(taken) >= MAX_WAITING
    assert refused
    for answer in refused:
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "queue_full"
    for answer in taken:
        if answer.headers["content-type"].startswith("text/event-stream"):
            *_, last, done = answer.text.split("\n\n")[:-1]
            assert json.loads(last.removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
            assert done == "data: [DONE]"
        else:
            assert answer.json()["usage"]["completion_tokens"] == 120


def test_requests_that_are_sent_at_once_are_answered_one_after_the_other(server):
    with connected(server.port) as connection:
        connection.sendall(get("/health") * 50)
        assert [answer.status for answer in read_answers(connection, 50)] == [200] * 50
        several = [post(SHORT), post(SHORT | {"stream": True}), post(SHORT | {"n": 0}), get("/v1/models")]
        connection.sendall(b"".join(several))
        whole, stream, wrong, models = read_answers(connection, 4)
        assert json.loads(whole.body)["choices"]
        assert stream.body.endswith(b"data: [DONE]\n\n")
        assert (wrong.status, wrong.error["param"]) == (400, "n")
        assert json.loads(models.body)["object"] == "list"


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "behind", [get("/health"), b"x" * 200_000, b"x" * 5_000_000], ids=["a request", "garbage", "much"]
)
def test_who_leaves_with_more_requests_behind_frees_its_places(server, engine, behind, is_stream):
    with connected(server.port) as connection:
        connection.sendall(post(LONG | {"stream": is_stream}))
        engine.seconds_until(MAX_RUNNING, "running")
        with contextlib.suppress(ConnectionError):  # cut off, if it is much
            connection.sendall(behind)
    assert engine.seconds_until(0) < FREE_SECONDS


def test_a_wish_to_change_the_protocol_hides_nobody_who_leaves(server, engine):
    body = json.dumps(LONG).encode()
    with connected(server.port) as connection:
        connection.sendall(head(CHAT, f"Content-Length: {len(body)}", "Upgrade: x", "Connection: upgrade") + body)
        engine.seconds_until(MAX_RUNNING, "running")
        connection.sendall(get("/health"))
    assert engine.seconds_until(0) < FREE_SECONDS


def dear_form(number: int) -> bytes:
    """A chat in a form that takes long to compile, and that nobody else has asked for."""
    properties = {f"p{number}_{place}": {"type": "string"} for place in range(900)}
    return post(SHORT | {"guided_json": {"type": "object", "properties": properties}})


def test_dear_forms_of_clients_that_leave_hold_nobody_up(server):
    for number in range(48):
        with connected(server.port) as connection:
            connection.sendall(dear_form(number))
    time.sleep(0.5)
    started = time.monotonic()
    assert httpx.post(f"{server.url}/tokenize", json={"prompt": "7" * 4_200}, timeout=60).status_code == 200
    assert time.monotonic() - started < 2
    answer = httpx.post(f"{server.url}{CHAT}", json=SHORT | {"guided_regex": "a+"}, timeout=60)
    assert answer.status_code == 200
    assert time.monotonic() - started < 6  # two forms may be in work; the others are not begun


def test_chunks_without_an_end_are_refused_and_cut_off(server):
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with connected(server.port) as connection:
        connection.sendall(head(CHAT, "Transfer-Encoding: chunked"))
        for _ in range(100):  # 6.5 MB
            connection.sendall(chunk)
        (answer,) = read_answers(connection, 1)
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        num_bytes = 0
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(chunk)
                num_bytes += len(chunk)
                assert num_bytes < 32_000_000, "it still takes them"


class Reader(threading.Thread):
    """Asks by itself, and keeps what came."""

    def __init__(self, ask: Callable[[], object]) -> None:
        super().__init__()
        self._ask = ask
        self.result: object = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._ask()
        except Exception as error:
            self.result = error


def test_streams_of_a_server_that_is_stopped_end_as_their_clients_understand():
    with serving("--max-running", "2", "--shutdown-seconds", "0.2") as server:
        url, engine = f"{server.url}{CHAT}", Engine(server.url, "none", "demo-chat")
        body = LONG | {"n": 8}
        streams = [Reader(lambda: httpx.post(url, json=body | {"stream": True}, timeout=60)) for _ in range(4)]
        whole = Reader(lambda: httpx.post(url, json=body, timeout=60))

        def read_by_client() -> None:
            fields = {name: value for name, value in body.items() if name != "ignore_eos"}
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
                extra = {"ignore_eos": True}
                for _ in client.chat.completions.create(model="demo-chat", **fields, stream=True, extra_body=extra):
                    pass

        by_client = Reader(read_by_client)
        engine.seconds_until(48)
        started = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 10
        for reader in (*streams, whole, by_client):
            reader.join(10)
            assert not reader.is_alive()
        for stream in streams:
            *_, last, done = stream.result.text.split("\n\n")[:-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_closing"
            assert done == "data: [DONE]"
        assert (whole.result.status_code, whole.result.json()["error"]["code"]) == (503, "server_closing")
        assert isinstance(by_client.result, openai.APIError)
        assert by_client.result.code == "server_closing"
        assert "Traceback" not in server.log()
