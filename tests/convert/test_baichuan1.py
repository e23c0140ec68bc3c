"""To the Baichuan 1 form and back: what a plain head computes is what the normalised one did."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from baichuan2 import CheckpointError, ConvertSettings, LoadSettings, load_model
from baichuan2.convert import rewriting
from baichuan2.convert.ways import convert_checkpoint
from tests.checkpoints.folders import (
    FORMS,
    GOLDEN,
    Kind,
    Layout,
    change_json,
    official_config,
    weights,
    write_folder,
    write_weights,
)
from tests.oracle.decoder import OracleShape, decode
from tests.tiny import SIZES, Size

HEAD = "lm_head.weight"
IDS = [200, 317, 5, 402, 511, 230, 767, 300]


def convert(way: str, source: object, target: Path, **settings: Any) -> Path:
    return convert_checkpoint(ConvertSettings(way=way, source=str(source), target=str(target), **settings)).path


def fields_of(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return fields


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    for path in folder.glob("*.bin"):
        tensors |= torch.load(path, weights_only=True)
    return tensors


@torch.no_grad()
def logits(folder: Path, dtype: str = "auto") -> torch.Tensor:
    model: Any = load_model(folder, LoadSettings(device="cpu", dtype=dtype)).model  # type: ignore[arg-type]
    found: torch.Tensor = model(input_ids=torch.tensor([IDS])).logits[0]
    return found


def oracle_shape(size: Size) -> OracleShape:
    heads, scheme = (4, "rope") if size == "7b" else (5, "alibi")
    return OracleShape(num_layers=2, num_heads=heads, scheme=scheme, is_head_plain=True)


@pytest.mark.parametrize("size", SIZES)
def test_a_plain_head_on_the_result_gives_our_logits(tmp_path: Path, size: Size) -> None:
    source = write_folder(tmp_path / "source", size)
    write_weights(source, {name: weight.float() for name, weight in weights(size).items()}, "bin", "whole")
    change_json(source / "config.json", torch_dtype="float32")
    folder = convert("to-baichuan1", source, tmp_path / "first")
    wanted = logits(source)
    plain = decode(tensors_of(folder), IDS, oracle_shape(size)).logits
    torch.testing.assert_close(plain.float(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    raw = decode(tensors_of(source), IDS, oracle_shape(size)).logits
    assert (raw.float() - wanted).abs().max() > 0.1 * wanted.abs().max()
    assert torch.equal(logits(folder), wanted)


@pytest.mark.parametrize(("size", "form"), list(zip(["7b", "13b", "13b", "7b"], FORMS, strict=True)), ids=str)
def test_the_head_is_what_inference_computes_with_and_all_else_stays(
    tmp_path: Path, size: Size, form: tuple[Kind, Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "BYTES_AT_A_TIME", 70_000)  # so that there are many pieces, the last a smaller one
    source = write_folder(tmp_path / "source", size, *form)
    container, shard_size = ("bin", "whole") if form[1] == "sharded" else ("safetensors", "300KB")
    folder = convert("to-baichuan1", source, tmp_path / "first", container=container, shard_size=shard_size)
    before, after = weights(size), tensors_of(folder)
    assert before.keys() == after.keys()
    assert torch.equal(after.pop(HEAD), load_model(source).model.lm_head.normalized_weight())
    assert all(torch.equal(before[name], weight) for name, weight in after.items())
    assert torch.equal(logits(folder), logits(source))
    fields = fields_of(folder)
    assert fields["architectures"] == ["BaiChuanForCausalLM" if size == "7b" else "BaichuanForCausalLM"]
    assert ("max_position_embeddings" in fields, "model_max_length" in fields) == (size == "7b", size == "13b")
    assert "auto_map" not in (folder / "config.json").read_text() + (folder / "tokenizer_config.json").read_text()
    assert "z_loss_weight" not in fields


def test_rows_that_lie_across_each_other_give_the_same_head(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")
    tensors = {name: weight.float() for name, weight in weights("7b").items()}
    write_weights(source, tensors | {HEAD: tensors[HEAD].t().contiguous().t()}, "bin", "whole")
    folder = convert("to-baichuan1", source, tmp_path / "first")
    assert torch.equal(tensors_of(folder)[HEAD], F.normalize(tensors[HEAD]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["same", "float16", "float32"])
def test_the_way_back_gives_a_baichuan_2_folder_with_the_same_tensors(tmp_path: Path, size: Size, dtype: str) -> None:
    source = write_folder(tmp_path / "source", size)
    first = convert("to-baichuan1", source, tmp_path / "first", dtype=dtype, container="bin")
    back = convert("from-baichuan1", first, tmp_path / "back", shard_size="whole")
    fields = fields_of(back)
    assert fields["normalized_head"] is True
    assert fields["architectures"] == ["BaichuanForCausalLM"]
    before, after = tensors_of(first), tensors_of(back)
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = tensors_of(convert("to-baichuan1", back, tmp_path / "again"))
    # rows of length 1 are divided by a length that is 1 to the rounding of the number format
    head = again.pop(HEAD)
    torch.testing.assert_close(head, before[HEAD], rtol=2 * torch.finfo(head.dtype).eps, atol=0)
    assert all(torch.equal(before[name], weight) for name, weight in again.items())
    wanted = logits(source, "float32")
    assert (logits(back, "float32") - wanted).abs().max() < (1e-4 if dtype == "float32" else 0.02) * wanted.abs().max()


def test_the_head_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    normalize = F.normalize

    def watched(rows: torch.Tensor) -> torch.Tensor:
        seen.append(0 if rows.is_meta else rows.nbytes)
        return normalize(rows)

    monkeypatch.setattr(rewriting, "BYTES_AT_A_TIME", 20_000)
    monkeypatch.setattr(F, "normalize", watched)
    convert("to-baichuan1", write_folder(tmp_path / "source", "7b"), tmp_path / "first", dtype="float32")
    assert 0 < max(seen) <= 20_000
    assert sum(seen) == weights("7b")[HEAD].numel() * 4


@pytest.mark.parametrize("case", ["rope_h4", "alibi_h5"])
def test_numbers_of_the_released_code_come_out_of_a_plain_head(tmp_path: Path, case: str) -> None:
    golden = load_file(GOLDEN / case / "tensors.safetensors")
    found = tensors_of(convert("to-baichuan1", GOLDEN / case, tmp_path / "first"))
    states, wanted = golden["single.last_hidden"], golden["single.logits"]
    torch.testing.assert_close(states @ found[HEAD].T, wanted, rtol=0, atol=2e-5)


def test_a_cast_is_made_before_the_rows_are_normalised_as_a_model_loaded_so_does(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")
    folder = convert("to-baichuan1", source, tmp_path / "first", dtype="float32")
    found = tensors_of(folder)
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    assert fields_of(folder)["torch_dtype"] == "float32"
    wanted: Any = load_model(source, LoadSettings(device="cpu", dtype="float32")).model.lm_head
    assert torch.equal(found[HEAD], wanted.normalized_weight())


@pytest.mark.parametrize("size", SIZES)
def test_a_head_that_was_trained_on_as_a_plain_one_stays_that(tmp_path: Path, size: Size) -> None:
    first = convert("to-baichuan1", write_folder(tmp_path / "source", size), tmp_path / "first")
    tensors = tensors_of(first)
    tensors[HEAD][7] *= 1.05
    write_weights(first, tensors, "safetensors", "whole")
    with pytest.warns(UserWarning, match="rows of other lengths than 1, so it was trained as a plain one"):
        back = convert("from-baichuan1", first, tmp_path / "back")
    assert fields_of(back)["normalized_head"] is False
    assert torch.equal(logits(back), logits(first))


def write_baichuan1(folder: Path, size: Size, vocab_size: int = 64_000) -> Path:
    """A folder as Baichuan 1 was published, with few layers: other spellings, rotary tables, its own vocabulary."""
    fields = official_config(size) | {"vocab_size": vocab_size, "num_hidden_layers": 1, "hidden_size": 64}
    fields |= {"num_attention_heads": 2, "intermediate_size": 64, "torch_dtype": "float16"}
    if size == "7b":
        fields["architectures"] = ["BaiChuanForCausalLM"]
        fields["auto_map"] = {"AutoConfig": "configuration_baichuan.BaiChuanConfig"}
        fields.pop("tokenizer_class")
        fields.pop("model_max_length")
    write_folder(folder, size)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    change_json(folder / "tokenizer_config.json", tokenizer_class="BaiChuanTokenizer", use_fast=False)
    change_json(folder / "generation_config.json", repetition_penalty=1.1)
    generator = torch.Generator().manual_seed(0)
    shapes = {"self_attn.W_pack": (192, 64), "self_attn.o_proj": (64, 64)}
    shapes |= {f"mlp.{name}_proj": (64, 64) for name in ("gate", "up", "down")}
    shapes |= {"input_layernorm": (64,), "post_attention_layernorm": (64,)}
    tensors = {"model.embed_tokens.weight": torch.randn(vocab_size, 64, generator=generator).half()}
    for name, shape in shapes.items():
        tensors[f"model.layers.0.{name}.weight"] = (torch.randn(shape, generator=generator) * 0.2).half()
    tensors["model.norm.weight"] = torch.ones(64).half()
    tensors[HEAD] = torch.randn(vocab_size, 64, generator=generator).half()
    if size == "7b":
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    write_weights(folder, tensors, "bin", "whole")
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_baichuan_1_itself_becomes_a_folder_of_today(tmp_path: Path, size: Size) -> None:
    source = write_baichuan1(tmp_path / "v1", size)
    folder = convert("from-baichuan1", source, tmp_path / "today")
    fields = fields_of(folder)
    assert fields["normalized_head"] is False
    assert fields["position_embedding"] == ("rope" if size == "7b" else "alibi")
    assert fields["architectures"] == ["BaichuanForCausalLM"]
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "BaichuanTokenizer"
    assert json.loads((folder / "generation_config.json").read_text())["repetition_penalty"] == 1.1
    before, after = tensors_of(source), tensors_of(folder)
    before.pop("model.layers.0.self_attn.rotary_emb.inv_freq", None)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(folder, "float32"), logits(source, "float32"))
    assert (folder / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()


def test_a_head_that_could_be_either_is_not_guessed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "13b")
    with pytest.raises(CheckpointError, match="may be Baichuan 2 as it was published"):
        convert("from-baichuan1", source, tmp_path / "back")
    change_json(source / "config.json", normalized_head=False)
    with pytest.warns(UserWarning, match="trained as a plain one"):
        convert("from-baichuan1", source, tmp_path / "back")


@pytest.mark.parametrize(
    ("change", "way", "message"),
    [
        ({"normalized_head": False}, "to-baichuan1", "has a plain head already"),
        ({"normalized_head": True}, "from-baichuan1", "says normalized_head true"),
        ({"quantization_config": {"load_in_4bit": True}}, "to-baichuan1", "baichuan2 convert dequantize"),
        ({"model_type": "llama"}, "to-baichuan1", "baichuan2 convert from-llama"),
        ({"model_type": "gpt2"}, "from-baichuan1", "model_type is 'gpt2'"),
    ],
)
def test_other_sources_get_one_line(tmp_path: Path, change: dict[str, Any], way: str, message: str) -> None:
    source = write_folder(tmp_path / "source", "7b")
    change_json(source / "config.json", **change)
    with pytest.raises(CheckpointError, match=message) as error:
        convert(way, source, tmp_path / "target")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_adapter_is_told_what_comes_first(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"put it into one first by  baichuan2 convert merge-lora"):
        convert("to-baichuan1", tmp_path / "adapter", tmp_path / "target")


@pytest.mark.parametrize("name", [HEAD, "model.layers.1.mlp.up_proj.weight"])
def test_nan_is_refused_and_nothing_stays_but_what_can_be_gone_on_with(tmp_path: Path, name: str) -> None:
    source = write_folder(tmp_path / "source", "7b")
    tensors = weights("7b")
    tensors[name][3, 1] = float("nan")
    write_weights(source, tensors, "bin", "whole")
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN or infinite numbers"):
        convert("to-baichuan1", source, tmp_path / "target")
    assert not (tmp_path / "target").exists()
