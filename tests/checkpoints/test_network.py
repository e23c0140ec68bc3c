"""load_for_replies: the network alone computes the framework's numbers, and stands back where it could not."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.cache_utils import DynamicCache

from baichuan2 import BaichuanForCausalLM, CheckpointError, LoadSettings, generate_tokens, load_model
from baichuan2.checkpoints.load import load_for_replies
from baichuan2.checkpoints.network import empty_model
from baichuan2.engine.cache import new_cache
from baichuan2.engine.sampling import Sampling
from baichuan2.model.block import UNUSED_NAMES
from baichuan2.model.plain import PlainBaichuan
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.freed_memory import is_mapped_from_file
from baichuan2.quantization.scheme import QuantizationSpec
from tests.checkpoints.folders import GOLDEN, TOKENIZER, change_json, write_folder
from tests.tiny import SIZES, Size, left_padded

CPU = LoadSettings(device="cpu")
SPECS = {
    "int8": QuantizationSpec(format="int8", group_size=0),
    "int4": QuantizationSpec(format="int4", group_size=64, head="int8", embedding="int8"),
    "nf4": QuantizationSpec(format="nf4", group_size=64, weight_dtype="bfloat16"),
}
IDS = torch.randint(200, 768, (2, 40), generator=torch.Generator().manual_seed(0))


def folder_of(path: Path, size: Size, format: str = "none", layout: str = "whole") -> Path:
    folder = write_folder(path / f"{size}-{format}", size, "safetensors", layout)  # type: ignore[arg-type]
    if format != "none":
        model = load_model(folder, CPU).model
        quantize_model(model, SPECS[format])
        model.save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module, pieces: list[int], mask: Tensor | None = None, keep: int = 0) -> list[Tensor]:
    """The logits of IDS, read in pieces of those lengths with one cache."""
    found, start = [], 0
    cache = DynamicCache()
    for length in pieces:
        ids = IDS[:, start : start + length]
        start += length
        arguments = {"attention_mask": None if mask is None else mask[:, :start], "logits_to_keep": keep}
        with torch.no_grad():
            found.append(model(input_ids=ids, past_key_values=cache, use_cache=True, **arguments).logits)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", ["none", *SPECS])
def test_both_compute_the_same_numbers(tmp_path: Path, size: Size, format: str) -> None:
    folder = folder_of(tmp_path, size, format, "whole" if format != "none" else "sharded")
    whole, plain = load_model(folder, CPU), load_for_replies(folder, CPU)
    assert type(plain.model) is PlainBaichuan
    assert plain.model.state_dict().keys() == whole.model.state_dict().keys()
    for pieces in ([1], [7], [12, 1, 1], [12, 5], [40]):
        for one, other in zip(logits(plain.model, pieces), logits(whole.model, pieces), strict=True):
            assert torch.equal(one, other), pieces
    assert torch.equal(logits(plain.model, [9], keep=1)[0], logits(whole.model, [9], keep=1)[0])
    choice = Sampling(max_new_tokens=12)
    for prompt in ([300], [300 + place for place in range(70)]):
        replies = [
            list(generate_tokens(loaded.model, prompt, choice, stop_ids=frozenset())) for loaded in (plain, whole)
        ]
        assert replies[0] == replies[1]
    assert (plain.name, plain.generation_config) == (whole.name, whole.generation_config)


@pytest.mark.parametrize("case", ["rope_h4", "alibi_h5"])
def test_official_4bits_are_read_too(tmp_path: Path, case: str) -> None:
    folder = shutil.copytree(GOLDEN / "quant" / f"official_4bits_layout_{case}", tmp_path / "official")
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    whole, plain = load_model(folder, CPU).model, load_for_replies(folder, CPU).model
    assert type(plain) is PlainBaichuan
    ids = IDS % whole.config.vocab_size
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids).logits, whole(input_ids=ids).logits)
    content = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del content["model.norm.weight"]
    torch.save(content, folder / "pytorch_model.bin")
    for load in (load_model, load_for_replies):
        with pytest.raises(CheckpointError, match=r"1 tensors are missing, the first is model\.norm\.weight"):
            load(folder, CPU)


@pytest.mark.parametrize("size", SIZES)
def test_padding_on_the_left_is_hidden(tmp_path: Path, size: Size) -> None:
    folder = folder_of(tmp_path, size)
    whole, plain = load_model(folder, CPU).model, load_for_replies(folder, CPU).model
    _, mask = left_padded([[300] * 40, [300] * 31])
    for pieces in ([20], [20, 1, 4]):
        for one, other in zip(logits(plain, pieces, mask), logits(whole, pieces, mask), strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1, -1], other[1, -1])


@pytest.mark.parametrize("settings", [LoadSettings(dtype="float32"), LoadSettings(numerics="official")])
@pytest.mark.parametrize("size", SIZES)
def test_settings_mean_the_same(tmp_path: Path, size: Size, settings: LoadSettings) -> None:
    folder = folder_of(tmp_path, size)
    plain, whole = load_for_replies(folder, settings).model, load_model(folder, settings).model
    assert type(plain) is PlainBaichuan
    assert plain.config.dtype == whole.config.dtype
    for one, other in zip(logits(plain, [11, 1]), logits(whole, [11, 1]), strict=True):
        assert torch.equal(one, other)


def test_the_engines_cache_serves_both(tmp_path: Path) -> None:
    model = load_for_replies(folder_of(tmp_path, "7b"), CPU).model
    with torch.no_grad():
        expected = model(input_ids=IDS, use_cache=False).logits[:, -1]
        cache = new_cache()
        model(input_ids=IDS[:, :39], past_key_values=cache)
        assert torch.allclose(model(input_ids=IDS[:, 39:], past_key_values=cache).logits[:, 0], expected, atol=0.05)


def test_weights_are_mapped_and_take_no_gradient(tmp_path: Path) -> None:
    model = load_for_replies(folder_of(tmp_path, "13b", "int4"), CPU).model
    stored = [*model.parameters(), *(values for name, values in model.named_buffers() if ".weight_" in name)]
    assert len(stored) > 20
    assert all(is_mapped_from_file(values) for values in stored)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def other_number_format(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "change",
    [
        as_bin,
        other_number_format,
        lambda folder: change_json(folder / "config.json", torch_dtype=None),
        lambda folder: change_json(folder / "config.json", output_hidden_states=True),
        lambda folder: change_json(folder / "config.json", attn_implementation="eager"),
        lambda folder: change_json(folder / "config.json", transformers_weights="model.safetensors"),
    ],
)
def test_what_needs_the_framework_gets_it(tmp_path: Path, change) -> None:
    folder = folder_of(tmp_path, "7b")
    change(folder)
    loaded = load_for_replies(folder, CPU).model
    assert type(loaded) is BaichuanForCausalLM
    for one, other in zip(logits(loaded, [5]), logits(load_model(folder, CPU).model, [5]), strict=True):
        assert torch.equal(one, other)


def test_an_adapter_beside_the_weights_is_the_frameworks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, "7b")
    (folder / "adapter_config.json").write_text("{}")
    asked = []
    monkeypatch.setattr("baichuan2.checkpoints.load._read_weights", lambda *_: asked.append(True) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_for_replies(folder, CPU)
    assert asked


def test_fewer_bits_in_memory_are_the_frameworks(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = folder_of(tmp_path, "7b")
    settings = LoadSettings(device="cpu", quantize="int8")
    loaded = load_for_replies(folder, settings, watch=lambda done, total: told.append((done, total)))
    assert type(loaded.model) is BaichuanForCausalLM
    assert told[-1] == (10, 10)


@pytest.mark.parametrize("size", SIZES)
def test_old_names_that_nothing_uses_are_left_out(tmp_path: Path, size: Size) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2), "model.decoder.version": torch.zeros(1)}
    folder = write_folder(tmp_path, size, "safetensors", extra=extra)
    assert type(load_for_replies(folder, CPU).model) is PlainBaichuan
    assert tuple(BaichuanForCausalLM._keys_to_ignore_on_load_unexpected) == UNUSED_NAMES


@pytest.mark.parametrize("format", ["none", *SPECS])
def test_an_empty_model_has_places_for_all_and_memory_for_positions_alone(tmp_path: Path, format: str) -> None:
    config = load_for_replies(folder_of(tmp_path, "7b", format), CPU).model.config
    state = torch.get_rng_state()
    made = [empty_model(tmp_path, config, make) for make in (PlainBaichuan, BaichuanForCausalLM)]
    assert torch.equal(torch.get_rng_state(), state)
    plain, whole = ({name: (v.shape, v.is_meta) for name, v in model.state_dict().items()} for model in made)
    assert plain == whole
    assert not made[0].model.rotary_emb.inv_freq.is_meta
