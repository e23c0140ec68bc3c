"""Connections that cannot be held for ever: by sending slowly, by reading nothing, or by being many.

uvicorn ends connections that are idle between requests; what it waits for without end is bounded here.
"""

import asyncio
import contextlib
import json
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from baichuan2.server.problems import ApiError
from baichuan2.settings import ServeSettings

__all__ = ["BoundedProtocol", "protocol_for"]

logger = logging.getLogger(__name__)
MOST_BEHIND = 1 << 20  # bytes that are kept of requests behind the one that is answered
MOST_UNWANTED = 8 << 20  # bytes that are taken of a body after it was refused, so that its sender reads the answer


class BoundedProtocol(H11Protocol):
    """One connection. The limits are class attributes, as uvicorn makes the objects."""

    receive_seconds = 30.0
    write_seconds = 30.0
    max_connections = 512
    _num_behind = 0
    _num_unwanted = 0
    _receiving: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; its first request has to come in time."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            logger.warning("more than %d connections: one more was closed at once", self.max_connections)
            transport.abort()
            return
        self._receiving = self.loop.call_later(self.receive_seconds, self._end, "sent no whole request in time")

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if self._is_answering():
            self._num_behind += len(data)
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self._num_unwanted += len(data)
        super().data_received(data)
        self._time_receiving()
        self._read_on()

    def on_response_complete(self) -> None:
        """A request is answered; the next one may have begun already."""
        self._num_behind = self._num_unwanted = 0
        super().on_response_complete()
        if self._is_answering():  # the next one, which had come already
            self._num_behind = len(self.conn.trailing_data[0])
        self._time_receiving()
        self._read_on()

    def pause_writing(self) -> None:
        """More is waiting to be read than memory should be given for."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.write_seconds, self._end, "read nothing in time")

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stop_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was left."""
        self._stop_receiving()
        super().connection_lost(exc)
        self._stop_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP ends the connection, with an answer where one can still be given."""
        problem = json.dumps(ApiError(400, msg, code="invalid_http").body()).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        events: list[Any] = [
            h11.Response(status_code=400, headers=[*headers, (b"content-length", str(len(problem)).encode())]),
            h11.Data(data=problem),
            h11.EndOfMessage(),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # another answer has begun
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _is_answering(self) -> bool:
        """Whether a request has come whole and waits for the rest of its answer."""
        is_coming = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        return not is_coming and self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY)

    def _read_on(self) -> None:
        """Goes on reading where uvicorn pauses: who does not read never learns that the client has left."""
        if self.transport.is_closing():
            return
        if self._num_behind > MOST_BEHIND:
            self._end("sent too much behind a request that is being answered")
        elif self._num_unwanted > MOST_UNWANTED:
            self._end("went on sending a body that was refused")
        elif self._is_answering():
            self.flow.resume_reading()

    def _time_receiving(self) -> None:
        """Has the timer run from the first byte of a request to its last."""
        state = self.conn.their_state
        is_incomplete = state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))
        if not is_incomplete:
            self._stop_receiving()
        elif self._receiving is None and not self.transport.is_closing():
            self._receiving = self.loop.call_later(self.receive_seconds, self._end, "sent no whole request in time")

    def _stop_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _end(self, reason: str) -> None:
        logger.info("a connection was closed: the client %s", reason)
        self.transport.abort()  # `close` would wait until everything is read


def protocol_for(settings: ServeSettings) -> type[BoundedProtocol]:
    """The protocol with the limits of `settings`."""
    limits = {
        "receive_seconds": settings.receive_seconds,
        "write_seconds": settings.write_seconds,
        "max_connections": settings.max_connections,
    }
    return type("ServerProtocol", (BoundedProtocol,), limits)
