"""Files of texts and conversations: paragraphs between blank lines, or JSONL with a text or messages in each line."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from baichuan2.errors import DataError

__all__ = ["Document", "iter_documents", "read_file"]

LARGEST_FILE = 1 << 28  # bytes: a text a thousand times as long as what is used is a mistake

Document = str | list[Mapping[str, Any]]
"""A text, or the messages of a conversation, which nobody has looked at yet."""


def read_file(path: str, flag: str) -> tuple[bytes, str]:
    """The content of a file that `flag` names, and its name.

    Raises:
        DataError: it cannot be read, or has more than 256 MiB.
    """
    file = Path(path)
    try:
        file = file.expanduser()
        if file.stat().st_size > LARGEST_FILE:
            raise DataError(f"{flag} {path} has {file.stat().st_size} bytes, at most {LARGEST_FILE} are read")
        return file.read_bytes(), file.name
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{flag} {path} cannot be read: {reason}") from error


def iter_documents(content: bytes, name: str, *, is_json: bool | None = None) -> Iterator[Document]:
    """Texts and conversations of a file, in order. `is_json`: JSONL; None: as the name of the file ends.

    Raises:
        DataError: it is no UTF-8, or a line holds something else.
    """
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no UTF-8 text (byte {error.start})") from error
    is_json = name.endswith((".jsonl", ".json")) if is_json is None else is_json
    if is_json:
        yield from _json_documents(text, name)
        return
    for paragraph in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text):
        if paragraph.strip():
            yield paragraph.strip("\n")


def _json_documents(text: str, name: str) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}, line {number}: no JSON ({' '.join(str(error).split())})") from error
        entry = value if isinstance(value, dict) else {}
        found = entry.get("text", entry.get("messages"))
        if not isinstance(found, str) and not (isinstance(found, list) and found):
            raise DataError(f'{name}, line {number}: expected an object with a "text" or "messages"')
        yield found
