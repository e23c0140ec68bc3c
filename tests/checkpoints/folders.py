"""Model folders on disk for tests: the official layout, tiny, in every file form, and with traps."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny import Size, tiny_model

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
TOKENIZER = GOLDEN / "text" / "small_tokenizer.model"
VOCAB_SIZE = 768  # of that tokenizer

Kind = Literal["bin", "safetensors"]
Layout = Literal["whole", "sharded"]
FORMS: list[tuple[Kind, Layout]] = [
    ("bin", "whole"),
    ("bin", "sharded"),
    ("safetensors", "whole"),
    ("safetensors", "sharded"),
]

GENERATION_CONFIG = {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "user_token_id": 195,
    "assistant_token_id": 196,
    "max_new_tokens": 8,
    "temperature": 0.3,
    "top_k": 5,
    "top_p": 0.85,
    "repetition_penalty": 1.05,
    "do_sample": True,
    "transformers_version": "4.29.2",
}
TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
    "clean_up_tokenization_spaces": False,
    "model_max_length": 4096,
    "tokenizer_class": "BaichuanTokenizer",
    "use_fast": False,
}
AUTO_MAP = {
    "AutoConfig": "configuration_baichuan.BaichuanConfig",
    "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
}
CODE_FILES = ("configuration_baichuan", "modeling_baichuan", "tokenization_baichuan", "generation_utils", "quantizer")


def official_config(size: Size) -> dict[str, Any]:
    """The fields of a released config.json, with small sizes and with its pointers to remote code."""
    fields: dict[str, Any] = {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": AUTO_MAP,
        "tokenizer_class": "BaichuanTokenizer",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 128 if size == "7b" else 320,
        "initializer_range": 0.02,
        "intermediate_size": 192,
        "model_max_length": 128,
        "model_type": "baichuan",
        "num_attention_heads": 4 if size == "7b" else 5,
        "num_hidden_layers": 2,
        "rms_norm_eps": 1e-06,
        "_from_model_config": True,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.29.2",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }
    if size == "7b":
        fields.update(max_position_embeddings=128, z_loss_weight=0)
    else:
        fields.update(gradient_checkpointing=False)
    return fields


def weights(size: Size) -> dict[str, Tensor]:
    """The bfloat16 weights that `write_folder` writes."""
    state_dict = tiny_model(size, vocab_size=VOCAB_SIZE).state_dict()
    return {name: value.bfloat16() for name, value in state_dict.items()}


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Sets fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in fields.items() if value is not None})


def write_folder(
    folder: Path,
    size: Size = "7b",
    kind: Kind = "bin",
    layout: Layout = "whole",
    *,
    extra: dict[str, Tensor] | None = None,
) -> Path:
    """A folder as the official ones are, without code files; `extra` tensors go into the (last) weight file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", official_config(size))
    write_json(folder / "generation_config.json", GENERATION_CONFIG)
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    write_json(folder / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    write_weights(folder, weights(size) | (extra or {}), kind, layout)
    return folder


def write_weights(folder: Path, state_dict: dict[str, Tensor], kind: Kind, layout: Layout) -> None:
    """The weight files of a folder; sharded: three, with an index."""
    stem, suffix = ("pytorch_model", ".bin") if kind == "bin" else ("model", ".safetensors")
    if layout == "whole":
        write_tensors(state_dict, folder / (stem + suffix))
        return
    names = list(state_dict)
    weight_map = {}
    for shard in range(3):
        part = names[shard * len(names) // 3 : (shard + 1) * len(names) // 3]
        file_name = f"{stem}-{shard + 1:05d}-of-00003{suffix}"
        write_tensors({name: state_dict[name] for name in part}, folder / file_name)
        weight_map.update(dict.fromkeys(part, file_name))
    size = sum(value.nbytes for value in state_dict.values())
    write_json(folder / f"{stem}{suffix}.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def write_tensors(state_dict: dict[str, Tensor], path: Path) -> None:
    """One file of weights, of the kind that its name says."""
    if path.suffix == ".bin":
        torch.save(state_dict, path)
    else:
        save_file(state_dict, path, metadata={"format": "pt"})


def set_traps(folder: Path, *, more_code: tuple[str, ...] = ()) -> Path:
    """Puts code files that leave a mark when they run into `folder`; returns the path of the mark."""
    mark = folder / "code_of_the_folder_was_executed"
    trap = f"open({str(mark)!r}, 'a').write(__name__ + '\\n')\n"
    for name in (*CODE_FILES, *more_code):
        (folder / f"{name}.py").write_text(trap, encoding="utf-8")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(trap + "def generate(model, **kwargs): pass\n")
    return mark
