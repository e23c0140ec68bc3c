"""`baichuan2 finetune`, and `fine-tune/fine-tune.py`: flags in both spellings, a YAML file, then the training itself.

Our own flags are made from `FinetuneSettings`; all others belong to the framework's training arguments.
"""

from collections.abc import Sequence
from typing import Any

from baichuan2.cli.flags import FlagParser, flags_of, read_settings
from baichuan2.settings import FinetuneSettings

SETTINGS = (FinetuneSettings,)
EXAMPLES = """\
  baichuan2 finetune --data-path FILE --output-dir OUT                       the embedded demo-base model, all weights
  baichuan2 finetune -m baichuan-inc/Baichuan2-7B-Base -d FILE --output-dir OUT --method lora --learning-rate 2e-4
  baichuan2 finetune -d FILE --preview 2                                     what would be learnt, in colours

Every flag of transformers.TrainingArguments is taken as well, such as --num-train-epochs 3, --learning-rate 2e-5,
--per-device-train-batch-size 16, --gradient-checkpointing True, --save-strategy epoch, --deepspeed ds_config.json.
"""


def run_arguments(parser: FlagParser, arguments: Sequence[str]) -> int:
    """Trains as `arguments` say; the exit code."""
    namespace, others = parser.parse_known_args(with_our_spelling(arguments))
    settings = read_settings(FinetuneSettings, namespace)
    from baichuan2.finetune.arguments import read_training_arguments
    from baichuan2.cli.training_screen import train

    return train(settings, read_training_arguments(others))


def with_our_spelling(arguments: Sequence[str]) -> list[str]:
    """`--use_lora True` as `--use-lora`, `--data_path x` as `--data-path x`; other flags stay as they are."""
    flags: dict[str, Any] = {flag.spelling: flag for flag in flags_of(FinetuneSettings)}
    result: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        name, is_joined, value = word.partition("=")
        flag = flags.get(name.replace("_", "-")) if name.startswith("--") else None
        if flag is None:
            result.append(word)
            continue
        if flag.kind is not bool:
            result += [flag.spelling + (f"={value}" if is_joined else "")]
            continue
        if not is_joined and waiting and waiting[0].lower() in ("true", "false"):
            value = waiting.pop(0)
        result.append(flag.spelling if value.lower() in ("", "true") else f"--no-{flag.spelling[2:]}")
    return result
