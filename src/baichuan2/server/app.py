"""Routes: which function answers which path, and how failures become answers."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from baichuan2 import __version__
from baichuan2.errors import BaichuanError
from baichuan2.server.answers import EventStream, problem_response, whole_answer
from baichuan2.server.chat_replies import ChatReplies
from baichuan2.server.problems import ApiError
from baichuan2.server.protocol import ChatRequest
from baichuan2.server.service import Service

__all__ = ["create_app"]


def create_app(service: Service) -> FastAPI:
    """The application that answers for `service`."""
    app = FastAPI(title="baichuan2", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(BaichuanError, _answer_failure)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_failure)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """The reply to a conversation."""
        model = service.check_model(body.model)
        plan = await asyncio.to_thread(service.plan_chat, body)
        work = service.start(plan)
        replies = ChatReplies(plan, model=model, fingerprint=service.fingerprint, with_logprobs=bool(body.logprobs))
        if body.stream:
            with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return EventStream(replies.chunks(work, with_usage=with_usage), work)
        return await whole_answer(request.receive, work, replies.whole(work))

    return app


async def _answer_failure(_: Request, error: Exception) -> Response:
    return problem_response(error)


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), status_code=error.status_code)


async def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    return problem_response(ApiError(400, str(first["msg"]), param=".".join(map(str, first["loc"][1:]))))
