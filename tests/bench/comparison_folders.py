"""Pairs of tiny models on disk that differ in one known way, for the tests of `baichuan2 compare`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from baichuan2.checkpoints.load import load_model
from baichuan2.settings import LoadSettings
from tests.checkpoints.folders import change_json
from tests.model.test_parity_llama import as_llama

PROMPTS = [
    {"messages": [{"role": "user", "content": "你好，请介绍一下你自己。"}]},
    {"messages": [{"role": "system", "content": "简短"}, {"role": "user", "content": "What is 17 + 25?"}]},
    {"text": "世界上第二高的山峰是乔戈里峰，海拔八千六百一十一米。"},
    {"text": "The quick brown fox jumps over the lazy dog. def add(left, right):\n    return left + right"},
]


def write_prompts(path: Path) -> Path:
    """A file of four prompts, half of them conversations."""
    path.write_text("".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in PROMPTS), encoding="utf-8")
    return path


def changed_copy(source: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """`source` with its tensors changed in place by `change`."""
    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    change(state)
    save_file(
        {name: value.contiguous() for name, value in state.items()}, target / "model.safetensors", {"format": "pt"}
    )
    return target


def llama_folder(source: Path, target: Path, *, is_normalized: bool = True) -> Path:
    """The 7B of `source` as a folder of transformers' Llama, in float32, with its fast tokenizer."""
    loaded = load_model(source, LoadSettings(dtype="float32", threads=1))
    llama = as_llama(loaded.model, None)
    if not is_normalized:
        with torch.no_grad():
            llama.lm_head.weight.copy_(loaded.model.lm_head.weight)
    llama.generation_config.eos_token_id = [2, 195]
    llama.generation_config.do_sample = None
    llama.save_pretrained(target)
    loaded.tokenizer.save_pretrained(target)
    (target / "tokenizer.model").unlink()  # from which transformers would make a tokenizer of its own
    change_json(target / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", auto_map=None)
    return target


def swap_rotary_halves(state: dict[str, Tensor], num_heads: int) -> None:
    """Rows of queries and keys in the other layout of rotary embeddings: neighbours in place of halves."""
    for name, value in state.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            rows, width = value.shape
            halves = value.view(num_heads, 2, rows // num_heads // 2, width)
            state[name] = halves.transpose(1, 2).reshape(rows, width)
