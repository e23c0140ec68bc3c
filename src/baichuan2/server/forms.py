"""Which form a reply must have, out of the fields that may ask for one."""

import threading
from typing import TYPE_CHECKING

from baichuan2.chat.grammar import GrammarConstraint, Grammars
from baichuan2.chat.tools import ToolUse
from baichuan2.server.problems import ApiError
from baichuan2.server.protocol import SamplingFields

if TYPE_CHECKING:
    from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["Forms"]

SCHEMA_PLACE = "response_format.json_schema.schema"


class Forms:
    """Makes constraints for one tokenizer; the library that does is loaded when the first form is asked for."""

    def __init__(self, tokenizer: "BaichuanTokenizer", stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._made: Grammars | None = None
        self._lock = threading.Lock()

    def constraint(self, request: SamplingFields, tool_use: ToolUse) -> GrammarConstraint | None:
        """The form that the request asks for, None for any text.

        May take a second, so not in the event loop. Raises SettingsError for a form that cannot be had, ApiError for
        two forms at once, MissingExtraError without llguidance.
        """
        wanted = [name for name in ("guided_json", "guided_regex", "guided_choice") if _is_given(request, name)]
        kind = "text" if request.response_format is None else request.response_format.type
        if kind != "text":
            wanted.append("response_format")
        if len(wanted) > 1:
            raise ApiError(400, f"only one of {' and '.join(wanted)} can be had", param=wanted[0], code="invalid_value")
        if request.ignore_eos and (wanted or tool_use.choice != "none"):
            raise ApiError(
                400, "ignore_eos cannot be had with a form that ends", param="ignore_eos", code="invalid_value"
            )
        if tool_use.choice != "none":
            return self._of_calls(request, tool_use, wanted)
        if not wanted:
            return None
        grammars = self._grammars()
        if request.guided_regex is not None:
            return grammars.regex(request.guided_regex, name="guided_regex")
        if request.guided_choice is not None:
            return grammars.choice(request.guided_choice, name="guided_choice")
        if request.guided_json is not None:
            return grammars.json_schema(request.guided_json, name="guided_json")
        if kind == "json_object":
            return grammars.json_object()
        return grammars.json_schema(_schema(request), name=SCHEMA_PLACE)

    def _of_calls(self, request: SamplingFields, tool_use: ToolUse, wanted: list[str]) -> GrammarConstraint | None:
        schema = None
        if wanted == ["response_format"] and tool_use.choice == "auto":
            is_object = request.response_format is not None and request.response_format.type == "json_object"
            schema = {"type": "object"} if is_object else _schema(request)
        elif wanted and wanted != ["response_format"]:
            raise ApiError(400, f"{wanted[0]} cannot be had with tools", param=wanted[0], code="invalid_value")
        return tool_use.constraint(self._grammars(), text_schema=schema if isinstance(schema, dict) else None)

    def _grammars(self) -> Grammars:
        with self._lock:
            if self._made is None:
                self._made = Grammars(self._tokenizer, self._stop_ids)
            return self._made


def _is_given(request: SamplingFields, name: str) -> bool:
    return getattr(request, name) is not None


def _schema(request: SamplingFields) -> object:
    """The schema of a `response_format` that names one; without one any JSON fits."""
    form = None if request.response_format is None else request.response_format.json_schema
    if form is None:
        text = "response_format.json_schema is missing"
        raise ApiError(400, text, param="response_format.json_schema", code="missing_required_parameter")
    return {} if form.schema_ is None else form.schema_
