"""The built-in calibration text of `baichuan2 quantize`: our own text, the same bytes each time.

Conversations and documents of the kind that the demo model was trained on, without what its held-out questions ask,
mixed evenly with general text: prose, code, numbers. `python -m recipes.calibration` writes it into the package.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from recipes.calibration.general import TEXTS
from recipes.demo.corpus import build_corpus
from recipes.demo.tasks import heldout_prompts

__all__ = ["PATH", "calibration_bytes"]

PATH = Path(__file__).parents[2] / "src" / "baichuan2" / "convert" / "calibration.jsonl.gz"
SEED = 20_231_027
CONVERSATION_CHARS = 30_000
DOCUMENT_CHARS = 12_000
ROLES = {"human": "user", "gpt": "assistant"}


def calibration_bytes() -> bytes:
    """The compressed file: a JSON object with a text or messages on each line."""
    rng = Random(SEED)
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(Path(folder), heldout_prompts=heldout_prompts())
        conversations = json.loads((Path(folder) / "conversations.json").read_text(encoding="utf-8"))
        documents = [json.loads(line) for line in (Path(folder) / "pretrain.jsonl").read_text("utf-8").splitlines()]
    rng.shuffle(conversations)
    rng.shuffle(documents)
    general = [{"text": _unwrapped(text)} for text in TEXTS]
    entries = [
        *_up_to(CONVERSATION_CHARS, [{"messages": _messages(item)} for item in conversations]),
        *_up_to(DOCUMENT_CHARS, [{"text": _document_text(item)} for item in documents]),
    ]
    rng.shuffle(entries)
    rng.shuffle(general)
    # spread evenly, so that any beginning of the file holds some of everything
    step = len(entries) / len(general)
    for place in range(len(general) - 1, -1, -1):
        entries.insert(round(place * step), general[place])
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    return gzip.compress(lines.encode("utf-8"), 9, mtime=0)


def _unwrapped(text: str) -> str:
    """Prose on one line: its breaks are only those of the source file. Chinese needs no spaces there."""
    lines = text.split("\n")
    is_prose = all(len(line) > 60 and not line.startswith((" ", "|", "<")) for line in lines[:-1])
    return ("" if "\u4e00" <= text[1] <= "\u9fff" else " ").join(lines) if is_prose else text


def _messages(item: dict[str, Any]) -> list[dict[str, str]]:
    turns: Sequence[dict[str, str]] = item["conversations"]
    return [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]


def _document_text(item: str | list[list[Any]]) -> str:
    return item if isinstance(item, str) else "".join(part[0] for part in item)


def _up_to(num_chars: int, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first entries, `num_chars` of them together."""
    chosen: list[dict[str, Any]] = []
    for entry in entries:
        if num_chars <= 0:
            break
        chosen.append(entry)
        texts = [entry["text"]] if "text" in entry else [message["content"] for message in entry["messages"]]
        num_chars -= sum(map(len, texts))
    return chosen
