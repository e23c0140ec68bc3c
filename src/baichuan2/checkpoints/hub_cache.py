"""The hub's cache on this disk: which folder of it is whole for us.

The client (huggingface_hub 2.4) calls a folder incomplete offline when a file is missing that a pattern would have
fetched, though it was left out on purpose: weights in the other format, a config in a subfolder.
"""

import json
from pathlib import Path

__all__ = ["holds_model", "weights_of"]

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")


def holds_model(folder: Path, *, with_weights: bool) -> bool:
    """Whether a folder has a config.json, and with `with_weights` all files of weights of one format."""
    if not (folder / "config.json").is_file():
        return False
    if not with_weights:
        return True
    weights = weights_of(folder)
    return bool(weights) and all((folder / name).is_file() for name in weights)


def weights_of(folder: Path) -> set[str]:
    """The files of weights that a folder should hold, told by its index or by the usual names; empty: none is told."""
    for index in INDEX_FILES:
        if (folder / index).is_file():
            try:
                return set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError, TypeError):
                return set()
    return set([name for name in WHOLE_FILES if (folder / name).is_file()][:1])
