"""Flags of older versions of the framework, which commands and scripts of the field still use, in today's words."""

import difflib
from collections.abc import Collection, Sequence

__all__ = ["OLD_NAMES", "in_todays_words", "nearest"]

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "xpu_backend": "ddp_backend",
}
"""Same values under another name."""

HISTORY = {
    "save_safetensors": "weights are always saved as safetensors",
    "logging_dir": "set the variable TENSORBOARD_LOGGING_DIR",
    "fp16_opt_level": "it was for apex",
    "fp16_backend": "torch's own is used",
    "half_precision_backend": "torch's own is used",
    "use_mps_device": "the device is found",
    "use_ipex": "torch's own kernels are used",
    "jit_mode_eval": "it was for predictions",
    "ray_scope": "it was for searches of settings",
    "past_index": "it was for other models",
    "include_inputs_for_metrics": "it was for metrics",
    "use_legacy_prediction_loop": "there is one loop",
    "tpu_num_cores": "it was for TPUs",
    "tpu_metrics_debug": "it was for TPUs",
    "mp_parameters": "it was for SageMaker",
    "split_batches": "say so in --accelerator_config",
    "dispatch_batches": "say so in --accelerator_config",
    "include_tokens_per_second": "tokens per second are always shown",
    "tokenizer": "the tokenizer of the model is used",
    "tokenizer_name": "the tokenizer of the model is used",
    "use_fast_tokenizer": "the tokenizer of the model is used",
    "trust_remote_code": "no code from model folders is ever run",
}
"""What changes nothing any more, and why; each takes one value at most."""

REWRITTEN = ("adafactor", "fsdp", "gradient_checkpointing", "group_by_length")
"""What is said in other words today."""

OLD_NAMES = (*RENAMED, *HISTORY, *REWRITTEN)

TRUE_WORDS = ("true", "t", "yes", "y", "1")
FALSE_WORDS = ("false", "f", "no", "n", "0")


def in_todays_words(words: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """The `words` of a command line with today's names, and remarks on those that were left out.

    `known`: fields that the framework has today; what it still has is left as it is.
    """
    result: list[str] = []
    remarks: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, is_joined, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name not in OLD_NAMES or (name in known and name not in REWRITTEN):
            result.append(word)
            continue
        if not is_joined and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        if name in HISTORY:
            remarks.append(f"{flag} is left out: {HISTORY[name]}")
        else:
            result += _translated(name, value, known)
    return result, remarks


def _translated(name: str, value: str, known: Collection[str]) -> list[str]:
    """The words in place of one flag and its value."""
    values = [value] if value else []
    if name in RENAMED:
        return [f"--{RENAMED[name]}", *values]
    if name == "gradient_checkpointing":  # the official README's, whose new name the oldest framework does not know
        return [
            f"--{'activation_checkpointing' if 'activation_checkpointing' in known else name}",
            *(values or ["true"]),
        ]
    if value.lower() in FALSE_WORDS:
        return []
    if name == "fsdp":  # today's meaning is yes or no, but the framework takes no such value on a command line
        return ["--fsdp"] if value.lower() in ("", *TRUE_WORDS) else ["--fsdp", value]
    return {"adafactor": ["--optim", "adafactor"], "group_by_length": ["--train_sampling_strategy", name]}[name]


def nearest(name: str, known: Collection[str]) -> str | None:
    """The one of `known` names that `name` was probably meant to be; spelling with - or _ makes no difference."""
    wanted = name.lstrip("-").replace("-", "_").lower()
    found = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    return found[0] if found else None
