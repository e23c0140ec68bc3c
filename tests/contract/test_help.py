"""Help is free: no torch, no transformers, a fraction of a second."""

import os
import resource
import subprocess
import sys

import pytest

MAX_SECONDS = 0.3
HELP_CALLS = [
    [],
    ["--help"],
    ["--version"],
    ["chat", "--help"],
    ["generate", "--help"],
    ["plan", "--help"],
    ["info", "--help"],
    ["serve", "--help"],
    ["finetune", "--help"],
    ["evaluate", "--help"],
    ["models", "--help"],
    ["download", "--help"],
]
PROBE = """
import sys
from baichuan2.cli.main import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "numpy", "tokenizers", "prompt_toolkit", "rich", "fastapi", "uvicorn", "pydantic"}
heavy |= {"streamlit"}
heavy &= set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", HELP_CALLS, ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("arguments", HELP_CALLS, ids=" ".join)
def test_help_is_quick(arguments):
    def seconds() -> float:
        # processor time of the child: a machine that is busy with something else changes the wall clock, not this
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "baichuan2", *arguments], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < MAX_SECONDS


def test_help_does_not_depend_on_the_terminal():
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "20", "LANG": "C"}
    command = [sys.executable, "-m", "baichuan2", "chat", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--top-p" in done.stdout
