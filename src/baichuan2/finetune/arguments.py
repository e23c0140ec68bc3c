"""The framework's training arguments, and those of older versions that the official commands still use."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from baichuan2.errors import SettingsError


@dataclass
class FinetuneArguments(TrainingArguments):
    """`TrainingArguments` with the names that the official commands use and the framework has dropped."""

    warmup_ratio: float | None = field(
        default=None, metadata={"help": "part of the steps in which the learning rate rises; became --warmup_steps"}
    )

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "delete what an earlier run left in --output_dir, and start anew"}
    )

    def __post_init__(self) -> None:
        if self.warmup_ratio:
            self.warmup_steps = self.warmup_ratio
        if not torch.accelerator.is_available():
            self.use_cpu = True
            self.tf32 = None
        super().__post_init__()


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument "))


def read_training_arguments(arguments: Sequence[str]) -> FinetuneArguments:
    """The training arguments that command-line words give.

    Raises:
        SettingsError: a flag is unknown, or a value cannot be used.
    """
    parser = _Parser(FinetuneArguments, prog="baichuan2 finetune", allow_abbrev=False)
    (parsed, unknown) = parser.parse_args_into_dataclasses(list(arguments), return_remaining_strings=True)
    if unknown:
        raise SettingsError(f"unknown flag {unknown[0]!r} (see baichuan2 finetune --help)")
    assert isinstance(parsed, FinetuneArguments)
    return parsed
