"""Answers of MATH: where they stand in a solution, and which spellings are one answer."""

import json
from pathlib import Path

import pytest

from baichuan2.evaluation.answers import EQUAL, EXTRACT
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.math_answers import (
    boxed_answer,
    final_answer,
    is_same_answer,
    last_boxed,
    minerva_answer,
    minerva_form,
)

DATA = Path("../shared/evaldata/math/test.jsonl")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{17}.", "17"),
        (r"\boxed{1} and \boxed{\frac{3}{4}}", r"\frac{3}{4}"),
        (r"\boxed{\text{a {nested {box}}}}", r"\text{a {nested {box}}}"),
        (r"\fbox{5}", "5"),
        (r"\boxed{5} \fbox{6}", "6"),
        (r"$\boxed 12.$ done", "12"),
        (r"\boxed{5", None),
        (r"\boxed{{5}", None),
        (r"\boxed5", None),
        (r"\boxed", None),
        (r"\boxed}5{", None),
        ("17", None),
    ],
)
def test_what_the_last_box_holds(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Steps.\nFinal Answer: The final answer is $17$. I hope it is correct.", "17"),
        ("Final Answer: The final answer is $3.5$. I hope it is correct.\n\nProblem:\nThe final answer is 2", "3.5"),
        ("Final Answer: The final answer is 3.5", "3.5"),
        (r"It is \boxed{4}. Final Answer: The final answer is $5$. I hope it is correct.", "5"),
        (r"It is \boxed{4}.", "4"),
        (r"Final Answer: The final answer is $\$60$. I hope it is correct.", "60"),
        ("The final answer is", ""),
        ("It is 4.", None),
        ("", None),
    ],
)
def test_the_final_line_comes_before_the_box(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"The final answer is $5$. Or \boxed{{6}}", "6"),
        ("Well. So the answer is $5$. I hope", "5"),
        ("The final answer is: 5. Yes", "5"),
        ("$7$. That is it", "7"),
        ("", ""),
    ],
)
def test_the_box_comes_before_what_is_said(text, answer):
    assert boxed_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Final Answer: The final answer is $5$. I hope it is correct.", "$5$"),
        ("Final Answer: The final answer is $5$. ", "$5$"),  # cut off: the harness puts the end behind every text
        ("Final Answer: The final answer is $5$", None),
        ("Final Answer: The final answer is $5$.\nMore. I hope it is correct.", None),
        ("The final answer is $5$. I hope it is correct.", None),
        ("x\nFinal Answer: The final answer is 1. I hope it is correct.\nFinal Answer: 2", "1"),
    ],
)
def test_minervas_line_is_taken_as_a_whole(text, answer):
    assert minerva_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (r"$x=\frac12$", r"\frac{1}{2}"),
        (r"100,000\text{ dollars}", "100000"),
        (r"\text{Monday}", "Monday"),
        (r"90^\circ", "90"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\boxed{12}", "12"),
        (r"(1,2)", "(1,2)"),
        ("0,1", "0,1"),  # a pair, not 01
        ("-1,234,567", "-1234567"),
        (r"\left(1, 2\right)", r"\left(1,2\right)"),  # whose ft is no unit
        (r"\sqrt[3]8", r"\sqrt[3]{8}"),
        (r"2 \text{ and } 3", "2,3"),
    ],
)
def test_minervas_form(answer, form):
    assert minerva_form(answer) == form


SAME = [
    (r"\frac{1}{2}", r"\dfrac{1}{2}"),
    (r"\frac{1}{2}", r"\tfrac12"),
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", ".5"),
    (r"\frac{72}{5}", "72/5"),
    (r"\frac1{72}", r"\frac{1}{72}"),
    ("17", "17.0"),
    ("17", "$17$"),
    ("17", r"17\text{ cm}"),
    ("17", r"17 \text{ square inches}"),
    ("17", "x = 17"),
    ("30", r"30^\circ"),
    ("30", r"30^{\circ}"),
    ("25", r"25\%"),
    ("1000", "1,000"),
    ("1000", r"1{,}000"),
    (r"\sqrt{3}", r"\sqrt3"),
    (r"\left(1, 2\right)", "(1,2)"),
    (r"\text{Monday}", "Monday"),
    (r"\text{(A)}", "(A)"),
    (r"\infty", "infinity"),
    (r"[2,5)", r"[2, 5)"),
    (r"2\cdot3", "23"),  # a quirk of theirs
]
DIFFERENT = [
    ("17", "71"),
    ("17", "-17"),
    (r"\frac{1}{2}", r"\frac{2}{1}"),
    ("(1,2)", "(2,1)"),
    ("x^2", "x^3"),
    ("17", ""),
    ("0.5", "0.55"),
    (r"\sqrt{3}", "3"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_answer(one, other):
    assert is_same_answer(one, other)
    assert is_same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_answers(one, other):
    assert not is_same_answer(one, other)


@pytest.mark.skipif(not DATA.exists(), reason="the sample of MATH is not here")
@pytest.mark.parametrize(
    ("extract", "equal"), [("final_answer", "math"), ("boxed_answer", "math"), ("minerva_answer", "minerva")]
)
def test_solutions_answer_themselves_and_no_other_problem(extract, equal):
    rows = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
    items = [Item(subject="s", number="0", question="?", reference=last_boxed(row["solution"])) for row in rows]
    for row, item in zip(rows, items, strict=True):
        assert item.reference is not None
        text = f"{row['solution']}\nFinal Answer: The final answer is ${item.reference}$. I hope it is correct.\n"
        found = EXTRACT[extract](text, item)
        assert found is not None
        assert EQUAL[equal](found, item.reference), (found, item.reference)
        wrong = [other for other in items if other.reference != item.reference]
        assert sum(EQUAL[equal](found, other.reference or "") for other in wrong) == 0
