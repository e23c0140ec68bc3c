"""Two models told apart: pairs that differ in one known way, and the verdict that must name it."""

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from baichuan2.bench.comparison import Comparison, compare
from baichuan2.bench.comparison_verdict import judge
from baichuan2.bench.logit_differences import LogitDifferences
from baichuan2.bench.sides import find_side
from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.convert.ways import convert_checkpoint
from baichuan2.errors import CheckpointError, DataError, MissingExtraError, SettingsError
from baichuan2.settings import CompareSettings, ConvertSettings, QuantizeSettings
from tests.bench.comparison_folders import (
    PROMPTS,
    changed_copy,
    llama_folder,
    swap_rotary_halves,
    write_prompts,
)
from tests.checkpoints.adapter_folders import write_adapter
from tests.checkpoints.folders import change_json, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("a") / "tiny", "7b", "safetensors")


@pytest.fixture(scope="module")
def llama(folder, tmp_path_factory) -> Path:
    return llama_folder(folder, tmp_path_factory.mktemp("b") / "llama")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


def compared(a: Path, b: Path | str, prompts: Path, **changes) -> Comparison:
    chosen = {"max_new_tokens": 8, "threads": 1, "device": "cpu", "prompts": str(prompts), **changes}
    return compare(CompareSettings(a=str(a), b=str(b), **chosen))


def causes(found: Comparison) -> list[str]:
    return [cause.key for cause in found.verdict.causes]


def test_a_folder_beside_itself_is_identical_and_nothing_is_left_behind(folder, prompts, scratch):
    seen = []
    found = compared(folder, folder, prompts, weights=True)
    assert (found.verdict.level, causes(found)) == ("identical", [])
    assert found.differences.is_bitwise
    assert found.differences.maximum == found.quality.kl_mean == found.logprob_difference == 0
    assert found.quality.agreement == 1
    assert found.quality.perplexity == found.quality.reference_perplexity > 1
    assert [pair.parting for pair in found.replies] == [None] * len(PROMPTS)
    assert (found.text_ids.num_prompts, found.chat_ids.num_prompts) == (4, 2)
    assert found.text_ids.num_different == found.chat_ids.num_different == 0
    assert found.weights.num_equal == 17
    assert found.weights.different == found.weights.only_a == found.weights.only_b == ()
    assert list(scratch.iterdir()) == seen
    json.dumps(found.as_dict(), allow_nan=False)
    # logits that agree leave one explanation for replies that part where it was no close call
    for is_near_tie, expected in ((True, []), (False, ["decoding"])):
        parting = SimpleNamespace(is_near_tie=is_near_tie)
        verdict = judge(found.differences, found.quality, [parting], number_format="bfloat16", few_bits=())
        assert [cause.key for cause in verdict.causes] == expected


def test_rounding_is_told_from_a_difference(folder, prompts):
    found = compared(folder, folder, prompts, dtype="float32,bfloat16")
    assert (found.a.number_format, found.b.number_format) == ("float32", "bfloat16")
    assert (found.verdict.level, found.verdict.number_format, causes(found)) == ("rounding", "bfloat16", [])
    assert found.differences.relative > 0
    assert all(pair.parting is None or pair.parting.is_near_tie for pair in found.replies)


def test_few_bits_are_named(folder, prompts, tmp_path):
    target = tmp_path / "int4"
    quantize_checkpoint(QuantizeSettings(source=str(folder), target=str(target), format="int4", method="nearest"))
    found = compared(folder, target, prompts)
    assert found.b.stored_as == "int4"
    assert found.verdict.level in ("close", "different")  # random weights lose more than trained ones
    assert causes(found) == ["few-bits"]
    assert found.quality.kl_mean > 0
    with pytest.raises(SettingsError, match="--weights compares the files of two folders"):
        compared(folder, f"{folder}+{write_adapter(tmp_path / 'adapter', folder)}", prompts, weights=True)


def test_an_adapter_and_other_weights_are_no_rounding(folder, prompts, tmp_path):
    found = compared(folder, f"{folder}+{write_adapter(tmp_path / 'adapter', folder)}", prompts)
    assert (found.verdict.level, causes(found)) == ("different", ["weights"])
    partings = [pair.parting for pair in found.replies if pair.parting is not None]
    assert len(partings) > 1
    for parting in partings:  # each side says what it finds likelier, there and not at a place beside it
        assert parting.margin >= 0
        assert parting.a_probabilities[0] >= parting.a_probabilities[1]
        assert parting.b_probabilities[0] <= parting.b_probabilities[1]

    def change(state):
        state["model.layers.1.mlp.up_proj.weight"] *= 1.5
        state["model.norm.weight"] = state["model.norm.weight"].float()

    other = changed_copy(folder, tmp_path / "other", change)
    weights = compared(folder, other, prompts, weights=True, limit=1).weights
    assert [one.name for one in weights.different] == ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    assert weights.different[0].relative == pytest.approx(0.5, rel=0.01)
    assert [one.is_cast for one in weights.different] == [False, True]
    assert (weights.num_equal, weights.num_cast) == (15, 1)


def test_a_llama_folder_is_the_same_but_for_rounding(folder, llama, prompts):
    found = compared(folder, llama, prompts, dtype="float32")
    assert found.b.program == "transformers"
    assert found.differences.relative < 1e-5
    assert found.verdict.level in ("identical", "rounding")  # as the processor adds
    assert found.text_ids.num_different == found.chat_ids.num_different == 0
    assert [pair.parting for pair in found.replies] == [None] * len(PROMPTS)
    assert found.sampling_differences == {}


@pytest.mark.parametrize("is_b", [True, False])
def test_a_head_that_was_not_normalised_is_named(is_b, folder, prompts, tmp_path):
    plain = llama_folder(folder, tmp_path / "plain", is_normalized=False)
    sides = (folder, plain) if is_b else (plain, folder)
    found = compared(*sides, prompts, dtype="float32")
    assert (found.verdict.level, causes(found)) == ("different", ["head-b" if is_b else "head-a"])
    assert found.differences.lengths_correlation == pytest.approx(1 if is_b else -1, abs=1e-3)


def test_rows_in_the_other_rotary_layout_and_another_base_are_named(llama, prompts, tmp_path):
    swapped = changed_copy(llama, tmp_path / "swapped", lambda state: swap_rotary_halves(state, 4))
    found = compared(llama, swapped, prompts)
    assert (found.verdict.level, causes(found)) == ("different", ["attention"])
    assert found.differences.relative_first < 1e-5
    scaled = changed_copy(llama, tmp_path / "scaled", lambda state: state["lm_head.weight"].mul_(2.0))
    found = compared(llama, scaled, prompts)
    assert causes(found) == ["scale"]
    assert found.verdict.causes[0].values["factor"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("first", "relative", "cause"),
    # measured on the demo models: int4, nf4, and int4 of a model whose query and key rows are in the other order
    [
        (0.0152, 0.0753, "few-bits"),
        (0.0202, 0.0853, "few-bits"),
        (0.0825, 0.138, "few-bits"),
        (0.0144, 0.68, "attention"),
    ],
)
def test_few_bits_alone_are_no_fault_of_attention(first, relative, cause):
    differences = LogitDifferences(
        **{field.name: None for field in dataclasses.fields(LogitDifferences)}
        | {"is_bitwise": False, "relative": relative, "relative_first": first, "raw_relative": relative}
    )
    quality = SimpleNamespace(kl_mean=0.004, agreement=0.99)
    verdict = judge(differences, quality, [], number_format="bfloat16", few_bits=("int4",))
    assert [one.key for one in verdict.causes] == [cause]


def test_the_released_rounding_of_positions_is_told_from_the_exact_one(prompts, tmp_path):
    folder = write_folder(tmp_path / "tiny", "13b", "safetensors")
    found = compared(folder, folder, prompts, numerics="exact,official")
    assert (found.verdict.level, causes(found)) == ("rounding", ["positions-grow"])
    assert found.differences.relative_first == 0  # one key: nothing to round
    assert compared(folder, folder, prompts, numerics="official", limit=1).verdict.level == "identical"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("7B@00220B", r"Baichuan2-7B-Intermediate-Checkpoints \(revision train_00220B\) is no folder"),
        ("7B-Chat@other", r"Baichuan2-7B-Chat \(revision other\) is no folder"),
        (300 * "x", "cannot be read: .*name too long"),
        ("~nobody-of-that-name/x", "cannot be read: .*home"),
    ],
)
def test_names_of_sides(name, message):
    with pytest.raises(CheckpointError, match=message):
        find_side(name, offline=True)


def with_tokenizer(llama: Path, target: Path, **changes) -> Path:
    """The Llama folder with parts of its tokenizer.json changed."""
    shutil.copytree(llama, target)
    change_json(target / "tokenizer.json", **changes)
    return target


def test_another_tokenizer_is_named_before_anything_else(llama, prompts, tmp_path):
    prefix = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}
    prefix["normalizers"].append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    found = compared(llama, with_tokenizer(llama, tmp_path / "prefix", normalizer=prefix), prompts)
    assert (found.text_ids.num_different, found.text_ids.hint) == (4, "space")
    assert (found.text_ids.prompt, found.text_ids.position) == (1, 0)
    assert "".join(found.text_ids.b_pieces).startswith(" ")
    assert found.verdict.level == "identical"  # the models are the same: asked with A's ids
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    begin = {"type": "TemplateProcessing", "single": single, "pair": single}
    begin["special_tokens"] = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    found = compared(llama, with_tokenizer(llama, tmp_path / "begin", post_processor=begin), prompts, limit=1)
    assert (found.text_ids.num_different, found.text_ids.hint) == (1, "begin")
    assert found.text_ids.b_pieces[0] == "<s>"


def test_another_chat_format_is_named(folder, llama, prompts, tmp_path):
    target = tmp_path / "template"
    shutil.copytree(llama, target)
    template = target / "chat_template.jinja"
    template.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}", encoding="utf-8")
    found = compared(folder, target, prompts)
    assert found.text_ids.num_different == 0
    assert (found.chat_ids.num_prompts, found.chat_ids.num_different) == (2, 2)
    template.write_text("{{ raise_exception('not like this') }}", encoding="utf-8")
    with pytest.raises(DataError, match="its chat template refuses prompt 1: not like this"):
        compared(folder, target, prompts)


def test_what_cannot_be_compared_is_one_line(folder, prompts, tmp_path):
    small = write_folder(tmp_path / "small", "7b", "safetensors")
    change_json(small / "config.json", vocab_size=512)

    def cut(state):
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            state[name] = torch.cat([state[name], state[name][:64]])

    large = changed_copy(folder, tmp_path / "large", cut)
    change_json(large / "config.json", vocab_size=832)
    with pytest.raises(CheckpointError, match=r"has a vocabulary of 768 tokens, .* one of 832"):
        compared(folder, large, prompts)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    auto_map = {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M", "AutoTokenizer": ["m.T", None]}
    (foreign / "config.json").write_text(json.dumps({"model_type": "nobody", "auto_map": auto_map}))
    (foreign / "model.safetensors").touch()
    (foreign / "m.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        compared(folder, foreign, prompts)
    assert not (tmp_path / "ran").exists()
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(DataError, match=r"empty.txt holds no prompts"):
        compared(folder, folder, empty)
    with pytest.raises(SettingsError, match="B is missing"):
        compare(CompareSettings(a="demo-chat"))


def test_gguf_files_need_their_library(folder, prompts, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    fake = tmp_path / "python"  # an interpreter that finds no packages but its own
    fake.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    with pytest.raises(SettingsError, match="is no program"):
        compared(folder, path, prompts, llama_python=str(fake))
    fake.chmod(0o755)
    with pytest.raises(MissingExtraError, match="llama-cpp-python is needed"):
        compared(path, folder, prompts, llama_python=str(fake))


def test_llama_cpp_is_the_same_but_for_rounding(folder, prompts, tmp_path):
    python = os.environ.get("BAICHUAN2_LLAMA_PYTHON")
    if python is None and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is missing, and BAICHUAN2_LLAMA_PYTHON names no interpreter that has it")
    pytest.importorskip("gguf", reason="the gguf package is missing")
    path = tmp_path / "tiny.gguf"
    convert_checkpoint(ConvertSettings(way="to-gguf", source=str(folder), target=str(path), type="f32"))
    found = compared(folder, path, prompts, dtype="float32", llama_python=python)
    assert found.b.program == "llama.cpp"
    assert (found.verdict.level, found.verdict.number_format, causes(found)) == ("rounding", "float16", [])
    assert found.text_ids.num_different == found.chat_ids.num_different == 0
    assert all(pair.parting is None or pair.parting.is_near_tie for pair in found.replies)


def test_settings_are_checked_when_they_are_made():
    with pytest.raises(SettingsError, match="--dtype must be one of"):
        CompareSettings(dtype="float64")
    with pytest.raises(SettingsError, match="--numerics must be one of"):
        CompareSettings(numerics="exact,official,exact")
    with pytest.raises(SettingsError, match="as B"):
        CompareSettings(a="http://localhost:1")
    with pytest.raises(SettingsError, match="--fail-above needs two models"):
        CompareSettings(a="demo-chat", b="http://localhost:1", fail_above=0.1)
    assert dataclasses.replace(CompareSettings(), dtype="float32").sides_of("dtype") == ("float32", "float32")
