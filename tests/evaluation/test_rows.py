"""Each row of docs/benchmarks.md: its printed command runs on the samples, with what those lack taken out."""

import json
import re
import shlex
from pathlib import Path

import pytest

from baichuan2.cli.main import main

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared" / "evaldata"
# the samples hold some subjects, and some of the files from which examples come
LACKS = {
    "ceval": "--subjects law,logic",
    "mmlu": "--subjects anatomy,abstract_algebra",
    "cmmlu": "--subjects anatomy,agronomy",
    "gaokao": "--subjects 2010-2022_Biology_MCQs",
    "agieval": "--subjects gaokao-biology",
    "bbh": "--subjects web_of_lies,date_understanding",
    "jecqa": "--subjects jec-qa-kd --shots 1",
    "medical": "--subjects ceval/clinical_medicine,mmlu/anatomy,cmmlu/anatomy",
    "medqa_usmle": "--shots 0",
    "medqa_mcmle": "--shots 0",
    "medmcqa": "--shots 0",
}
COMMANDS = re.findall(r"`baichuan2 (evaluate [^`]*)`", (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8"))


def test_every_row_of_the_readme_has_a_command():
    assert len([command for command in COMMANDS if "DATA" in command]) == 17


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the benchmarks' samples are not beside this checkout")
@pytest.mark.parametrize("command", [command for command in COMMANDS if "DATA" in command])
def test_the_command_of_a_row_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("DATA", str(SAMPLES)).replace("MODEL", "demo-base"))
    suite = words[1]
    more = shlex.split(LACKS.get(suite, ""))
    assert main([*words, *more, "--limit", "1", "--output-dir", "out"]) == 0
    result = json.loads((tmp_path / "out" / suite / "result.json").read_text(encoding="utf-8"))
    assert result["items"] >= 1
    assert result["is_partial"]
    assert result["recipe"] == "official"
    assert (tmp_path / "out" / suite / "submission.json").exists() == ("--split test" in command and suite == "ceval")
