"""Tokenizer files for tests: our small golden one, the official one where it is at hand, and freshly trained ones.

The official file is not ours to ship: tests that need it look for it beside the repository and skip without it.
"""

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

ROOT = Path(__file__).parents[1]
GOLDEN_TEXT = ROOT / "tests" / "golden" / "text"
SMALL_MODEL = GOLDEN_TEXT / "small_tokenizer.model"
REAL_MODEL = ROOT.parent / "shared" / "tokenizer" / "tokenizer.model"
REAL_GOLDENS = REAL_MODEL.with_name("tokenizer_goldens.json")

_LINES = [
    "你好，我是一个语言模型。很高兴认识你！",
    "世界上第二高的山峰是乔戈里峰，海拔八千六百一十一米。",
    "温故而知新，可以为师矣。学而时习之，不亦说乎？",
    "登鹳雀楼 王之涣 白日依山尽 黄河入海流",
    "The quick brown fox jumps over the lazy dog.",
    "def add(left, right):\n    return left + right",
    "she sells sea shells on the sea shore, and the shells she sells are sea shells",
    "2024 年 7 月 15 日，气温 36.5 度",
]


def require(path: Path) -> Path:
    """`path`; skips the test where the file is missing."""
    if not path.exists():
        pytest.skip(f"{path} is missing: it is third-party data that this repository must not hold")
    return path


def model_path(name: str) -> Path:
    """The tokenizer.model called `small` or `real`; skips without the real one."""
    return SMALL_MODEL if name == "small" else require(REAL_MODEL)


@functools.cache
def tokenizer(name: str) -> BaichuanTokenizer:
    """The tokenizer called `small` or `real`, one per test run: do not change its settings."""
    return BaichuanTokenizer(vocab_file=str(model_path(name)))


@functools.cache
def processor(name: str) -> sentencepiece.SentencePieceProcessor:
    """Plain sentencepiece on the same file: the oracle."""
    return sentencepiece.SentencePieceProcessor(model_file=str(model_path(name)))


def golden(path: Path) -> Any:
    """The content of a JSON file of expected values."""
    return json.loads(require(path).read_text(encoding="utf-8"))


def train_model(folder: Path, **options: Any) -> Path:
    """A small byte-pair file with sentencepiece, from a few lines; `options` are the trainer's."""
    prefix = folder / "tokenizer"
    settings: dict[str, Any] = {
        "vocab_size": 700,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "split_digits": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        **options,
    }
    lines = [line for text in _LINES * 4 for line in text.split("\n")]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(prefix), **settings)
    return prefix.with_suffix(".model")


def is_repetition(piece: str) -> bool:
    """Whether the piece is some shorter string written several times."""
    return piece in (piece + piece)[1:-1]


class TextSource:
    """Seeded random texts that try to trip a tokenizer: pieces, cut pieces, runs, spaces, code, emoji, odd characters.

    Never a lone surrogate, which is no text.
    """

    ODD = ("▁", "‍", "️", "　", "\r\n", "\0", "\x7f", "e\u0301", "\u202e", "�", "\U0010ffff", " ▁ ")

    def __init__(self, pieces: list[str], seed: int) -> None:
        self.random = random.Random(seed)
        self.pieces = [piece.replace("▁", " ") for piece in pieces]
        repetitions = (piece for piece in self.pieces if is_repetition(piece))
        self.repeated = sorted({piece[: (piece + piece).find(piece, 1)] for piece in repetitions} | {" "})

    def fragment(self) -> str:
        choose = self.random
        kind = choose.random()
        if kind < 0.45:
            return choose.choice(self.pieces)
        if kind < 0.60:
            left, right = choose.choice(self.pieces), choose.choice(self.pieces)
            return left[choose.randint(0, len(left)) :] + right[: choose.randint(0, len(right))]
        if kind < 0.70:
            return choose.choice(self.repeated) * choose.randint(1, 40)
        if kind < 0.80:
            return "".join(choose.choice("abcdeinorst_(){}=; \t\n0123456789") for _ in range(choose.randint(1, 12)))
        if kind < 0.90:
            ranges = ((0, 0x80), (0x80, 0xD800), (0xE000, 0x110000), (0x4E00, 0xA000), (0x1F300, 0x1F700))
            return chr(choose.randrange(*choose.choice(ranges)))
        return choose.choice(self.ODD)

    def text(self) -> str:
        repeat = self.random.choice((1, 1, 1, 1, 2, 3))  # repetition makes equal pieces compete
        return "".join(self.fragment() for _ in range(self.random.randint(1, 16))) * repeat
