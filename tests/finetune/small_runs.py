"""Real training runs of a fraction of a second: a tiny model in a folder, a few sentences, the public function."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from baichuan2.finetune.arguments import FinetuneArguments, read_training_arguments
from baichuan2.finetune.train import FinetuneResult, finetune
from baichuan2.finetune.watching import Evaluation, Progress, Silence
from baichuan2.settings import FinetuneSettings
from tests.tiny import Size, tiny_model
from tests.tokenizer_files import tokenizer

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "red", "green", "blue")


class Killed(BaseException):
    """Ends a run like a process that is no more: nobody catches it."""


class KilledAfter(Silence):
    """A watcher in whose process the lights go out after a step."""

    def __init__(self, step: int) -> None:
        self.last_step = step

    def stepped(self, progress: Progress) -> None:
        """Out."""
        if progress.step == self.last_step:
            raise Killed


class Book(Silence):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Progress] = []
        self.evaluations: list[Evaluation] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stepped(self, progress: Progress) -> None:
        self.steps.append(progress)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)


def names(folder: Path) -> list[str]:
    """What a run left in its folder, beside the prepared data."""
    return sorted(path.name for path in folder.iterdir() if path.name != "data")


def base_folder(path: Path, size: Size = "7b", **changes: Any) -> Path:
    """A model folder at `path`: one layer, the small tokenizer, weights in bfloat16."""
    words = tokenizer("small")
    fields = {"num_hidden_layers": 1, "vocab_size": len(words), "hidden_size": 64, "num_attention_heads": 2, **changes}
    tiny_model(size, **fields).to(torch.bfloat16).save_pretrained(path)
    words.save_pretrained(path)
    return path


def sentence(rng: random.Random) -> str:
    """Some words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))


def data_file(path: Path, count: int = 13, *, seed: int = 0, kind: str = "conversations") -> Path:
    """Rows of random words of unequal lengths."""
    rng = random.Random(seed)
    if kind == "preference":
        rows: list[Any] = [
            {"prompt": sentence(rng), "chosen": sentence(rng), "rejected": sentence(rng) + " no"} for _ in range(count)
        ]
    else:
        speakers = ("human", "gpt")
        rows = [
            {"id": str(number), "conversations": [{"from": name, "value": sentence(rng)} for name in speakers]}
            for number in range(count)
        ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def arguments(output_dir: Path, **values: Any) -> FinetuneArguments:
    """Arguments of a run of two epochs of four steps."""
    given = {
        "output_dir": output_dir,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 3,
        "report_to": "none",
        **values,
    }
    return read_training_arguments([word for name, value in given.items() for word in (f"--{name}", str(value))])


def settings(base: Path, data: Path, **values: Any) -> FinetuneSettings:
    """Settings of a run on that model and data."""
    return FinetuneSettings(
        **{"model_name_or_path": str(base), "data_path": str(data), "model_max_length": 48, "save_dtype": "float32"}
        | values
    )


def train(own: FinetuneSettings, output_dir: Path, watcher: Any = None, **values: Any) -> FinetuneResult:
    """Runs it."""
    return finetune(own, arguments(output_dir, **values), watcher)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the safetensors files of a folder."""
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def assert_equal_weights(found: Path, wanted: Path) -> None:
    """Bit for bit."""
    one, other = weights(found), weights(wanted)
    assert one
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{name} differs by {(value - other[name]).abs().max().item():.3g}"
