"""docs/formats.md is enough to read our files: a reader written from that page alone, with NumPy, finds the weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny import tiny_model

from baichuan2 import BaichuanForCausalLM, QuantizeSettings
from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.model.quantizer import quantizable_shapes

HEAD_VALUES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
DTYPES = {"U8": np.uint8, "I8": np.int8, "F16": np.float16, "F32": np.float32}


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder that NumPy has a dtype for, by the index and the layout of safetensors."""
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    tensors = {}
    for shard in sorted(set(index["weight_map"].values())):
        content = (folder / shard).read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__" and entry["dtype"] in DTYPES:
                first, stop = entry["data_offsets"]
                values = np.frombuffer(content[start + first : start + stop], DTYPES[entry["dtype"]])
                tensors[name] = values.reshape(entry["shape"])
    return tensors


def read_int8(tensors: dict[str, np.ndarray], name: str, group_size: int) -> np.ndarray:
    codes, scales = tensors[f"{name}.weight_codes"], tensors[f"{name}.weight_scales"].astype(np.float32)
    k = np.arange(codes.shape[1])
    return scales[:, k // group_size if group_size else 0 * k] * codes / np.float32(128)


def read_int4(tensors: dict[str, np.ndarray], name: str, width: int, quantization: dict) -> np.ndarray:
    codes, scales = tensors[f"{name}.weight_codes"], tensors[f"{name}.weight_scales"].astype(np.float32)
    k = np.arange(width)
    block, place = k // 64, k % 64
    byte = codes[:, block * 32 + place % 32]
    code = np.where(place < 32, byte & 15, byte >> 4)
    codebook = quantization["codebook"] or range(-128, 128, 16)
    levels = np.array(codebook, dtype=np.float32)
    return scales[:, k // quantization["group_size"]] * levels[code] / np.float32(128)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "model"
    tiny_model("13b").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "choices",
    [
        {"format": "int8"},
        {"format": "int8", "group_size": 32, "head": "int8", "embedding": "int8"},
        {"format": "int4"},
        {"format": "int4", "group_size": 128, "codebook": "uniform", "head": "int8"},
        {"format": "int4", "group_size": 64, "codebook": "uniform", "head": "int4"},
        {"format": "int8", "head": "int4"},
    ],
    ids=str,
)
def test_a_reader_from_the_page_alone(source, tmp_path, choices):
    folder = tmp_path / "few"
    settings = {"method": "search", "source": str(source), "target": str(folder), **choices}
    quantize_checkpoint(QuantizeSettings(**settings))
    quantization = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    version = 2 if choices.get("head") == "int4" else 1
    assert (quantization["quant_method"], quantization["version"]) == ("baichuan2", version)
    tensors = read_tensors(folder)
    model = BaichuanForCausalLM.from_pretrained(folder)
    for name, (_, width) in quantizable_shapes(model.config).items():
        if quantization["format"] == "int8":
            found = read_int8(tensors, name, quantization["group_size"])
        else:
            found = read_int4(tensors, name, width, quantization)
        assert np.array_equal(found, model.get_submodule(name).dequantize(torch.float32).numpy()), name
    if quantization["head"] is not None:
        if quantization["head"] == "int8":
            head = read_int8(tensors, "lm_head", 128)
        else:
            head = read_int4(tensors, "lm_head", model.config.hidden_size, {"group_size": 32, "codebook": HEAD_VALUES})
        assert np.allclose(np.linalg.norm(head, axis=1), 1, atol=0.01)
        assert np.array_equal(head, model.lm_head.dequantize(torch.float32).numpy())
    if quantization["embedding"] is not None:
        table = read_int8(tensors, "model.embed_tokens", 128)
        dense = BaichuanForCausalLM.from_pretrained(source).model.embed_tokens.weight.detach().float().numpy()
        assert np.linalg.norm(table - dense) < 0.01 * np.linalg.norm(dense)
