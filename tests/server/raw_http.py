"""HTTP by hand, for what no client of good manners would send."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

CHAT = "/v1/chat/completions"


class Answer(NamedTuple):
    """What a server has sent for one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object in it."""
        return dict(json.loads(self.body)["error"])


def head(path: str = CHAT, *more: str, method: str = "POST") -> bytes:
    """The head of a request for JSON, with `more` header lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def post(body: object, path: str = CHAT) -> bytes:
    """A whole request; `body`: bytes as they are, else what is written as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, f"Content-Length: {len(data)}") + data


def get(path: str) -> bytes:
    """A whole request for `path`."""
    return head(path, method="GET")


@contextmanager
def connected(port: int, *, receive_buffer: int | None = None, seconds: float = 30) -> Iterator[socket.socket]:
    """A connection to this machine. `receive_buffer`: bytes that the kernel keeps for whoever does not read."""
    with socket.socket() as made:
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(seconds)
        made.connect(("127.0.0.1", port))
        yield made


def read_answers(connection: socket.socket, count: int) -> list[Answer]:
    """The next `count` answers, in the order in which they come."""
    with connection.makefile("rb") as file:
        return [_read_answer(file) for _ in range(count)]


def _read_answer(file: Any) -> Answer:
    first = file.readline()
    assert first.startswith(b"HTTP/1.1 "), first
    headers: dict[str, str] = {}
    while line := file.readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = b""
    if "content-length" in headers:
        body = file.read(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(file.readline(), 16):
            body += file.read(size)
            file.readline()
        file.readline()
    return Answer(int(first.split()[1]), headers, body)
