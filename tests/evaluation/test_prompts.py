"""Whole prompts, letter by letter, and what each tool leaves out of one that is too long."""

import random
from dataclasses import replace
from typing import Any

import pytest

from baichuan2.evaluation.items import Item
from baichuan2.evaluation.prompts import answer_text, choice_prompt, example_order, fit_prompt
from baichuan2.evaluation.task import load_task


def item(question: str, answer: int = 0, options: str = "wxyz", subject: str = "s", **details: Any) -> Item:
    return Item(
        subject=subject, number=question, question=question, options=tuple(options), answer=answer, details=details
    )


EXAMPLES = [item("一？", 1), item("二 {question}", 3)]
ASKED = item(" 三？ \n{A}")

EXPECTED = {
    ("ceval", "official", 2): (
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n"
        "\n一？\nA. w\nB. x\nC. y\nD. z\n答案：B"
        "\n二 {question}\nA. w\nB. x\nC. y\nD. z\n答案：D"
        "\n 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案："
    ),
    ("ceval", "official", 0): (
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案："
    ),
    ("ceval", "lm-eval", 2): (
        "以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n"
        "一？\nA. w\nB. x\nC. y\nD. z\n答案： B\n\n"
        "二 {question}\nA. w\nB. x\nC. y\nD. z\n答案： D\n\n"
        "三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案："
    ),
    # OpenCompass 0.5.4, run on such items: three line breaks between examples, five before the question
    ("ceval", "opencompass", 2): (
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n一？\nA. w\nB. x\nC. y\nD. z\n答案: \nB\n\n\n"
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n"
        "二 {question}\nA. w\nB. x\nC. y\nD. z\n答案: \nD\n\n\n\n\n"
        "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案: "
    ),
    ("ceval", "opencompass", 0): (
        "\n\n以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案: "
    ),
    ("mmlu", "official", 2): (
        "The following are multiple choice questions (with answers) about  法学.\n\n"
        "一？\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "二 {question}\nA. w\nB. x\nC. y\nD. z\nAnswer: D\n\n"
        " 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    ),
    ("mmlu", "lm-eval", 2): (
        "The following are multiple choice questions (with answers) about 法学.\n\n"
        "一？\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "二 {question}\nA. w\nB. x\nC. y\nD. z\nAnswer: D\n\n"
        "三？ \n{A}\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    ),
    ("mmlu", "opencompass", 1): (
        "The following are multiple choice questions (with answers) about  法学.\n\n"
        "一？\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        " 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    ),
    ("mmlu", "opencompass", 0): (
        "The following are multiple choice questions (with answers) about  法学.\n\n\n"
        " 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    ),
    ("cmmlu", "official", 2): (
        "以下是关于法学的单项选择题，请直接给出正确答案的选项。\n\n"
        "题目：一？\nA. w\nB. x\nC. y\nD. z\n答案是：B\n\n"
        "题目：二 {question}\nA. w\nB. x\nC. y\nD. z\n答案是：D\n\n"
        "题目： 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案是："
    ),
    ("cmmlu", "lm-eval", 1): (
        "以下是关于法学的单项选择题，请直接给出正确答案的选项。\n\n"
        "一？\nA. w\nB. x\nC. y\nD. z\n答案： B\n\n"
        "三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案："
    ),
    ("cmmlu", "opencompass", 2): (
        "以下是关于法学的单项选择题，请直接给出正确答案的选项。\n题目：一？\nA. w\nB. x\nC. y\nD. z\n答案是: B\n\n\n"
        "以下是关于法学的单项选择题，请直接给出正确答案的选项。\n"
        "题目：二 {question}\nA. w\nB. x\nC. y\nD. z\n答案是: D\n\n\n\n\n"
        "以下是关于法学的单项选择题，请直接给出正确答案的选项。\n题目： 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n"
    ),
    ("medmcqa", "lm-eval", 0): "Question:  三？ \n{A}\nChoices:\nA. w\nB. x\nC. y\nD. z\nAnswer:",
    ("medqa_usmle", "lm-eval", 0): "Question:  三？ \n{A}\nA. w\nB. x\nC. y\nD. z\nAnswer:",
}


@pytest.mark.parametrize("key", EXPECTED, ids=lambda key: "-".join(map(str, key)))
def test_whole_prompts(key: tuple[str, str, int]) -> None:
    suite, recipe, shots = key
    form = load_task(suite).recipe(recipe).form
    assert choice_prompt(form, "法学", EXAMPLES[:shots], ASKED) == EXPECTED[key]


def test_the_answer_of_an_example_is_what_is_compared() -> None:
    # in an example stand the same characters as behind the question, so what the model saw is what it is asked for
    for suite in ("ceval", "mmlu", "cmmlu"):
        for recipe in load_task(suite).recipes.values():
            one = choice_prompt(recipe.form, "t", EXAMPLES[:1], ASKED)
            assert recipe.form.answer.replace("{letter}", "B") in one


def test_prompts_of_agieval_by_language_and_with_passage() -> None:
    task = load_task("agieval")
    raw = ["(A)w", "(B)x", "(C)y", "(D)z", "(E)v"]
    chinese = item("问 ", subject="jec-qa-kd", passage="文。", raw_options=raw[:4])
    english = item("q", options="wxyzv", subject="aqua-rat", passage="", raw_options=raw)
    form_of = task.recipe("lm-eval").form_of
    assert choice_prompt(form_of("jec-qa-kd"), "t", (), chinese) == (
        "文。问题：问  选项：(A)w (B)x (C)y (D)z\n答案：从A到D, 我们应选择"
    )
    assert choice_prompt(form_of("aqua-rat"), "t", (), english) == (
        "Q: q Answer Choices: (A)w (B)x (C)y (D)z (E)v\nA: Among A through E, the answer is"
    )
    official = task.recipe("official")
    assert choice_prompt(official.form_of("jec-qa-kd"), "法律", (), chinese) == (
        "以下是中国关于法律考试的单项选择题，请选出其中的正确答案。\n\n文。\n问\nA. w\nB. x\nC. y\nD. z\n答案："
    )
    assert choice_prompt(official.form_of("sat-en"), "SAT English", [english], english).startswith(
        "The following are multiple choice questions (with answers) about SAT English.\n\nq\nA. w\n"
    )


def test_prompts_of_agieval_by_opencompass() -> None:
    # its own code, run on such rows, gives these
    recipe = load_task("agieval").recipe("opencompass")
    raw = ["(A)w", "(B)x", "(C)y", "(D)z"]
    for subject, expected in (
        (
            "gaokao-biology",
            "以下是一道中国高考生物选择题，请选择正确的答案。\n文。问 \n(A)w\n(B)x\n(C)y\n(D)z\n答案是：B",
        ),
        (
            "sat-math",
            "The following is a SAT Math question. Please select the correct answer.\n"
            "文。问 \n(A)w\n(B)x\n(C)y\n(D)z\nThe answer is B",
        ),
    ):
        one = item("问 ", subject=subject, passage="文。", raw_options=raw)
        form = recipe.form_of(subject)
        assert choice_prompt(form, recipe.titles[subject], (), one) + answer_text(form, one, 1) == expected


def test_the_medical_subjects_are_asked_in_their_languages() -> None:
    recipe = load_task("medical").recipe("official")
    assert choice_prompt(recipe.form_of("ceval/basic_medicine"), "基础医学", (), ASKED).startswith(
        "以下是中国关于基础医学考试"
    )
    assert choice_prompt(recipe.form_of("mmlu/virology"), "virology", (), ASKED).startswith("The following are")


def words(text: str) -> int:
    return len(text.split())


LONG = [item("a " * length, 0) for length in (3, 9, 5, 9, 4)]


def test_mmlu_drops_the_last_examples_until_the_prompt_fits() -> None:
    recipe = load_task("mmlu").recipe("official")
    whole = words(choice_prompt(recipe.form, "t", LONG, ASKED))
    three = words(choice_prompt(recipe.form, "t", LONG[:3], ASKED))
    assert recipe.max_tokens == 2048
    for limit, shots in ((whole, 5), (whole - 1, 4), (three, 3), (three - 1, 2), (1, 0)):
        fitted = fit_prompt(limited(recipe, limit), "t", LONG, ASKED, words)
        assert fitted.shots == shots
        assert fitted.text == choice_prompt(recipe.form, "t", LONG[:shots], ASKED)


def test_opencompass_counts_the_letter_too() -> None:
    recipe = load_task("mmlu").recipe("opencompass")
    whole = words(choice_prompt(recipe.form, "t", LONG, ASKED))
    assert fit_prompt(limited(recipe, whole + 1), "t", LONG, ASKED, words, room=1).shots == 5
    assert fit_prompt(limited(recipe, whole), "t", LONG, ASKED, words, room=1).shots == 4


def test_cmmlu_drops_all_examples_of_the_greatest_length() -> None:
    recipe = load_task("cmmlu").recipe("official")
    form = recipe.form
    bare = words(form.header) + words(choice_prompt(form, "t", (), ASKED, header=False))
    lengths = [words(choice_prompt(form, "t", (), one, header=False) + "A") for one in LONG]
    assert lengths[1] == lengths[3] == max(lengths)
    # the source's comparison is one of "greater or equal": a prompt that fills the limit exactly loses examples
    for limit, kept in (
        (bare + sum(lengths) + 1, [0, 1, 2, 3, 4]),
        (bare + sum(lengths), [0, 2, 4]),
        (bare + lengths[0] + lengths[2] + lengths[4] + 1, [0, 2, 4]),
        (bare + lengths[0] + lengths[2] + lengths[4], [0, 4]),
        (bare, []),
    ):
        fitted = fit_prompt(limited(recipe, limit), "t", LONG, ASKED, words)
        assert (fitted.shots, fitted.has_header) == (len(kept), True)
        assert fitted.text == choice_prompt(form, "t", [LONG[index] for index in kept], ASKED)
    fitted = fit_prompt(limited(recipe, bare - 1), "t", LONG, ASKED, words)
    assert (fitted.shots, fitted.has_header) == (0, False)
    assert fitted.text == "题目： 三？ \n{A}\nA. w\nB. x\nC. y\nD. z\n答案是："


def limited(recipe: Any, limit: int) -> Any:
    return replace(recipe, max_tokens=limit)


def test_shuffled_examples_depend_on_seed_and_item_alone() -> None:
    recipe = load_task("ceval").recipe("official")
    examples = [item(str(number)) for number in range(5)]
    random.seed(1)
    orders = [[one.number for one in example_order(recipe, examples, item(str(n)), 0)] for n in range(20)]
    random.seed(2)
    assert orders == [[one.number for one in example_order(recipe, examples, item(str(n)), 0)] for n in range(20)]
    assert len(set(map(tuple, orders))) > 10
    assert all(sorted(order) == list("01234") for order in orders)
    assert orders[0] != [one.number for one in example_order(recipe, examples, item("0"), 1)]
    assert orders[0] == ["2", "3", "0", "1", "4"], "a change would change every published prompt of this package"
    in_file = load_task("cmmlu").recipe("official")
    assert [one.number for one in example_order(in_file, examples, item("0"), 0)] == list("01234")
