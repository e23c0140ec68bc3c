"""What decides how a run goes: written down when it starts, and compared when it goes on from a checkpoint.

A run that goes on with other data, another model or another batch size would be none that anybody asked for, so that
is refused by name. What may be changed on purpose, such as the number of epochs, is named and allowed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baichuan2.errors import SettingsError
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.finetune.folders import write_text
from baichuan2.settings import FinetuneSettings

__all__ = [
    "RUN_RECORD",
    "describe_run",
    "is_finished",
    "is_same_run",
    "mark_finished",
    "read_record",
    "settle_differences",
    "write_record",
]

RUN_RECORD = "training_run.json"
NUM_SAMPLES = 64  # items of the data that are looked at; all of them would take minutes where there are millions

# Fields of the settings that change nothing about what is learnt, or are told by others
OWN_WITHOUT_EFFECT = frozenset(
    {"data_path", "eval_data_path", "model_name_or_path", "early_stopping_patience", "max_bad_rows", "preview"}
    | {"config", "cache_dir", "revision", "offline", "language", "data_format", "check_memory", "save_dtype"}
)
FIXED = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "optim", "optim_args", "seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last"),
    *("label_smoothing_factor", "neftune_noise_alpha"),
)
"""Fields of the framework's arguments without which the run would be another one."""
FREE = ("num_train_epochs", "max_steps", "bf16", "fp16", "lr_scheduler_kwargs")
"""Fields that may change when a run goes on; that they did is told."""


def describe_run(
    settings: FinetuneSettings, arguments: FinetuneArguments, *, model_folder: Path, dataset: Any
) -> dict[str, Any]:
    """All that decides how the run goes, as plain values.

    `dataset` is what is learnt from; of a stream only its kind is noted.
    """
    own = {name: value for name, value in asdict(settings).items() if name not in OWN_WITHOUT_EFFECT}
    return {
        **own,
        "model": _model_digest(model_folder),
        "data": _data_digest(dataset),
        "examples per step": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
        **{name: _plain(getattr(arguments, name, None)) for name in (*FIXED, *FREE)},
    }


def settle_differences(old: Mapping[str, Any], new: Mapping[str, Any], checkpoint: Path) -> str | None:
    """A line that names what has changed since `checkpoint` was written and may; None: nothing.

    Raises:
        SettingsError: something has changed that a run cannot go on with.
    """
    changed = [name for name in new if name in old and old[name] != new[name]]
    named = {name: f"{name} was {_shown(old[name])}, is {_shown(new[name])}" for name in changed}
    named |= {name: f"the {name} differs" for name in changed if name in ("model", "data")}
    barred = [named[name] for name in changed if name not in FREE]
    if barred:
        raise SettingsError(
            f"cannot go on from {checkpoint}: {'; '.join(barred)}: give the same as before, or start anew with another "
            f"--output-dir (--model-name-or-path {checkpoint} starts from its weights)"
        )
    if not changed:
        return None
    return f"going on from {checkpoint} with other settings: {'; '.join(named[name] for name in changed)}"


def is_same_run(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    """Whether nothing at all has changed since the record `old` was written."""
    return old is not None and {name: old.get(name) for name in new} == json.loads(json.dumps(new))


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in an output or checkpoint folder; None: there is none, or it cannot be read."""
    try:
        found = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `record` into `folder`."""
    write_text(folder / RUN_RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def mark_finished(folder: Path, record: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
    """Notes in `folder` that the run came to its end, and to what."""
    write_record(folder, {**record, "finished": dict(outcome)})


def is_finished(record: Mapping[str, Any] | None) -> bool:
    """Whether a record is that of a run that came to its end."""
    return record is not None and isinstance(record.get("finished"), Mapping)


def _model_digest(folder: Path) -> str:
    """A digest of a model's description and of how many bytes its weights take."""
    digest = hashlib.sha256()
    for name in ("config.json", "adapter_config.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    weights = [path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin")]
    digest.update(repr(sorted(path.stat().st_size for path in weights)).encode())
    return digest.hexdigest()[:16]


def _data_digest(dataset: Any) -> str:
    """A digest of the number of items and of some of them, spread evenly."""
    if not hasattr(dataset, "__len__"):
        return type(dataset).__name__
    count = len(dataset)
    digest = hashlib.sha256(str(count).encode())
    for number in range(min(NUM_SAMPLES, count)):
        item = dataset[number * count // min(NUM_SAMPLES, count)]
        for name in sorted(item):
            if name.endswith(("ids", "labels")):
                digest.update(f"{name}:{[int(value) for value in item[name]]}".encode())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: enumerations by their value."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str | int | float | bool | dict | list | None) else str(value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
