"""`baichuan2 finetune`, and `fine-tune/fine-tune.py`: flags in both spellings, a config file, then the training itself.

Our own flags are made from `FinetuneSettings`; all others belong to the framework's training arguments.
"""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baichuan2.cli.config_file import flags_of_config, read_config_file, take_config
from baichuan2.cli.flags import FALSE_WORDS, TRUE_WORDS, Flag, FlagParser, flags_of, read_settings
from baichuan2.cli.screen import notice
from baichuan2.errors import DataError, SettingsError
from baichuan2.finetune import processes
from baichuan2.settings import FinetuneSettings

SETTINGS = (FinetuneSettings,)
EXAMPLES = """\
  baichuan2 finetune --data-path FILE --output-dir OUT                       the embedded demo-base model, all weights
  baichuan2 finetune -m baichuan-inc/Baichuan2-7B-Base -d FILE --output-dir OUT --method lora --learning-rate 2e-4
  baichuan2 finetune run.yaml --seed 7                                       flags from a file; those given here win
  baichuan2 finetune -d FILE --preview 2                                     what would be learnt, in colours
  deepspeed --num_gpus 8 fine-tune/fine-tune.py -d FILE --output_dir OUT --deepspeed fine-tune/ds_config.json
  torchrun --nproc_per_node 8 fine-tune/fine-tune.py -d FILE --output_dir OUT

Every flag of transformers.TrainingArguments is taken as well, with - or _ between its words. Those most used:

  --output-dir FOLDER                  where checkpoints and the result go; always needed
  --num-train-epochs N                 how often all data are seen (default: 3)
  --max-steps N                        so many steps instead
  --per-device-train-batch-size N      examples on one device at a time (default: 8)
  --gradient-accumulation-steps N      batches whose gradients make one step (default: 1)
  --learning-rate RATE                 2e-5 for all weights and 2e-4 for adapters are usual (default: 5e-05)
  --lr-scheduler-type NAME             constant, linear, cosine, ... (default: linear)
  --warmup-steps N                     steps in which the rate rises; below 1: a part of all steps (default: 0)
  --weight-decay D                     (default: 0.0)
  --max-grad-norm N                    gradients longer than that are cut (default: 1.0)
  --gradient-checkpointing True        less memory for a third more time
  --bf16 True                          compute in bfloat16
  --save-strategy epoch|steps|no       when checkpoints are written; --save-steps N (default: 500)
  --save-total-limit N                 keep so many checkpoints
  --eval-strategy epoch|steps|no       when held-out data are measured; --eval-steps N
  --logging-steps N                    steps between two lines of the log and points of the curve (default: 10)
  --report-to tensorboard|wandb|none   (default: none)
  --resume-from-checkpoint FOLDER      go on from there; with True: from the newest in the output folder
  --seed N                             order of the data and all that is random (default: 42)
  --deepspeed FILE                     ZeRO on one or many machines, see docs/guides/many-machines.md
  --fsdp --fsdp-config FILE            the same by torch itself
"""
OFFICIAL_SAMPLE = "belle_chat_ramdon_10k.json"


def run_arguments(parser: FlagParser, arguments: Sequence[str]) -> int:
    """Trains as `arguments` say; the exit code."""
    with processes.one_report():
        path, given = take_config(arguments)
        words = with_our_spelling(given)
        namespace, _ = parser.parse_known_args(words)  # a mistake in our own flags is told before torch is loaded
        from_file = [] if path is None else words_of_config(path, parser, namespace)
        namespace, others = parser.parse_known_args([*from_file, *words])
        namespace.config = path
        settings = read_settings(FinetuneSettings, namespace)
        processes.announce_accelerator()
        from baichuan2.finetune.arguments import read_training_arguments, seed_of_data

        training_arguments = read_training_arguments(others, [flag.field for flag in our_flags()])
        check_data(settings)
        if processes.is_first():
            for remark in training_arguments.remarks:
                notice(f"note: {remark}")
        output_dir = Path(str(training_arguments.output_dir)) if _names_output(others) else None
        if settings.preview:
            from baichuan2.cli.preview_screen import preview

            return preview(settings, output_dir, seed=seed_of_data(training_arguments))
        if output_dir is None:
            raise SettingsError("--output-dir is missing: give a folder for checkpoints and the result")
        from baichuan2.cli.training_screen import train

        code = train(settings, training_arguments)
        processes.leave()
    return code


def our_flags() -> list[Flag]:
    """The flags made from `FinetuneSettings`."""
    return flags_of(FinetuneSettings)


def words_of_config(path: str, parser: FlagParser, given: Namespace) -> list[str]:
    """The words that the config file at `path` stands for; `given`: what the command line sets.

    Environment variables are stronger than the file, so what they set is left out.

    Raises:
        SettingsError: the file cannot be read, or a name or value in it means nothing; the message names the file.
    """
    processes.announce_accelerator()
    from baichuan2.finetune.arguments import argument_names, check_values, names_of_lists, names_of_yes_or_no
    from baichuan2.finetune.old_flags import OLD_NAMES, nearest

    content = read_config_file(path)
    ours = {flag.field: flag for flag in our_flags()}
    known = [*ours, *argument_names()]
    for name in list(content):
        if name == "config":
            raise SettingsError(f"{path}: a config file cannot name another one")
        if name not in known and name not in OLD_NAMES:
            near = nearest(name, known)
            raise SettingsError(f"{path}: unknown key {name}" + (f": did you mean {near}?" if near else ""))
        variable = ours[name].environment if name in ours else None
        if variable is not None and os.environ.get(variable) and not hasattr(given, name):
            del content[name]
    yes_or_no = names_of_yes_or_no() | {name for name, flag in ours.items() if flag.kind is bool}
    try:
        words = with_our_spelling(flags_of_config(content, yes_or_no, names_of_lists()))
        check_values(parser.parse_known_args(words)[1])
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    return words


def with_our_spelling(arguments: Sequence[str]) -> list[str]:
    """`--use_lora True` as `--use-lora`, `--data_path x` as `--data-path x`; other flags stay as they are.

    Raises:
        SettingsError: a value behind a flag that is on or off is neither.
    """
    flags: dict[str, Any] = {flag.spelling: flag for flag in our_flags()}
    result: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, is_joined, value = word.partition("=")
        flag = flags.get(name.replace("_", "-")) if name.startswith("--") else None
        if flag is None:
            result.append(word)
        elif flag.kind is not bool:
            result += [flag.spelling + (f"={value}" if is_joined else "")]
            if not is_joined and waiting and not waiting[0].startswith("--"):
                result.append(waiting.pop(0))
        else:
            if not is_joined:
                value = waiting.pop(0) if waiting and not waiting[0].startswith("-") else "true"
            result.append(flag.spelling if _is_yes(flag, value) else f"--no-{flag.spelling[2:]}")
    return result


def _is_yes(flag: Flag, value: str) -> bool:
    word = value.lower()
    if word in (*TRUE_WORDS, "t", "y"):
        return True
    if word in (*FALSE_WORDS, "f", "n"):
        return False
    raise SettingsError(f"{flag.spelling} must be true or false, got {value!r}")


def _names_output(words: Sequence[str]) -> bool:
    return any(word.partition("=")[0] in ("--output_dir", "--output-dir") for word in words)


def check_data(settings: FinetuneSettings) -> None:
    """Raises DataError where the official README's data file is asked for, and is not there."""
    for path in (settings.data_path or "").split(","):
        if Path(path).name == OFFICIAL_SAMPLE and not Path(path).exists():
            raise DataError(
                f"there is no {path}: the official repository has this sample in its fine-tune/data (10,000 "
                "conversations drawn from BelleGroup/multiturn_chat_0.8M) and it is not part of this one: put it "
                "there, or give your own file, or try fine-tune/data/sample.json"
            )
