"""Tiny model folders in the official layout, standing where the official names would be looked for."""

import json
import shutil
from pathlib import Path

import pytest
from tests.tiny import Size, tiny_model

from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.settings import QuantizeSettings

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "tests" / "golden" / "text" / "small_tokenizer.model"
OFFICIAL_NAMES: dict[str, Size] = {
    "Baichuan2-7B-Base": "7b",
    "Baichuan2-7B-Chat": "7b",
    "Baichuan2-13B-Base": "13b",
    "Baichuan2-13B-Chat": "13b",
}
GENERATION = {
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
}


def write_model_folder(folder: Path, size: Size, *, model_max_length: int = 512, **generation: object) -> Path:
    """A folder with everything that an official one has, except the code; `generation` changes its sampling values."""
    lengths = {"model_max_length": model_max_length}
    if size == "7b":
        lengths["max_position_embeddings"] = model_max_length
    tiny_model(size, vocab_size=768, **lengths).save_pretrained(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION | generation))
    return folder


@pytest.fixture(scope="session")
def official_folders(tmp_path_factory) -> Path:
    """A folder in which `baichuan-inc/Baichuan2-7B-Chat` and the other official names are tiny models."""
    root = tmp_path_factory.mktemp("hub")
    for name, size in OFFICIAL_NAMES.items():
        write_model_folder(root / "baichuan-inc" / name, size)
    chat = root / "baichuan-inc" / "Baichuan2-7B-Chat"
    quantize_checkpoint(QuantizeSettings(source=str(chat), target=f"{chat}-4bits", format="official-4bits"))
    return root


@pytest.fixture(scope="session")
def model_folder(official_folders) -> Path:
    """One tiny Chat model folder."""
    return official_folders / "baichuan-inc" / "Baichuan2-7B-Chat"
