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


def test_the_demo_model_in_4_bits_beside_a_llama_of_its_size(tmp_path, capsys):
    arguments = ["bench", "demo-base", "--precisions", "int4", "--turns", "1", "--prompt-tokens", "16"]
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
    written = json.loads((tmp_path / "out" / "bench.json").read_text(encoding="utf-8"))
    ours, llama = written["lines"]
    assert (ours["precision"], llama["precision"]) == ("int4", "bfloat16")
    assert ours["how"] == "quantised to int4, rounded to nearest"
    assert 0.3 < ours["weight_bytes"] / llama["weight_bytes"] < 0.6  # embedding and head keep their 16 bits
    assert min(ours["decode"]["median"], llama["decode"]["median"], ours["load_seconds"]["median"]) > 0
    assert [line.split(" | ")[0] for line in out.splitlines() if line.startswith(("| Baichuan", "| LLaMA"))] == 2 * [
        "| Baichuan 2, int4",
        "| LLaMA, bfloat16",
    ]


def test_a_mistake_is_one_line_and_leaves_no_files(tmp_path, capsys):
    assert main(["bench", "demo-base", "--layers", "2", "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: --layers 2 works with --shape only: a MODEL is measured whole\n"
    assert main(["bench", str(tmp_path / "none"), "--output-dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
