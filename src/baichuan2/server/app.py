"""Routes: which function answers which path, and how failures become answers."""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from baichuan2 import __version__
from baichuan2.errors import BaichuanError, OverloadedError
from baichuan2.server.access_log import ID_KEY, WORK_KEY, Recorder
from baichuan2.server.answers import EventStream, problem_response, whole_answer
from baichuan2.server.chat_replies import ChatReplies
from baichuan2.server.documents import answers_with, describe
from baichuan2.server.escaping import escaped
from baichuan2.server.faults import fault_in
from baichuan2.server.gate import CLIENT_KEY, Gate, known_hosts
from baichuan2.server.keys import Keys
from baichuan2.server.metrics import CONTENT_TYPE, Metrics
from baichuan2.server.preparing import Preparing
from baichuan2.server.problems import ApiError, engine_dead, problem_from
from baichuan2.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    SamplingFields,
    TokenizeRequest,
)
from baichuan2.server.service import Plan, Service, prompts_of
from baichuan2.server.text_replies import TextReplies
from baichuan2.settings import ServeSettings, parse_bytes

__all__ = ["Application", "create_app"]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
STATUS_INTERNAL = 500
HTTP_PROBLEMS = {  # that the framework finds: message and code
    400: ("the body is no JSON that can be read", "invalid_json"),
    404: ("there is no such path here", "not_found"),
    405: ("this path takes another method", "method_not_allowed"),
}
SLOW_FIELDS = frozenset({"tools", "response_format", "guided_json", "guided_regex", "guided_choice"})  # are compiled
HALF_CHARACTER = b"\\ud"  # perhaps; as it is written in JSON
NUM_FORM_THREADS = 2  # the engine computes beside them
NUM_TEXT_THREADS = 4
LONG_TEXT = 4_000  # bytes of a body from which on it is read beside the event loop, which others wait for


class _Preparations(NamedTuple):
    """Forms take seconds, texts moments: neither waits for the other."""

    forms: Preparing
    texts: Preparing

    @classmethod
    def under(cls, settings: ServeSettings) -> "_Preparations":
        """With the bounds of `settings`."""
        seconds = settings.request_seconds
        most = settings.max_running + settings.max_waiting  # as many as the queue would take afterwards
        return cls(
            Preparing("forms", num_threads=NUM_FORM_THREADS, most=most, seconds=seconds),
            Preparing("texts", num_threads=NUM_TEXT_THREADS, most=None, seconds=seconds),
        )


class Application(NamedTuple):
    """The whole of it, and the gate in it, which knows how many requests are being answered."""

    asgi: ASGIApp
    gate: Gate


def create_app(service: Service, keys: Keys) -> Application:
    """The application that answers for `service`, with everything that a request has to pass before."""
    app = FastAPI(title="baichuan2", version=__version__, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(BaichuanError, _answer_failure)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_failure)
    metrics = Metrics(service.scheduler.load)
    preparations = _Preparations.under(service.settings)
    _add_replies(app, service, preparations)
    _add_tokens(app, service, preparations)
    _add_facts(app, service, metrics)
    describe(app)
    settings = service.settings
    gate = Gate(
        app,
        keys=keys,
        hosts=known_hosts(settings, keys),
        max_body=parse_bytes(settings.max_body),
        is_closing=lambda: service.is_closing,
    )
    guarded: ASGIApp = gate
    if settings.allow_origin is not None:
        origins = [origin.strip() for origin in settings.allow_origin.split(",") if origin.strip()]
        guarded = CORSMiddleware(
            gate,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's clients send a dozen of their own
            expose_headers=["x-request-id", "retry-after"],
            max_age=600,
        )
    known = {route.path for route in app.routes if hasattr(route, "path")}
    return Application(Recorder(guarded, metrics, lambda path: _route_of(path, known)), gate)


def _add_replies(app: FastAPI, service: Service, preparations: _Preparations) -> None:
    """The routes that let the model write."""

    @app.post("/v1/chat/completions", responses=answers_with("/v1/chat/completions"))
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """The reply to a conversation."""
        model = service.check_model(body.model)
        plan = await _planned(preparations, request, service.plan_chat, body)
        replies = ChatReplies(
            plan.num_choices,
            service.tokenizer.piece_bytes,
            model=model,
            fingerprint=service.fingerprint,
            with_logprobs=bool(body.logprobs),
            tool_use=plan.tool_use,
        )
        return await _answered(service, plan, body, request, replies)

    @app.post("/v1/completions", responses=answers_with("/v1/completions"))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """What follows a text."""
        model = service.check_model(body.model)
        plan = await _planned(preparations, request, service.plan_completion, body)
        echoed = [_echoed(service, prompt) if body.echo else "" for prompt in prompts_of(body)]
        replies = TextReplies(
            [text for text in echoed for _ in range(plan.num_choices)],
            service.tokenizer.piece_bytes,
            model=model,
            fingerprint=service.fingerprint,
            with_logprobs=body.logprobs is not None,
        )
        return await _answered(service, plan, body, request, replies)


def _add_tokens(app: FastAPI, service: Service, preparations: _Preparations) -> None:
    """The routes between texts and token ids."""

    @app.post("/tokenize", responses=answers_with("/tokenize"))
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        """The ids of a text, or of a conversation."""
        service.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "either prompt or messages must be given", param="prompt", code="invalid_value")
        ids = await _planned(preparations, request, service.token_ids, body)
        return JSONResponse({"count": len(ids), "max_model_len": service.context, "tokens": ids})

    @app.post("/detokenize", responses=answers_with("/detokenize"))
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
        """The text of ids."""
        service.check_model(body.model)
        return JSONResponse({"prompt": await _planned(preparations, request, service.text_of_ids, body.tokens)})


def _add_facts(app: FastAPI, service: Service, metrics: Metrics) -> None:
    """The routes that tell about the server itself."""
    started = int(time.time())

    def model_object(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "baichuan2",
            "max_model_len": service.context,
            "parent": service.parent_of(name),
        }

    @app.get("/v1/models", responses=answers_with("/v1/models"))
    async def models() -> Response:
        """The model, under each of its names, and its adapters."""
        return JSONResponse({"object": "list", "data": [model_object(name) for name in service.names]})

    @app.get("/v1/models/{name:path}", responses=answers_with("/v1/models/{name}"))
    async def model(name: str) -> Response:
        """The model of that name."""
        return JSONResponse(model_object(service.check_model(name)))

    @app.get("/health", responses=answers_with("/health"))
    async def health() -> Response:
        """Whether replies can be had: 200, or 503."""
        if service.is_closing:
            raise OverloadedError("the server is shutting down", is_closing=True)
        if not service.scheduler.load().is_alive:
            raise engine_dead()
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", responses=answers_with("/metrics"))
    async def numbers() -> Response:
        """Counters for Prometheus."""
        return Response(metrics.page(), headers={"content-type": CONTENT_TYPE})


async def _answered(
    service: Service,
    plan: Plan,
    body: ChatRequest | CompletionRequest,
    request: Request,
    replies: ChatReplies | TextReplies,
) -> Response:
    """The replies of `plan` as the client wants them."""
    work = service.start(plan, client=request.scope.get(CLIENT_KEY, ""))
    request.scope[WORK_KEY] = work
    if service.settings.log_messages:
        logger.info(
            "%s is asked %s", request.scope[ID_KEY], escaped(json.dumps(await request.json(), ensure_ascii=False), None)
        )
    if body.stream:
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return EventStream(replies.chunks(work, with_usage=with_usage), work)
    return await whole_answer(request.receive, work, replies.whole(work))


async def _planned(
    preparations: _Preparations, request: Request, plan: Callable[[Any], Result], body: object
) -> Result:
    """`plan(body)`, in another thread where that takes long enough for others to notice."""
    asks_for_form = isinstance(body, SamplingFields) and not SLOW_FIELDS.isdisjoint(body.model_fields_set)
    raw = await request.body()
    if HALF_CHARACTER in raw.lower():
        _check_characters(await request.json())
    if len(raw) < LONG_TEXT and not asks_for_form:
        return plan(body)
    preparing = preparations.forms if asks_for_form else preparations.texts
    return await preparing.run(partial(plan, body), request.receive)


def _check_characters(body: object) -> None:
    """ApiError if a text in it holds half of a pair of UTF-16, which is no character, and which nobody can pass on."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "the body holds half a character (a lone surrogate, \\ud800 to \\udfff)"
        raise ApiError(400, message, code="invalid_value") from None


def _echoed(service: Service, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else service.text_of_ids(prompt)


def _route_of(path: str, known: set[str]) -> str:
    if path in known:
        return path
    return "/v1/models/{name}" if path.startswith("/v1/models/") else "other"


async def _answer_failure(_: Request, error: Exception) -> Response:
    if isinstance(error, BaichuanError):
        if problem_from(error).status == STATUS_INTERNAL:
            logger.error("%s", error)
        return problem_response(error)
    raise error  # whoever stands outside logs and answers it


async def _answer_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message, code = HTTP_PROBLEMS.get(error.status_code, (str(error.detail), None))
    return problem_response(ApiError(error.status_code, message, code=code, headers=dict(error.headers or {})))


async def _answer_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(fault_in(error.errors(), error.body))
