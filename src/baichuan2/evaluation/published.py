"""Which published row stands beside a result: that of the same model, or of the released model of the same shape."""

from collections.abc import Mapping
from typing import Any

from baichuan2.evaluation.statistics import scale_of

__all__ = ["published_beside", "released_name"]

RELEASED = (  # the longer name before the one that it contains
    "Baichuan2-13B-Chat-4bits",
    "Baichuan2-7B-Chat-4bits",
    "Baichuan2-13B-Base",
    "Baichuan2-13B-Chat",
    "Baichuan2-7B-Base",
    "Baichuan2-7B-Chat",
    "Baichuan-13B-Base",
    "Baichuan-13B-Chat",
    "Baichuan-7B",
)
SHAPES = {(4096, 32, 125_696): "Baichuan2-7B", (5120, 40, 125_696): "Baichuan2-13B"}
"""Width, layers and vocabulary of the released models of this generation."""


def released_name(model: Mapping[str, Any]) -> tuple[str, bool] | None:
    """The released model that a result's model is by its name, or by its shape; the second value: whether it is that.

    A model of a released shape under another name, even a longer one, with an adapter or in fewer bits is a descendant
    of some kind, so its row is something to compare with, not something to reach. None: neither.
    """
    given = str(model.get("name", "")).lower()
    for name in RELEASED:
        if name.lower() in given:
            is_whole = given.replace("\\", "/").rstrip("/").rpartition("/")[2] == name.lower()
            is_quantized = model.get("quantization", "none") != "none" and not name.endswith("4bits")
            return name, is_whole and not is_quantized and model.get("adapter") is None
    size = SHAPES.get((model.get("hidden_size"), model.get("layers"), model.get("vocabulary")))  # type: ignore[arg-type]
    return None if size is None else (f"{size}-{'Chat' if 'chat' in given else 'Base'}", False)


def published_beside(task: Any, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to read a result beside: `model`, `is_same_model`, `value` in per cent, `shots`, `split`, `difference`.

    `difference`: the score less the published one, in points; None where the result has no score. None in place of it
    all: nothing is published for the like.
    """
    found = released_name(result["model"])
    row = None if found is None else task.published.get(found[0])
    if found is None or row is None:
        return None
    score = result["score"]
    return {
        "model": found[0],
        "is_same_model": found[1],
        "value": row["value"],
        "shots": row["shots"],
        "split": row.get("split", task.split),
        "difference": None if score is None else round(scale_of(result["metric"]) * score - row["value"], 4),
    }
