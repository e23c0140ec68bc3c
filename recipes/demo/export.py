"""Writes a trained model as a folder in the official layout, whole or not at all.

The folder is built beside its final name and swapped in by renaming. Weights are bfloat16 safetensors; SHA256SUMS
lists every other file, so that `sha256sum -c SHA256SUMS` checks a copy.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.special_tokens import (
    ASSISTANT_TOKEN_ID,
    BOS_TOKEN_ID,
    EOS_TOKEN_ID,
    PAD_TOKEN_ID,
    USER_TOKEN_ID,
)

Stage = Literal["base", "chat"]
DIGEST_FILE = "SHA256SUMS"
CARD_FILE = "MODEL_CARD.md"
MAX_NEW_TOKENS = {"base": 64, "chat": 192}


def export_model(
    weights: Mapping[str, Tensor], config: BaichuanConfig, tokenizer_path: Path, folder: Path, *, stage: Stage
) -> None:
    """Makes `folder`, a checkpoint of `weights` in bfloat16, replacing what was there."""

    def fill(beside: Path) -> None:
        write_json(beside / "config.json", config_fields(config))
        write_json(beside / "generation_config.json", generation_fields(stage))
        write_json(beside / "tokenizer_config.json", tokenizer_fields())
        write_json(beside / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
        shutil.copyfile(tokenizer_path, beside / "tokenizer.model")
        half = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in weights.items()}
        save_file(half, beside / "model.safetensors", metadata={"format": "pt"})
        write_digests(beside)

    replace_folder(folder, fill)


def config_fields(config: BaichuanConfig) -> dict[str, Any]:
    """config.json with the official fields, and those that this package adds so that nothing has to be derived."""
    fields: dict[str, Any] = {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "tokenizer_class": "BaichuanTokenizer",
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        "pad_token_id": PAD_TOKEN_ID,
        "torch_dtype": "bfloat16",
    }
    names = (
        "hidden_act hidden_size initializer_range intermediate_size max_position_embeddings model_max_length "
        "num_attention_heads num_hidden_layers rms_norm_eps tie_word_embeddings use_cache vocab_size z_loss_weight "
        "position_embedding normalized_head"
    )
    for name in names.split():
        value = getattr(config, name)
        if value is not None:  # a 13B-style file has no max_position_embeddings
            fields[name] = value
    return fields


def generation_fields(stage: Stage) -> dict[str, Any]:
    """generation_config.json: greedy, because so small a model is right with its first choice or not at all."""
    fields: dict[str, Any] = {
        "pad_token_id": PAD_TOKEN_ID,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        "user_token_id": USER_TOKEN_ID,
        "assistant_token_id": ASSISTANT_TOKEN_ID,
        "max_new_tokens": MAX_NEW_TOKENS[stage],
        "do_sample": False,
        "repetition_penalty": 1.0,
    }
    return fields


def tokenizer_fields() -> dict[str, Any]:
    """tokenizer_config.json, without the pointer to remote code that the official file has."""
    return {
        "tokenizer_class": "BaichuanTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "use_fast": False,
    }


def add_card(folder: Path, text: str) -> None:
    """Puts the model card `text` into an exported folder and renews its digests."""
    beside = folder / (CARD_FILE + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(folder / CARD_FILE)
    write_digests(folder)


def write_digests(folder: Path) -> None:
    """SHA256SUMS of every other file in `folder`."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != DIGEST_FILE)
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    beside = folder.parent / f"{folder.name}.{DIGEST_FILE}"
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(folder / DIGEST_FILE)


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Makes `folder` by `fill(new empty folder)`; whoever looks sees the old one or the new one, whole."""
    beside, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    fill(beside)
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """`content` as indented JSON in `path`."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
