"""Prompts for generated texts, letter by letter; which examples they hold, and which are left out of one too long."""

from pathlib import Path

import pytest

from baichuan2.evaluation.items import Item
from baichuan2.evaluation.task import load_task
from baichuan2.evaluation.text_layouts import LANGUAGES
from baichuan2.evaluation.text_prompts import Nearest, example_chooser, fit_text, text_prompt
from baichuan2.evaluation.text_recipe import TextRecipe


def item(question, reference=None, number="0", **details):
    return Item(subject="s", number=number, question=question, reference=reference, details=details)


GSM = item("1 {x}?", "1015", solution="5*3=15.\nSo.", answer="5*3=<<5*3=15>>15.\nSo.\n#### 1,015")
MATH = item("Find $x$.", r"\frac{1}{2}", solution=r"It is $\boxed{\frac{1}{2}}$.")
BBH = item("a", description="Do it.", block="Q: a\nA: Let's think step by step.\nSo the answer is x.")
FLORES = item("再见。", "Au revoir.", source=LANGUAGES["zh"][2], target=LANGUAGES["fr"][2])
ASKED = item("2 {y}?", "7", solution="", answer="", description="Do it.", source="Chinese (Simpl)", target="French")

PROMPTS = {
    ("gsm8k", "official"): (
        GSM,
        "Question: 1 {x}?\nLet's think step by step\nAnswer:\n5*3=15.\nSo.\nThe answer is 1015\n\n"
        "Question: 2 {y}?\nLet's think step by step\nAnswer:",
    ),
    ("gsm8k", "lm-eval"): (
        GSM,
        "Question: 1 {x}?\nAnswer: 5*3=<<5*3=15>>15.\nSo.\n#### 1,015\n\nQuestion: 2 {y}?\nAnswer:",
    ),
    ("math", "official"): (
        MATH,
        "Problem:\nFind $x$.\nSolution:\nIt is $\\boxed{\\frac{1}{2}}$.\n"
        "Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.\n\nProblem:\n2 {y}?\nSolution:",
    ),
    ("math", "lm-eval"): (
        MATH,
        "Problem:\nFind $x$.\n\nSolution: It is $\\boxed{\\frac{1}{2}}$.\n"
        "Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.\n\nProblem:\n2 {y}?\n\nSolution:",
    ),
    ("bbh", "official"): (
        BBH,
        "Follow the given examples and answer the question.\nDo it.\n\nQ: a\nA: Let's think step by step.\n"
        "So the answer is x.\n\nQ: 2 {y}?\nA: Let's think step by step.",
    ),
    ("bbh", "lm-eval"): (
        BBH,
        "Do it.\n\nQ: a\nA: Let's think step by step.\nSo the answer is x.\n\n"
        "Q: 2 {y}?\nA: Let's think step by step.\n",
    ),
    ("flores", "official"): (
        FLORES,
        "Translate the following Chinese (Simpl) statements to French.\n再见。\nAu revoir.\n"
        "Translate the following Chinese (Simpl) statements to French.\n2 {y}?",
    ),
}
PROMPTS |= {(name, "opencompass"): PROMPTS[name, "official"] for name in ("gsm8k", "math", "bbh", "flores")}


@pytest.mark.parametrize(("task", "recipe"), PROMPTS)
def test_a_whole_prompt(task, recipe):
    example, expected = PROMPTS[task, recipe]
    assert text_prompt(load_task(task).recipe(recipe), "title", [example], ASKED) == expected


def test_the_prompt_of_bbh_is_the_prompt_file():
    file = Path("../shared/evaldata/bbh/cot-prompts/web_of_lies.txt")
    if not file.exists():
        pytest.skip("the sample of BBH is not here")
    from baichuan2.evaluation.data import read_items

    task = load_task("bbh")
    examples = read_items(task, file.parent.parent, "cot-prompts", "web_of_lies")
    asked = read_items(task, file.parent.parent, "bbh", "web_of_lies")[0]
    text = file.read_text(encoding="utf-8").partition("-----\n")[2]
    assert text_prompt(task.recipe("official"), "", examples, asked) == (
        "Follow the given examples and answer the question.\n"
        f"{text}\n\nQ: {asked.question}\nA: Let's think step by step."
    )


def recipe(**changes):
    values = {"header": "H", "example": "[{question}]", "item": "?{question}", "extract": "first_line"}
    return TextRecipe(exactness="exact", source="", shots=3, max_new_tokens=5, **{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "limit", "expected"),
    [
        ({}, 99, ("H[1][2][3]?q", 3, 0)),
        ({}, 12, ("H[1][2][3]?q", 3, 0)),
        ({}, 11, ("H[1][2]?q", 2, 0)),
        ({"max_tokens": 8}, 11, ("H[1]?q", 1, 0)),
        ({"max_tokens": 80}, 11, ("H[1][2]?q", 2, 0)),
        ({"drop": "first"}, 11, ("H[2][3]?q", 2, 0)),
        ({"drop": "first"}, 3, ("H?q", 0, 0)),
        ({}, 2, ("H?q", 0, 1)),
        ({"drop": "left"}, 11, ("H[1][2][3]?q", 3, 1)),
    ],
)
def test_a_prompt_that_is_too_long_loses_examples_then_tokens(changes, limit, expected):
    examples = [item("1"), item("2"), item("3")]
    fitted = fit_text(
        recipe(**changes), "", examples, item("q"), lambda text: [ord(sign) for sign in text], limit=limit
    )
    text, shots, num_cut = expected
    assert (fitted.text, fitted.shots, fitted.num_cut) == (text, shots, num_cut)
    assert "".join(map(chr, fitted.ids)) == text[num_cut:]


def test_no_question_is_its_own_example():
    rows = [item(str(number)) for number in range(5)]
    for examples in ("first", "nearest"):
        choose = example_chooser(recipe(examples=examples), rows)
        assert [one.question for one in choose(rows[1])] == ["0", "2", "3"]
    assert [one.question for one in example_chooser(recipe(), rows)(item("x"))] == ["0", "1", "2"]


def test_the_nearest_examples_come_first():
    rows = [item("火车九点出发。"), item("她在读书。"), item("火车明天出发。"), item(""), item("The train leaves.")]
    nearest = Nearest(rows, 2)
    assert [one.question for one in nearest.of(item("火车明天停开。"))] == ["火车明天出发。", "火车九点出发。"]
    assert nearest.of(item("A train"))[0].question == "The train leaves."
    assert [one.question for one in nearest.of(item("xyz"))] == ["火车九点出发。", "她在读书。"]  # none is like it
    assert Nearest([], 2).of(item("x")) == []
