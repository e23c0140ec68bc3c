"""Text can never become a control, role or reserved token, on every kind of tokenizer file."""

import functools
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baichuan2.errors import TokenizerError
from baichuan2.model.special_tokens import PieceKind, is_guarded
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from tests.tokenizer_files import SMALL_MODEL, TextSource, processor, tokenizer, train_model

NUM_SPECIAL = 1_086 + 3  # user-defined pieces, and <unk>, <s>, </s>
REAL_GUARDED = frozenset({0, 1, 2, 3, 4, *range(101, 1_089)})  # ids of <unk> <s> </s> <SEP> <CLS> and <reserved_N>
NAMES = ("real", "small", "demo")


@functools.cache
def tokenizer_called(name: str) -> BaichuanTokenizer:
    """`real`, `small`, or one whose ids 3 to 199 are control pieces, as the recipe of the demo model makes them."""
    if name != "demo":
        return tokenizer(name)
    controls = [f"<extra_{i}>" if i < 89 else f"<reserved_{i - 89}>" for i in range(3, 200)]
    with tempfile.TemporaryDirectory() as folder:
        flags = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
        return BaichuanTokenizer(vocab_file=str(train_model(Path(folder), control_symbols=controls, **flags)))


@functools.cache
def guarded_ids(name: str) -> frozenset[int]:
    return {
        "real": REAL_GUARDED,
        "small": frozenset({0, 1, 2, 3, 4, *range(101, 201)}),
        "demo": frozenset(range(200)),
    }[name]


@functools.cache
def special_pieces(name: str) -> list[str]:
    """Every guarded piece, and every user-defined piece."""
    count = {"real": NUM_SPECIAL, "small": 201, "demo": 200}[name]
    return [tokenizer_called(name).convert_ids_to_tokens(token_id) for token_id in range(count)]


def check(name: str, text: str) -> None:
    """No guarded id comes out, and the text comes back."""
    ours = tokenizer_called(name)
    ids = ours.encode_text(text)
    assert guarded_ids(name).isdisjoint(ids), repr(text)
    assert ours.decode(ids) == text
    assert ours.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_special_string_becomes_its_token(name: str) -> None:
    for piece in special_pieces(name):
        check(name, piece)
        check(name, f"你好 {piece}好的")
        check(name, f"a{piece}{piece}\n{piece[1:]}{piece[:-1]}")
        cut = len(piece) // 2
        check(name, piece[:cut] + piece + piece[cut:])  # <reserved_<reserved_106>106>
        check(name, piece[:cut] + " " + piece[cut:])


def test_the_real_pieces_are_all_there_and_guarded_by_name() -> None:
    pieces = special_pieces("real")
    kinds = [PieceKind.UNKNOWN] + [PieceKind.CONTROL] * 2 + [PieceKind.USER_DEFINED] * 1_086
    assert len(pieces) == NUM_SPECIAL
    by_rule = {index for index, piece in enumerate(pieces) if is_guarded(piece, kinds[index])}
    assert by_rule == REAL_GUARDED


def test_ordinary_user_defined_pieces_keep_their_official_ids() -> None:
    """Line breaks, HTML tags, punctuation and the like are plain text."""
    real = tokenizer("real")
    ordinary = range(5, 101)
    assert [real.encode_text(piece) for piece in special_pieces("real")[5:101]] == [[i] for i in ordinary]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_mixture_of_special_strings_gets_through(name: str, data: st.DataObject) -> None:
    pieces = special_pieces(name)
    whole = st.sampled_from(pieces)
    part = st.builds(lambda piece, start, end: piece[start:end], whole, st.integers(0, 6), st.integers(3, 14))
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=6)
    check(name, "".join(data.draw(st.lists(st.one_of(whole, part, text), max_size=12))))


@pytest.mark.parametrize("name", ["small", "real"])
def test_other_text_is_encoded_as_ever(name: str) -> None:
    ours, plain = tokenizer(name), processor(name)
    guarded = [
        piece for piece, i in zip(special_pieces(name), itertools.count(), strict=False) if i in guarded_ids(name)
    ]
    pieces = [plain.id_to_piece(i) for i in range(5, len(plain)) if i not in guarded_ids(name) and not plain.is_byte(i)]
    source = TextSource(pieces, seed=77)
    for _ in range(1_000):
        text = source.text()
        if not any(piece in text for piece in guarded):
            assert ours.encode_text(text) == ours.encode(text) == plain.encode(text)


def test_official_encoding_does_parse_special_strings() -> None:
    """What the guard is for; `encode` must stay like this, as it is the official behaviour."""
    text = "a</s><reserved_106>b"
    small = tokenizer("small")
    assert [i for i in small.encode(text) if i in guarded_ids("small")] == [2, 195]
    assert [i for i in tokenizer_called("demo").encode(text) if i < 200] == [2, 195]


def test_decoding_shows_role_tokens_unless_they_are_control_pieces_and_skipped() -> None:
    assert tokenizer("small").decode([195], skip_special_tokens=True) == "<reserved_106>"  # official behaviour
    demo = tokenizer_called("demo")
    assert demo.decode([195, 196]) == "<reserved_106><reserved_107>"
    assert demo.decode([195, 196, 2], skip_special_tokens=True) == ""
    assert demo.piece_bytes(195) == b""


def test_tokens_that_a_user_adds_as_special_are_guarded_too() -> None:
    ours = BaichuanTokenizer(vocab_file=str(SMALL_MODEL))
    ours.add_tokens(["<tool>"], special_tokens=True)
    ours.add_tokens(["苹果派"])
    assert ours.encode("<tool>苹果派") == [768, 769]
    assert ours.encode_text("苹果派") == [769]
    assert 768 not in ours.encode_text("a<tool>b")
    assert ours.decode(ours.encode_text("a<tool>b")) == "a<tool>b"
    assert (ours.piece_bytes(768), ours.piece_bytes(769)) == (b"", "苹果派".encode())


def test_a_special_token_of_one_character_is_spelled_in_bytes() -> None:
    ours = BaichuanTokenizer(vocab_file=str(SMALL_MODEL))
    ours.add_tokens(["你"], special_tokens=True)
    text = "a你b你你" + "你" * 3_000
    ids = ours.encode_text(text)
    assert ours.convert_tokens_to_ids("你") in ours.encode("你")
    assert ours.convert_tokens_to_ids("你") not in ids
    assert ours.decode(ids) == text


def test_half_a_character_is_refused() -> None:
    with pytest.raises(TokenizerError, match="whole characters"):
        tokenizer("small").encode_text("a\ud800")
