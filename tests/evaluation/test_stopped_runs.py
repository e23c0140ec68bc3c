"""A run that ends early, in every way that it can, goes on with the same command and comes to the same result."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoints.folders import write_folder
from tests.evaluation.small_suite import write_ceval

ROOT = Path(__file__).parents[2]
ITEMS = 5  # of each of the two subjects

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="forks"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="is about processes on a processor"),
]

ENDS = {
    "killed": [0, 3, int(signal.SIGKILL)],
    "terminated": [0, 3, int(signal.SIGTERM)],
    "interrupted": [0, 3, int(signal.SIGINT)],
    "full": [0, 3, "full"],
}
GOING_ON = ("killed", "full")  # all four leave the same log


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict[str, list[int]]]:
    """All runs of this file, each in its folder, and the exit codes of their processes."""
    folder = tmp_path_factory.mktemp("runs")
    model = write_folder(folder / "model", "7b", "safetensors")
    data = write_ceval(folder / "data", items=ITEMS)
    jobs: dict[str, dict] = {}

    def add(name: str, output: str, processes: int = 1, **more: object) -> None:
        arguments = f"ceval --data {data} --subjects law,logic --shots 2 --model {model} --device cpu --threads 1"
        arguments += f" --dtype float32 --language en --output-dir {folder / output}"
        jobs[name] = {
            "processes": processes,
            "arguments": arguments.split(),
            "log": str(folder / f"{name}.log"),
            **more,
        }

    add("whole", "whole")
    for name, end in ENDS.items():
        add(name, name, end=end)
        if name in GOING_ON:
            add(f"{name} again", name)
    add("finished again", "whole")
    add("two", "two", processes=2)
    add("one of two killed", "two-killed", processes=2, end=[1, 2, int(signal.SIGKILL)])
    add("going on as three", "two-killed", processes=3)
    add("one of two full", "two-full", processes=2, end=[1, 2, "full"])
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    command = [sys.executable, "-m", "tests.evaluation.forked_runs", str(folder / "jobs.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    codes = [[int(code) for code in line.split()] for line in done.stdout.splitlines()]
    return folder, dict(zip(jobs, codes, strict=True))


def answers(folder: Path, name: str) -> list[tuple]:
    lines = (folder / name / "ceval" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [(one["subject"], one["number"], one["prediction"], one["prompt_sha256"]) for one in records]


def result(folder: Path, name: str) -> dict:
    found = json.loads((folder / name / "ceval" / "result.json").read_text(encoding="utf-8"))
    changing = ("finished", "seconds", "processes", "hardware", "software")
    return {key: value for key, value in found.items() if key not in changing}


@pytest.mark.parametrize(
    ("name", "code"), [("killed", -signal.SIGKILL), ("terminated", 143), ("interrupted", 130), ("full", 2)]
)
def test_a_run_that_ends_early_keeps_what_was_answered(name, code, runs):
    folder, codes = runs
    assert codes[name] == [code]
    if name not in GOING_ON:
        assert len(answers(folder, name)) == 3
        return
    assert codes[f"{name} again"] == [0]
    log = (folder / f"{name} again.log").read_text()
    assert f"going on where the last run stopped, 3 of {2 * ITEMS} items were answered" in log
    assert answers(folder, name) == answers(folder, "whole")
    assert result(folder, name) == result(folder, "whole")


@pytest.mark.parametrize("name", ["terminated", "interrupted"])
def test_who_is_asked_to_stop_says_in_one_line_how_to_go_on(name, runs):
    lines = (runs[0] / f"{name}.log").read_text().splitlines()
    assert lines[2:] == [f"[stopped; the same command goes on from {runs[0] / name / 'ceval'}]"]


def test_a_full_disk_is_one_line(runs):
    lines = (runs[0] / "full.log").read_text().splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("error: ")
    assert "No space left on device: make room" in lines[2]


def test_a_finished_run_is_told_and_not_repeated(runs):
    folder, codes = runs
    assert codes["finished again"] == [0]
    log = (folder / "finished again.log").read_text()
    assert "was finished before" in log
    assert "ceval" in log.splitlines()[-4]  # the table


def test_two_processes_answer_what_one_answers(runs):
    folder, codes = runs
    assert codes["two"] == [0, 0]
    assert answers(folder, "two") == answers(folder, "whole")
    assert result(folder, "two") == result(folder, "whole")
    assert sorted(path.name for path in (folder / "two" / "ceval").iterdir()) == [
        "items.jsonl",
        "result.json",
        "run.json",
    ]
    log = (folder / "two.log").read_text()
    assert log.count("2 processes share the work") == log.count("report: ") == 1


@pytest.mark.parametrize(("name", "code"), [("one of two killed", -signal.SIGKILL), ("one of two full", 2)])
def test_a_process_that_fails_ends_all(name, code, runs):
    folder, codes = runs
    assert codes[name] == [2, code]
    log = (folder / f"{name}.log").read_text()
    assert "process 0 of 2: another process has ended" in log
    assert "Traceback" not in log


def test_answers_of_a_process_that_was_killed_are_kept_for_any_number_of_others(runs):
    folder, codes = runs
    assert codes["going on as three"] == [0, 0, 0]
    # the first process's half, and the two answers of the other
    assert f"{ITEMS + 2} of {2 * ITEMS} items were answered" in (folder / "going on as three.log").read_text()
    assert answers(folder, "two-killed") == answers(folder, "whole")
