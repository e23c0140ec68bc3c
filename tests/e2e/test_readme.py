"""What the README promises runs as it stands: the Python blocks, the commands, the examples.

Tiny models stand in folders with the official names, so the text needs no change to run here.
"""

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT

from baichuan2.bench import report
from baichuan2.bench.memory import LoadMemory, ProcessMemory
from baichuan2.bench.report_text import ReportText
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


def expanded(line: str) -> list[str]:
    """The arguments of a line as the shell would pass them: quotes and $'...' taken away."""
    expand = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return expand.stdout.decode("utf-8").removesuffix("\0").split("\0")


def run_line(line: str, model_folder: Path) -> int:
    """Runs a command in this process, which saves an import of torch for each; a tiny model stands for the demo one."""
    arguments = expanded(line)
    if arguments[0] == "quantize":
        arguments = [str(model_folder) if part == "demo-chat" else part for part in arguments]
        arguments += ["--calibration-tokens", "256"]
    if arguments[0] == "finetune":
        arguments += ["--max-steps", "2"]
    if arguments[0] == "showcase":
        arguments += ["--max-new-tokens", "4"]
    if arguments[0] == "bench":
        arguments += ["--turns", "1", "--prompt-tokens", "8", "--new-tokens", "4"]
        arguments += ["--layers", "1"] if "--shape" in arguments else []
        arguments += [] if "--llama" in arguments else ["--llama", "none"]
    return main(arguments)


def written_by(line: str) -> str | None:
    """The folder that a line of the README makes."""
    words = expanded(line)
    if words[0] == "finetune":
        return words[words.index("--output-dir") + 1]
    if words[0] == "convert":
        return words[3]
    return words[2] if words[0] in ("quantize", "merge") and "--report" not in words else None


def shortened(texts: list[ReportText]) -> list[ReportText]:
    """The first few sequences of each text."""
    return [replace(text, sequences=text.sequences[:6], starts=text.starts[:6]) for text in texts]


LONG_RUNNING = ("serve", "web")  # until they are stopped: tests/server and tests/web start them
ON_THE_NET = ("download",)  # tests/checkpoints asks a hub of its own


@pytest.mark.parametrize("line", [line for line in command_lines() if not line.startswith(LONG_RUNNING + ON_THE_NET)])
def test_command_runs(line, model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("你好\n"))
    monkeypatch.setenv("BAICHUAN2_MODEL", str(model_folder))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    nothing = ProcessMemory(resident=1, anonymous=1, file_backed=0, peak=1)  # tests/bench measures in a process
    stages = {"before": nothing, "loaded": nothing, "generated": nothing}
    measured = LoadMemory(**stages, weight_bytes=1, num_tokens=8, load_seconds=0.1)
    monkeypatch.setattr(report, "measure_load", lambda *_: measured)
    built_in = report.built_in_texts
    monkeypatch.setattr(report, "built_in_texts", lambda *args, **kwargs: shortened(built_in(*args, **kwargs)))
    for earlier in command_lines():  # what a line reads, an earlier one has written
        if earlier != line and written_by(earlier) in expanded(line)[1:]:
            assert run_line(earlier, model_folder) == 0
    capsys.readouterr()
    assert run_line(line, model_folder) == 0
    out, err = capsys.readouterr()
    assert out.strip() or (line.startswith(("quantize", "finetune", "merge", "convert")) and "done: " in err)
    assert "error" not in err


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


EXAMPLES = {
    "stream_a_reply.py": ["你好", "baichuan-inc/Baichuan2-7B-Chat"],
    "conversation.py": ["baichuan-inc/Baichuan2-13B-Chat"],
    "many_at_once.py": ["baichuan-inc/Baichuan2-13B-Chat"],
    "evaluate.py": ["baichuan-inc/Baichuan2-7B-Base"],
    "continue_a_text.py": ["baichuan-inc/Baichuan2-7B-Base"],
    "quantize.py": ["baichuan-inc/Baichuan2-7B-Chat", "8"],
    "convert.py": ["baichuan-inc/Baichuan2-13B-Chat", "to-baichuan1"],
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
