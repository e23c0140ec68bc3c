import random

import pytest
import sentencepiece
from recipes.demo.tokenizer import check_layout, control_pieces, train_tokenizer

from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

SYLLABLES = ["ba", "chuan", "mo", "xing", "hello", "world", "法国", "首都", "巴黎", "是", "的", "12", "345"]


@pytest.fixture(scope="module")
def text_path(tmp_path_factory):
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = [" ".join("".join(draw.choices(SYLLABLES, k=3)) for _ in range(8)) for _ in range(400)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model_path(text_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    train_tokenizer(text_path, path, vocab_size=560)
    return path


def test_role_tokens_have_the_official_ids(model_path):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    assert [processor.id_to_piece(token_id) for token_id in (0, 1, 2)] == ["<unk>", "<s>", "</s>"]
    assert processor.id_to_piece(195) == "<reserved_106>"
    assert processor.id_to_piece(196) == "<reserved_107>"
    assert all(processor.is_control(token_id) for token_id in range(3, 200))
    assert len(control_pieces()) == 197


def test_text_keeps_every_byte_and_never_becomes_control(model_path):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    for text in ("  two  spaces ", "龘靐\n🙂", "<reserved_106></s>", "１２ 12"):
        token_ids = processor.encode(text)
        assert processor.decode(token_ids) == text
        assert min(token_ids) >= 200


def test_digits_are_single_pieces(model_path):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    assert processor.encode("12345", out_type=str) == list("12345")


def test_equal_text_gives_equal_bytes(text_path, model_path, tmp_path):
    again = tmp_path / "other-name.model"
    train_tokenizer(text_path, again, vocab_size=560)
    assert again.read_bytes() == model_path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["other-name.model"]


def test_wrong_layout_is_named(text_path, tmp_path):
    prefix = tmp_path / "plain"
    sentencepiece.SentencePieceTrainer.train(
        input=str(text_path), model_prefix=str(prefix), vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises((ValueError, IndexError), match=r"195|range"):
        check_layout(prefix.with_suffix(".model"))


def test_project_tokenizer_reads_it(model_path):
    tokenizer = BaichuanTokenizer(vocab_file=str(model_path))
    assert tokenizer.encode_text("法国的首都") == sentencepiece.SentencePieceProcessor(
        model_file=str(model_path)
    ).encode("法国的首都")
