"""The text that a model is fed while its weights are rounded: read, rendered for the model, cut into windows."""

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from baichuan2.chat.text_files import Document, iter_documents, read_file
from baichuan2.checkpoints.load import read_generation_config, read_tokenizer
from baichuan2.convert.source import Source
from baichuan2.errors import DataError, MessageError
from baichuan2.model.prompt_format import chat_ids
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

__all__ = ["CalibrationText", "read_calibration_text"]

BUILT_IN = "calibration.jsonl.gz"
WINDOW_TOKENS = 512
MIN_TOKENS = 16
# what is kept of each token while the model runs: one hidden state of the quantised and one of the whole model
LARGEST_STATES = 1 << 30


@dataclass(frozen=True)
class CalibrationText:
    """Token ids in windows of at most 512, and where they come from."""

    name: str
    sha256: str
    windows: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens in all windows."""
        return sum(map(len, self.windows))

    def description(self) -> dict[str, Any]:
        """What is noted in config.json."""
        return {"name": self.name, "sha256": self.sha256, "tokens": self.num_tokens}


def read_calibration_text(path: str | None, source: Source, max_tokens: int) -> CalibrationText:
    """The calibration text at `path` (None: the built-in one) for a model, at most `max_tokens` of it.

    Raises:
        DataError: the file cannot be read, or holds too little text.
        TokenizerError: the folder has no usable tokenizer.model.
    """
    content, name = _read(path)
    documents = list(iter_documents(content, name, is_json=True if path is None else None))
    tokenizer = read_tokenizer(source.folder, source.config)
    is_chat = getattr(read_generation_config(source.folder), "user_token_id", None) is not None
    most = min(max_tokens, LARGEST_STATES // (8 * int(source.config.hidden_size)))
    longest = min(WINDOW_TOKENS, source.config.model_max_length or WINDOW_TOKENS)
    windows: list[tuple[int, ...]] = []
    room = most
    for number, document in enumerate(documents, 1):
        ids = _ids(tokenizer, document, is_chat=is_chat, where=f"{name}: document {number}")[:room]
        windows += [tuple(ids[start : start + longest]) for start in range(0, len(ids), longest)]
        room -= len(ids)
        if room <= 0:
            break
    text = CalibrationText(name, hashlib.sha256(content).hexdigest(), tuple(windows))
    if text.num_tokens < MIN_TOKENS:
        raise DataError(f"{name} holds {text.num_tokens} tokens of text: at least {MIN_TOKENS} are needed")
    return text


def _read(path: str | None) -> tuple[bytes, str]:
    if path is None:
        return gzip.decompress(files("baichuan2.convert").joinpath(BUILT_IN).read_bytes()), "built-in"
    return read_file(path, "--calibration")


def _ids(tokenizer: BaichuanTokenizer, document: Document, *, is_chat: bool, where: str) -> list[int]:
    """Token ids; a Base model, which knows no roles, gets the messages of a conversation as lines."""
    if isinstance(document, str):
        return tokenizer.encode_text(document)
    try:
        if is_chat:
            return chat_ids(tokenizer, document, add_generation_prompt=False)[0]
        chat_ids(tokenizer, document, add_generation_prompt=False)
    except MessageError as error:
        raise DataError(f"{where}: {error}") from error
    return tokenizer.encode_text("\n".join(message["content"] for message in document))
