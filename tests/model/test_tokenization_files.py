"""Folders: loading as the official ones are laid out, saving, reloading, and one clear line for each broken file."""

import json
import pickle
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from baichuan2.errors import TokenizerError
from baichuan2.model import sentencepiece_file
from baichuan2.model.sentencepiece_file import read_sentencepiece_file
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from tests.tokenizer_files import SMALL_MODEL, model_path, processor, train_model

TEXTS = ["你好，a  b\n</s>", "<reserved_106>问", "def f():\n    return 1", "😀 ▁"]


@pytest.fixture(params=[{"__type": "AddedToken"}, {}], ids=["typed", "untyped"])
def official_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The small tokenizer.model beside the JSON files of an official folder; there is no code for `auto_map`.

    Older and newer files differ in whether a token says that it is one.
    """
    token_type = request.param
    folder = tmp_path / "official"
    folder.mkdir()
    shutil.copy(SMALL_MODEL, folder / "tokenizer.model")
    token = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": True}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    config: dict[str, Any] = {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
        "sp_model_kwargs": {},
        "tokenizer_class": "BaichuanTokenizer",
        "use_fast": False,
        **{name: {**token_type, "content": piece, **token} for name, piece in names.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    special = {name: {"content": piece, **token} for name, piece in names.items()}
    if token_type:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


@pytest.mark.parametrize("options", [{}, {"use_fast": False}, {"use_fast": True}, {"trust_remote_code": False}])
def test_an_official_folder_loads_fast_or_slow(official_folder: Path, options: dict[str, Any]) -> None:
    loaded = BaichuanTokenizer.from_pretrained(official_folder, **options)
    assert type(loaded) is BaichuanTokenizer
    assert loaded.model_max_length == 4096
    assert (loaded.pad_token_id, loaded.add_bos_token, loaded.add_eos_token) == (0, False, False)
    assert (loaded.unk_token, loaded.eos_token, len(loaded)) == ("<unk>", "</s>", 768)
    assert loaded.encode("你好") == processor("small").encode("你好")
    plain = processor("small")
    # the folder's single_word flag had no effect in the official tokenizer
    assert loaded.encode("a</s>b") == [*plain.encode("a"), 2, *plain.encode("b")]


def test_saving_writes_the_same_model_file_and_a_json_for_others(official_folder: Path, tmp_path: Path) -> None:
    loaded = BaichuanTokenizer.from_pretrained(official_folder)
    shutil.rmtree(official_folder)  # the folder may be gone by the time of saving
    saved = tmp_path / "saved"
    names = {Path(name).name for name in loaded.save_pretrained(saved)}
    assert names == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert (saved / "tokenizer.model").read_bytes() == SMALL_MODEL.read_bytes()
    config = json.loads((saved / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "BaichuanTokenizer"
    assert not {"auto_map", "use_fast", "vocab_file", "name_or_path", "sp_model_kwargs"} & set(config)
    again = BaichuanTokenizer.from_pretrained(saved)
    plain = tokenizers.Tokenizer.from_file(str(saved / "tokenizer.json"))
    for text in TEXTS:
        assert again.encode(text) == loaded.encode(text) == plain.encode(text, add_special_tokens=False).ids
    assert again.model_max_length == 4096
    assert again.chat_template == loaded.chat_template


def test_saving_with_a_prefix_in_the_name(tmp_path: Path) -> None:
    loaded = BaichuanTokenizer(vocab_file=str(SMALL_MODEL))
    loaded.save_pretrained(tmp_path, filename_prefix="mine")
    assert (tmp_path / "mine-tokenizer.model").read_bytes() == SMALL_MODEL.read_bytes()


def test_the_model_file_rules_over_a_json_beside_it(official_folder: Path) -> None:
    (official_folder / "tokenizer.json").write_text('{"added_tokens": [], "model": {"type": "BPE", "vocab": {}}}')
    assert BaichuanTokenizer.from_pretrained(official_folder).encode("你好") == processor("small").encode("你好")


def test_added_tokens_survive_saving(tmp_path: Path) -> None:
    loaded = BaichuanTokenizer(vocab_file=str(SMALL_MODEL))
    loaded.add_tokens(["<tool>"], special_tokens=True)
    loaded.save_pretrained(tmp_path)
    again = BaichuanTokenizer.from_pretrained(tmp_path)
    assert again.encode("<tool>") == [768]
    assert 768 not in again.encode_text("<tool>")


def test_a_file_with_a_dummy_prefix_keeps_it_over_saving(tmp_path: Path) -> None:
    path = train_model(tmp_path, add_dummy_prefix=True, remove_extra_whitespaces=False)
    loaded = BaichuanTokenizer(vocab_file=str(path))
    loaded.save_pretrained(tmp_path / "saved")
    again = BaichuanTokenizer.from_pretrained(tmp_path / "saved")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    assert again.encode("sea shells") == loaded.encode("sea shells") == plain.encode("sea shells").ids
    assert again.decode(again.encode("sea shells")) == "sea shells"
    assert loaded.decode(loaded.encode_text("</s> sea")) == "</s> sea"


def test_a_chat_template_comes_with_the_class_and_a_folders_own_wins(official_folder: Path) -> None:
    assert "<reserved_106>" in BaichuanTokenizer.from_pretrained(official_folder).chat_template
    (official_folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    own = BaichuanTokenizer.from_pretrained(official_folder)
    assert own.apply_chat_template([{"role": "user", "content": "你好"}], tokenize=False) == "你好!"


def test_neither_protobuf_nor_sentencepiece_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("google", "google.protobuf", "sentencepiece"):
        monkeypatch.setitem(sys.modules, name, None)
    assert BaichuanTokenizer(vocab_file=str(SMALL_MODEL)).encode("a") == [576]


def test_a_tokenizer_can_be_sent_to_another_process() -> None:
    loaded = pickle.loads(pickle.dumps(BaichuanTokenizer(vocab_file=str(SMALL_MODEL))))
    assert loaded.encode_text("</s>你好") == BaichuanTokenizer(vocab_file=str(SMALL_MODEL)).encode_text("</s>你好")


def test_its_description_is_one_line() -> None:
    assert len(repr(BaichuanTokenizer(vocab_file=str(SMALL_MODEL)))) < 200


@pytest.mark.parametrize("name", ["small", "real"])
def test_the_reader_agrees_with_sentencepiece(name: str) -> None:
    file, plain = read_sentencepiece_file(model_path(name)), processor(name)
    assert file.pieces == plain.id_to_piece(list(range(len(plain))))
    assert file.scores == plain.get_score(list(range(len(plain))))
    assert [kind == 6 for kind in file.kinds] == plain.is_byte(list(range(len(plain))))
    assert [kind == 3 for kind in file.kinds] == plain.is_control(list(range(len(plain))))
    assert (file.add_dummy_prefix, file.trim_spaces) == (False, False)
    assert file.content == model_path(name).read_bytes()


@pytest.mark.parametrize("name", ["small", "real"])
def test_the_quick_reader_takes_every_piece_as_the_general_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_path(name)
    quick = read_sentencepiece_file(path)
    assert len(sentencepiece_file._read_plain_pieces(quick.content)[0]) == len(quick)
    monkeypatch.setattr(sentencepiece_file, "_read_plain_pieces", lambda data: ([], [], [], 0))
    assert read_sentencepiece_file(path) == quick


def test_pieces_may_be_written_in_other_ways(tmp_path: Path) -> None:
    plain = read_sentencepiece_file(SMALL_MODEL)
    score = b"\x15" + struct.pack("<f", -1.5)
    odd = [
        b"\x0a\x08" + score + b"\x0a\x01x",  # the score first
        b"\x0a\x88\x00" + b"\x0a\x01x" + score,  # a size in more bytes than it needs
        b"\x0a\x0b" + b"\x0a\x01x" + score + b"\x18\x81\x00",  # and a kind
        b"\x0a\x0a" + b"\x0a\x01x" + score + b"\x20\x01",  # a field that nobody knows
        b"\x0a\x0a" + b"\x0a\x01x" + b"\x18\x01" + score,  # the kind before the score
        b"\x0a\x88\x01" + b"\x0a\x80\x01" + b"x" * 128 + score,  # a long text
    ]
    first = 2 + plain.content[1]
    for piece in odd:
        path = tmp_path / "odd.model"
        path.write_bytes(plain.content[:first] + piece + plain.content[first:])
        read = read_sentencepiece_file(path)
        assert (read.pieces[1], read.scores[1], read.kinds[1]) == ("x" * piece.count(b"x"), -1.5, 1)
        assert read.pieces[2:] == plain.pieces[1:]


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer\.model in .*" + tmp_path.name):
        BaichuanTokenizer.from_pretrained(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot read .*gone\.model: No such file"):
        BaichuanTokenizer(vocab_file=str(tmp_path / "gone.model"))
    with pytest.raises(TokenizerError, match=r"cannot read .*gone\.model: No such file"):
        read_sentencepiece_file(tmp_path / "gone.model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no pieces"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:79\nsize 2001107\n", "large-file pointer"),
        (b"<html>not found</html>", "damaged"),
        (SMALL_MODEL.read_bytes()[:5_000], "damaged"),
        (b"\x0a\x05\x0a\x03a\xff\xfe", "damaged"),  # a piece that is not UTF-8
        (b"\xff" * 40, "damaged"),
        (b"\x0a\x07\x0a\x05<unk>" + b"\x12\x02\x18\x02" + b"\x1a\x02\x28\x00", "does not escape"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        BaichuanTokenizer.from_pretrained(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 400}, "not byte-pair encoding"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises characters"),
        ({"treat_whitespace_as_suffix": True}, "suffixes"),
        ({"byte_fallback": False}, "cannot spell unknown characters in bytes"),
        ({"bos_id": 2, "eos_id": 1, "unk_id": 3}, "ids 0, 1, 2"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = train_model(tmp_path, **options)
    with pytest.raises(TokenizerError, match=message):
        BaichuanTokenizer(vocab_file=str(path))


def test_training_a_new_one_through_transformers_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"made from a tokenizer\.model file only"):
        BaichuanTokenizer(vocab_file=str(SMALL_MODEL)).train_new_from_iterator(["a b"], vocab_size=300)
