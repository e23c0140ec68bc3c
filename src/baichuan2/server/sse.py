"""Server-sent events: one `data:` line an event, and the line that ends a stream."""

import json
from typing import Any

__all__ = ["DONE", "event"]

DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """The event that carries `value`; JSON holds no line break, so it stays one line."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
