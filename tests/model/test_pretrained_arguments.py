"""Old arguments of from_pretrained: translated, or a message that says what to write instead."""

import importlib.machinery
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from baichuan2 import BaichuanForCausalLM, CheckpointError, MissingExtraError, SettingsError
from baichuan2.model.pretrained_arguments import load_whole, translate_arguments

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "rope_h4"


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optional package, as far as translating arguments goes."""
    module = ModuleType("bitsandbytes")
    module.__spec__ = importlib.machinery.ModuleSpec("bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)


@pytest.mark.usefixtures("bitsandbytes")
def test_8_bit_becomes_a_quantization_config() -> None:
    translated = translate_arguments({"load_in_8bit": True, "llm_int8_threshold": 3.0, "device_map": "auto"})
    assert translated.keys() == {"quantization_config", "device_map"}
    config = translated["quantization_config"]
    assert isinstance(config, BitsAndBytesConfig)
    assert config.load_in_8bit
    assert not config.load_in_4bit
    assert config.llm_int8_threshold == 3.0


@pytest.mark.usefixtures("bitsandbytes")
def test_4_bit_is_the_official_scheme() -> None:
    config = translate_arguments({"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float16})["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.float16


def test_quantisation_that_is_off_is_dropped() -> None:
    assert translate_arguments({"load_in_8bit": False, "load_in_4bit": None}) == {}


@pytest.mark.parametrize("name", ["load_in_8bit", "load_in_4bit"])
def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"run  pip install 'baichuan2\[bnb\]'") as caught:
        AutoModelForCausalLM.from_pretrained(GOLDEN, **{name: True})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"load_in_8bit": True, "load_in_4bit": True}, "exclude each other"),
        ({"load_in_8bit": True, "quantization_config": object()}, "leave load_in_8bit out"),
        ({"from_tf": True}, "TensorFlow files are not read: load the pytorch_model.bin"),
        ({"from_flax": True}, "Flax files are not read"),
    ],
)
def test_contradictions_and_dead_ends(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        translate_arguments(arguments)


def test_tokens_and_remote_code() -> None:
    assert translate_arguments({"use_auth_token": "secret"}) == {"token": "secret"}
    assert translate_arguments({"use_auth_token": "old", "token": "new"}) == {"token": "new"}
    assert translate_arguments({"trust_remote_code": True}) == {"trust_remote_code": False}
    assert translate_arguments({"use_flash_attention_2": True}) == {"attn_implementation": "flash_attention_2"}
    assert translate_arguments({"use_fast": False, "resume_download": True, "code_revision": "x"}) == {}


def test_the_callers_arguments_are_left_alone() -> None:
    arguments = {"use_auth_token": "secret", "trust_remote_code": True}
    translate_arguments(arguments)
    assert arguments == {"use_auth_token": "secret", "trust_remote_code": True}


def test_old_arguments_load_a_model() -> None:
    model = BaichuanForCausalLM.from_pretrained(
        GOLDEN,
        trust_remote_code=True,
        torch_dtype=torch.bfloat16,
        low_cpu_mem_usage=True,
        use_auth_token=False,
        load_in_8bit=False,
        resume_download=True,
        revision="v2.0",
    )
    assert model.dtype == torch.bfloat16
    assert next(model.parameters()).dtype == torch.bfloat16


def test_loading_information_is_still_there_for_the_asking() -> None:
    model, information = BaichuanForCausalLM.from_pretrained(GOLDEN, output_loading_info=True)
    assert isinstance(model, BaichuanForCausalLM)
    assert not information["missing_keys"]


def test_a_missing_tensor_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "config.json", tmp_path)
    state_dict = BaichuanForCausalLM.from_pretrained(GOLDEN).state_dict()
    state_dict.pop("model.layers.2.input_layernorm.weight")
    torch.save(state_dict, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, the first is model\.layers\.2\.input") as caught:
        BaichuanForCausalLM.from_pretrained(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_load_whole_returns_what_was_asked_for() -> None:
    calls = []

    def from_pretrained(*args: object, **kwargs: object) -> tuple[str, dict[str, set[str]]]:
        calls.append((args, kwargs))
        return "model", {"missing_keys": set()}

    assert load_whole(from_pretrained, (GOLDEN,), {"use_auth_token": "t"}) == "model"
    assert calls == [((GOLDEN,), {"token": "t", "output_loading_info": True})]
