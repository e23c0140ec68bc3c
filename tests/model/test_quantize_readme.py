"""The README's ways to 8 and 4 bits through bitsandbytes, on the processor: quantise, talk, save, load, adapt."""

import io
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from baichuan2 import BaichuanForCausalLM, MissingExtraError, QuantizationError, load_model
from baichuan2.model.norm_head import NormHead
from baichuan2.quantization import bnb
from tests.tiny import SIZES, Size, random_ids, tiny_model

library = pytest.importorskip("bitsandbytes")

LINEARS = {"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"}
LAYERS = {8: bnb.Linear8bitLt, 4: bnb.Linear4bit}
BITS = [8, 4]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
QUESTIONS = [
    "你好",
    "世界上最高的山是哪座？",
    "中国的首都是哪里？",
    "What is the capital of France?",
    "水的化学式是什么？",
]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=random_ids(2, 9, seed=5)).logits


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name, tensor in wanted.items() if not torch.equal(found[name], tensor)] == []


def quantized_names(model: nn.Module, bits: int) -> set[str]:
    return {name.rpartition(".")[2] for name, module in model.named_modules() if type(module) is LAYERS[bits]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("7b").to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", SIZES)
def test_quantize_save_and_load(size: Size, bits: int, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model(size).to(dtype)
    dense = tensors(model)
    dense_logits = logits(model)
    assert model.quantize(bits) is model
    assert quantized_names(model, bits) == LINEARS
    assert type(model.lm_head) is NormHead
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(model.state_dict()[name], dense[name])
    assert (model.dtype, model.training) == (dtype, False)

    before = tensors(model)
    wanted = logits(model)
    error = ((wanted - dense_logits).float().norm() / dense_logits.float().norm()).item()
    assert 1e-4 < error < {8: 0.05, 4: 0.5}[bits]
    model.save_pretrained(tmp_path)  # after a pass: the library has rearranged 4-bit weights by then
    assert_same(tensors(model), before)
    assert torch.equal(logits(model), wanted)

    saved = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert saved["quant_method"] == "bitsandbytes"
    assert (saved["load_in_8bit"], saved["load_in_4bit"]) == (bits == 8, bits == 4)
    for loader in (BaichuanForCausalLM, AutoModelForCausalLM):
        loaded = loader.from_pretrained(tmp_path)
        assert quantized_names(loaded, bits) == LINEARS
        assert torch.equal(logits(loaded), wanted)
        assert_same(tensors(loaded), before)


@pytest.mark.parametrize("device_map", [None, "auto"])
@pytest.mark.parametrize("bits", BITS)
def test_flags_are_the_same_as_quantize(folder: Path, bits: int, device_map: Any, tmp_path: Path) -> None:
    wanted = BaichuanForCausalLM.from_pretrained(folder).quantize(bits)
    flag: dict[str, Any] = {f"load_in_{bits}bit": True, "device_map": device_map}
    config: dict[str, Any] = (
        {"load_in_8bit": True}
        if bits == 8
        else {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    )
    explicit = {"quantization_config": BitsAndBytesConfig(**config), "device_map": device_map}
    for loader, arguments in (
        (BaichuanForCausalLM, flag),
        (AutoModelForCausalLM, flag),
        (BaichuanForCausalLM, explicit),
    ):
        model = loader.from_pretrained(folder, **arguments)
        assert type(model) is BaichuanForCausalLM
        assert type(model.lm_head) is NormHead
        assert quantized_names(model, bits) == LINEARS
        assert model.config.quantization_config.to_dict() == wanted.config.quantization_config.to_dict()
        assert_same(tensors(model), tensors(wanted))
        assert torch.equal(logits(model), logits(wanted))
    ids = random_ids(1, 5)
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert out.shape[1] > 5
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(BaichuanForCausalLM.from_pretrained(tmp_path / "saved")), logits(wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_4_bits_work_in_the_dtype_of_the_model(folder: Path, dtype: torch.dtype) -> None:
    model = BaichuanForCausalLM.from_pretrained(folder, dtype=dtype, load_in_4bit=True)
    assert model.config.quantization_config.bnb_4bit_compute_dtype == dtype
    assert {layer.compute_dtype for layer in model.modules() if type(layer) is bnb.Linear4bit} == {dtype}
    chosen = BaichuanForCausalLM.from_pretrained(
        folder, dtype=dtype, load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32
    )
    assert chosen.model.layers[0].mlp.up_proj.compute_dtype == torch.float32
    assert chosen.config.quantization_config.bnb_4bit_compute_dtype == torch.float32


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_single_quantised_weights_survive_use_and_saving(folder: Path, kind: str, tmp_path: Path) -> None:
    """The library alone saves garbage here, on processors with AVX-512 and bfloat16."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=False,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = BaichuanForCausalLM.from_pretrained(folder, quantization_config=config)
    before = tensors(model)
    wanted = logits(model)
    model.save_pretrained(tmp_path / "saved")
    loaded = BaichuanForCausalLM.from_pretrained(tmp_path / "saved")
    assert_same(tensors(loaded), before)
    assert torch.equal(logits(loaded), wanted)
    original = BaichuanForCausalLM.from_pretrained(folder)
    found = loaded.dequantize()
    for name, weight in original.named_parameters():
        error = (found.get_parameter(name).float() - weight.float()).norm() / weight.float().norm()
        assert error < 0.2, name

    file = io.BytesIO()
    logits(model)
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert_same(torch.load(file, weights_only=True), before)


@pytest.mark.parametrize("bits", BITS)
def test_dequantize_after_use(bits: int) -> None:
    model = tiny_model("7b").to(torch.float16).quantize(bits)
    wanted = logits(model)
    dense = model.dequantize(dtype=torch.float16)
    assert type(dense.model.layers[0].mlp.up_proj) is nn.Linear
    assert ((logits(dense) - wanted).float().norm() / wanted.float().norm()).item() < 0.06


def replies(model: Any, tokenizer: Any) -> list[str]:
    messages = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [model.chat(tokenizer, each, do_sample=False, max_new_tokens=12) for each in messages]


@pytest.fixture(scope="module")
def dense_replies() -> list[str]:
    loaded = load_model("demo-chat")
    return replies(loaded.model, loaded.tokenizer)


@pytest.mark.parametrize("bits", BITS)
def test_the_demo_model_still_knows_its_facts(bits: int, dense_replies: list[str]) -> None:
    loaded = load_model("demo-chat")
    dense_bytes = loaded.model.get_memory_footprint()
    found = replies(loaded.model.quantize(bits), loaded.tokenizer)
    same = sum(one == other for one, other in zip(found, dense_replies, strict=True))
    assert same >= {8: 5, 4: 4}[bits], found
    assert "北京" in found[2]
    assert "Paris" in found[3]
    assert loaded.model.get_memory_footprint() < {8: 0.65, 4: 0.45}[bits] * dense_bytes


# no multiples of 64: the kernel for inference takes none of them, and the library dequantises those of 96 wrongly
ODD_SIZES = [{"hidden_size": 120, "intermediate_size": 200}, {"hidden_size": 96, "intermediate_size": 176}]
SLOW = "the fast 4-bit kernel wants"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sizes", ODD_SIZES, ids=str)
def test_sizes_that_kernels_cannot_take(sizes: dict[str, int], bits: int, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_model("7b", **sizes).to(dtype).save_pretrained(tmp_path / "dense")
    model = BaichuanForCausalLM.from_pretrained(tmp_path / "dense").quantize(bits)
    dense = tiny_model("7b", **sizes).to(dtype)
    ids = random_ids(2, 5)
    expected = int(bits == 4 and dtype != torch.float32 and bnb.has_fast_kernel())

    def use(model: Any) -> Tensor:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = logits(model)
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        messages = [str(one.message) for one in caught if SLOW in str(one.message)]
        assert len(messages) == len(caught) == expected
        assert all("model.layers.0.self_attn.W_pack" in message and "9 more" in message for message in messages)
        return found

    wanted = use(model)
    error = ((wanted - logits(dense)).float().norm() / logits(dense).float().norm()).item()
    assert error < {8: 0.1, 4: 0.5}[bits]
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(use(BaichuanForCausalLM.from_pretrained(tmp_path / "saved")), wanted)
    flag = {f"load_in_{bits}bit": True}
    assert torch.equal(use(BaichuanForCausalLM.from_pretrained(tmp_path / "dense", **flag)), wanted)


@pytest.mark.parametrize("bits", [16, 2, True, "8", None])
def test_other_bits(bits: Any) -> None:
    model = tiny_model("7b")
    with pytest.raises(QuantizationError, match=r"write quantize\(8\) or quantize\(4\)") as caught:
        model.quantize(bits)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


def test_quantised_already(folder: Path) -> None:
    models = [tiny_model("7b").quantize(8), BaichuanForCausalLM.from_pretrained(folder, load_in_4bit=True)]
    for model in models:
        before = tensors(model)
        with pytest.raises(QuantizationError, match=r"quantised already, quantize\(4\) cannot do it again"):
            model.quantize(4)
        assert_same(tensors(model), before)


def test_device_map_auto(folder: Path) -> None:
    """On one device the model is quantised all the same; over several, one line says what to write."""
    model = AutoModelForCausalLM.from_pretrained(folder, device_map="auto")
    assert quantized_names(model.quantize(4), 4) == LINEARS

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    with pytest.raises(QuantizationError, match=r"give load_in_4bit=True beside device_map=\"auto\" instead"):
        model.quantize(4)
    del model.hf_device_map
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(QuantizationError, match=r"layers\.1\.mlp\.gate_proj is not in memory but offloaded"):
        model.quantize(4)
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    tiny_model("7b").quantize(8).save_pretrained(tmp_path / "saved")
    model = tiny_model("7b")
    configs = BitsAndBytesConfig(load_in_8bit=True), BitsAndBytesConfig(load_in_4bit=True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    ways = [
        lambda: model.quantize(4),
        lambda: BaichuanForCausalLM.from_pretrained(folder, load_in_4bit=True),
        lambda: AutoModelForCausalLM.from_pretrained(folder, load_in_8bit=True),
        *(
            lambda config=config: AutoModelForCausalLM.from_pretrained(folder, quantization_config=config)
            for config in configs
        ),
        lambda: BaichuanForCausalLM.from_pretrained(tmp_path / "saved"),
    ]
    for way in ways:
        with pytest.raises(MissingExtraError, match=re.escape("run  pip install 'baichuan2[bnb]'")) as caught:
            way()
        assert "\n" not in str(caught.value)
    assert type(model.model.layers[0].mlp.up_proj) is nn.Linear


@pytest.mark.parametrize("bits", BITS)
def test_casting_is_refused_in_one_line(bits: int) -> None:
    model = tiny_model("7b").to(torch.bfloat16).quantize(bits)
    for cast in (model.half, model.float, lambda: model.to(torch.float16), lambda: model.to("cpu", torch.float16)):
        with pytest.raises(ValueError, match=r"not supported for quantized model|cannot cast") as caught:
            cast()
        assert "\n" not in str(caught.value)
    assert logits(model.to("cpu")).isfinite().all()


@pytest.mark.parametrize("bits", BITS)
def test_cuda_is_a_move(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """The framework refuses `.cuda()` on 8-bit models, which the README writes behind `quantize(8)`."""
    model = tiny_model("7b").quantize(bits)
    devices = []
    monkeypatch.setattr(nn.Module, "to", lambda self, *args, **kwargs: devices.append(args) or self)
    assert model.cuda() is model
    assert model.cuda(1) is model
    assert devices == [("cuda",), (1,)]


@pytest.mark.gpu
@pytest.mark.parametrize("bits", BITS)
def test_on_a_gpu(bits: int, tmp_path: Path) -> None:
    model = tiny_model("7b").to(torch.float16).quantize(bits)
    wanted = logits(model)
    before = tensors(model)
    model = model.cuda()
    ids = random_ids(2, 9, seed=5).cuda()
    with torch.no_grad():
        found = model(input_ids=ids).logits.cpu()
    assert ((found - wanted).float().norm() / wanted.float().norm()).item() < 0.05
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert_same({name: tensor.cpu() for name, tensor in model.state_dict().items()}, before)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto")
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits.cpu(), found)


def dense_weight(layer: Any) -> Tensor:
    """The weight (N, K) of a quantised layer, float32."""
    if isinstance(layer, bnb.Linear4bit):
        return library.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return layer.weight.detach().float() * scales[:, None] / 127


# peft 0.21 asks by the name that transformers 5.24 has replaced; and says that a merge rounds
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Merge lora module to .-bit linear may get different generations:UserWarning")
@pytest.mark.parametrize("sizes", [{}, ODD_SIZES[1]], ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_adapters_train_and_merge(bits: int, sizes: dict[str, int]) -> None:
    model = tiny_model("7b", **sizes).quantize(bits)
    before = logits(model)
    lora = peft.LoraConfig(task_type=peft.TaskType.CAUSAL_LM, r=2, lora_alpha=32, target_modules=sorted(LINEARS))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, lora)
    ids = random_ids(2, 10)
    optimizer = torch.optim.AdamW([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.02)
    for _ in range(3):
        adapted.train()
        optimizer.zero_grad()
        adapted(input_ids=ids, labels=ids).loss.backward()
        gradients = {name: weight.grad for name, weight in adapted.named_parameters() if "lora_B" in name}
        assert len(gradients) == 10
        assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
        optimizer.step()
        trained = logits(adapted.eval())  # a pass between the steps, which must not cost the next one its gradients
    assert (trained - before).abs().max() > 0.1
    layer = adapted.base_model.model.model.layers[0].mlp.down_proj
    wanted = dense_weight(layer.base_layer) + layer.get_delta_weight("default").detach()
    merged = adapted.merge_and_unload()
    assert logits(merged).isfinite().all()
    found = dense_weight(merged.model.layers[0].mlp.down_proj)
    assert ((found - wanted).norm() / wanted.norm()).item() < {8: 0.02, 4: 0.12}[bits]


def test_adapters_come_after_quantising() -> None:
    model = tiny_model("7b")
    lora = peft.LoraConfig(task_type=peft.TaskType.CAUSAL_LM, r=2, target_modules=["W_pack"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks the model for a name that transformers gave up
        peft.get_peft_model(model, lora)  # changes the model in place
    with pytest.raises(QuantizationError, match="put adapters on it afterwards"):
        model.quantize(4)
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert names
    assert all(dict(model.named_parameters())[name].requires_grad for name in names)
