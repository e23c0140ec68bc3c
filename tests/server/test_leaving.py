"""Clients that leave, or take nothing, give their places back; in a process of its own, over real connections."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from tests.server.processes import serving

# sixteen long replies, one after the other: minutes of work, were it not given up
LONG = {
    "messages": [{"role": "user", "content": "讲一个故事"}],
    "max_tokens": 480,
    "n": 16,
    "logit_bias": {"2": -100, "195": -100},
}
SECONDS = 1.0  # within which a place has to be free


@pytest.fixture(scope="module")
def server():
    flags = ["--max-running", "1", "--max-waiting", "40", "--write-seconds", "1", "--receive-seconds", "1"]
    with serving(*flags, "--max-connections", "20") as running:
        yield running


def busy(server) -> float:
    """Requests that run or wait."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return float(values["baichuan2_requests_running"]) + float(values["baichuan2_requests_waiting"])


def wait_until(condition, seconds):
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.02)
    return False


def raw_request(body: dict, path: str = "/v1/chat/completions") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


@pytest.fixture
def connection(server):
    """A connection to the server."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as made:
        yield made


def start(server, connection: socket.socket, body: dict) -> None:
    """Sends a request and waits until it is in work."""
    connection.sendall(raw_request(body))
    assert wait_until(lambda: busy(server) > 1, 30)


def check_frees_its_place(server, leave) -> None:
    """Fails unless the place is free within `SECONDS` of `leave()`, in one of three tries, as machines are busy."""
    needed = []
    for _ in range(3):
        leave()
        left = time.monotonic()
        assert wait_until(lambda: busy(server) == 0, 20)
        needed.append(time.monotonic() - left)
        if needed[-1] < SECONDS:
            return
    raise AssertionError(f"seconds until the place was free: {needed}")


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server, is_stream):
    def leave() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            start(server, connection, LONG | {"stream": is_stream})

    check_frees_its_place(server, leave)


def test_a_connection_that_is_reset_frees_its_place(server):
    def leave() -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            start(server, connection, LONG | {"stream": True})
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    check_frees_its_place(server, leave)


CLIENT = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.stdin.buffer.read())
print(connection.recv(1), flush=True)
time.sleep(600)
"""


def test_a_client_that_is_killed_frees_its_place(server):
    def leave() -> None:
        command = [sys.executable, "-c", CLIENT, str(server.port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            client.stdin.write(raw_request(LONG | {"stream": True}))
            client.stdin.close()
            assert client.stdout.readline()
            assert busy(server) > 1
            client.send_signal(signal.SIGKILL)

    check_frees_its_place(server, leave)


def slow_reader(server) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", server.port))
    return reader


def test_a_reader_who_takes_nothing_is_left(server):
    num_left = server.log().count("read nothing in time")
    with slow_reader(server) as reader:
        reader.sendall(
            raw_request({"prompt": "1 " * 200_000}, "/tokenize") * 3
        )  # megabytes of ids, for less than 1 MiB waiting
        assert wait_until(lambda: server.log().count("read nothing in time") > num_left, 30)


@pytest.mark.slow
def test_a_reader_who_takes_nothing_of_a_stream_frees_its_place(server):
    with slow_reader(server) as reader:
        # each token with twenty others is more than what the kernel keeps for a reader
        start(server, reader, LONG | {"stream": True, "logprobs": True, "top_logprobs": 20})
        assert wait_until(lambda: busy(server) == 0, 60)
    assert re.search("POST /v1/chat/completions 200 .* client_gone", server.log())


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/chat/com", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n", raw_request(LONG)[:-5]],
    ids=["nothing", "a line", "headers", "a body but its end"],
)
def test_a_request_that_never_ends_is_closed(connection, sent):
    connection.sendall(sent)
    started = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert 0.5 < time.monotonic() - started < 5


def test_a_second_request_that_never_ends_is_closed(connection):
    answer = b""
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    connection.sendall(b"GET /hea")
    started = time.monotonic()
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    assert 0.5 < time.monotonic() - started < 4


def test_more_connections_than_allowed_are_closed_and_leave_the_others(server):
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    time.sleep(0.2)
    for connection in connections:
        connection.close()
    assert wait_until(lambda: "one more was closed" in server.log(), 5)
    assert wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200, 5)


def test_what_is_no_http_gets_an_error_object(connection):
    connection.sendall(b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
    answer = b""
    while part := connection.recv(4096):
        answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_chunks_that_are_no_chunks_end_the_connection(server, connection):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head)
    time.sleep(0.1)
    connection.sendall(b"ZZZ\r\n")
    answer = connection.recv(4096)
    assert b" 400 " in answer or answer == b""
    assert "Traceback" not in server.log()
