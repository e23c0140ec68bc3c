"""Pieces of text joined are the text decoded at once, and no piece holds half a character."""

import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan2.chat.detokenizer import Detokenizer
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer

TESTS = Path(__file__).parents[1]
FILES = {
    "small": TESTS / "golden/text/small_tokenizer.model",
    "real": TESTS.parents[1] / "shared/tokenizer/tokenizer.model",
}
PIECES = {0: b"a", 1: b"\xe4", 2: b"\xbd", 3: b"\xa0", 4: "好".encode(), 5: b"", 6: b"\xf0", 7: b"\x9f", 8: b"\xff"}


def pushed(ids, piece_bytes=PIECES.__getitem__):
    detokenizer = Detokenizer(piece_bytes)
    return [detokenizer.push(token_id) for token_id in ids], detokenizer.finish()


@pytest.mark.parametrize(
    ("ids", "texts", "rest"),
    [
        ([1, 2, 3, 4], ["", "", "你", "好"], ""),
        ([1, 5, 2, 5, 3], ["", "", "", "", "你"], ""),  # a token that is not shown does not cut a character
        ([1, 2], ["", ""], "��"),  # one replacement for each byte, as sentencepiece writes it
        ([1, 2, 0], ["", "", "��a"], ""),
        ([6, 7, 1, 2, 3], ["", "", "��", "", "你"], ""),
        ([8, 4], ["�", "好"], ""),
    ],
)
def test_a_character_appears_with_its_last_byte(ids, texts, rest):
    assert pushed(ids) == (texts, rest)


def test_a_model_that_says_the_replacement_character_does_not_stall():
    assert pushed([0, 0], lambda _: "�".encode()) == (["�", "�"], "")


def test_finish_starts_anew_and_unfinished_only_looks():
    detokenizer = Detokenizer(PIECES.__getitem__)
    detokenizer.push(1)
    assert detokenizer.unfinished == "�"
    assert detokenizer.unfinished == "�"
    assert detokenizer.finish() == "�"
    assert detokenizer.unfinished == detokenizer.finish() == ""
    assert detokenizer.push(2) + detokenizer.push(0) == "�a"


@pytest.fixture(scope="module", params=FILES)
def tokenizer(request):
    path = FILES[request.param]
    if not path.is_file():
        pytest.skip(f"{path} is not here; it belongs to the model release and is not ours to ship")
    ours = BaichuanTokenizer(vocab_file=str(path))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    byte_ids = [token_id for token_id in range(len(reference)) if reference.IsByte(token_id)]
    return ours, reference, byte_ids


@given(seed=st.integers(0, 2**32), length=st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_pushes_and_finish_joined_are_the_decoded_text(tokenizer, seed, length):
    ours, reference, byte_ids = tokenizer
    draw = random.Random(seed)
    ids = [draw.choice(byte_ids) if draw.random() < 0.5 else draw.randrange(3, len(reference)) for _ in range(length)]
    for character in "你😀é":  # whole characters in bytes, too
        ids[draw.randint(0, len(ids)) : 0] = [byte_ids[byte] for byte in character.encode()]
    texts, rest = pushed(ids, ours.piece_bytes)
    assert "".join(texts) + rest == reference.decode(ids) == ours.decode(ids, skip_special_tokens=True)
    for end in range(0, len(ids), 7):
        detokenizer = Detokenizer(ours.piece_bytes)
        so_far = "".join(detokenizer.push(token_id) for token_id in ids[:end])
        assert so_far + detokenizer.unfinished == reference.decode(ids[:end])


def test_text_in_text_out(tokenizer):
    ours, _, _ = tokenizer
    text = "温故而知新。\n\tA → 你好, 😀 e\u0301 𠮷 <div> 100%"
    texts, rest = pushed(ours.encode_text(text), ours.piece_bytes)
    assert "".join(texts) == text
    assert rest == ""
    assert not any("�" in piece for piece in texts)
