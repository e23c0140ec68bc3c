"""`tokenizer.model` as Python lists: a reader for the few protobuf fields of a SentencePiece file that matter here.

Needs neither the sentencepiece nor the protobuf package. The tokenizer is built from what this module returns; it knows
nothing about Baichuan.
"""

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from baichuan2.errors import TokenizerError
from baichuan2.model.special_tokens import PieceKind

__all__ = ["SentencePieceFile", "read_sentencepiece_file"]

_BYTE_PAIR_ENCODING = 2  # TrainerSpec.ModelType; 1 is unigram

# Field numbers of sentencepiece_model.proto (github.com/google/sentencepiece)
_MODEL_PIECES, _MODEL_TRAINER, _MODEL_NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_KIND = 1, 2, 3
_TRAINER_MODEL_TYPE, _TRAINER_SPACE_AS_SUFFIX, _TRAINER_BYTE_FALLBACK = 3, 24, 35
_NORMALIZER_CHARACTER_MAP, _NORMALIZER_DUMMY_PREFIX, _NORMALIZER_TRIM, _NORMALIZER_ESCAPE = 2, 3, 4, 5

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types
# the keys that stand before fields: number and wire type
_PIECE_KEY = _MODEL_PIECES << 3 | _BYTES
_TEXT_KEY, _SCORE_KEY, _KIND_KEY = _PIECE_TEXT << 3 | _BYTES, _PIECE_SCORE << 3 | _FIXED32, _PIECE_KIND << 3 | _VARINT


@dataclass(frozen=True)
class SentencePieceFile:
    """A byte-pair SentencePiece model with byte fallback: index = token id in the three lists."""

    pieces: list[str]
    scores: list[float]
    kinds: list[int]
    add_dummy_prefix: bool
    """A space is put before the text (Baichuan 1)."""
    trim_spaces: bool
    """Spaces at both ends are dropped and runs of spaces become one."""
    content: bytes
    """The whole file as it was read."""

    @functools.cached_property
    def special_pieces(self) -> list[tuple[int, str, int]]:
        """(token id, piece, kind) of the few pieces that are not simply text."""
        kind_of_text = int(PieceKind.NORMAL)
        return [(place, self.pieces[place], kind) for place, kind in enumerate(self.kinds) if kind != kind_of_text]

    def __len__(self) -> int:
        return len(self.pieces)


def read_sentencepiece_file(path: str | Path) -> SentencePieceFile:
    """The model in the file at `path`.

    Raises TokenizerError if there is no such file, if it is damaged, or if it is a kind of SentencePiece model that
    this package does not implement (another algorithm than byte pairs, another normaliser than the identity, no byte
    fallback).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TokenizerError(f"cannot read the tokenizer file {path}: {error.strerror or error}") from error
    return _parse(data, name=str(path))


def _parse(data: bytes, *, name: str) -> SentencePieceFile:
    """The model in `data`; `name` stands in error messages."""
    if data.startswith(b"version https://git-lfs"):
        raise TokenizerError(f"{name} is a large-file pointer, not the tokenizer itself: download it with git lfs pull")
    trainer = normalizer = b""
    try:
        pieces, scores, kinds, position = _read_plain_pieces(data)
        for number, value in _iter_fields(data, position):
            if number == _MODEL_PIECES:
                text, score, kind = _read_piece(_expect_bytes(value))
                pieces.append(text)
                scores.append(score)
                kinds.append(kind)
            elif number == _MODEL_TRAINER:
                trainer += _expect_bytes(value)
            elif number == _MODEL_NORMALIZER:
                normalizer += _expect_bytes(value)
        trainer_fields = dict(_iter_fields(trainer))
        normalizer_fields = dict(_iter_fields(normalizer))
    except (IndexError, ValueError, struct.error) as error:
        raise TokenizerError(f"{name} is not a SentencePiece model, or is damaged: {error}") from error
    if not pieces:
        raise TokenizerError(f"{name} is not a SentencePiece model: it holds no pieces")
    _check_supported(name, kinds, trainer_fields, normalizer_fields)
    return SentencePieceFile(
        pieces=pieces,
        scores=scores,
        kinds=kinds,
        add_dummy_prefix=bool(normalizer_fields.get(_NORMALIZER_DUMMY_PREFIX, True)),
        trim_spaces=bool(normalizer_fields.get(_NORMALIZER_TRIM, True)),
        content=data,
    )


def _check_supported(
    name: str, kinds: list[int], trainer: dict[int, int | bytes], normalizer: dict[int, int | bytes]
) -> None:
    problem = None
    if trainer.get(_TRAINER_MODEL_TYPE, 1) != _BYTE_PAIR_ENCODING:
        problem = "its algorithm is not byte-pair encoding"
    elif normalizer.get(_NORMALIZER_CHARACTER_MAP):
        problem = "it normalises characters (only normalization_rule_name=identity is supported)"
    elif not normalizer.get(_NORMALIZER_ESCAPE, True):
        problem = "it does not escape spaces"
    elif trainer.get(_TRAINER_SPACE_AS_SUFFIX, False):
        problem = "it treats spaces as suffixes"
    elif not trainer.get(_TRAINER_BYTE_FALLBACK, False) or kinds.count(PieceKind.BYTE) != 256:
        problem = "it cannot spell unknown characters in bytes"
    elif PieceKind.UNUSED in kinds:
        problem = "it has unused pieces"
    if problem:
        raise TokenizerError(f"{name} is a SentencePiece model of another kind than Baichuan's: {problem}")


def _expect_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a message field holds a number")
    return value


def _read_plain_pieces(data: bytes) -> tuple[list[str], list[float], list[int], int]:
    """Texts, scores and kinds of the pieces at the start of `data`, and the position behind the last of them.

    Only pieces as SentencePiece itself writes them: sizes of one byte; text, score and maybe a kind, in this order. At
    the first other field it stops, and `_iter_fields` goes on: that reads any file, at a fraction of the speed.
    """
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    read_score, kind_of_text = struct.Struct("<f").unpack_from, int(PieceKind.NORMAL)
    position, last = 0, len(data) - 4  # four bytes are looked at before it is known that they are there
    while position < last and data[position] == _PIECE_KEY and data[position + 2] == _TEXT_KEY:
        size = data[position + 1]
        end = position + 2 + size
        score = position + 4 + data[position + 3]
        if size >= 0x80 or end > len(data) or score + 5 > end or data[score] != _SCORE_KEY:
            break
        kind = kind_of_text
        if score + 5 < end:
            if score + 7 != end or data[score + 5] != _KIND_KEY or data[score + 6] >= 0x80:
                break
            kind = data[score + 6]
        text = data[position + 4 : score].decode("utf-8")
        if not text:
            break
        pieces.append(text)
        scores.append(read_score(data, score + 1)[0])
        kinds.append(kind)
        position = end
    return pieces, scores, kinds, position


def _read_piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, int(PieceKind.NORMAL)
    for number, value in _iter_fields(data):
        if number == _PIECE_TEXT:
            text = _expect_bytes(value).decode("utf-8")
        elif number == _PIECE_SCORE:
            score = struct.unpack("<f", _expect_bytes(value))[0]
        elif number == _PIECE_KIND:
            kind = int(value)
    if not text:
        raise ValueError("a piece has no text")
    return text, score, kind


def _iter_fields(data: bytes, position: int = 0) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in file order from `position` on; numbers as int, everything else as its raw bytes."""
    end = len(data)
    while position < end:
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = _read_varint(data, position - 1)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, position = _read_varint(data, position)
            yield key >> 3, value
            continue
        if wire_type == _BYTES:
            size, position = _read_varint(data, position)
        elif wire_type == _FIXED32:
            size = 4
        elif wire_type == _FIXED64:
            size = 8
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if position + size > end:
            raise ValueError("it ends too early")
        yield key >> 3, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """(number, position behind it) of the variable-length number at `position`."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
