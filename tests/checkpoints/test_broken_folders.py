"""Every way in which a folder can be broken: one line that says what, where and what to do, and never half a model."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from baichuan2 import CheckpointError, LoadSettings, TokenizerError, load_model
from baichuan2.checkpoints.load import load_for_replies
from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import WeightFiles
from baichuan2.cli.main import main
from tests.checkpoints.folders import Kind, change_json, weights, write_folder, write_json, write_tensors, write_weights
from tests.tiny import Size

Damage = Callable[[Path], object]


def truncate(name: str, keep: float) -> Damage:
    def damage(folder: Path) -> None:
        os.truncate(folder / name, int((folder / name).stat().st_size * keep))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


def rewrite(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """The whole .bin with changed tensors."""

    def damage(folder: Path) -> None:
        state_dict = weights("7b")
        change(state_dict)
        write_weights(folder, state_dict, "bin", "whole")

    return damage


def poison(value: float) -> Damage:
    def change(state_dict: dict[str, torch.Tensor]) -> None:
        state_dict["model.layers.1.mlp.up_proj.weight"][7, 3] = value

    return rewrite(change)


def refit(name: str, shape: tuple[int, ...]) -> Damage:
    return rewrite(lambda state_dict: state_dict.update({name: torch.ones(shape, dtype=torch.bfloat16)}))


def convert(dtype: torch.dtype) -> Damage:
    name = "model.norm.weight"
    return rewrite(lambda state_dict: state_dict.update({name: state_dict[name].to(dtype)}))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def pickled_code(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
            return (os.mkdir, (str(folder / "executed"),))

    torch.save({"model.norm.weight": Trap()}, folder / "pytorch_model.bin")


def more_layers_in_the_file(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=1)


def add_to_index(folder: Path, **changes: object) -> None:
    change_json(folder / "pytorch_model.bin.index.json", **changes)


WHOLE: list[tuple[str, Damage, str]] = [
    ("empty folder", empty, "is empty: give the folder of a Baichuan model"),
    ("no config", remove("config.json"), "holds no config.json"),
    ("an adapter", adapter_alone, "holds an adapter, not a model: give it by --adapter "),
    ("config no JSON", write("config.json", '{"model_type": "baichuan",\n}'), r"config.json is no valid JSON \(line 2"),
    ("config no text", lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "cannot be read as text"),
    ("config a list", write("config.json", "[]"), "must hold a JSON object, got a list"),
    (
        "foreign type",
        lambda f: change_json(f / "config.json", model_type="llama"),
        "first baichuan2 convert from-llama ",
    ),
    ("no type", lambda f: change_json(f / "config.json", model_type=None), "model_type is None"),
    ("bad field", lambda f: change_json(f / "config.json", hidden_size="many"), "hidden_size"),
    (
        "bad number",
        lambda f: change_json(f / "config.json", num_hidden_layers=0),
        "num_hidden_layers must be a positive",
    ),
    ("unknown dtype", lambda f: change_json(f / "config.json", torch_dtype="bfloat17"), "bfloat17"),
    (
        "bad rope",
        lambda f: change_json(f / "config.json", rope_scaling={"rope_type": "spiral", "factor": 2.0}),
        "spiral",
    ),
    ("pad id outside", lambda f: change_json(f / "config.json", pad_token_id=9999), "pad_token_id"),
    (
        "ambiguous",
        lambda f: change_json(f / "config.json", max_position_embeddings=None, model_max_length=None),
        "rotary",
    ),
    ("generation no JSON", write("generation_config.json", "{"), "generation_config.json is no valid JSON"),
    (
        "generation value",
        write("generation_config.json", '{"max_new_tokens": -3}'),
        "generation_config.json has a value",
    ),
    ("no weights", remove("pytorch_model.bin"), "holds no weights: expected model.safetensors or pytorch_model.bin"),
    ("truncated", truncate("pytorch_model.bin", 0.7), "pytorch_model.bin is truncated"),
    ("almost whole", truncate("pytorch_model.bin", 0.999), "pytorch_model.bin is truncated"),
    ("empty file", truncate("pytorch_model.bin", 0), "pytorch_model.bin is truncated or damaged"),
    ("no weight file", write("pytorch_model.bin", "<html>404</html>"), "pytorch_model.bin is damaged"),
    ("code in the pickle", pickled_code, "holds more than tensors, which could run code"),
    ("a list of tensors", lambda f: torch.save([torch.ones(1)], f / "pytorch_model.bin"), "other than named tensors"),
    (
        "missing tensor",
        rewrite(lambda s: s.pop("model.norm.weight")),
        "1 of 17 tensors are missing, .* model.norm.weight",
    ),
    ("wrong shape", refit("model.norm.weight", (64,)), "model.norm.weight has the shape 64, config.json wants 128"),
    ("wrong matrix", refit("lm_head.weight", (3, 4)), "lm_head.weight has the shape 3x4, config.json wants 768x128"),
    (
        "foreign tensors",
        rewrite(lambda s: s.update(other=torch.ones(1))),
        "1 tensors that config.json does not describe",
    ),
    ("more layers", more_layers_in_the_file, "7 tensors that config.json does not describe"),
    ("fewer layers", lambda f: change_json(f / "config.json", num_hidden_layers=3), "7 of 24 tensors are missing"),
    ("8-bit floats", convert(torch.float8_e4m3fn), "norm.weight holds float8_e4m3fn, must hold one of float16, bf"),
    ("whole numbers", convert(torch.int64), "model.norm.weight holds int64, must hold one of float16, bfloat16"),
    ("complex numbers", convert(torch.complex64), "model.norm.weight holds complex64, must hold one of float16"),
    ("NaN", poison(float("nan")), "model.layers.1.mlp.up_proj.weight holds NaN or infinite numbers"),
    ("infinity", poison(float("inf")), "model.layers.1.mlp.up_proj.weight holds NaN or infinite numbers"),
    ("negative infinity", poison(float("-inf")), "holds NaN or infinite numbers"),
    ("quantization no object", lambda f: change_json(f / "config.json", quantization_config="4bit"), "be an object"),
    (
        "foreign quantization",
        lambda f: change_json(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "quant_method 'gptq' are not read",
    ),
    ("dtype a number", lambda f: change_json(f / "config.json", torch_dtype=16), "torch_dtype must name a .* got 16"),
    ("dtype a list", lambda f: change_json(f / "config.json", dtype=["bfloat16"]), "dtype must name a number format"),
    ("dtype no float", lambda f: change_json(f / "config.json", torch_dtype="int8"), "torch_dtype must name"),
    ("dtype no format", lambda f: change_json(f / "config.json", torch_dtype="nn"), "torch_dtype must name"),
    (
        "dtype too narrow",
        lambda f: change_json(f / "config.json", torch_dtype="float8_e4m3fn"),
        "torch_dtype must name",
    ),
    ("config too deep", write("config.json", "[" * 200_000), "config.json is nested too deeply"),
    ("endless number", write("config.json", '{"hidden_size": ' + "9" * 5_000 + "}"), "config.json cannot be read"),
    ("end id text", lambda f: change_json(f / "generation_config.json", eos_token_id="2"), "eos_token_id must be a"),
    ("end ids mixed", lambda f: change_json(f / "generation_config.json", eos_token_id=[2, 2.5]), "or a list of them"),
    ("end id true", lambda f: change_json(f / "generation_config.json", eos_token_id=True), "got True"),
    ("user id text", lambda f: change_json(f / "generation_config.json", user_token_id="195"), "user_token_id must"),
    ("user ids", lambda f: change_json(f / "generation_config.json", user_token_id=[195]), "user_token_id must be a"),
    ("official 4 bits", lambda f: change_json(f / "config.json", quantization_config={"load_in_4bit": True}), "4 bits"),
]
SHARDED: list[tuple[str, Damage, str]] = [
    (
        "missing shard",
        remove("pytorch_model-00002-of-00003.bin"),
        "lacks 1 of the 3 weight files .*00002-of-00003.bin",
    ),
    ("truncated shard", truncate("pytorch_model-00003-of-00003.bin", 0.5), "00003-of-00003.bin is truncated"),
    ("index no JSON", write("pytorch_model.bin.index.json", "{"), "index.json is no valid JSON"),
    ("index without map", lambda f: add_to_index(f, weight_map=None), "index.json has no weight_map"),
    ("index leads out", lambda f: add_to_index(f, weight_map={"a": "../x.bin"}), "no plain file name"),
    ("shards without index", remove("pytorch_model.bin.index.json"), "holds no weights"),
]
TOKENIZER: list[tuple[str, Damage, str]] = [
    ("no tokenizer", remove("tokenizer.model"), "holds no tokenizer.model: copy it from the official model folder"),
    ("damaged tokenizer", truncate("tokenizer.model", 0.5), "tokenizer.model"),
    ("no tokenizer at all", write("tokenizer.model", "<html>404</html>"), "tokenizer.model"),
    ("bad tokenizer config", write("tokenizer_config.json", "{"), "the tokenizer cannot be read"),
    ("smaller model", lambda f: change_json(f / "config.json", vocab_size=512), "has 768 tokens, config.json only 512"),
]


def named(cases: list[tuple[str, Damage, str]]) -> list[object]:
    return [pytest.param(damage, message, id=name) for name, damage, message in cases]


def fails_in_one_line(folder: Path, error: type[Exception], message: str) -> None:
    for load in (load_model, load_for_replies):
        with pytest.raises(error, match=message) as caught:
            load(str(folder))
        text = str(caught.value)
        assert "\n" not in text
        assert str(folder) in text


@pytest.mark.parametrize(("damage", "message"), named(WHOLE))
def test_broken_whole_folder(tmp_path: Path, damage: Damage, message: str) -> None:
    damage(write_folder(tmp_path / "model"))
    fails_in_one_line(tmp_path / "model", CheckpointError, message)
    assert not (tmp_path / "model" / "executed").exists()


@pytest.mark.parametrize(("damage", "message"), named(SHARDED))
def test_broken_sharded_folder(tmp_path: Path, damage: Damage, message: str) -> None:
    damage(write_folder(tmp_path / "model", "7b", "bin", "sharded"))
    fails_in_one_line(tmp_path / "model", CheckpointError, message)


@pytest.mark.parametrize("keep", [0.0, 0.00001, 0.5, 0.999])
def test_truncated_safetensors(tmp_path: Path, keep: float) -> None:
    write_folder(tmp_path / "model", "7b", "safetensors", "sharded")
    truncate("model-00002-of-00003.safetensors", keep)(tmp_path / "model")
    fails_in_one_line(tmp_path / "model", CheckpointError, "model-00002-of-00003.safetensors is truncated or damaged")


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.int8])
def test_safetensors_in_a_format_that_is_not_computed_with(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_folder(tmp_path / "model", kind="safetensors")
    state_dict = weights("7b")
    state_dict["lm_head.weight"] = state_dict["lm_head.weight"].to(dtype)
    write_weights(folder, state_dict, "safetensors", "whole")
    message = r"model.safetensors: lm_head.weight holds (F8_E5M2|I8), must hold one of float16, bfloat16, float32"
    fails_in_one_line(folder, CheckpointError, message)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_tensor_in_two_shards(tmp_path: Path, kind: Kind) -> None:
    folder = write_folder(tmp_path / "model", "7b", kind, "sharded")
    (path,) = folder.glob(f"*00001-of-00003.{kind}")
    part = torch.load(path, weights_only=True) if kind == "bin" else load_file(path)
    part["lm_head.weight"] = torch.zeros_like(weights("7b")["lm_head.weight"])
    write_tensors(part, path)
    message = f"00003-of-00003.{kind}: lm_head.weight is in .*00001-of-00003.{kind} as well"
    fails_in_one_line(folder, CheckpointError, message)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_a_tensor_in_another_shard_than_the_index_says(tmp_path: Path, kind: Kind) -> None:
    folder = write_folder(tmp_path / "model", "7b", kind, "sharded")
    (index,) = folder.glob("*.index.json")
    weight_map = json.loads(index.read_text())["weight_map"]
    elsewhere = weight_map["model.embed_tokens.weight"]
    change_json(index, weight_map=weight_map | {"lm_head.weight": elsewhere})
    message = f"00003-of-00003.{kind} holds lm_head.weight, which the index says is in {elsewhere}"
    fails_in_one_line(folder, CheckpointError, message)


def test_a_tensor_that_the_library_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"w": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0")
    tensors = MappedTensors(WeightFiles(tmp_path, (path,), None))
    with pytest.raises(CheckpointError, match=r"model.safetensors: w cannot be read \(.*download it again"):
        tensors["w"]


def test_a_wrong_limit_of_the_kernels_is_told_before_weights_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "model")
    remove("pytorch_model.bin")(folder)
    monkeypatch.setenv("BAICHUAN2_KERNELS", "avx3")
    for command in ("chat", "generate"):
        assert main([command, "--model", str(folder), "--device", "cpu", "--prompt", "1"]) == 2
        assert "error: BAICHUAN2_KERNELS=avx3: not known; it must be off" in capsys.readouterr().err


@pytest.mark.parametrize(("damage", "message"), named(TOKENIZER))
def test_broken_tokenizer(tmp_path: Path, damage: Damage, message: str) -> None:
    damage(write_folder(tmp_path / "model"))
    fails_in_one_line(tmp_path / "model", TokenizerError, message)


def test_config_that_no_layer_can_be_built_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "model", kind="safetensors")

    def fail(config: object) -> object:
        raise RuntimeError("no such\nlayer")

    monkeypatch.setattr("baichuan2.model.modeling_baichuan.BaichuanForCausalLM", fail)
    monkeypatch.setattr("baichuan2.checkpoints.network.PlainBaichuan", fail)
    fails_in_one_line(folder, CheckpointError, "config.json describes no model that can be built: no such layer")


def test_shard_that_lacks_what_the_index_promises(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "7b", "bin", "sharded")
    path = folder / "pytorch_model-00003-of-00003.bin"
    part = torch.load(path, weights_only=True)
    del part["lm_head.weight"]
    torch.save(part, path)
    fails_in_one_line(folder, CheckpointError, "00003-of-00003.bin: 1 of 17 tensors are missing, .* lm_head.weight")


def test_nan_in_a_shard_names_the_shard(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "7b", "safetensors", "sharded")
    state_dict = weights("7b")
    state_dict["lm_head.weight"][0, 0] = float("nan")
    write_weights(folder, state_dict, "safetensors", "sharded")
    fails_in_one_line(folder, CheckpointError, "model-00003-of-00003.safetensors: lm_head.weight holds NaN")


def test_large_finite_numbers_are_no_damage(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model")
    state_dict = weights("7b")
    state_dict["lm_head.weight"].fill_(3e38)  # the sum of the tensor is infinite, none of its numbers is
    write_weights(folder, state_dict, "bin", "whole")
    load_model(str(folder))
    load_for_replies(str(folder))


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_missing_tensor_is_an_error_through_the_auto_class_too(tmp_path: Path, size: Size) -> None:
    folder = write_folder(tmp_path / "model", size)
    state_dict = weights(size)
    del state_dict["model.layers.0.mlp.down_proj.weight"], state_dict["lm_head.weight"]
    write_weights(folder, state_dict, "bin", "whole")
    with pytest.raises(CheckpointError, match=r"2 tensors are missing, the first is lm_head\.weight"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_official_4bit_config_parses(tmp_path: Path) -> None:
    from transformers import AutoConfig

    quantization = {
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "llm_int8_enable_fp32_cpu_offload": False,
        "llm_int8_has_fp16_weight": False,
        "llm_int8_skip_modules": None,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": True,
        "load_in_8bit": False,
    }
    folder = write_folder(tmp_path / "model")
    fields = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantization}
    write_json(folder / "config.json", fields)
    assert AutoConfig.from_pretrained(folder).quantization_config["bnb_4bit_quant_type"] == "nf4"
    message = "config.json says 4 bits, but no weight is in 4 bits"
    fails_in_one_line(folder, CheckpointError, message)
    with pytest.raises(CheckpointError, match=message):
        AutoModelForCausalLM.from_pretrained(folder)


def test_name_that_is_not_there_while_offline() -> None:
    with pytest.raises(CheckpointError, match="not in the local cache") as caught:
        load_model("nobody-xyz/no-such-model", LoadSettings(offline=True))
    assert "\n" not in str(caught.value)
