"""Server-sent events: one `data:` line an event, and the line that ends a stream."""

import json
from typing import Any

__all__ = ["DONE", "event"]

_encode = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":")
).encode  # one for all events, not a new one for each
DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """The event that carries `value`; JSON holds no line break, so it stays one line."""
    return b"data: " + _encode(value).encode() + b"\n\n"
