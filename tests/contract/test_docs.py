"""Generated pages are fresh, and the README twins tell the same story."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from baichuan2.cli.flags import flags_of
from baichuan2.cli.main import COMMANDS, importlib
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.settings import flag_name

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README_zh.md"]


def test_generated_pages_are_fresh():
    command = [sys.executable, "scripts/update_docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_flags_page_has_every_flag_of_every_command():
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        assert f"`baichuan2 {name}`" in page
        for settings_class in importlib.import_module(command.module).SETTINGS:
            assert all(f"`{flag.spelling}`" in page and flag.help in page for flag in flags_of(settings_class))


def blocks(path: Path) -> list[str]:
    """The fenced blocks of a page, comments and their language left out."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s*#.*", "", block) for block in fenced]


def test_readmes_are_twins():
    english, chinese = (path.read_text(encoding="utf-8") for path in READMES)
    assert blocks(READMES[0]) == blocks(READMES[1])
    for count in (r"^## ", r"^### ", r"^\|", r"^- "):
        assert len(re.findall(count, english, re.MULTILINE)) == len(re.findall(count, chinese, re.MULTILINE)), count


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_readme_commands_and_flags_exist(path):
    calls = re.findall(r"(?:^|\| |bin/)baichuan2 (\S+)(.*)", "\n".join(blocks(path)), re.MULTILINE)
    assert calls
    for name, arguments in calls:
        assert name in COMMANDS, name
        known = {"--help"}
        for settings_class in importlib.import_module(COMMANDS[name].module).SETTINGS:
            known |= {flag.spelling for flag in flags_of(settings_class)}
        if name == "finetune":  # which takes the framework's flags as well
            known |= {flag_name(item.name) for item in dataclasses.fields(FinetuneArguments)}
        assert set(re.findall(r"(?<= )--[\w-]+", arguments)) <= known
    targets = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(blocks(path)))) | {"chat", "test", "check", "demo"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in targets), targets


PAGES = [*READMES, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG", "benchmarks/README"))]
PAGES += sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


FOLDERS = ("benchmarks", "docs", "examples", "recipes", "scripts", "src", "tests")
PLACEHOLDER = re.compile(r"\b(FIGURES?|TODO|FIXME|TBD|XXX)\b")


def test_no_page_waits_for_figures():
    pages = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
    assert len(pages) >= len(PAGES)
    found = {str(page.relative_to(ROOT)): PLACEHOLDER.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert {page: words for page, words in found.items() if words} == {}


def test_every_guide_has_its_chinese_twin():
    for path in (ROOT / "docs" / "guides").glob("*.md"):
        if path.stem.endswith("_zh"):
            continue
        twin = path.with_name(f"{path.stem}_zh.md")
        assert blocks(path) == blocks(twin)
        for count in (r"^## ", r"^### ", r"^\|", r"^- "):
            english, chinese = (page.read_text(encoding="utf-8") for page in (path, twin))
            assert len(re.findall(count, english, re.M)) == len(re.findall(count, chinese, re.M)), (path.name, count)
