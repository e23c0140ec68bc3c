"""Rewrites the documents that are generated from the code; with --check: says which are stale, exit code 1.

python scripts/update_docs.py [--check]
"""

import importlib
import sys
from pathlib import Path

from benchmark_pages import benchmarks_page, benchmarks_page_zh

from baichuan2.cli.flags import Flag, flags_of
from baichuan2.cli.main import COMMANDS
from baichuan2.web.options import config_file, space_config_file

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Flags

Written by `scripts/update_docs.py` from `src/baichuan2/settings/`; edit the settings, not this page.

What decides, first to last: the flag, the environment variable, the checkpoint's own files, the default.
"""


def flags_page() -> str:
    """The text of docs/flags.md: a table for each group of settings, then who takes which."""
    takers: dict[type, list[str]] = {}
    for name, command in COMMANDS.items():
        for settings_class in importlib.import_module(command.module).SETTINGS:
            takers.setdefault(settings_class, []).append(name)
    sections = [HEADER]
    for settings_class, commands in takers.items():
        title = settings_class.__name__
        first_line = (settings_class.__doc__ or "").splitlines()[0]
        taken_by = ", ".join(f"`baichuan2 {name}`" for name in commands)
        rows = [row_of(flag) for flag in flags_of(settings_class)]
        table = ["| flag | values | default | environment | what it does |", "| --- | --- | --- | --- | --- |", *rows]
        sections.append(f"\n## {title}\n\n{first_line} Taken by {taken_by}.\n\n" + "\n".join(table) + "\n")
    return "".join(sections)


def row_of(flag: Flag) -> str:
    """The table row of one flag."""
    spelling = f"`{flag.spelling}`" if flag.short is None else f"`{flag.short}`, `{flag.spelling}`"
    if flag.kind is bool:
        spelling += f", `--no-{flag.spelling.removeprefix('--')}`"
    default = "" if flag.default is None else f"`{flag.default}`"
    if isinstance(flag.default, bool):
        default = "on" if flag.default else "off"
    environment = f"`{flag.environment}`" if flag.environment else ""
    cells = [spelling, values_of(flag), default, environment, flag.help]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def values_of(flag: Flag) -> str:
    """What a flag takes, in words: choices, bounds or kind."""
    if flag.choices:
        return ", ".join(f"`{choice}`" for choice in flag.choices)
    if flag.kind is bool:
        return "switch"
    kind = {int: "whole number", float: "number", str: "text"}[flag.kind]
    if flag.minimum is not None and flag.maximum is not None:
        return f"{kind}, {flag.minimum:g} to {flag.maximum:g}"
    if flag.minimum is not None:
        return f"{kind}, at least {flag.minimum:g}"
    return kind


PAGES = {
    "docs/flags.md": flags_page,
    "docs/benchmarks.md": benchmarks_page,
    "docs/benchmarks_zh.md": benchmarks_page_zh,
    ".streamlit/config.toml": config_file,
    "spaces/.streamlit/config.toml": space_config_file,
}


def main(arguments: list[str]) -> int:
    """Writes every stale page, or only names it; the exit code."""
    stale = []
    for name, make_page in PAGES.items():
        path, text = ROOT / name, make_page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"stale: {name}: run  python scripts/update_docs.py" if "--check" in arguments else f"wrote {name}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
