"""Training rows: examples of any length put side by side into rows of a fixed length, without seeing each other.

An example is a pair of token ids and labels, both of its length, unshifted, as fine-tuning makes them. A row holds
several; `segments` numbers them from 1, with 0 for padding, and attention stays inside a segment. Short examples go
into short rows, because attention costs the square of the row.
"""

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.special_tokens import EOS_TOKEN_ID

Example = tuple[Sequence[int], Sequence[int]]
ROW_LENGTHS = (128, 256, 512)


@dataclass(frozen=True)
class PackedRows:
    """Rows of one length T, as int16 arrays (N, T).

    Attributes:
        input_ids: Token ids, 0 where a row is padded.
        targets: The label of the next token of the same example, -100 where there is none: already shifted.
        segments: 1, 2, ... for the examples of a row, 0 for padding.
    """

    input_ids: np.ndarray
    targets: np.ndarray
    segments: np.ndarray

    @property
    def num_targets(self) -> int:
        """How many places have a loss."""
        return int((self.targets != IGNORED_LABEL).sum())

    @property
    def num_tokens(self) -> int:
        """How many places are no padding."""
        return int((self.segments != 0).sum())


class _Packer:
    """Rows of one length that are being filled, each example into the row where the least room is left over."""

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length
        self.rows: list[list[Example]] = []
        self._rows_by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
        self._most_room = 0  # no row has more; it may be less

    def add(self, example: Example, *, may_open_row: bool = True) -> bool:
        """Whether the example went into a row with room, or into a new one where that is allowed."""
        size = len(example[0]) - 1
        room = next((room for room in range(size, self._most_room + 1) if self._rows_by_room[room]), None)
        if room is None:
            self._most_room = min(self._most_room, size - 1)
            if not may_open_row:
                return False
            row = len(self.rows)
            self.rows.append([])
            room = self.row_length
        else:
            row = self._rows_by_room[room].pop()
        self.rows[row].append(example)
        self._rows_by_room[room - size].append(row)
        self._most_room = max(self._most_room, room - size)
        return True


def pack(examples: Iterable[Example], row_length: int) -> PackedRows:
    """All examples in rows of `row_length`, each whole; one that is longer is cut on the right.

    The last token of an example is no input, only a target, so an example takes one place less than its length.
    Examples in which no target is left are dropped.
    """
    packer = _Packer(row_length)
    for example in _usable(examples, row_length):
        packer.add(example)
    return _to_arrays(packer.rows, row_length)


def _usable(examples: Iterable[Example], row_length: int) -> Iterator[Example]:
    """The examples cut to a row and its last target, without those that have no target left."""
    for token_ids, labels in examples:
        if len(token_ids) > 1 and any(label != IGNORED_LABEL for label in labels[1 : row_length + 1]):
            yield token_ids[: row_length + 1], labels[: row_length + 1]


def _to_arrays(rows: Sequence[Sequence[Example]], row_length: int) -> PackedRows:
    shape = (len(rows), row_length)
    input_ids = np.zeros(shape, np.int16)
    targets = np.full(shape, IGNORED_LABEL, np.int16)
    segments = np.zeros(shape, np.int16)
    for row, examples in enumerate(rows):
        start = 0
        for number, (token_ids, labels) in enumerate(examples, start=1):
            stop = start + len(token_ids) - 1
            input_ids[row, start:stop] = token_ids[:-1]
            targets[row, start:stop] = labels[1:]
            segments[row, start:stop] = number
            start = stop
    return PackedRows(input_ids, targets, segments)


def pack_by_length(
    examples: Iterable[Example], *, seed: int, row_lengths: Sequence[int] = ROW_LENGTHS
) -> tuple[PackedRows, ...]:
    """Rows for each of `row_lengths` (ascending), in an order drawn from `seed`.

    An example goes into the shortest row that holds it, or fills up what examples left over in longer rows: two long
    ones rarely fit together, and padding would be a third of those rows.
    """
    shuffled = list(_usable(examples, row_lengths[-1]))
    random.Random(seed).shuffle(shuffled)
    packers = [_Packer(length) for length in row_lengths]
    for index in reversed(range(len(row_lengths))):
        shortest = row_lengths[index - 1] if index else 0
        for example in shuffled:
            if not shortest < len(example[0]) - 1 <= row_lengths[index]:
                continue
            if not any(longer.add(example, may_open_row=False) for longer in packers[index + 1 :]):
                packers[index].add(example)
    return tuple(_to_arrays(packer.rows, packer.row_length) for packer in packers if packer.rows)


def save_rows(rows: Sequence[PackedRows], path: Path) -> None:
    """Writes `path`, an .npz file, beside its final name first."""
    arrays = {
        f"{name}_{index}": getattr(group, name)
        for index, group in enumerate(rows)
        for name in ("input_ids", "targets", "segments")
    }
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.savez(file, **arrays)
    beside.replace(path)


def load_rows(path: Path) -> tuple[PackedRows, ...]:
    """What `save_rows` wrote."""
    with np.load(path) as arrays:
        return tuple(
            PackedRows(arrays[f"input_ids_{index}"], arrays[f"targets_{index}"], arrays[f"segments_{index}"])
            for index in range(len(arrays.files) // 3)
        )


class DocumentEncoder:
    """Turns documents of the Base corpus into examples: masked parts get no loss, and eos ends the document."""

    def __init__(self, tokenizer_path: Path) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_path))
        self._num_bytes = np.array(
            [self._piece_size(token_id) for token_id in range(self._processor.get_piece_size())], np.int64
        )

    def encode(self, document: str | Sequence[tuple[str, int]]) -> Example:
        """Ids and labels of one document: a text, or (text, 1 or 0) parts where 0 keeps a part out of the loss.

        The text is encoded as a whole, so the pieces are those that a prompt of the same text has; a piece that
        crosses the border of two parts belongs to the part in which it ends.
        """
        parts = [(document, 1)] if isinstance(document, str) else document
        text = "".join(part for part, _ in parts)
        token_ids = np.array(self._processor.encode(text), np.int64)
        ends = np.cumsum(self._num_bytes[token_ids])
        part_ends = np.cumsum([len(part.encode()) for part, _ in parts])
        assert not len(ends) or ends[-1] == part_ends[-1], "pieces and text differ in length"
        is_learnt = np.array([learnt for _, learnt in parts], bool)[np.searchsorted(part_ends, ends)]
        labels = np.where(is_learnt, token_ids, IGNORED_LABEL)
        return [*token_ids.tolist(), EOS_TOKEN_ID], [*labels.tolist(), EOS_TOKEN_ID]

    def _piece_size(self, token_id: int) -> int:
        if self._processor.is_byte(token_id):
            return 1
        return len(self._processor.id_to_piece(token_id).replace("▁", " ").encode())


def read_documents(path: Path) -> Iterator[str | list[tuple[str, int]]]:
    """The documents of pretrain.jsonl: each line a JSON string, or a list of [text, 0 or 1] parts.

    Raises:
        ValueError: a line has another form; the message names it.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            document = json.loads(line)
            if isinstance(document, list) and all(
                len(part) == 2 and isinstance(part[0], str) and part[1] in (0, 1) for part in document
            ):
                yield [(part[0], int(part[1])) for part in document]
            elif isinstance(document, str):
                yield document
            else:
                raise ValueError(f"{path}, line {number}: a document is a string or a list of [text, 0 or 1] parts")


def batch_order(
    rows: Sequence[PackedRows], *, tokens_per_step: int, seed: int, epoch: int
) -> list[tuple[int, list[int]]]:
    """The batches of one epoch in drawn order: (index of the group, indexes of its rows), each row once.

    Each batch holds about `tokens_per_step` places of one row length. A last, smaller batch is left out, so that all
    batches of a group have one shape; its rows come in the next epoch, which draws anew.
    """
    draw = random.Random(f"{seed}/{epoch}")
    batches = []
    for group, packed in enumerate(rows):
        num_rows, row_length = packed.input_ids.shape
        size = max(1, tokens_per_step // row_length)
        order = list(range(num_rows))
        draw.shuffle(order)
        order += order[: max(0, size - num_rows)]  # a tiny group still fills one batch
        batches += [(group, order[start : start + size]) for start in range(0, len(order) - size + 1, size)]
    draw.shuffle(batches)
    return batches


def iter_batches(
    rows: Sequence[PackedRows], *, tokens_per_step: int, seed: int, first_step: int
) -> Iterator[tuple[int, list[int]]]:
    """Batches without end from step `first_step` on: the same ones at the same step, however often one resumes."""
    per_epoch = len(batch_order(rows, tokens_per_step=tokens_per_step, seed=seed, epoch=0))
    first_epoch, skipped = divmod(first_step, per_epoch)
    for epoch in itertools.count(first_epoch):
        order = batch_order(rows, tokens_per_step=tokens_per_step, seed=seed, epoch=epoch)
        yield from order[skipped:]
        skipped = 0
