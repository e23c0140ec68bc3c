"""`baichuan2 quantize --report` from the command line: tables, JSON, mistakes."""

import json
from pathlib import Path

import pytest
from tests.bench.test_report import no_process, scratch, source, text  # noqa: F401

from baichuan2.cli.main import main
from baichuan2.cli.text import CHINESE, ENGLISH


def test_tables_without_a_folder_that_stays(source, text, scratch, capsys):  # noqa: F811
    arguments = ["quantize", str(source), "--report", "--method", "nearest", "--text", str(text), "--language", "en"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert list(scratch.iterdir()) == []
    lines = out.splitlines()
    heads = [line.split()[-4:] for line in lines if line.rstrip().endswith("nf4")]
    assert heads == [["bfloat16", "int8", "int4", "nf4"]] * 2
    starts = {line.strip()[:12] for line in lines}
    for label in (ENGLISH.plan_attention, ENGLISH.report_peak, ENGLISH.report_kl, ENGLISH.report_perplexity):
        assert label[:9] in {start[:9] for start in starts}
    assert "KV cache, 128 tokens" in out
    assert "file text.txt" in out
    assert "1 GB = 10^9 bytes" in out
    assert ENGLISH.report_built_in not in out
    assert err.startswith("report: computing takes at least ")
    assert "[" not in err  # nothing is interrupted
    assert max(map(len, lines)) <= 100


def test_json_after_a_folder_is_one_object_a_line(source, text, tmp_path, capsys):  # noqa: F811
    target = tmp_path / "small"
    arguments = ["quantize", str(source), str(target), "--report", "--method", "nearest", "--text", str(text)]
    assert main([*arguments, "--format", "int8", "--json"]) == 0
    written, report = map(json.loads, capsys.readouterr().out.splitlines())
    assert written["folder"] == str(target)
    assert [row["name"] for row in report["precisions"]] == ["bfloat16", "small"]
    quality = report["precisions"][1]["quality"]["file"]
    assert quality["num_tokens"] == report["texts"][0]["tokens"] > 50
    assert 0 < quality["kl_mean"] < 0.1
    assert main(["quantize", str(target), "--report", "--language", "zh"]) == 0
    out = capsys.readouterr().out
    assert CHINESE.report_no_reference in out
    assert CHINESE.report_kl not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo-chat", "out", "--text", "a.txt"], "--text works with --report only"),
        (["demo-chat", "out", "--reference", "demo-chat"], "--reference works with --report only"),
        (["--report"], "SOURCE is missing"),
        (["demo-chat", "out", "--report", "--text", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["demo-chat", "--report", "--reference", "demo-chat"], "--reference goes with a SOURCE that is quantised"),
        (["demo-chat", "--report", "--text", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["nowhere", "--report"], "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert list(Path(tmp_path).iterdir()) in ([], [tmp_path / "scratch"])
