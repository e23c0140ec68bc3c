"""`baichuan2 evaluate` as people type it: tables, JSON, words in two languages, mistakes in one line."""

import json
import string
from dataclasses import fields

import pytest
from tests.checkpoints.folders import write_folder
from tests.evaluation.small_suite import write_ceval

from baichuan2.cli.evaluation_text import CHINESE, ENGLISH, EvaluationWords, evaluation_words_for
from baichuan2.cli.main import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_ceval(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("model") / "tiny", "7b", "safetensors")


@pytest.fixture
def words(data, model, tmp_path, monkeypatch):
    """What stands behind `baichuan2` for a small run."""
    monkeypatch.chdir(tmp_path)
    flags = f"--data {data} -m {model} --device cpu --threads 1 --subjects law,logic --shots 2 --language en"
    return ["evaluate", "ceval", *flags.split()]


def test_a_run_prints_its_table_and_keeps_its_results_under_the_models_name(words, tmp_path, capsys):
    assert main([*words, "--limit", "1"]) == 0
    captured = capsys.readouterr()
    assert "C-Eval: 2 items, 2 examples each, recipe official, results go to results/tiny/ceval" in captured.err
    assert "ceval (partial)" in captured.out
    assert "no score of the benchmark" in captured.out
    assert {path.name for path in (tmp_path / "results" / "tiny").iterdir()} == {"ceval", "report.md", "report.png"}
    assert main(["evaluate", "report", "results/tiny", "--language", "zh"]) == 0
    assert "ceval（部分）" in capsys.readouterr().out


def test_json_is_one_object_for_each_suite(words, capsys):
    assert main([*words, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["items"] == 8


def test_two_results_are_compared(words, tmp_path, capsys):
    assert main([*words, "--output-dir", "a"]) == 0
    assert main([*words, "--output-dir", "b", "--quantize", "int4"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "compare", "a", "b", "--output-dir", "c", "--language", "en"]) == 0
    captured = capsys.readouterr()
    assert "only A / only B right" in captured.out
    assert "quantisation: int4 (b)" in captured.out
    assert (tmp_path / "c" / "compare.md").is_file()
    assert main(["evaluate", "compare", "a", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["suite"] == "ceval"


def test_the_list_names_every_suite(capsys):
    assert main(["evaluate", "list", "--language", "en"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("ceval", "mmlu", "cmmlu", "jecqa"))
    assert out.splitlines()[2].split() == ["suite", "recipe", "further", "recipes", "shots"]  # no scores here
    assert main(["evaluate", "list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"ceval", "mmlu", "cmmlu", "jecqa"} <= {row["suite"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SUITE is missing"),
        ([","], "SUITE is missing"),
        (["ceval", "mmlu"], "several suites are written with commas, such as ceval,mmlu"),
        (["compare", "a"], "compare needs two folders"),
        (["compare", "a", "b"], "there is no folder a"),
        (["report"], "report takes one folder"),
        (["report", "."], "holds no results"),
        (["compare", "a", "b", "--limit", "3"], "--limit is for suites: evaluate compare has no use for it"),
        (["list", "--overwrite"], "--overwrite is for suites"),
        (["ceval", "--data", ".", "--force"], "--force is for evaluate compare"),
        (["cevall", "--data", "."], "did you mean ceval"),
        (["ceval"], "--data DIR is missing"),
        (["ceval", "--data", ""], "--data is empty"),
        (["ceval", "--data", ".", "--limit", "0"], "--limit must lie in"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_both_languages_fill_in_the_same_things():
    def names(text: str) -> list[tuple[str | None, str | None]]:
        return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)

    for item in fields(EvaluationWords):
        chinese, english = getattr(CHINESE, item.name), getattr(ENGLISH, item.name)
        assert {name for name, _ in names(chinese)} == {name for name, _ in names(english)}, item.name
        assert chinese != english, item.name
    assert evaluation_words_for("zh") is CHINESE
