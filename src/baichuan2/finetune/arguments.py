"""The framework's training arguments, and those of older versions that the official commands still use."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from baichuan2.devices import GPU, has_bfloat16, has_fused_adamw, has_tf32, pick_device, title
from baichuan2.errors import BaichuanError, MissingExtraError, SettingsError
from baichuan2.finetune import processes
from baichuan2.finetune.old_flags import in_todays_words, nearest

__all__ = [
    "FinetuneArguments",
    "argument_names",
    "bfloat16_slowdown",
    "check_values",
    "names_of_lists",
    "names_of_yes_or_no",
    "one_sentence",
    "read_deepspeed_config",
    "read_training_arguments",
    "seed_of_data",
    "unknown_flag",
]


SECTIONS_OF_DEEPSPEED = ("zero_optimization", "bf16", "fp16", "optimizer", "scheduler")


@dataclass
class FinetuneArguments(TrainingArguments):
    """`TrainingArguments` with the names that the official commands use and the framework has dropped.

    Making one also starts the run's processes and chooses their device, as it does in the framework.
    """

    warmup_ratio: float | None = field(
        default=None, metadata={"help": "part of the steps in which the learning rate rises; became --warmup_steps"}
    )
    logging_steps: float = field(
        default=10.0, metadata={"help": "steps between two lines of the log and of the loss curve; below 1: a part"}
    )
    remarks: tuple[str, ...] = field(default=(), init=False)
    """What was asked for and is left out here, and why; one sentence each."""

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "delete what an earlier run left in --output_dir, and start anew"}
    )

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio <= 1:
            raise SettingsError(f"--warmup_ratio must lie in [0, 1], got {self.warmup_ratio}")
        if self.warmup_ratio and not vars(self)["warmup_steps"]:
            self.warmup_steps = min(self.warmup_ratio, 1 - 1e-9)  # from 1 on it would be a number of steps
        if self.gradient_checkpointing is not None and getattr(self, "activation_checkpointing", True) is None:
            self.activation_checkpointing = self.gradient_checkpointing  # silently: the official README says the former
        config = read_deepspeed_config(self.deepspeed)
        if self.use_cpu or not torch.accelerator.is_available():
            self._settle_on_processor(config)
        else:
            self._settle_on_accelerator(pick_device())
        super().__post_init__()

    def _check_numbers(self) -> None:
        """Raises SettingsError for numbers that the framework takes, and fails with in the middle of the run."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("num_train_epochs", "learning_rate", "weight_decay", "max_grad_norm"):
            if not 0 <= float(getattr(self, name) or 0) < float("inf"):
                raise SettingsError(f"--{name} must be a number from 0 on, got {getattr(self, name)}")

    def _settle_on_accelerator(self, device: torch.device) -> None:
        """Leaves out what a kind of accelerator does not know, so that the official commands run on each of them.

        Raises:
            SettingsError: the numbers asked for are none of its own, and others would make another training of it.
        """
        given = vars(self)
        in_bfloat16 = [f"--{name}" for name in ("bf16", "bf16_full_eval") if given[name]]
        if device.type != GPU and in_bfloat16 and not has_bfloat16(device):
            raise SettingsError(
                f"{in_bfloat16[0]}: {device} ({title(str(device))}) does not compute in bfloat16: "
                "take --fp16 True or neither"
            )
        if given["tf32"] and not has_tf32(device.type):
            self.tf32 = None
            self.remarks += (f"training on {device.type} without --tf32, which is a number format of NVIDIA's GPUs",)
        if given["optim"] == "adamw_torch_fused" and not has_fused_adamw(device.type):
            self.optim = "adamw_torch"
            self.remarks += (f"training on {device.type} by --optim adamw_torch: torch has no fused one for it",)

    def _settle_on_processor(self, deepspeed_config: dict[str, Any] | None) -> None:
        had_choice = torch.accelerator.is_available()
        self.use_cpu = True
        timeout = timedelta(seconds=self.ddp_timeout)
        if deepspeed_config is not None:
            processes.start_deepspeed(timeout)
        else:
            processes.join(timeout)
        dropped = [f"--{name}" for name in ("tf32", "fp16") if getattr(self, name)]
        self.tf32, self.fp16 = None, False
        in_bfloat16 = [name for name in ("bf16", "bf16_full_eval") if getattr(self, name)]
        is_fixed = deepspeed_config is not None and _says(deepspeed_config, "bf16", "enabled") is True
        because = ""
        if in_bfloat16 and not is_fixed:
            # one decision for all: processes with different numbers would wait for each other for ever
            slowdown = processes.agree(bfloat16_slowdown())
            if slowdown > 1:
                dropped += [f"--{name}" for name in in_bfloat16]
                self.bf16 = self.bf16_full_eval = False
                because = f": bfloat16 takes {slowdown:.1f} times as long as float32 here"
        if dropped:
            where = "--use_cpu is set" if had_choice else "there is no GPU"
            self.remarks += (f"{where}: training on the processor without {', '.join(dropped)}{because}",)


def bfloat16_slowdown() -> float:
    """How many times longer a product of matrices takes this processor in bfloat16 than in float32; 0.1 s at most.

    With arithmetic of its own for bfloat16 (AVX-512 BF16, AMX) a processor is faster in it; without, many times slower.
    """

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        torch.mm(matrix, matrix)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            best = min(best, time.perf_counter() - start)
        return best

    return seconds(torch.bfloat16) / seconds(torch.float32)


def read_deepspeed_config(value: Any) -> dict[str, Any] | None:
    """The content of a DeepSpeed config: `value` is its file, JSON text, or the content itself.

    Raises:
        SettingsError: the file is missing or is no JSON object.
        MissingExtraError: DeepSpeed is not installed.
    """
    if value is None:
        return None
    if find_spec("deepspeed") is None:
        raise MissingExtraError(
            "--deepspeed needs the package 'deepspeed': run  pip install 'baichuan2[train]'", name="deepspeed"
        )
    config = value
    if isinstance(value, str):
        name = "--deepspeed"
        text = value
        if not value.lstrip().startswith("{"):
            name = f"--deepspeed {value}"
            text = _text_of(Path(value).expanduser(), name)
        try:
            config = json.loads(text)
        except ValueError as error:
            raise SettingsError(f"{name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise SettingsError(f"--deepspeed must be a JSON object with DeepSpeed's settings, got {type(config).__name__}")
    for section in SECTIONS_OF_DEEPSPEED:
        if not isinstance(config.get(section, {}), dict):
            raise SettingsError(f"--deepspeed: {section} must be an object, got {config[section]!r:.60}")
    stage = _says(config, "zero_optimization", "stage")
    if stage is not None and stage not in (0, 1, 2, 3):
        raise SettingsError(f"--deepspeed: the stage of zero_optimization must be 0, 1, 2 or 3, got {stage!r:.60}")
    return config


def _says(config: dict[str, Any], section: str, name: str) -> Any:
    part = config.get(section)
    return part.get(name) if isinstance(part, dict) else None


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise SettingsError(f"{name}: {reason}; give a DeepSpeed config, such as fine-tune/ds_config.json") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name} is not UTF-8: byte {error.start} is wrong") from error


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message.removeprefix('argument ')} (see baichuan2 finetune --help)")


def argument_names() -> list[str]:
    """The names of all training arguments."""
    return [item.name for item in fields(FinetuneArguments) if item.init]


def names_of_yes_or_no() -> set[str]:
    """Those of them that are true or false."""
    return {item.name for item in fields(FinetuneArguments) if item.type in (bool, bool | None)}


def names_of_lists() -> set[str]:
    """Those of them that take several words."""
    return {action.dest for action in _parser()._actions if action.nargs == "+"}


def check_values(words: Sequence[str]) -> None:
    """Raises SettingsError where a flag among `words` cannot have its value; starts nothing."""
    _parser().parse_known_args(in_todays_words(words, argument_names())[0])


def read_training_arguments(arguments: Sequence[str], other_names: Sequence[str] = ()) -> FinetuneArguments:
    """The training arguments that command-line words give; `other_names` of flags are only good for suggestions.

    Raises:
        SettingsError: a flag is unknown, or a value cannot be used.
        MissingExtraError: a package that a flag asks for is not installed.
        TrainingError: the processes of the run cannot reach each other.
    """
    names = argument_names()
    words, remarks = in_todays_words(arguments, names)
    namespace, unknown = _parser().parse_known_args(words)
    if unknown:
        raise SettingsError(unknown_flag(unknown[0], [*names, *other_names]))
    values = vars(namespace)
    if not values["do_train"] and any(word.partition("=")[0] in ("--do_train", "--do-train") for word in words):
        raise SettingsError("--do_train False: this command trains; baichuan2 evaluate scores a model, so leave it out")
    if values["output_dir"] is not None and not values["output_dir"].strip():
        raise SettingsError("--output_dir must name a folder, got ''")
    try:
        parsed = FinetuneArguments(**values)
    except BaichuanError:
        raise
    except (ValueError, TypeError, KeyError, OSError, ImportError, NotImplementedError) as error:
        raise SettingsError(one_sentence(error)) from error
    parsed.remarks = (*remarks, *parsed.remarks)
    return parsed


def seed_of_data(arguments: TrainingArguments) -> int:
    """The seed of all that is random in the data: their order, and which rows are held out."""
    return arguments.seed if arguments.data_seed is None else arguments.data_seed


def _parser() -> _Parser:
    return _Parser(FinetuneArguments, prog="baichuan2 finetune", allow_abbrev=False)


def unknown_flag(word: str, names: Sequence[str]) -> str:
    """What to say of a word on the command line that means nothing."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        return f"{word!r} stands behind no flag that takes it (see baichuan2 finetune --help)"
    near = nearest(name, names)
    return f"unknown flag {name}" + (f": did you mean --{near}?" if near else " (see baichuan2 finetune --help)")


def one_sentence(error: Exception) -> str:
    """What an error of a library says, on one line."""
    text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    return " ".join(text.split()) or type(error).__name__
