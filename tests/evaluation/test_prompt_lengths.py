"""Lengths of prompts by the real tokenizer, against what was counted over the whole benchmarks independently."""

from dataclasses import replace
from pathlib import Path

import pytest

from baichuan2 import BaichuanTokenizer
from baichuan2.evaluation.choices import letter_ids
from baichuan2.evaluation.data import read_items
from baichuan2.evaluation.prompts import choice_prompt, fit_prompt
from baichuan2.evaluation.task import load_task

SHARED = Path(__file__).parents[2].parent / "shared"
TOKENIZER, DATA = SHARED / "tokenizer" / "tokenizer.model", SHARED / "evaldata"
pytestmark = pytest.mark.skipif(
    not TOKENIZER.exists() or not DATA.is_dir(), reason="needs ../shared/tokenizer and ../shared/evaldata"
)


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(TOKENIZER))


def test_all_questions_of_us_history_lose_examples(tokenizer: BaichuanTokenizer) -> None:
    # the reference counts 204 of 204 over 2,048, the longest 2,531
    task = load_task("mmlu")
    recipe = task.recipe("official")
    examples = read_items(task, DATA, "dev", "high_school_us_history", recipe)
    items = read_items(task, DATA, "test", "high_school_us_history", recipe)
    title = task.subjects["high_school_us_history"].title
    prompts = [choice_prompt(recipe.form, title, examples, item) for item in items]
    lengths = [len(ids) for ids in tokenizer.encode_texts(prompts)]
    assert (sum(length > 2048 for length in lengths), max(lengths)) == (204, 2531)
    for item in items[::50]:
        fitted = fit_prompt(recipe, title, examples, item, lambda text: len(tokenizer.encode_text(text)))
        more = choice_prompt(recipe.form, title, examples[: fitted.shots + 1], item)
        assert len(tokenizer.encode_text(fitted.text)) <= 2048 < len(tokenizer.encode_text(more))
        assert 3 <= fitted.shots < 5


def test_no_other_prompt_is_long(tokenizer: BaichuanTokenizer) -> None:
    # the longest of all of C-Eval's val has 1,272 tokens, of CMMLU's test 897
    for suite, subject, limit in (("ceval", "high_school_chinese", 1272), ("cmmlu", "world_history", 897)):
        task = load_task(suite)
        recipe = task.recipe("official")
        examples = read_items(task, DATA, task.example_split, subject, recipe)
        items = read_items(task, DATA, task.split, subject, recipe)
        prompts = [choice_prompt(recipe.form, task.subjects[subject].title, examples, item) for item in items]
        longest = max(len(ids) for ids in tokenizer.encode_texts(prompts))
        assert limit // 2 < longest <= limit


def test_ids_of_the_letters(tokenizer: BaichuanTokenizer) -> None:
    official = load_task("mmlu").recipe("official")
    assert letter_ids(official, tokenizer.encode_text, 4) == (92343, 92359, 92344, 92363)
    assert letter_ids(replace(official, letters="spaced"), tokenizer.encode_text, 4) == (1401, 1432, 1399, 1443)
    for suite, cue in (("ceval", "答案："), ("cmmlu", "答案是：")):
        assert load_task(suite).recipe("official").form.item.endswith(cue)
        assert tokenizer.encode_text(cue + "A") == [*tokenizer.encode_text(cue), 92343]
