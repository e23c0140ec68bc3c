"""Answers over HTTP to requests that are being worked on: JSON at the end, or events on the way.

Both watch the connection: the place of a client that leaves is free at once. The framework's own streaming answer waits
inside a scope that is cancelled when the client leaves, where every further `await` fails; nothing is awaited here to
give a request up.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from baichuan2.errors import BaichuanError
from baichuan2.server.problems import ClientGoneError, problem_from
from baichuan2.server.sse import DONE, event
from baichuan2.server.work import Work

__all__ = ["EventStream", "problem_response", "whole_answer"]

logger = logging.getLogger(__name__)
STATUS_GONE = 499  # never sent, as nobody is there; for the log and the metrics
STATUS_INTERNAL = 500
EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would collect the pieces
}


class EventStream(Response):
    """Chunks as server-sent events; a failure on the way is an event too, and [DONE] ends the stream in any case."""

    def __init__(self, chunks: AsyncIterator[list[dict[str, Any]]], work: Work) -> None:
        super().__init__(headers=EVENT_HEADERS)
        del self.headers["content-length"]  # not known
        self._chunks, self._work = chunks, work

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        with _watching(receive, self._work):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for chunks in self._chunks:
                    data = b"".join(map(event, chunks))
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                end = DONE
            except ClientGoneError:
                end = b""
            except Exception as error:
                end = event(_told(error)) + DONE
            await send({"type": "http.response.body", "body": end, "more_body": False})


async def whole_answer(receive: Receive, work: Work, value: Awaitable[dict[str, Any]]) -> Response:
    """The JSON of `value`, when it is there. Raises the BaichuanError that ends the request."""
    with _watching(receive, work):
        try:
            return JSONResponse(await value)
        except ClientGoneError:
            return Response(status_code=STATUS_GONE)


def problem_response(error: Exception) -> Response:
    """The answer to a request that failed before its reply began."""
    problem = problem_from(error)
    return JSONResponse(problem.body(), status_code=problem.status, headers=problem.headers)


@contextlib.contextmanager
def _watching(receive: Receive, work: Work) -> Iterator[None]:
    """Gives `work` up when the client leaves, and when the block is left, however that happens."""
    watch = asyncio.create_task(_leave_when_gone(receive, work))
    try:
        yield
    finally:
        work.close()
        watch.cancel()


async def _leave_when_gone(receive: Receive, work: Work) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    work.leave()


def _told(error: Exception) -> dict[str, Any]:
    problem = problem_from(error)
    if not isinstance(error, BaichuanError):
        logger.exception("a stream failed")
    elif problem.status == STATUS_INTERNAL:
        logger.error("%s", error)
    return problem.body()
