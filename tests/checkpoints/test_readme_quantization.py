"""The quantisation snippets of the official README, word for word but for the folder, on the processor and on a GPU.

On the processor `.cuda()` is left out; that it is a plain move is tested beside `quantize`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import baichuan2
from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.quantization.linear import NF4Linear
from baichuan2.settings import QuantizeSettings
from tests.checkpoints.folders import set_traps, write_folder
from tests.tiny import random_ids

pytest.importorskip("bitsandbytes")
from baichuan2.quantization import bnb

PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
LAYERS = {8: bnb.Linear8bitLt, 4: bnb.Linear4bit}
TOLERANCES = {8: 0.06, 4: 0.5}  # relative error of the logits of a tiny random model
QUANTIZE = """
model = AutoModelForCausalLM.from_pretrained("FOLDER", torch_dtype=torch.float16, trust_remote_code=True)
model = model.quantize(BITS).cuda()
"""
LOAD_IN_BITS = """
model = AutoModelForCausalLM.from_pretrained("FOLDER", load_in_BITSbit=True, device_map="auto", trust_remote_code=True)
"""
LOAD = """
model = AutoModelForCausalLM.from_pretrained("FOLDER", device_map="auto", trust_remote_code=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_folder(tmp_path / "model", "7b")
    set_traps(made)
    return made


def run(snippet: str, folder: Path, place: str, bits: int = 8) -> Any:
    """The model that a snippet makes; it must be wholly in that place."""
    code = snippet.replace("FOLDER", str(folder)).replace("BITS", str(bits))
    names: dict[str, Any] = {"torch": torch, "AutoModelForCausalLM": transformers.AutoModelForCausalLM}
    exec(code if place == "cuda" else code.replace(".cuda()", ""), names)
    model = names["model"]
    assert type(model) is baichuan2.BaichuanForCausalLM
    assert {values.device.type for values in model.parameters()} == {place}
    assert not list(folder.glob("code_of_the_folder*"))
    return model


@torch.no_grad()
def logits(model: Any, num_rows: int = 9) -> Tensor:
    return model(input_ids=random_ids(1, num_rows, seed=5).to(model.device)).logits.float().cpu()


def assert_answers(model: Any, folder: Path, bits: int) -> None:
    """Its logits are near those of the model with all its bits, for many rows and for one, and it holds a dialogue."""
    dense = baichuan2.load_model(folder, baichuan2.LoadSettings(device="cpu", dtype="float32")).model
    for num_rows in (9, 1):
        wanted = logits(dense, num_rows)
        error = ((logits(model, num_rows) - wanted).norm() / wanted.norm()).item()
        assert 1e-4 < error < TOLERANCES[bits]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False, trust_remote_code=True)
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    assert isinstance(model.chat(tokenizer, [{"role": "user", "content": "你好"}]), str)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bits", LAYERS)
def test_quantize_on_line(bits: int, place: str, folder: Path) -> None:
    model = run(QUANTIZE, folder, place, bits)
    assert type(model.model.layers[1].self_attn.W_pack) is LAYERS[bits]
    assert model.dtype == torch.float16
    assert_answers(model, folder, bits)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bits", LAYERS)
def test_load_in_bits_save_and_load_again(bits: int, place: str, folder: Path, tmp_path: Path) -> None:
    if place == "cpu" and torch.cuda.is_available():
        pytest.skip('device_map="auto" takes the GPU')
    model = run(LOAD_IN_BITS, folder, place, bits)
    assert type(model.model.layers[1].mlp.down_proj) is LAYERS[bits]
    assert_answers(model, folder, bits)
    model.save_pretrained(tmp_path / "saved")
    again = run(LOAD, tmp_path / "saved", place)
    assert type(again.model.layers[1].mlp.down_proj) is LAYERS[bits]
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("place", PLACES)
def test_official_4bits_folder(place: str, folder: Path, tmp_path: Path) -> None:
    if place == "cpu" and torch.cuda.is_available():
        pytest.skip('device_map="auto" takes the GPU')
    target = tmp_path / "Baichuan2-7B-Chat-4bits"
    quantize_checkpoint(QuantizeSettings(source=str(folder), target=str(target), format="official-4bits"))
    set_traps(target)
    model = run(LOAD, target, place)
    layer = model.model.layers[1].self_attn.W_pack
    assert type(layer) is NF4Linear
    assert_answers(model, folder, 4)
    assert (layer._product is not None) == (place == "cuda")  # the library multiplies there
