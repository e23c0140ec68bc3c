"""One line in the log for every request: what was asked of which path, how it ended, what it cost. Never any text.

Text is logged only where the server was started with --log-messages. Whatever comes from outside is escaped: a path
with a line break in it makes no second line, and no terminal obeys it.
"""

import json
import logging
import secrets
from collections.abc import Callable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from baichuan2.server.answers import problem_response
from baichuan2.server.escaping import escaped
from baichuan2.server.metrics import Metrics
from baichuan2.server.work import Work

__all__ = ["ID_KEY", "WORK_KEY", "Recorder"]

logger = logging.getLogger(__name__)
ID_KEY = "baichuan2.request_id"
WORK_KEY = "baichuan2.work"
"""Where in a scope a route leaves its `Work`."""


class Recorder:
    """Hands requests on to `app`; logs and counts each when it is over, and answers what fails unforeseen."""

    def __init__(self, app: ASGIApp, metrics: Metrics, route_of: Callable[[str], str]) -> None:
        """`route_of`: the route behind a path, of which there are only so many; the metrics have a row for each."""
        self._app, self._metrics, self._route_of = app, metrics, route_of
        self._num_open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = scope[ID_KEY] = f"req_{secrets.token_hex(8)}"
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            logger.exception("%s failed", request_id)
            if not status:
                await problem_response(error)(scope, receive, noting)
        finally:
            self._record(scope, status, perf_counter() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        work: Work | None = scope.get(WORK_KEY)
        self._metrics.record(self._route_of(scope["path"]), scope["method"], status, seconds, work)
        if not logger.isEnabledFor(logging.INFO):
            return
        line = (
            f"{request_id} {escaped(scope['method'])} {escaped(scope['path'])} {status or '-'} {seconds * 1000:.0f} ms"
        )
        if work is not None:
            line += f", {work.num_prompt_tokens} + {work.num_new_tokens} tokens"
            if work.failure is not None:
                line += f", {work.failure}"
        logger.info("%s", line)
        if work is not None and work.texts is not None:
            logger.info("%s replied %s", request_id, escaped(json.dumps(work.texts, ensure_ascii=False), None))
