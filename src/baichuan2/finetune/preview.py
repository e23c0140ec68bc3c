"""Examples as a person can check them: each token's text, and what is learnt at its place."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from baichuan2.checkpoints.load import read_config, read_tokenizer
from baichuan2.checkpoints.locate import locate
from baichuan2.finetune.data import DataReport, Items, TrainingData, prepare_data
from baichuan2.finetune.preparation import Watch
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.special_tokens import (
    ASSISTANT_TOKEN_ID,
    BOS_TOKEN_ID,
    EOS_TOKEN_ID,
    UNKNOWN_TOKEN_ID,
    USER_TOKEN_ID,
)
from baichuan2.settings import FinetuneSettings

__all__ = ["Preview", "ShownExample", "ShownToken", "make_preview", "shown_examples", "visible"]

Kind = Literal["seen", "learnt", "structure", "ends"]
NAMES = {
    UNKNOWN_TOKEN_ID: "<unk>",
    BOS_TOKEN_ID: "<s>",
    EOS_TOKEN_ID: "</s>",
    USER_TOKEN_ID: "<user>",
    ASSISTANT_TOKEN_ID: "<assistant>",
}


@dataclass(frozen=True)
class ShownToken:
    """One token, or a few that only together make a character."""

    text: str
    """Without anything that a terminal obeys; a line break is `↵` and a line break."""
    kind: Kind
    """seen: read only; learnt; structure: a role or end token that is read only; ends: the end token is learnt here,
    whatever the text says."""


@dataclass(frozen=True)
class ShownExample:
    """One example."""

    origin: str
    """File and row."""
    part: Literal["", "chosen", "rejected"]
    """Which reply of a pair."""
    item: int
    """Which row of the training data it is in, from 0."""
    tokens: tuple[ShownToken, ...]
    num_tokens: int
    num_learnt: int
    num_cut: int
    """Tokens that --model-max-length has removed at its end."""


@dataclass(frozen=True)
class Preview:
    """Some examples, and counts of all."""

    examples: tuple[ShownExample, ...]
    report: DataReport
    evaluation_report: DataReport | None
    is_packed: bool


def make_preview(settings: FinetuneSettings, directory: Path, *, seed: int, watch: Watch | None = None) -> Preview:
    """The first `settings.preview` items of the training data; all of it is read and checked on the way.

    Raises as `prepare_data` does.
    """
    folder = locate(settings.model_name_or_path or "demo-base", revision=settings.revision, offline=settings.offline)
    tokenizer = read_tokenizer(folder, read_config(folder))
    data = prepare_data(settings, tokenizer, directory, seed=seed, watch=watch)
    examples = tuple(shown_examples(data, tokenizer, settings.preview))
    is_packed = settings.packing or settings.objective == "pretrain"
    return Preview(examples, data.report, data.evaluation_report, is_packed)


def shown_examples(data: TrainingData, tokenizer: Any, count: int) -> Iterator[ShownExample]:
    """All examples in the first `count` items of the training data."""
    for index in range(min(count, len(data.train))):
        yield from _of_item(data.train, index, tokenizer)


def _of_item(items: Items, index: int, tokenizer: Any) -> Iterator[ShownExample]:
    item = items[index]
    examples = [int(example) for example in items.examples(index)]
    if "chosen_input_ids" in item:
        for offset, name in enumerate(("chosen", "rejected")):
            yield _shown(
                items, index, examples[0] + offset, item[f"{name}_input_ids"], item[f"{name}_labels"], tokenizer, name
            )
        return
    segments = item.get("segment_ids")
    for number, example in enumerate(examples, 1):
        chosen = slice(None) if segments is None else segments == number
        yield _shown(items, index, example, item["input_ids"][chosen], item["labels"][chosen], tokenizer)


def _shown(
    items: Items, index: int, example: int, ids: Any, labels: Any, tokenizer: Any, part: Any = ""
) -> ShownExample:
    ids, labels = [int(token_id) for token_id in ids], [int(label) for label in labels]
    labels[0] = IGNORED_LABEL  # what stands first follows nothing: the loss never sees its label
    return ShownExample(
        origin=items.store.origin(example),
        part=part,
        item=index,
        tokens=tuple(shown_tokens(ids, labels, tokenizer)),
        num_tokens=len(ids),
        num_learnt=sum(label != IGNORED_LABEL for label in labels),
        num_cut=items.store.num_cut(example),
    )


def shown_tokens(ids: Sequence[int], labels: Sequence[int], tokenizer: Any) -> Iterator[ShownToken]:
    """The tokens one by one; those of a character that is spelled in several together."""
    pending = b""
    pending_kind: Kind = "seen"
    for token_id, label in zip(ids, labels, strict=True):
        name = NAMES.get(token_id)
        kind = _kind(token_id, label, is_named=name is not None)
        content = b"" if name is not None else tokenizer.piece_bytes(token_id)
        if pending and (name is not None or kind != pending_kind or not _is_tail(content)):
            yield ShownToken(visible(pending), pending_kind)
            pending = b""
        if name is not None:
            yield ShownToken(name, kind)
            continue
        pending += content
        pending_kind = kind
        if _is_whole(pending):
            yield ShownToken(visible(pending), kind)
            pending = b""
    if pending:
        yield ShownToken(visible(pending), pending_kind)


def visible(content: bytes) -> str:
    """The text of these bytes with what a terminal might obey spelled out; bytes that are no character as `<E4>`."""
    text = content.decode("utf-8", "surrogateescape")
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character == "\t":
        return "⇥"
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"<{code - 0xDC00:02X}>"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def _kind(token_id: int, label: int, *, is_named: bool) -> Kind:
    if label == EOS_TOKEN_ID:
        return "ends"
    if label != IGNORED_LABEL:
        assert label == token_id, "a label is its token, the end token or nothing"
        return "learnt"
    return "structure" if is_named else "seen"


def _is_whole(content: bytes) -> bool:
    """Whether these bytes do not end within a character."""
    for length in range(1, min(4, len(content) + 1)):
        lead = content[-length]
        if lead & 0xC0 != 0x80:
            needed = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return length >= needed
    return True


def _is_tail(content: bytes) -> bool:
    return bool(content) and content[0] & 0xC0 == 0x80
