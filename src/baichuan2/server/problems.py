"""Failures as a client sees them: a status, and an error object in OpenAI's form.

Every exception of `baichuan2.errors` that a request can meet is mapped here, once. No HTTP library is known here.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from baichuan2.errors import (
    BaichuanError,
    ContextLengthError,
    MessageError,
    MissingExtraError,
    OverloadedError,
    SettingsError,
    TokenizerError,
)

__all__ = ["ApiError", "ClientGoneError", "engine_dead", "problem_from", "timed_out"]

RETRY_SECONDS = 2  # what a refused client is told to wait: a reply's time, more or less
FIELD = re.compile(r"--[a-z-]+|[a-z]+(?=_|\[|\.|s )[\w.\[\]]*(?= )")
INVALID = "invalid_request_error"


class ApiError(BaichuanError):
    """A request that fails, with all that its answer says.

    `param`: the field that is wrong, such as `messages[0].content`; None where no single one is. `code`: a word for
    programs. `headers`: beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.type = status, message, type
        self.param, self.code = param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The error object that OpenAI's clients read."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class ClientGoneError(BaichuanError):
    """Whoever asked has left; nobody reads what would be said."""

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


def problem_from(error: Exception) -> ApiError:
    """The answer to a request that failed with `error`; of an unknown one nothing is told but that it happened."""
    if isinstance(error, ApiError):
        return error
    text = str(error)
    if isinstance(error, OverloadedError):
        return _overloaded(error)
    if isinstance(error, ContextLengthError):
        text = text.replace("max_new_tokens", "max_tokens")  # as clients call it
        return ApiError(400, text, param="messages", code="context_length_exceeded")
    if isinstance(error, MessageError):
        place, separator, _ = text.partition(": ")
        is_place = bool(separator) and "[" in place and " " not in place
        return ApiError(400, text, param=place if is_place else "messages", code="invalid_value")
    if isinstance(error, ClientGoneError):
        return ApiError(499, text, code="client_gone")
    if isinstance(error, SettingsError | TokenizerError):
        return ApiError(400, text, param=_field_in(text), code="invalid_value")
    if isinstance(error, MissingExtraError):
        return ApiError(501, text, type="server_error", code="missing_extra")
    return ApiError(500, "the request failed inside the server", type="server_error", code="internal_error")


def engine_dead() -> ApiError:
    """The engine's thread has ended by a mistake of ours: no reply will ever come."""
    text = "the engine has stopped: restart the server"
    return ApiError(503, text, type="server_error", code="engine_dead", headers={"x-should-retry": "false"})


def timed_out(seconds: float) -> ApiError:
    """A request that was worked on for as long as it may."""
    message = f"the reply was not finished within {seconds:g} seconds, this server's limit (--request-seconds)"
    headers = {"x-should-retry": "false"}  # OpenAI's clients would ask twice more, for the same again
    return ApiError(504, message, type="server_error", code="request_timeout", headers=headers)


def _field_in(text: str) -> str | None:
    """The field that a message begins with: `tools[2].function.name must ...`, or, as a flag, `--top-p must ...`."""
    found = FIELD.match(text)
    if found is None:
        return None
    name = found.group().removeprefix("--").replace("-", "_")
    return {"max_new_tokens": "max_tokens"}.get(name, name)


def _overloaded(error: OverloadedError) -> ApiError:
    headers = {"Retry-After": str(math.ceil(RETRY_SECONDS))}
    if error.is_closing:
        return ApiError(503, str(error), type="server_error", code="server_closing", headers=headers)
    return ApiError(429, str(error), type="rate_limit_error", code="queue_full", headers=headers)
