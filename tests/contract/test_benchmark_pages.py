"""The pages of benchmarks name every row of the official README, in both languages alike."""

import importlib.util
import re
from pathlib import Path

from baichuan2.evaluation.task import load_task, task_names

ROOT = Path(__file__).parents[2]
README_ROWS = (
    "ceval mmlu cmmlu gaokao agieval bbh jecqa medical medqa_usmle medqa_mcmle medmcqa gsm8k math humaneval mbpp flores"
)


def load_pages():
    spec = importlib.util.spec_from_file_location("benchmark_pages", ROOT / "scripts" / "benchmark_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_row_of_the_readme_has_its_command():
    pages = load_pages()
    for page in (pages.benchmarks_page(), pages.benchmarks_page_zh()):
        commands = re.findall(r"^\|.*`baichuan2 evaluate (\w+)", page, re.MULTILINE)
        assert list(dict.fromkeys(commands)) == README_ROWS.split()
        for suite in README_ROWS.split():
            value = load_task(suite).published["Baichuan2-13B-Base"]["value"]
            assert re.search(rf"^\|.*evaluate {suite} .*\| {value:.2f} \|$", page, re.MULTILINE), suite


def test_the_chinese_page_says_all_that_is_unknown_in_chinese():
    pages = load_pages()
    known = {(suite, name) for suite in README_ROWS.split() for name in load_task(suite).recipes}
    needed = {(suite, name) for suite, name in known if load_task(suite).recipes[name].unknown}
    assert set(pages.ZH) == needed
    assert set(README_ROWS.split()) <= set(task_names())
