"""`baichuan2 bench` from the command line: true turns in processes of their own, tables, files, exit codes."""

import json

import pytest

from baichuan2.cli.main import main
from baichuan2.cli.text import ENGLISH


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BAICHUAN2_MODEL", raising=False)
    monkeypatch.setenv("BAICHUAN2_LANGUAGE", "en")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_the_demo_model_in_4_bits(tmp_path, capsys):
    arguments = [
        "bench",
        "demo-base",
        "--precisions",
        "int4",
        "--turns",
        "1",
        "--prompt-tokens",
        "16",
        "--llama",
        "none",
    ]
    arguments += ["--new-tokens", "4", "--device", "cpu", "--threads", "1", "--output-dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        ENGLISH.bench_copy.format(name="int4"),
        ENGLISH.bench_turns,
        ENGLISH.bench_written.format(files=f"{tmp_path}/out/bench.json, {tmp_path}/out/bench.md"),
    ]
    assert out == (tmp_path / "out" / "bench.md").read_text(encoding="utf-8")
    assert out.startswith("# Speed and memory of demo-base\n")
    (line,) = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))["lines"]
    assert (line["precision"], line["how"]) == ("int4", "quantised to int4, rounded to nearest")
    assert 0.3 < line["weight_bytes"] / 17.05e6 < 0.6  # of its 16 bits, which embedding and head keep
    assert min(line["prefill"]["median"], line["decode"]["median"], line["load_seconds"]["median"]) > 0
    assert out.count("| Baichuan 2, int4 | ") == 2


def test_a_mistake_is_one_line_and_leaves_no_files(tmp_path, capsys):
    assert main(["bench", "demo-base", "--layers", "2", "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: --layers 2 works with --shape only: a MODEL is measured whole\n"
    assert main(["bench", str(tmp_path / "none"), "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
