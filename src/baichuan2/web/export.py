"""A conversation as a file to keep: JSON for programs, Markdown for people."""

import json
from datetime import datetime
from typing import Any

from baichuan2.chat.messages import Message

__all__ = ["as_json", "as_markdown", "file_name"]


def as_json(messages: list[Message], *, model: str, settings: dict[str, Any], now: datetime) -> str:
    """One object; its `messages` are what `baichuan2.reply` and every chat interface of the kind take."""
    content = {
        "model": model,
        "saved": now.isoformat(timespec="seconds"),
        "settings": settings,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def as_markdown(messages: list[Message], *, model: str, names: dict[str, str], now: datetime) -> str:
    """A page with one heading a message; `names` holds what each role is called."""
    sections = [f"# {model}, {now:%Y-%m-%d %H:%M}\n"]
    sections += [f"## {names[message.role]}\n\n{message.content.rstrip()}\n" for message in messages]
    return "\n".join(sections)


def file_name(now: datetime, ending: str) -> str:
    """Sorts by time, and needs no quoting anywhere."""
    return f"baichuan2-{now:%Y%m%d-%H%M%S}.{ending}"
