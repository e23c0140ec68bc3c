"""What is wrong with a request's fields, in one sentence and with the field's name."""

from collections.abc import Mapping, Sequence
from typing import Any

from baichuan2.server.problems import ApiError

__all__ = ["fault_in"]

BROKEN_JSON = "json_invalid"
MOST_CHARACTERS = 200  # of a value from outside that a message repeats
MOST_ERRORS = 100  # that are looked at


def fault_in(errors: Sequence[Mapping[str, Any]], body: object) -> ApiError:
    """The answer to a body in which pydantic found `errors`.

    Told is the field that lies deepest, as of a field with several kinds each complains: `messages[0].content`.
    """
    errors = errors[:MOST_ERRORS]
    if any(error["type"] == BROKEN_JSON for error in errors):
        return ApiError(400, "the body is no JSON", code="invalid_json")
    named = [(field_name(error["loc"][1:], error["type"] == "missing", body), error) for error in errors]
    param = max((name for name, _ in named), key=_depth)
    complaints = dict.fromkeys(_complaint(error) for name, error in named if name == param)
    sentence = ", or ".join(complaints)
    if not param:
        return ApiError(400, f"the body: {sentence}", code="invalid_value")
    is_missing = any(error["type"] == "missing" for name, error in named if name == param)
    code = "missing_required_parameter" if is_missing else "invalid_value"
    return ApiError(400, f"{param}: {sentence}", param=param, code=code)


def field_name(place: Sequence[str | int], is_missing: bool, body: object) -> str:
    """The name of the field at `place`, which holds names of kinds as well: only what is in the body counts.

    A last name that is missing from the body counts too.
    """
    name = ""
    inside = body
    for number, step in enumerate(place):
        is_last = number == len(place) - 1
        if isinstance(inside, list) and isinstance(step, int) and step < len(inside):
            name += f"[{step}]"
            inside = inside[step]
        elif isinstance(inside, dict) and (step in inside or (is_last and is_missing)):
            name += f".{step}" if name else str(step)
            inside = inside.get(step)
    return name[:MOST_CHARACTERS]


def _depth(name: str) -> tuple[int, int]:
    return name.count(".") + name.count("["), len(name)


def _complaint(error: Mapping[str, Any]) -> str:
    message = str(error["msg"])
    message = message[:1].lower() + message[1:]
    value = error.get("input")
    if error["type"] == "missing" or isinstance(value, list | dict):
        return message
    shown = repr(value)
    if len(shown) > MOST_CHARACTERS:
        shown = shown[:MOST_CHARACTERS] + "..."
    return f"{message}, got {shown}"
