"""`make chat` with packages that are there already: nothing but replies on standard output."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def copy(tmp_path) -> Path:
    """A folder with the Makefile and an environment that has been installed already."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (binaries / "python").chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder: Path, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    # what a `make test ARGS=...` that runs these tests was given must not reach the one that is tried
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ARGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        input=stdin,
        env=outer | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_chat_prints_replies_alone(copy, model_folder):
    done = make(copy, "chat", f"MODEL={model_folder}", "ARGS=--json --temperature 0", stdin="你好\n再来\n")
    assert done.returncode == 0, done.stderr
    assert [line[:10] for line in done.stdout.splitlines()] == ['{"reply": '] * 2


def test_packages_are_installed_once_and_in_silence(copy):
    (copy / ".venv" / ".installed").unlink()
    calls = copy / "calls"
    fake = f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *pip*) echo from pip;; esac\n'
    (copy / ".venv" / "bin" / "python").write_text(fake)
    first, second = make(copy, "chat"), make(copy, "chat")
    assert (first.stdout, second.stdout) == ("", "")
    assert "from pip" in first.stderr
    made = calls.read_text().splitlines()
    assert [line.endswith("-r requirements.txt") for line in made] == [True, False, False]
    assert made[1:] == ["-m baichuan2 chat"] * 2


def test_requirements_and_test_tools_come_in_one_run_of_pip(copy):
    (copy / ".venv" / ".installed").unlink()
    calls = copy / "calls"
    (copy / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    make(copy, "test", "ARGS=tests/cli")
    make(copy, "chat")
    installing, *rest = calls.read_text().splitlines()
    assert installing.endswith("-r requirements.txt -e .[dev]")
    assert rest == ["-m pytest tests/cli", "-m baichuan2 chat"]


def test_pip_does_not_eat_the_messages(copy):
    (copy / ".venv" / ".installed").unlink()
    (copy / ".venv" / "bin" / "python").write_text("#!/bin/sh\ncat\n")
    assert make(copy, "chat", stdin="你好\n").stdout == "你好\n"


def test_new_requirements_are_installed(copy):
    calls = copy / "calls"
    (copy / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    os.utime(copy / ".venv" / ".installed", (1, 1))
    make(copy, "chat")
    assert "pip install" in calls.read_text()


def test_an_old_python_is_refused(copy, tmp_path):
    shutil.rmtree(copy / ".venv")
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(copy, "chat", f"PYTHON={old}")
    assert done.returncode == 2
    assert "is older than Python 3.11" in done.stderr
    assert done.stdout == ""


def test_no_python_at_all_is_said(copy):
    shutil.rmtree(copy / ".venv")
    done = make(copy, "chat", "CANDIDATES=no-such-python")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr


def test_help_names_every_target(copy):
    assert all(f"make {name}" in make(copy).stdout for name in ("chat", "test", "check", "demo"))


def test_torch_is_pinned_first():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("torch==")
    assert lines[1] == "-e .[gguf,server,web]"
