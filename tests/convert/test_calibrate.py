"""The calibrated run sees what the layers of the model really are fed, and reads texts of several kinds."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan2.checkpoints.load import load_model
from baichuan2.convert import calibrate
from baichuan2.convert.calibrate import CalibratedRun
from baichuan2.convert.calibration_text import BUILT_IN, CalibrationText, read_calibration_text
from baichuan2.convert.rounding import Rounding
from baichuan2.convert.source import open_source
from baichuan2.errors import DataError
from baichuan2.model.quantizer import QUANTIZED_LINEARS
from baichuan2.quantization.gptq import Hessian
from baichuan2.settings import LoadSettings
from tests.checkpoints.folders import write_folder
from tests.tiny import random_ids

LINEARS = [f"model.layers.{layer}.{part}" for layer in range(2) for part in QUANTIZED_LINEARS]
LENGTHS = (40, 3, 17, 128, 40, 1)
PACKAGE = Path(calibrate.__file__).parent


@pytest.fixture(scope="module", params=["7b", "13b"])
def folder(request, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / request.param, request.param, "safetensors")


@pytest.fixture
def windows() -> list[list[int]]:
    return [random_ids(1, length, seed=length)[0].tolist() for length in LENGTHS]


@torch.no_grad()
def true_hessians(folder: Path, windows: list[list[int]]) -> dict[str, Tensor]:
    """The sum of x x^T over the inputs of each layer, by hooks on the whole model, window by window."""
    model = load_model(folder, LoadSettings(device="cpu", dtype="float32")).model
    sums: dict[str, Tensor] = {}

    def add(name: str):
        def hook(_, inputs) -> None:
            states = inputs[0][0]
            sums[name] = sums.get(name, 0) + states.T @ states

        return hook

    for name in LINEARS:
        model.get_submodule(name).register_forward_pre_hook(add(name))
    for window in windows:
        model(torch.tensor([window]))
    return sums


def test_hessians_are_those_of_the_whole_model(folder, windows, tmp_path, monkeypatch):
    seen: dict[str, Hessian] = {}
    names = iter(LINEARS)

    def keep(weights: list[Tensor], hessian: Hessian, *, consume: bool) -> list[None]:
        seen.update({next(names): hessian for _ in weights})
        return [None] * len(weights)

    monkeypatch.setattr(calibrate, "problems", keep)
    monkeypatch.setattr(calibrate, "round_weight", lambda _, weight, problem: calibrate._PlainLinear(weight))
    monkeypatch.setattr(calibrate, "BATCH_TOKENS", 96)
    source = open_source(str(folder), revision=None, offline=True)
    run = CalibratedRun(source, windows, Rounding("int4", 32, "gptq", "uniform"), tmp_path)
    run.start(has_quantized_embedding=False)
    for layer in range(2):
        run.round_layer(layer)
    run.close()
    assert not list(tmp_path.iterdir())
    expected = true_hessians(folder, windows)
    assert set(seen) == set(expected)
    for name, hessian in seen.items():
        assert hessian.num_tokens == sum(LENGTHS)
        assert hessian.drift is None
        torch.testing.assert_close(hessian.matrix, expected[name], rtol=1e-3, atol=1e-3)


def test_the_drift_of_quantised_layers_is_told(folder, windows, tmp_path, monkeypatch):
    drifts: list[bool] = []
    real = calibrate.problems

    def watch(weights: list[Tensor], hessian: Hessian, *, consume: bool):
        drifts.append(hessian.drift is not None)
        return real(weights, hessian, consume=consume)

    monkeypatch.setattr(calibrate, "problems", watch)
    source = open_source(str(folder), revision=None, offline=True)
    run = CalibratedRun(source, windows, Rounding("int4", 32, "gptq", "uniform"), tmp_path)
    run.start(has_quantized_embedding=False)
    run.round_layer(0)
    assert drifts == [False, True, True, True]  # all but the first layer are fed by quantised ones


def read(folder: Path, path: Path | None, max_tokens: int = 10_000) -> CalibrationText:
    source = open_source(str(folder), revision=None, offline=True)
    return read_calibration_text(None if path is None else str(path), source, max_tokens)


def test_paragraphs_are_documents_and_long_ones_several_windows(folder, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two\nthree\n\n  \n" + "word " * 300 + "\n", encoding="utf-8")
    tokenizer = load_model(folder).tokenizer
    text = read(folder, path)
    first, second = tokenizer.encode_text("one two\nthree"), tokenizer.encode_text("word " * 300)
    assert list(text.windows[0]) == first
    assert [token for window in text.windows[1:] for token in window] == second
    assert max(map(len, text.windows)) == 128  # the context of the tiny model
    assert read(folder, path, max_tokens=50).num_tokens == 50


def test_conversations_have_role_tokens_for_a_chat_model_only(folder, tmp_path):
    path = tmp_path / "text.jsonl"
    messages = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good morning"}]
    entries = [{"messages": messages}, {"text": "plain text"}]
    path.write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    tokenizer = load_model(folder).tokenizer
    plain = tuple(tokenizer.encode_text("plain text"))
    hello, morning = tokenizer.encode_text("hello there"), tokenizer.encode_text("good morning")
    assert read(folder, path).windows == ((195, *hello, 196, *morning), plain)
    (base := folder.parent / "base").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"):
        (base / name).write_bytes((folder / name).read_bytes())
    assert read(base, path).windows == (tuple(tokenizer.encode_text("hello there\ngood morning")), plain)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.txt", b"", "holds 0 tokens of text: at least 16"),
        ("text.txt", b"\xff\xfe\x00", "is no UTF-8 text"),
        ("text.jsonl", b"{'text': 1}", "line 1: no JSON"),
        ("text.jsonl", b'{"text": "fine"}\n{"text": 5}', 'line 2: expected an object with a "text"'),
        ("text.jsonl", b"[1]", "line 1: expected an object"),
        ("text.jsonl", b'{"messages": [{"role": "king", "content": "x"}]}', "document 1: role must be one of"),
        ("text.jsonl", b'{"messages": [{"role": "user"}]}', "document 1: message 0 needs a role and a content"),
        (None, b"", "cannot be read: No such file"),
    ],
)
def test_unreadable_calibration_files_end_in_one_line(name, content, message, folder, tmp_path):
    path = tmp_path / (name or "absent")
    if name is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(folder, path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_calibration_file(folder, tmp_path):
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(folder, tmp_path)


def test_the_built_in_text_is_bilingual_and_large_enough(folder):
    text = gzip.decompress((PACKAGE / BUILT_IN).read_bytes()).decode("utf-8")
    assert 60_000 < len(text.encode("utf-8")) < 200_000
    assert sum("\u4e00" <= character <= "\u9fff" for character in text) > 10_000
    assert sum("a" <= character <= "z" for character in text) > 10_000
    assert read(folder, None, max_tokens=2_000).num_tokens == 2_000
