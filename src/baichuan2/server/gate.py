"""What a request has to pass before a route sees it: host name, key, size, and a server that still takes requests.

Plain ASGI: the framework's own kind of middleware would stand between a route and the news that its client has left.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from baichuan2.errors import OverloadedError
from baichuan2.server.answers import problem_response
from baichuan2.server.keys import Keys
from baichuan2.server.problems import ApiError
from baichuan2.settings import ServeSettings

__all__ = ["Gate", "is_loopback", "known_hosts"]

OPEN_PATHS = frozenset({"/health"})  # for load balancers, which have no key; it tells nothing else
WATCHED_WHILE_CLOSING = frozenset({"/health", "/metrics"})
CLIENT_KEY = "baichuan2.client"
"""Where in a scope stands whose request it is."""


class Gate:
    """Lets requests through to `app`, with their whole body, or answers them itself."""

    def __init__(
        self, app: ASGIApp, *, keys: Keys, hosts: frozenset[str] | None, max_body: int, is_closing: Callable[[], bool]
    ) -> None:
        """`hosts`: the names that a request may ask for this server by; None: any."""
        self._app, self._keys, self._hosts = app, keys, hosts
        self._max_body, self._is_closing = max_body, is_closing
        self.num_open = 0
        """Requests that have arrived whole and are not answered yet."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or hands it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._check(scope, headers)
            body = await self._read(scope, headers, receive)
        except (ApiError, OverloadedError) as error:
            await problem_response(error)(scope, receive, send)
            return
        if body is not None:
            with self._counted():
                await self._app(scope, _replayed(body, receive), send)

    async def wait_until_idle(self) -> None:
        """Until no request is being answered."""
        await self._is_idle.wait()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.num_open += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self.num_open -= 1
            if not self.num_open:
                self._is_idle.set()

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        path = scope["path"]
        if self._hosts is not None and b"host" in headers and _host_name(headers[b"host"]) not in self._hosts:
            text = (
                f"this server is not known as {headers[b'host'][:80]!r}: ask for it as localhost, or start it with "
                "--api-key"
            )
            raise ApiError(403, text, code="unknown_host")
        owner = self._keys.owner(headers.get(b"authorization"))
        if owner is None and path not in OPEN_PATHS:
            text = "no valid API key: send it as  Authorization: Bearer KEY"
            unauthorized = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, text, type="authentication_error", code="invalid_api_key", headers=unauthorized)
        peer = (scope.get("client") or ("",))[0]
        scope[CLIENT_KEY] = owner or peer
        if self._is_closing() and path not in WATCHED_WHILE_CLOSING:
            raise OverloadedError("the server is shutting down", is_closing=True)

    async def _read(self, scope: Scope, headers: dict[bytes, str], receive: Receive) -> bytes | None:
        """The whole body; None: the client left before its end."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body:  # sent in chunks, whose number nobody announces
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body", False):
                break
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and scope["method"] == "POST":  # no route takes the other methods
            # more than tidiness: a web page may send other kinds to any server without asking it first
            raise ApiError(415, "send JSON, with  Content-Type: application/json", code="unsupported_media_type")
        return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the request exceeds {self._max_body} bytes (--max-body)", code="request_too_large")


def is_loopback(host: str) -> bool:
    """Whether only this machine itself reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def known_hosts(settings: ServeSettings, keys: Keys) -> frozenset[str] | None:
    """The names that may be asked for: a page on the internet whose name leads to this machine must not get in.

    With a key nobody gets in unasked, and what listens for other machines goes by names that nobody here knows.
    """
    if keys or not is_loopback(settings.host):
        return None
    return frozenset({"localhost", "127.0.0.1", "[::1]", settings.host.lower(), f"[{settings.host.lower()}]"})


def _host_name(header: str) -> str:
    """The name in a Host header, without the port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body, then what comes after it: that the client has left."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        first: dict[str, Any] = {"type": "http.request", "body": body, "more_body": False}
        return first

    return replay
