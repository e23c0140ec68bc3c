"""What a report measures on: the built-in text, or a file, as token ids in sequences."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan2.bench.quality import token_windows
from baichuan2.errors import DataError
from baichuan2.model.prompt_format import chat_ids
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["ReportText", "built_in_texts", "file_text"]

BUILT_IN = "report.jsonl"
WINDOW_TOKENS = 512
MOST_FILE_TOKENS = 32_768


@dataclass(frozen=True)
class ReportText:
    """Token ids (T,) int64 of each sequence, and how many of them are only read.

    `kind`: "replies" of conversations, each read with what was asked; plain "text"; or a "file" called `name`.
    """

    kind: str
    name: str
    sequences: tuple[Tensor, ...]
    starts: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that are foretold, which are those that count."""
        lengths = [len(sequence) - max(1, start) for sequence, start in zip(self.sequences, self.starts, strict=True)]
        return sum(max(0, length) for length in lengths)


def built_in_texts(tokenizer: BaichuanTokenizer, *, is_chat: bool, max_length: int) -> list[ReportText]:
    """The built-in text in sequences of at most `max_length` tokens.

    A Chat model is measured on the last reply of conversations, and on plain text; a Base model, which knows no roles,
    on all of it as plain text.
    """
    conversations: list[tuple[Tensor, int]] = []
    plain: list[tuple[Tensor, int]] = []
    longest = min(WINDOW_TOKENS, max_length)
    for line in files("baichuan2.bench").joinpath(BUILT_IN).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        messages: Sequence[Mapping[str, Any]] | None = entry.get("messages")
        if is_chat and messages is not None:
            read = len(chat_ids(tokenizer, messages[:-1], add_generation_prompt=True)[0])
            ids = chat_ids(tokenizer, messages, add_generation_prompt=False)[0][:longest]
            if read < len(ids):
                conversations.append((torch.tensor(ids), read))
            continue
        text = entry["text"] if messages is None else "\n".join(message["content"] for message in messages)
        ids = tokenizer.encode_text(text)[:longest]
        if len(ids) > 1:
            plain.append((torch.tensor(ids), 0))
    found = {"replies": conversations, "text": plain}
    return [_text(kind, "built-in", pairs) for kind, pairs in found.items() if pairs]


def file_text(tokenizer: BaichuanTokenizer, path: str, *, max_length: int) -> ReportText:
    """The beginning of a UTF-8 file, at most 32,768 tokens, in windows.

    Raises:
        DataError: the file cannot be read, is no UTF-8, or is too short.
    """
    try:
        file = Path(path).expanduser()
    except RuntimeError as error:  # the home of an unknown user
        raise DataError(f"--text {path} cannot be read: {error}") from error
    windows = token_windows(tokenizer, file, length=min(WINDOW_TOKENS, max_length), limit=MOST_FILE_TOKENS)
    return _text("file", file.name, [(window, 0) for window in windows])


def _text(kind: str, name: str, pairs: Sequence[tuple[Tensor, int]]) -> ReportText:
    return ReportText(kind, name, tuple(ids for ids, _ in pairs), tuple(start for _, start in pairs))
