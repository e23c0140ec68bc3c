"""Our own format in memory, saved and loaded again, through the framework's own loader."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from baichuan2 import CheckpointError, QuantizationError
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.norm_head import NormHead
from baichuan2.model.quantizer import BaichuanQuantizationConfig, quantizable_shapes, quantize_model
from baichuan2.quantization.linear import Int4Linear, Int8Embedding, Int8Linear, NF4Linear, QuantizedLinear
from baichuan2.quantization.scheme import QuantizationSpec
from tests.tiny import tiny_model

CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
SPECS = {
    "int8": QuantizationSpec(format="int8", group_size=32),
    "int8 rows, all": QuantizationSpec(format="int8", group_size=0, head="int8", embedding="int8"),
    "int4": QuantizationSpec(format="int4", group_size=32, codebook=CODEBOOK),
    "int4, head": QuantizationSpec(format="int4", group_size=64, codebook=CODEBOOK, head="int4"),
    "int8, head in 4 bits": QuantizationSpec(format="int8", group_size=0, head="int4"),
    "int4 even": QuantizationSpec(format="int4", group_size=64),
    "nf4": QuantizationSpec(format="nf4", group_size=64, weight_dtype="float32"),
    "nf4 plain": QuantizationSpec(
        format="nf4", group_size=64, compressed_statistics=False, unquantized=("model.layers.0.mlp.up_proj",)
    ),
}
SIZES: tuple[Literal["7b", "13b"], ...] = ("7b", "13b")


def ids() -> torch.Tensor:
    return torch.randint(3, 90, (2, 11), generator=torch.Generator().manual_seed(1))


def logits(model: BaichuanForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model(ids()).logits


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SPECS)
def test_saved_and_loaded_it_gives_the_same_logits(tmp_path: Path, size: Literal["7b", "13b"], name: str) -> None:
    model = tiny_model(size).eval()
    before = logits(model)
    quantize_model(model, SPECS[name])
    after = logits(model)
    limit = 0.05 if name.startswith("int8") and "4 bits" not in name else 0.5
    assert 0 < (after - before).norm() / before.norm() < limit
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), after)
    assert loaded.config.quantization_config.spec == SPECS[name]
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto")
    assert torch.equal(logits(again), after)


def test_which_layers_are_replaced() -> None:
    model = tiny_model("7b")
    quantize_model(model, SPECS["int4"])
    quantized = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    assert quantized == list(quantizable_shapes(model.config))
    assert all(isinstance(model.get_submodule(name), Int4Linear) for name in quantized)
    assert isinstance(model.lm_head, NormHead)
    assert isinstance(model.model.embed_tokens, torch.nn.Embedding)


def test_head_and_embedding_on_request() -> None:
    model = tiny_model("13b").eval()
    head = torch.nn.functional.normalize(model.lm_head.weight.detach())
    table = model.model.embed_tokens.weight.detach()
    quantize_model(model, SPECS["int8 rows, all"])
    assert isinstance(model.lm_head, Int8Linear)
    assert isinstance(model.get_input_embeddings(), Int8Embedding)
    assert (model.lm_head.dequantize() - head).abs().max() < 0.005
    assert (model.get_input_embeddings().dequantize() - table).abs().max() < table.abs().max() * 0.01


def test_a_head_in_4_bits_has_its_own_groups_and_values_and_another_version() -> None:
    model = tiny_model("7b").eval()
    unit = torch.nn.functional.normalize(model.lm_head.weight.detach())
    quantize_model(model, SPECS["int8, head in 4 bits"])
    head = model.lm_head
    assert isinstance(head, Int4Linear)
    assert (head.group_size, head.codebook) == (32, CODEBOOK)
    assert 0 < (head.dequantize() - unit).norm() / unit.norm() < 0.1
    # who reads version 1 only must stop, and nobody else
    assert SPECS["int8, head in 4 bits"].to_dict()["version"] == 2
    assert all(spec.to_dict()["version"] == 1 for spec in SPECS.values() if spec.head != "int4")


def test_a_cast_leaves_what_is_stored(tmp_path: Path) -> None:
    model = tiny_model("7b").eval()
    quantize_model(model, SPECS["int8 rows, all"])
    model.save_pretrained(tmp_path)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.layers[0].mlp.up_proj.weight_scales.dtype == torch.float16
    assert torch.equal(half.lm_head.weight_scales, model.lm_head.weight_scales)
    assert logits(half).dtype == torch.bfloat16
    wide = half.to(torch.float32)
    assert torch.equal(wide.model.embed_tokens.weight_scales, model.model.embed_tokens.weight_scales)
    assert wide.model.embed_tokens(ids()).dtype == torch.float32


def test_nf4_statistics_stay_float32(tmp_path: Path) -> None:
    model = tiny_model("7b").eval()
    quantize_model(model, SPECS["nf4"])
    model.save_pretrained(tmp_path)
    layer = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16).model.layers[1].self_attn.W_pack
    assert isinstance(layer, NF4Linear)
    assert layer.weight_nested_absmax.dtype == torch.float32
    assert torch.equal(layer.dequantize(), model.model.layers[1].self_attn.W_pack.dequantize())


def test_the_decoder_alone_loads_too(tmp_path: Path) -> None:
    model = tiny_model("7b").eval()
    quantize_model(model, SPECS["int8"])
    model.save_pretrained(tmp_path)
    decoder = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(decoder(ids()).last_hidden_state, model.model(ids()).last_hidden_state)


@pytest.mark.parametrize("size", SIZES)
def test_dequantize_gives_a_plain_model(size: Literal["7b", "13b"], tmp_path: Path) -> None:
    model = tiny_model(size).eval()
    quantize_model(model, SPECS["int8 rows, all"])
    quantized = logits(model)
    plain = model.dequantize(torch.float32)
    assert isinstance(plain.lm_head, NormHead)
    assert not any(isinstance(module, QuantizedLinear | Int8Embedding) for module in plain.modules())
    # the head's rows are scaled to unit length again, which rounding had left
    assert torch.allclose(logits(plain), quantized, rtol=0, atol=0.02)
    plain.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_gradients_reach_the_inputs_of_quantised_layers() -> None:
    model = tiny_model("7b")
    quantize_model(model, SPECS["int4"])
    layer = model.model.layers[0].mlp.down_proj
    inputs = torch.randn(3, layer.in_features, requires_grad=True)
    gradient = torch.randn(3, layer.out_features)
    layer(inputs).backward(gradient)
    assert torch.allclose(inputs.grad, gradient @ layer.dequantize(), atol=1e-5)


def test_twice_is_an_error() -> None:
    model = tiny_model("7b")
    quantize_model(model, SPECS["int8"])
    with pytest.raises(QuantizationError, match="quantised already"):
        quantize_model(model, SPECS["int8"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "format version 3, this package reads up to 2: update"),
        ({"version": "1"}, "version of quantization_config must be a whole number"),
        ({"format": "int3"}, "must be one of int8, int4, nf4, got 'int3'"),
        ({"group_size": 48}, "int4 has groups of 32 or 64 or 128 inputs, got 48"),
        ({"codebook": [1, 2, 3]}, "codebook must hold 16 whole numbers"),
        ({"codebook": list(range(16, 0, -1))}, "codebook must ascend"),
        ({"codebook": "even"}, "codebook must be a list"),
        ({"colour": "red"}, "has the unknown field 'colour'"),
        ({"unquantized": ["model.layers.9.mlp.up_proj"]}, "which is no layer of the model"),
        ({"head": "int2"}, "head must be null, int8 or int4, got 'int2'"),
        ({"head": ["int4"]}, "head must be null, int8 or int4"),
        ({"embedding": "int4"}, "embedding must be null or int8"),
        ({"unquantized": 3}, "must be a list of module names"),
    ],
)
def test_a_wrong_config_is_told_in_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    model = tiny_model("7b")
    quantize_model(model, SPECS["int4"])
    model.save_pretrained(tmp_path)
    model.config.quantization_config = {**SPECS["int4"].to_dict(), **change}
    model.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_config_round_trips() -> None:
    for spec in SPECS.values():
        config = BaichuanQuantizationConfig.from_spec(spec)
        assert BaichuanQuantizationConfig.from_dict(config.to_dict()).spec == spec
