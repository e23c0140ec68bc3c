"""Two processes learn what one learns: DDP, ZeRO-2, ZeRO-3 and FSDP2, with adapters, accumulation and going on."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
FINE_TUNE = ROOT / "fine-tune"
COMMON = f"""--data_path {FINE_TUNE}/data/sample.json --model_max_length 64 --max_steps 3 --learning_rate 1e-3
    --lr_scheduler_type constant --max_grad_norm 1.0 --weight_decay 1e-4 --logging_steps 1 --save_strategy no
    --report_to none --local_rank=0"""
ZERO2, ZERO3 = (f"--deepspeed {FINE_TUNE}/{name}" for name in ("ds_config_zero2.json", "ds_config.json"))
FSDP = f"--fsdp --fsdp_config {FINE_TUNE}/fsdp_config.json"
LORA = "--use_lora True --lora_dropout 0"
EACH_TWO = "--per_device_train_batch_size 2"
ONE_AND_ONE = "--per_device_train_batch_size 1 --gradient_accumulation_steps 2"

RUNS = {
    "one": (1, "--per_device_train_batch_size 4"),
    "one lora": (1, f"--per_device_train_batch_size 4 {LORA}"),
    "ddp": (2, ONE_AND_ONE),
    "zero2": (2, f"{EACH_TWO} {ZERO2} --bf16 True --tf32 True"),
    "zero3": (2, f"{ONE_AND_ONE} {ZERO3} --gradient_checkpointing True"),
    "zero3 lora": (2, f"{EACH_TWO} {ZERO3} {LORA}"),
    "fsdp": (2, f"{ONE_AND_ONE} {FSDP}"),
    "fsdp lora": (2, f"{EACH_TWO} {FSDP} {LORA}"),
}
FULL = ("ddp", "zero2", "zero3", "fsdp")
ADAPTERS = ("zero3 lora", "fsdp lora")

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="is about processes on a processor")


def environment() -> dict[str, str]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
    }


def run_all(folder: Path, runs: dict[str, tuple[int, str]]) -> dict[str, list[str]]:
    """Exit codes of the processes of each run, which leaves `NAME/` and `NAME.log` in `folder`."""
    jobs = [
        {
            "processes": processes,
            "arguments": [*COMMON.split(), *flags.split(), "--output_dir", str(folder / name.partition(":")[0])],
            "log": str(folder / f"{name}.log"),
        }
        for name, (processes, flags) in runs.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.finetune.forked_runs", str(folder / "jobs.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(runs, map(str.split, done.stdout.splitlines()), strict=True))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, codes in run_all(folder, RUNS).items():
        assert set(codes) == {"0"}, f"{name}:\n{(folder / f'{name}.log').read_text()}"
    return folder


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.parametrize("name", [*FULL, *ADAPTERS])
def test_losses_are_those_of_one_process(name, runs):
    one = losses(runs / ("one lora" if name in ADAPTERS else "one"))
    assert len(one) == 3
    assert losses(runs / name) == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("name", FULL)
def test_saved_weights_are_whole_and_those_of_one_process(name, runs):
    one, two = (load_file(runs / folder / "model.safetensors") for folder in ("one", name))
    assert list(one) == list(two)
    for key, weight in one.items():
        assert weight.dtype == two[key].dtype
        # a step of Adam moves a weight by 1e-3, in a direction that the order of sums gives where a gradient is tiny
        torch.testing.assert_close(two[key].float(), weight.float(), atol=7e-3, rtol=0)
        assert (two[key].float() - weight.float()).abs().mean() < 5e-5, key


@pytest.mark.parametrize("name", ADAPTERS)
def test_saved_adapters_are_whole(name, runs):
    one, two = (load_file(runs / folder / "adapter_model.safetensors") for folder in ("one lora", name))
    assert {key: value.shape for key, value in two.items()} == {key: value.shape for key, value in one.items()}
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=7e-3, rtol=0)


@pytest.mark.parametrize("name", FULL)
def test_saved_models_load_again(name, runs):
    import baichuan2

    model = baichuan2.load_model(str(runs / name)).model
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_fsdp_splits_weights_and_is_not_ddp(runs):
    # accelerate trains as DDP does on a processor, and says nothing; only DDP warns of unused parameters
    assert "DDP" not in (runs / "fsdp.log").read_text()


def test_one_process_speaks(runs):
    log = (runs / "zero2.log").read_text()
    assert log.count("note: there is no GPU: training on the processor without") == 1
    assert log.count("done: 3 steps") == 1
    assert "deprecated" not in log


def test_a_wrong_flag_is_told_once_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    command += [str(FINE_TUNE / "fine-tune.py"), "--output_dir", str(tmp_path), "--learning_rat", "1"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1  # torchrun's own; it shows that of the process
    assert re.findall(r"^error: .*$", done.stderr, re.MULTILINE) == [
        "error: unknown flag --learning_rat: did you mean --learning_rate?"
    ]
    assert "exitcode  : 2" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [("zero3", ZERO3), pytest.param("fsdp", FSDP, marks=pytest.mark.long)])
def test_zero_goes_on_where_it_stopped_and_fsdp_says_that_it_cannot(name, flags, tmp_path):
    saving = f"{EACH_TWO} {flags} --save_strategy steps --save_steps 1"
    codes = run_all(tmp_path, {name: (2, saving)})
    assert set(codes[name]) == {"0"}, (tmp_path / f"{name}.log").read_text()
    stopped = tmp_path / name
    whole = losses(stopped)
    shutil.rmtree(stopped / "checkpoint-3")
    shutil.rmtree(stopped / "checkpoint-2")
    for file in stopped.iterdir():
        if file.is_file() and file.name != "training_run.json":
            file.unlink()
    record = json.loads((stopped / "training_run.json").read_text())
    record.pop("finished", None)
    (stopped / "training_run.json").write_text(json.dumps(record))
    again = f"{name}:again"
    codes = run_all(tmp_path, {again: (2, f"{saving} --resume_from_checkpoint True")})
    log = (tmp_path / f"{again}.log").read_text()
    if name == "fsdp":
        assert set(codes[again]) == {"2"}
        assert "error: a run with --fsdp cannot go on from a checkpoint on a processor" in log
    else:
        assert set(codes[again]) == {"0"}, log
        assert losses(stopped) == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_official_command_runs_as_it_stands(adapters, tmp_path):
    """The README's text, beside a folder with the model's name and a data file with that name."""
    folder = tmp_path / "fine-tune"
    shutil.copytree(FINE_TUNE, folder)
    shutil.copytree(ROOT / "src/baichuan2/demo/base", folder / "baichuan-inc/Baichuan2-7B-Base")
    command = (Path(__file__).parent / "official_command.sh").read_text()
    shutil.copy(folder / "data/sample.json", folder / "data/belle_chat_ramdon_10k.json")
    if adapters:
        command = command.replace("--tf32 True", "--tf32 True --use_lora True")
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: there is no GPU") == 1
    assert len(losses(folder / "output")) == 4
    if adapters:
        assert json.loads((folder / "output/adapter_config.json").read_text())["r"] == 1
