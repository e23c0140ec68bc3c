"""Training arguments from the command line: official flags, old flags, wrong ones, and what a processor cannot do."""

import json
import os
import subprocess
import sys

import pytest
import torch

from baichuan2.errors import MissingExtraError, SettingsError
from baichuan2.finetune import arguments as arguments_module
from baichuan2.finetune.arguments import (
    FinetuneArguments,
    argument_names,
    bfloat16_slowdown,
    check_values,
    read_deepspeed_config,
    read_training_arguments,
)
from baichuan2.finetune.old_flags import HISTORY, RENAMED, in_todays_words

OFFICIAL = """--report_to none --output_dir {out} --num_train_epochs 4 --per_device_train_batch_size 16
    --gradient_accumulation_steps 1 --save_strategy epoch --learning_rate 2e-5 --lr_scheduler_type constant
    --adam_beta1 0.9 --adam_beta2 0.98 --adam_epsilon 1e-8 --max_grad_norm 1.0 --weight_decay 1e-4 --warmup_ratio 0.0
    --logging_steps 1 --gradient_checkpointing True --bf16 True --tf32 True --local_rank=0"""

on_processor = pytest.mark.skipif(torch.accelerator.is_available(), reason="is about machines without a GPU")


def read(text: str, tmp_path) -> FinetuneArguments:
    return read_training_arguments(["--output_dir", str(tmp_path), *text.split()])


def test_the_official_flags_mean_what_they_say(tmp_path):
    parsed = read_training_arguments(OFFICIAL.format(out=tmp_path).split())
    assert (parsed.num_train_epochs, parsed.per_device_train_batch_size, parsed.learning_rate) == (4, 16, 2e-5)
    assert (parsed.adam_beta1, parsed.adam_beta2, parsed.adam_epsilon, parsed.weight_decay) == (0.9, 0.98, 1e-8, 1e-4)
    assert (parsed.max_grad_norm, parsed.logging_steps, parsed.warmup_steps, parsed.report_to) == (1.0, 1, 0, [])
    assert parsed.gradient_checkpointing is True
    assert (parsed.lr_scheduler_type, parsed.save_strategy) == ("constant", "epoch")


@on_processor
def test_what_a_processor_cannot_do_is_left_out_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments_module, "bfloat16_slowdown", lambda: 66.6)
    parsed = read("--bf16 True --tf32 True --bf16_full_eval True", tmp_path)
    assert (parsed.bf16, parsed.bf16_full_eval, parsed.tf32, parsed.use_cpu) == (False, False, None, True)
    (remark,) = parsed.remarks
    assert remark == (
        "there is no GPU: training on the processor without --tf32, --bf16, --bf16_full_eval: bfloat16 takes 66.6 "
        "times as long as float32 here"
    )


@on_processor
def test_bfloat16_stays_where_the_processor_is_fast_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments_module, "bfloat16_slowdown", lambda: 0.2)
    parsed = read("--bf16 True", tmp_path)
    assert parsed.bf16 is True
    assert parsed.remarks == ()


def test_the_slowdown_of_bfloat16_is_measured():
    assert 0.01 < bfloat16_slowdown() < 5000


def test_a_share_of_steps_for_the_warm_up(tmp_path):
    assert read("--warmup_ratio 0.03", tmp_path).warmup_steps == 0.03
    whole = read("--warmup_ratio 1", tmp_path)
    assert whole.get_warmup_steps(200) == 200
    assert read("--warmup_ratio 0.5 --warmup_steps 7", tmp_path).warmup_steps == 7
    with pytest.raises(SettingsError, match=r"--warmup_ratio must lie in \[0, 1\], got 3.0"):
        read("--warmup_ratio 3", tmp_path)


@pytest.mark.parametrize(
    ("old", "field", "value"),
    [
        ("--evaluation_strategy steps --eval_steps 5", "eval_strategy", "steps"),
        ("--evaluation-strategy=epoch", "eval_strategy", "epoch"),
        ("--per_gpu_train_batch_size 3", "per_device_train_batch_size", 3),
        ("--per_gpu_eval_batch_size=5", "per_device_eval_batch_size", 5),
        ("--no_cuda", "use_cpu", True),
        ("--no_cuda True", "use_cpu", True),
        ("--adafactor True", "optim", "adafactor"),
        ("--adafactor False", "optim", FinetuneArguments.optim),
        ("--group_by_length True", "train_sampling_strategy", "group_by_length"),
        ("--gradient_checkpointing", "gradient_checkpointing", True),
        ("--gradient-checkpointing False", "gradient_checkpointing", False),
        ("--fsdp False", "fsdp", None),
    ],
)
def test_old_flags_are_translated(old, field, value, tmp_path):
    parsed = read(old, tmp_path)
    assert getattr(parsed, field) == value
    assert parsed.remarks == ()


def test_flags_without_meaning_today_are_left_out_with_their_reason(tmp_path):
    parsed = read("--save_safetensors True --use_ipex --logging_dir=logs --seed 9", tmp_path)
    assert parsed.seed == 9
    assert [remark.partition(" ")[0] for remark in parsed.remarks] == [
        "--save_safetensors",
        "--use_ipex",
        "--logging_dir",
    ]
    assert parsed.remarks[0] == "--save_safetensors is left out: weights are always saved as safetensors"


def test_the_tables_of_old_flags_hold_no_flag_of_today():
    names = argument_names()
    assert not set(HISTORY) & set(names)
    assert set(RENAMED.values()) <= set(names)


def test_yes_and_no_for_fsdp_are_what_the_framework_understands():
    names = argument_names()
    assert in_todays_words(["--fsdp", "True", "--seed", "1"], names) == (["--fsdp", "--seed", "1"], [])
    assert in_todays_words(["--fsdp=full_shard auto_wrap"], names) == (["--fsdp", "full_shard auto_wrap"], [])
    assert in_todays_words(["--max_steps", "-1"], names) == (["--max_steps", "-1"], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning_rat 1", "unknown flag --learning_rat: did you mean --learning_rate?"),
        ("--Learning-Rates=1", "unknown flag --Learning-Rates: did you mean --learning_rate?"),
        ("--zzzz", "unknown flag --zzzz (see baichuan2 finetune --help)"),
        ("--seed 1 stray", "'stray' stands behind no flag that takes it"),
        ("--learning_rate fast", "--learning_rate/--learning-rate: invalid float value: 'fast'"),
        ("--save_strategy sometimes", "sometimes"),
        ("--lr_scheduler_type zigzag", "zigzag"),
        ("--optim magic", "magic"),
        ("--warmup_steps -3", "warmup_steps"),
        ("--fsdp round_robin", "round_robin"),
        ("--fsdp --fsdp_config missing.json", "missing.json"),
        ("--load_best_model_at_end True", "save and eval strategy to match"),
        ("--per_device_train_batch_size 0", "--per_device_train_batch_size must be 1 or more, got 0"),
        ("--per_device_eval_batch_size -1", "--per_device_eval_batch_size must be 1 or more, got -1"),
        ("--gradient_accumulation_steps 0", "--gradient_accumulation_steps must be 1 or more, got 0"),
        ("--num_train_epochs -1", "--num_train_epochs must be a number from 0 on, got -1"),
        ("--learning_rate nan", "--learning_rate must be a number from 0 on, got nan"),
        ("--max_grad_norm inf", "--max_grad_norm must be a number from 0 on, got inf"),
        ("--deepspeed missing.json", "--deepspeed missing.json: there is no such file"),
        ("--deepspeed .", "--deepspeed .: Is a directory"),
        ("--do_train False", "--do_train False: this command trains"),
    ],
)
def test_wrong_flags_and_values_are_told_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        read(words, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_losses_of_short_runs_are_logged_too(tmp_path):
    assert read("", tmp_path).logging_steps == 10
    assert read("--logging_steps 0.1", tmp_path).logging_steps == 0.1


def test_flags_of_ours_are_suggested_too(tmp_path):
    with pytest.raises(SettingsError, match="unknown flag --packng: did you mean --packing"):
        read_training_arguments(["--output_dir", str(tmp_path), "--packng"], ["packing"])


def test_an_output_folder_without_a_name_is_refused():
    with pytest.raises(SettingsError, match="--output_dir must name a folder, got ''"):
        read_training_arguments(["--output_dir", ""])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', r"ds.json is not JSON: .*line 1"),
        ("[1]", "must be a JSON object with DeepSpeed's settings, got list"),
        ("", "ds.json is not JSON"),
        ('{"zero_optimization": 7}', "--deepspeed: zero_optimization must be an object, got 7"),
        ('{"zero_optimization": {"stage": 9}}', "stage of zero_optimization must be 0, 1, 2 or 3, got 9"),
    ],
)
def test_malformed_deepspeed_configs(text, message, tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_deepspeed_config(str(path))


def test_a_deepspeed_config_that_is_no_text(tmp_path):
    (tmp_path / "ds.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(SettingsError, match=r"ds.json is not UTF-8: byte 7 is wrong"):
        read_deepspeed_config(str(tmp_path / "ds.json"))


def test_a_deepspeed_config_in_the_flag_itself():
    assert read_deepspeed_config('{"zero_optimization": {"stage": 2}}') == {"zero_optimization": {"stage": 2}}
    with pytest.raises(SettingsError, match="--deepspeed is not JSON"):
        read_deepspeed_config("{stage: 2}")
    assert read_deepspeed_config(None) is None


def test_without_deepspeed_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(arguments_module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--deepspeed needs the package 'deepspeed'.*baichuan2\[train\]"):
        read_deepspeed_config("ds.json")


def test_values_are_checked_without_starting_anything(tmp_path):
    check_values(["--learning_rate", "1e-4", "--evaluation_strategy", "no", "--deepspeed", "missing.json"])
    with pytest.raises(SettingsError, match="invalid float value"):
        check_values(["--learning_rate", "x"])


def test_no_file_beside_the_program_adds_flags(tmp_path, monkeypatch):
    # the framework's own parser reads fine-tune.args beside fine-tune.py, and says nothing
    (tmp_path / "fine-tune.args").write_text("--seed 77")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "fine-tune.py")])
    assert read("--learning_rate 1", tmp_path).seed == 42


DEEPSPEED_PROBE = """
import json, sys
from baichuan2.finetune.arguments import read_training_arguments
parsed = read_training_arguments(["--output_dir", sys.argv[1], "--deepspeed", sys.argv[2], *sys.argv[3:]])
import deepspeed, torch
print(json.dumps({
    "bf16": parsed.bf16,
    "deepspeed_bf16": parsed.hf_deepspeed_config.get_value("bf16.enabled"),
    "world": torch.distributed.get_world_size(),
    "joined": deepspeed.comm.is_initialized(),
}))
"""


@on_processor
@pytest.mark.parametrize("fixed", [False, True])
def test_deepspeed_alone_starts_without_launcher_and_agrees_on_bfloat16(fixed, tmp_path):
    config = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "bf16": {"enabled": True if fixed else "auto"},
        "zero_optimization": {"stage": 3},
    }
    (tmp_path / "ds.json").write_text(json.dumps(config))
    command = [sys.executable, "-c", DEEPSPEED_PROBE, tmp_path / "out", tmp_path / "ds.json", "--bf16", "True"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["world"], found["joined"]) == (1, True)
    assert found["bf16"] == found["deepspeed_bf16"]
    if fixed:
        assert found["bf16"] is True


@on_processor
def test_another_kind_of_accelerator_takes_the_official_flags(tmp_path, monkeypatch):
    """The framework, which finds no accelerator here, would refuse --tf32."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu"))
    monkeypatch.setattr(arguments_module, "has_fused_adamw", lambda kind: kind != "xpu")
    parsed = read("--tf32 True --optim adamw_torch_fused", tmp_path)
    assert (parsed.tf32, parsed.optim) == (None, "adamw_torch")
    assert parsed.remarks == (
        "training on xpu without --tf32, which is a number format of NVIDIA's GPUs",
        "training on xpu by --optim adamw_torch: torch has no fused one for it",
    )
    assert read("--tf32 False --optim sgd", tmp_path).remarks == ()
    monkeypatch.setattr(arguments_module, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(arguments_module, "title", lambda name: "Old One")
    with pytest.raises(SettingsError, match=r"^--bf16: xpu:0 \(Old One\) does not compute in bfloat16"):
        read("--bf16 True", tmp_path)
