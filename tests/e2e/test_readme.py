"""What the README promises runs as it stands: the Python blocks, the commands, the examples.

Tiny models stand in folders with the official names, so the text needs no change to run here.
"""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT

from baichuan2.checkpoints import load, locate
from baichuan2.cli.main import COMMANDS, main

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def demo_folder(official_folders, tmp_path, monkeypatch) -> Path:
    """The embedded demo models, or tiny ones in their place where the installation has none."""
    if not (locate.DEMO_DIR / "chat" / "config.json").is_file():
        for kind in ("chat", "base"):
            (tmp_path / kind).symlink_to(official_folders / "baichuan-inc" / f"Baichuan2-7B-{kind.title()}")
        monkeypatch.setattr(locate, "DEMO_DIR", tmp_path)
        monkeypatch.setattr(load, "DEMO_DIR", tmp_path)
    return locate.DEMO_DIR


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0][:40])
def test_python_block_runs(block, official_folders, demo_folder, monkeypatch, capsys):
    monkeypatch.chdir(official_folders)
    block = block.replace(', revision="v2.0"', "")  # folders stand in for the hub here, and a folder has no revisions
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


def command_lines() -> list[str]:
    """What stands behind `baichuan2` in the bash blocks."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [found[1] for line in lines if (found := re.search(r"(?:^|\| |bin/)baichuan2 (.*)", line))]


def test_every_command_is_shown():
    shown = {line.split()[0] for line in command_lines()}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("line", command_lines())
def test_command_runs(line, model_folder, monkeypatch, capsys):
    # the shell expands quotes and $'...'; the command itself runs here, which saves an import of torch for each
    expand = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    arguments = expand.stdout.decode("utf-8").removesuffix("\0").split("\0")
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n"))
    monkeypatch.setenv("BAICHUAN2_MODEL", str(model_folder))
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "error" not in err


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


EXAMPLES = {
    "stream_a_reply.py": ["你好", "baichuan-inc/Baichuan2-7B-Chat"],
    "conversation.py": ["baichuan-inc/Baichuan2-13B-Chat"],
    "many_at_once.py": ["baichuan-inc/Baichuan2-13B-Chat"],
    "continue_a_text.py": ["baichuan-inc/Baichuan2-7B-Base"],
    "quantize.py": ["baichuan-inc/Baichuan2-7B-Chat", "8"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, official_folders, monkeypatch, capsys):
    path = ROOT / "examples" / name
    monkeypatch.chdir(official_folders)
    monkeypatch.setattr(sys, "argv", [str(path), *EXAMPLES[name]])
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_without_arguments(name, demo_folder, monkeypatch, capsys):
    path = ROOT / "examples" / name
    monkeypatch.setattr(sys, "argv", [str(path)])
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()
