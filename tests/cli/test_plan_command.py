"""`baichuan2 plan`: a table for people, numbers for programs, one line for a mistake."""

import io
import json
import os
import subprocess
import sys

import pytest

from baichuan2 import MemoryShortageError
from baichuan2.checkpoints import plan as plan_module
from baichuan2.checkpoints.memory import Place
from baichuan2.cli.commands.plan import print_plan, size_text
from baichuan2.cli.main import main
from baichuan2.cli.text import CHINESE, ENGLISH
from baichuan2.settings import PlanSettings


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BAICHUAN2_MODEL", raising=False)
    monkeypatch.setenv("BAICHUAN2_LANGUAGE", "en")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of every line of a table."""
    cells = [
        [cell.strip() for cell in line.replace(" ", " ").split("  ") if cell.strip()] for line in text.splitlines()
    ]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_table_for_a_given_size(capsys):
    assert main(["plan", "13B", "--gpu", "24GB", "--memory", "16GiB", "--context", "2048"]) == 0
    out = capsys.readouterr().out
    assert "13B: context of 2048 tokens, 1 at once" in out
    table = rows(out)
    assert table["memory for"] == ["float32", "bfloat16*", "int8", "int4", "nf4"]
    assert table["all weights"] == ["55.6 GB", "27.8 GB", "15.2 GB", "9.7 GB", "9.1 GB"]
    assert table["KV cache"] == ["3.4 GB", "1.7 GB", "1.7 GB", "1.7 GB", "1.7 GB"]
    assert table["gpu (24.0 GB, free 24.0 GB)"] == ["no", "no", "fits", "fits", "fits"]
    assert table["cpu (17.2 GB, free 17.2 GB)"] == ["no", "disk", "disk", "fits", "fits"]
    assert [row for name, row in table.items() if "longest context" in name] == [["-", "-", "-", "4096", "4096"]]
    assert "1 GB = 10^9 bytes" in out
    assert max(map(len, out.splitlines())) <= 100


def test_keys_and_values_in_8_bits(capsys):
    """A code of one byte for each number, a scale of 4 bytes for the 128 of a head."""
    assert main(["plan", "13B", "--memory", "16GiB", "--context", "2048", "--kv-cache", "int8"]) == 0
    table = rows(capsys.readouterr().out)
    assert table["KV cache (int8)"] == ["865.1 MB"] * 5
    assert table["all weights"] == ["55.6 GB", "27.8 GB", "15.2 GB", "9.7 GB", "9.1 GB"]
    assert main(["plan", "13B", "--memory", "16GiB", "--context", "2048", "--kv-cache", "int8", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["precisions"]:
        assert (row["kv_cache"], row["cache"]) == ("int8", 2 * 40 * 2048 * 40 * (128 + 4))
    longest = []
    for numbers in ("same", "int8"):
        assert main(["plan", "7B", "--gpu", "16GB", "--batch", "4", "--json", "--kv-cache", numbers]) == 0
        by_name = {row["precision"]: row for row in json.loads(capsys.readouterr().out)["precisions"]}
        longest.append(by_name["int8"]["fits"]["gpu"]["largest_context"])
    assert longest[1] > 1.3 * longest[0]


def test_table_in_chinese(capsys):
    assert main(["plan", "7B", "--memory", "8GB", "--language", "zh"]) == 0
    out = capsys.readouterr().out
    assert "7B：上下文 4096 个 token" in out
    assert "放不下" in out
    assert "权重合计" in out


def test_json_has_bytes(capsys):
    assert main(["plan", "7B", "--gpu", "24GiB", "--batch", "2", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report["places"][0]["total"] == 24 * 2**30
    by_name = {row["precision"]: row for row in report["precisions"]}
    assert by_name["bfloat16"]["weights"] == 2 * 7_505_973_248
    assert by_name["bfloat16"]["cache"] == 2 * 4096 * 524_288
    assert by_name["bfloat16"]["batch"] == 2
    assert by_name["float32"]["fits"]["gpu"] == {"verdict": "no", "largest_context": None}


def test_the_embedded_model_by_name_and_by_default(capsys, monkeypatch):
    for arguments in (["demo-chat"], []):
        assert main(["plan", *arguments, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["model"], report["max_context"]) == ("demo-chat", 512)
    monkeypatch.setenv("BAICHUAN2_MODEL", "13B")
    assert main(["plan", "--json", "--memory", "1GB"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "13B"
    assert main(["plan", "--json", "--memory", "1GB", "7B"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "7B"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["7B", "--gpu", "24"], "--gpu: a size is a number with a unit, such as 24GB or 24GiB, got '24'"),
        (["7B", "--memory", "lots"], "--memory: a size is a number with a unit"),
        (["7B", "--memory", "0GB"], "--memory: a size is a number with a unit"),
        (["7B", "--context", "0"], "--context must lie in [1, inf], got 0"),
        (["7B", "--context", "4097"], "--context 4097: this model takes at most 4096 tokens"),
        (["7B", "--kv-cache", "4"], "--kv-cache"),
        (["7B", "--batch", "x"], "--batch: must be a whole number"),
        (["7B", "13B"], "unrecognized arguments: 13B"),
        (["7B", "--revision", "v2", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(["plan", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_help_shows_the_model_and_examples(capsys):
    assert main(["plan", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: baichuan2 plan [MODEL] [FLAGS]\n")
    examples = [line.split("  ")[0].split() for line in out.split("examples:\n")[1].splitlines()]
    assert len(examples) >= 3
    assert all(words[:2] == ["baichuan2", "plan"] for words in map(str.split, out.split("examples:\n")[1].splitlines()))


def test_a_refusal_is_one_line_and_the_table(capsys, monkeypatch):
    config = plan_module.BaichuanConfig(**plan_module.RELEASED_SHAPES["13b"], dtype="bfloat16")
    place = Place("cuda:0", "accelerator", 24 * 10**9, 22 * 10**9)
    error = plan_module._shortage(config, "big", [place], need=30 * 10**9, room=22 * 10**9, stored="bfloat16")
    assert isinstance(error, MemoryShortageError)
    monkeypatch.setattr("baichuan2.checkpoints.load.load_for_replies", lambda *_, **__: (_ for _ in ()).throw(error))
    assert main(["chat", "-p", "hello"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: big needs 30.0 GB on cuda:0, where 22.0 GB are free: int8 (16.7 GB)" in err
    assert rows(err)["cuda:0 (24.0 GB, free 22.0 GB)"] == ["no", "no", "fits", "fits", "fits"]


def test_a_name_cannot_colour_the_table():
    plan = plan_module.plan_model(PlanSettings(model="7B", memory="1GB"))
    hostile = plan_module.Plan(**{**vars(plan), "name": "[red]a\x1b[31m[/nothing]:smile:"})
    for words in (ENGLISH, CHINESE):
        file = io.StringIO()
        print_plan(hostile, file, words)
        assert "[red]a[31m[/nothing]:smile:" in file.getvalue()
        assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0.0 MB"),
        (512_000, "0.5 MB"),
        (999_000_000, "999.0 MB"),
        (999_950_000, "1.0 GB"),
        (25_276_502_016, "25.3 GB"),
    ],
)
def test_sizes_are_decimal(num_bytes, text):
    assert size_text(num_bytes) == text
    assert size_text(2 * 10**12) == "2.0 TB"


def test_as_a_program_without_a_terminal():
    command = [sys.executable, "-m", "baichuan2", "plan", "7B", "--memory", "16GB"]
    environment = {"PATH": os.environ["PATH"], "LANG": "C", "COLUMNS": "20", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cpu (16.0 GB, free 16.0 GB)" in done.stdout


# --- training


def test_training_table(capsys):
    words = ["plan", "7B", "--train", "all", "--bf16", "--gpu", "24GB", "--batch", "4", "--gradient-checkpointing"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "7B: training, 4 x 512 tokens a device and pass, 1 devices, ZeRO 0, bfloat16" in out
    table = rows(out)
    assert table["memory for"] == ["full", "lora", "qlora"]
    assert table["weights"] == ["30.0 GB", "15.0 GB", "5.4 GB"]
    assert table["optimizer states"] == ["60.0 GB", "286.3 MB", "286.3 MB"]
    assert table["gpu (24.0 GB, free 24.0 GB)"] == ["no", "fits", "fits"]
    largest = table["largest batch"]
    assert largest[0] == "-"
    assert 4 <= int(largest[1]) < int(largest[2])
    assert "float32 master weights" not in table  # parts that nobody has are left out
    assert max(map(len, out.splitlines())) <= 100


def test_training_in_chinese_and_as_json(capsys):
    words = ["plan", "13B", "--train", "full", "--bf16", "--zero", "3", "--devices", "8", "--gpu", "80GB"]
    assert main([*words, "--language", "zh", "--offload", "optimizer"]) == 0
    out = capsys.readouterr().out
    assert "训练" in out
    assert "另占主内存" in out
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (row,) = report["training"]
    assert (report["model"], row["method"], row["optimizer"]) == ("13B", "full", 8 * 13_896_668_160 // 8)
    assert (row["setup"]["zero"], row["setup"]["devices"], row["setup"]["context"]) == (3, 8, 512)
    assert row["fits"]["gpu"]["verdict"] == "fits"
    assert row["fits"]["gpu"]["largest_batch"] >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["7B", "--zero", "3"], "--zero needs --train full, lora, qlora or all"),
        (["7B", "--bf16"], "--bf16 needs --train"),
        (["7B", "--train", "dpo"], "--train: must be one of none, full, lora, qlora, all, got 'dpo'"),
        (["7B", "--train", "full", "--zero", "4"], "--zero must lie in [0, 3], got 4"),
        (["7B", "--train", "full", "--devices", "0"], "--devices must lie in [1, 65536], got 0"),
        (["7B", "--train", "full", "--offload", "all", "--zero", "2"], "--offload all needs --zero 3 or more, got 2"),
        (["7B", "--train", "lora", "--lora-targets", "lm_head"], "--lora-targets takes W_pack"),
        (["7B", "--train", "lora", "--context", "5000"], "--context 5000: this model takes at most 4096 tokens"),
        (["7B", "--train", "lora", "--kv-cache", "int8"], "--kv-cache int8 is for replies"),
    ],
)
def test_a_mistake_in_a_plan_of_training(arguments, message, capsys):
    assert main(["plan", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
