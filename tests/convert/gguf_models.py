"""Tiny models with a tokenizer as folders, to be written as GGUF files."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.tiny import Size, tiny_model
from tests.tokenizer_files import SMALL_MODEL

OFFICIAL_SAMPLING = {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.85, "repetition_penalty": 1.05}


def save_tiny(folder: Path, size: Size, *, tokenizer: Path = SMALL_MODEL, dtype: Any = None, **changes: Any) -> Path:
    """A folder with a tiny model of that kind; `changes` are config fields."""
    model = tiny_model(size, **{"vocab_size": 768, **changes})
    (model if dtype is None else model.to(dtype)).save_pretrained(folder)
    shutil.copy(tokenizer, folder / "tokenizer.model")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "user_token_id": 195, "assistant_token_id": 196}
    (folder / "generation_config.json").write_text(json.dumps({**ids, **OFFICIAL_SAMPLING}))
    return folder
