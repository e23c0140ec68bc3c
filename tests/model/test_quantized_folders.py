"""Official 4bits folders, and bitsandbytes' 4 bits without bitsandbytes: read as they are, by any loader."""

import importlib.util
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig

from baichuan2 import BaichuanForCausalLM, CheckpointError, LoadSettings, MissingExtraError, SettingsError, load_model
from baichuan2.checkpoints.load import load_for_replies
from baichuan2.model.norm_head import NormHead
from baichuan2.quantization.linear import NF4Linear
from baichuan2.quantization.official_4bits import stored_tensor
from tests.tiny import tiny_model

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ("rope_h4", "alibi_h5")
LAYER = "model.layers.1.mlp.gate_proj.weight"


def official(case: str) -> Path:
    return GOLDEN / "quant" / f"official_4bits_layout_{case}"


@pytest.fixture
def no_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name, *rest)
    )


@pytest.mark.usefixtures("no_bitsandbytes")
@pytest.mark.parametrize("case", CASES)
def test_official_folder_gives_the_official_logits(case: str) -> None:
    expected = load_file(official(case) / "expected.safetensors")
    model = AutoModelForCausalLM.from_pretrained(official(case), dtype=torch.float32, trust_remote_code=True)
    with torch.no_grad():
        logits = model(expected["input_ids"]).logits
    assert (logits - expected["logits_nf4_dequantised_weights"]).abs().max() < 5e-6  # measured: 0.0 and 1.4e-6
    assert isinstance(model.lm_head, NormHead)
    assert isinstance(model.model.layers[0].self_attn.W_pack, NF4Linear)
    assert model.generation_config.max_new_tokens == 2048


def test_official_folder_by_load_model_and_saved_anew(tmp_path: Path) -> None:
    folder = tmp_path / "official"
    shutil.copytree(official("rope_h4"), folder)
    shutil.copy(GOLDEN / "text" / "small_tokenizer.model", folder / "tokenizer.model")
    loaded = load_model(folder, LoadSettings(dtype="float32", device="cpu"))
    ids = load_file(folder / "expected.safetensors")["input_ids"]
    with torch.no_grad():
        logits = loaded.model(ids).logits
        loaded.model.save_pretrained(tmp_path / "ours")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
        assert torch.equal(again(ids).logits, logits)
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "baichuan2"


def test_official_folder_as_it_is_asked_for_elsewhere() -> None:
    ids = load_file(official("rope_h4") / "expected.safetensors")["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(official("rope_h4"))
    assert plain.dtype == torch.float16
    asked = AutoModelForCausalLM.from_pretrained(official("rope_h4"), load_in_4bit=True, device_map="auto")
    decoder = AutoModel.from_pretrained(official("rope_h4"))
    with torch.no_grad():
        assert torch.equal(asked(ids).logits, plain(ids).logits)
        assert torch.equal(decoder(ids).last_hidden_state, plain.model(ids).last_hidden_state)
    with pytest.raises(SettingsError, match="quantised to 4 bits already"):
        AutoModelForCausalLM.from_pretrained(official("rope_h4"), load_in_8bit=True)


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return damage


def cut(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-500])


class Trap:
    """Would leave a file behind if the pickle were run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def poisoned(folder: Path) -> None:
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"lm_head.weight": Trap()}, file, protocol=2)


NORM_SHAPE = (json.loads((official("rope_h4") / "config.json").read_text())["hidden_size"],)


def endless(dtype: torch.dtype) -> torch.Tensor:
    """One number in the file, gigabytes to whom looks at each of its values."""
    return torch.zeros(1, dtype=dtype).expand(2**33)


def deep_list() -> list[Any]:
    nested: list[Any] = []
    for _ in range(20_000):
        nested = [nested]
    return nested


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("no file", lambda folder: (folder / "pytorch_model.bin").unlink(), "holds no weights"),
    ("cut off", cut, "truncated or damaged"),
    ("code in the pickle", poisoned, "could run code and is refused"),
    ("no codes", changed(lambda c: c.pop(f"{LAYER}.data")), f"{LAYER}.*must be a tensor, got None"),
    ("no list", changed(lambda c: c.pop(f"{LAYER}.quant_state")), "tensors are missing|unexpected"),
    ("layer missing", changed(lambda c: [c.pop(f"{LAYER}{s}") for s in (".data", ".quant_state")]), "are missing"),
    ("half the codes", changed(lambda c: c.update({f"{LAYER}.data": c[f"{LAYER}.data"][::2]})), "4-bit codes must be"),
    ("fp4", changed(lambda c: c[f"{LAYER}.quant_state"].__setitem__(5, "fp4")), "fp4"),
    ("nan", changed(lambda c: c[f"{LAYER}.quant_state"][4][0].fill_(float("nan"))), "must be numbers"),
    ("block", changed(lambda c: c[f"{LAYER}.quant_state"].__setitem__(3, 128)), f"{LAYER}"),
    ("shape", changed(lambda c: c[f"{LAYER}.quant_state"].__setitem__(1, torch.Size([88, 128]))), "config.json wants"),
    ("plain nan", changed(lambda c: c["lm_head.weight"].data[0].fill_(float("nan"))), "lm_head.weight holds NaN"),
    ("list among tensors", changed(lambda c: c.update({"lm_head.weight": [1, 2]})), r"must be a tensor, got \[1, 2\]"),
    ("unknown layer", changed(lambda c: c.update({f"x.weight{s}": c[LAYER + s] for s in (".data", ".quant_state")})),
     "describes no such layer"),
    ("scales of one number", changed(lambda c: c[f"{LAYER}.quant_state"].__setitem__(0, endless(torch.uint8))),
     f"{LAYER}: the scales must hold all its values"),
    ("codes of one number", changed(lambda c: c.update({f"{LAYER}.data": endless(torch.uint8)})),
     f"{LAYER}: the codes must hold all its values"),
    ("plain tensor of one number", changed(lambda c: c.update({"lm_head.weight": endless(torch.float16)})),
     "lm_head.weight must hold all its values"),
    ("no memory", changed(lambda c: c.update({"model.norm.weight": torch.empty(48, device="meta")})),
     "model.norm.weight must hold values"),
    ("codes without memory", changed(lambda c: c.update({f"{LAYER}.data": torch.empty(9, device="meta")})),
     f"{LAYER}: the codes must hold values"),
    ("sparse", changed(lambda c: c.update({"model.norm.weight": torch.ones(48).to_sparse()})),
     "must be a dense tensor"),
    ("great size", changed(lambda c: c[f"{LAYER}.quant_state"].__setitem__(1, (10**500, 1))), "must be at most"),
    ("a key that is no name", changed(lambda c: c.update({b"x.quant_state": 1})), "not all its keys are names"),
    ("whole numbers", changed(lambda c: c.update({"model.norm.weight": torch.ones(NORM_SHAPE, dtype=torch.int64)})),
     "model.norm.weight must hold real numbers, got torch.int64"),
    ("plain shape", changed(lambda c: c.update({"model.norm.weight": torch.ones(7)})),
     r"model.norm.weight has the shape \(7,\), config.json wants"),
    ("unknown tensor", changed(lambda c: c.update({"model.extra.weight": torch.ones(7)})),
     "unexpected tensor 'model.extra.weight'"),
    ("infinite norm", changed(lambda c: c.update({"model.norm.weight": torch.full(NORM_SHAPE, float("inf"))})),
     "official: model.norm.weight holds NaN or infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_damaged_folder_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "official"
    shutil.copytree(official("rope_h4"), folder)
    shutil.copy(GOLDEN / "text" / "small_tokenizer.model", folder / "tokenizer.model")
    monkeypatch.chdir(tmp_path)
    damage(folder)
    for load in (load_model, load_for_replies):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        assert not Path("sprung").exists()


@pytest.mark.usefixtures("no_bitsandbytes")
def test_official_folder_by_keyword_and_with_fields_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    folder = official("rope_h4")
    model = BaichuanForCausalLM.from_pretrained(pretrained_model_name_or_path=folder)
    assert isinstance(model.model.layers[0].mlp.up_proj, NF4Linear)
    changed_field = BaichuanForCausalLM.from_pretrained(folder, use_cache=False, dtype=torch.bfloat16)
    assert changed_field.config.use_cache is False
    assert changed_field.dtype == torch.bfloat16
    asked = AutoModelForCausalLM.from_pretrained(folder, load_in_4bit=True, bnb_4bit_compute_dtype=torch.float16)
    assert isinstance(asked.model.layers[0].mlp.up_proj, NF4Linear)
    with pytest.raises(SettingsError, match="quantised to 4 bits already"):
        AutoModelForCausalLM.from_pretrained(folder, load_in_8bit=True)


@pytest.mark.parametrize(
    "flag", [{"load_in_8bit": True}, {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}]
)
def test_own_folder_is_not_quantised_again(tmp_path: Path, flag: dict[str, Any]) -> None:
    pytest.importorskip("bitsandbytes")
    AutoModelForCausalLM.from_pretrained(official("rope_h4")).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="is quantised already: leave load_in_8bit") as caught:
        AutoModelForCausalLM.from_pretrained(tmp_path, **flag)
    assert "\n" not in str(caught.value)


def bitsandbytes_folder(folder: Path, bits: int) -> Path:
    """A model that the library quantised, with what `load_model` needs."""
    pytest.importorskip("bitsandbytes")
    model = tiny_model("13b", hidden_size=64, num_attention_heads=4, intermediate_size=128, vocab_size=768)
    model.save_pretrained(folder / "plain")
    options: dict[str, Any] = (
        {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    )
    quantized = AutoModelForCausalLM.from_pretrained(
        folder / "plain", quantization_config=BitsAndBytesConfig(**options)
    )
    quantized.save_pretrained(folder / "bnb")
    shutil.copy(GOLDEN / "text" / "small_tokenizer.model", folder / "bnb" / "tokenizer.model")
    return folder / "bnb"


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_folder_in_another_number_format(tmp_path: Path, bits: int) -> None:
    loaded = load_model(bitsandbytes_folder(tmp_path, bits), LoadSettings(device="cpu", dtype="bfloat16"))
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.get_input_embeddings().weight.dtype == torch.bfloat16
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[3, 4, 5]])).logits
    assert bool(torch.isfinite(logits).all())


def test_8_bits_from_before_there_was_a_quant_method(tmp_path: Path) -> None:
    folder = bitsandbytes_folder(tmp_path, 8)
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    fields["quantization_config"] = {"load_in_8bit": True, "llm_int8_threshold": 6.0}
    path.write_text(json.dumps(fields))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8


@pytest.mark.parametrize(
    ("bits", "has_library", "name", "change", "message"),
    [
        (8, True, "model.norm.weight", lambda t: t[:-1], "model.norm.weight has the shape"),
        (8, True, "model.layers.0.mlp.up_proj.weight", lambda t: t[:-1], "up_proj.weight has the shape"),
        (4, True, "model.norm.weight", lambda t: t[:-1], "model.norm.weight has the shape"),
        (4, False, "model.norm.weight", lambda t: t[:-1], "model.norm.weight has the shape"),
        (4, False, "model.norm.weight", lambda t: t.long(), "must hold real numbers"),
        (4, False, "model.norm.weight", lambda t: t * float("nan"), "holds NaN"),
        (4, False, "model.layers.0.mlp.up_proj.weight", lambda t: t[:-1], "4-bit codes must be"),
    ],
)
def test_a_damaged_bitsandbytes_folder_ends_in_one_line_that_names_it(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    bits: int,
    has_library: bool,
    name: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    message: str,
) -> None:
    folder = bitsandbytes_folder(tmp_path, bits)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name]).clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if not has_library:
        request.getfixturevalue("no_bitsandbytes")
    with pytest.raises(CheckpointError, match=message) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_a_damaged_index_names_its_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = bitsandbytes_folder(tmp_path, 4)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("{")
    request.getfixturevalue("no_bitsandbytes")
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json or a file"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_what_no_message_can_show_is_named_by_its_type() -> None:
    with pytest.raises(CheckpointError, match=r"^weight must be a tensor, got a list$"):
        stored_tensor(deep_list(), "weight")
    with pytest.raises(CheckpointError, match=r"^weight must be a tensor, got a int$"):
        stored_tensor(10**5000, "weight")


@pytest.mark.parametrize("is_double", [True, False])
def test_bitsandbytes_folder_without_bitsandbytes(
    tmp_path: Path, request: pytest.FixtureRequest, is_double: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny_model("13b", hidden_size=64, num_attention_heads=4, intermediate_size=128)
    model.save_pretrained(tmp_path / "plain")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=is_double,
        bnb_4bit_compute_dtype="float32",
    )
    quantized = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config)
    quantized.save_pretrained(tmp_path / "bnb")
    ids = torch.randint(3, 90, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = quantized(ids).logits
        request.getfixturevalue("no_bitsandbytes")
        read = AutoModelForCausalLM.from_pretrained(tmp_path / "bnb")
        assert isinstance(read.model.layers[0].mlp.up_proj, NF4Linear)
        assert (read(ids).logits - expected).abs().max() < 1e-4


def test_bitsandbytes_8_bit_folder_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(GOLDEN / "rope_h4", tmp_path / "folder")
    path = tmp_path / "folder" / "config.json"
    fields = json.loads(path.read_text())
    fields["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}
    path.write_text(json.dumps(fields))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'baichuan2\[bnb\]'"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
