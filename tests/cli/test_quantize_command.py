"""`baichuan2 quantize` from the command line: one line at the start and the end, exit codes, an interruption."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.checkpoints.folders import write_folder

from baichuan2.checkpoints.load import load_model
from baichuan2.cli.main import main
from baichuan2.cli.text import CHINESE, ENGLISH
from baichuan2.convert import quantize


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "tiny", "7b", "safetensors")


def test_start_and_end_are_one_line_each_and_standard_output_stays_empty(source, tmp_path, capsys):
    target = tmp_path / "out"
    assert main(["quantize", str(source), str(target), "--method", "nearest", "--language", "en"]) == 0
    out, err = capsys.readouterr()
    start, end = err.splitlines()
    assert out == ""
    assert start == ENGLISH.quantize_start.format(source=source, target=target, format="int4")
    assert end.startswith(f"done: {target}, 1.0 MB -> 0.6 MB, ")
    assert "4.50 bits a weight" in end


def test_json_tells_sizes(source, tmp_path, capsys):
    arguments = ["quantize", str(source), str(tmp_path / "out"), "--format", "int8", "--method", "nearest", "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bits_per_weight"] == pytest.approx(8 + 16 / 128, abs=0.1)  # half a group at the end of down_proj
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert result["source_bytes"] == (source / "model.safetensors").stat().st_size
    assert 0 < result["largest_error"] < 0.02


def test_the_embedded_demo_model_answers_the_same_in_8_bits(tmp_path, capsys):
    assert main(["quantize", "demo-chat", str(tmp_path / "out"), "--format", "int8", "--method", "nearest"]) == 0
    whole, small = load_model("demo-chat"), load_model(tmp_path / "out")
    ids = torch.tensor([[195, *whole.tokenizer.encode_text("中国的首都是哪里？"), 196]])
    replies = [loaded.model.generate(ids, max_new_tokens=12, do_sample=False).tolist() for loaded in (whole, small)]
    assert replies[0] == replies[1]


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_an_interruption_says_how_to_go_on_and_has_its_exit_code(words, source, tmp_path, capsys, monkeypatch):
    target = tmp_path / "out"
    language = "en" if words is ENGLISH else "zh"
    arguments = ["quantize", str(source), str(target), "--method", "nearest", "--language", language]
    real = quantize.round_weight
    rounded = []

    def interrupted(*args):
        rounded.append(args)
        if len(rounded) == 7:  # in the second layer
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(quantize, "round_weight", interrupted)
    assert main(arguments) == 130
    assert capsys.readouterr().err.splitlines()[-1] == words.quantize_interrupted.format(target=target)
    assert main(arguments) == 0
    assert words.quantize_resumed.format(count=1, total=2) in capsys.readouterr().err.splitlines()
    assert len(rounded) == 7 + 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SOURCE is missing"),
        (["SOURCE"], "TARGET is missing"),
        (["absent", "OUT"], "there is no folder absent"),
        (["SOURCE", "OUT", "extra"], "unrecognized arguments: extra"),
        (["SOURCE", "OUT", "--format", "int3"], "--format: must be one of int8, int4, nf4, official-4bits"),
        (["SOURCE", "OUT", "--group-size", "48"], "--group-size must be 32 or 64 or 128 for --format int4, got 48"),
        (["SOURCE", "OUT", "--format", "nf4", "--group-size", "32"], "--group-size must be 64 for --format nf4"),
        (["SOURCE", "OUT", "--format", "nf4", "--method", "gptq"], "--method gptq works for --format int8 and int4"),
        (["SOURCE", "OUT", "--format", "nf4", "--head", "int8"], "--head int8 works for --format int8 and int4"),
        (["SOURCE", "OUT", "--format", "int8", "--codebook", "uniform"], "--codebook works for --format int4 only"),
        (["SOURCE", "OUT", "--calibration", "absent.txt"], "--calibration absent.txt cannot be read"),
        (["SOURCE", "OUT", "--calibration-tokens", "3"], "--calibration-tokens must lie in"),
        (["SOURCE", "SOURCE/inside"], "lies inside SOURCE"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, source, tmp_path, capsys):
    named = [word.replace("SOURCE", str(source)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    assert main(["quantize", *named]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(tmp_path.iterdir())


def test_a_source_that_is_quantised_already_and_a_target_that_exists(source, tmp_path, capsys):
    target = tmp_path / "out"
    assert main(["quantize", str(source), str(target), "--method", "nearest"]) == 0
    capsys.readouterr()
    assert main(["quantize", str(target), str(tmp_path / "again")]) == 2
    assert "is quantised already" in capsys.readouterr().err
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert main(["quantize", str(source), str(target)]) == 2
    assert "exists, and nothing is overwritten" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    shutil.rmtree(target)
