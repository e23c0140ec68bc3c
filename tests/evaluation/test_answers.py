"""What is taken for the answer in a text: tables by tool and benchmark, and texts that are hostile."""

import random
import time

import pytest

from baichuan2.evaluation.answers import EQUAL, EXTRACT, SETTLED
from baichuan2.evaluation.items import Item

LETTER = Item(subject="date_understanding", number="0", question="?", reference="(B)")
WORDS = Item(subject="word_sorting", number="0", question="?", reference="ant bee")
NUMBER = Item(subject="main", number="0", question="?", reference="1000")


@pytest.mark.parametrize(
    ("text", "number", "is_right"),
    [
        (" 5 x 200 = 1000\nThe answer is 1000\n\n", "1000", True),
        ("The answer is 1000.", "1000", True),
        ("The answer is 1000.00", "1000.00", True),
        ("The answer is 1,000", "000", False),  # as that tool reads it
        ("The answer is $1000 or 10-7", "-7", False),
        ("The answer is 1000\n\nQuestion: what is 1+1?\nAnswer: 2", "1000", True),
        ("Question: 1000", None, False),
        ("no idea", None, False),
        ("", None, False),
        ("-3.5.7", "7", False),
        ("١٠٠٠", "١٠٠٠", True),  # float() reads them, there and here
        ("²", None, False),
        ("9" * 5000, "9" * 5000, False),
    ],
)
def test_the_last_number(text, number, is_right):
    found = EXTRACT["last_number"](text, NUMBER)
    assert found == number
    assert (found is not None and EQUAL["number"](found, "1000")) is is_right


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        (" 5*200=1000\n#### 1000", "1000", "1000"),
        ("#### 1,000", "1,000", "1,000"),
        ("#### -1,000.00 dollars", "-1,000.00", "-1,000.00"),
        ("So it is $1,000.", None, "$1,000."),
        ("#### 7\nQ#### 8", "7", "8"),
        ("12 and x", None, "12"),
        ("none at all...", None, "..."),
        ("none", None, None),
        ("####7", None, "7"),
    ],
)
def test_the_harness_finds_numbers_in_two_ways(text, strict, flexible):
    assert EXTRACT["strict_number"](text, NUMBER) == strict
    assert EXTRACT["flexible_number"](text, NUMBER) == flexible


def test_both_ways_are_those_of_the_harness_itself():
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    rules = {
        "strict_number": extraction.RegexFilter(r"#### (\-?[0-9\.\,]+)"),
        "flexible_number": extraction.RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1),
        "bbh_harness": extraction.RegexFilter("(?<=the answer is )(.*)(?=.)"),
    }
    draw = random.Random(5)
    parts = ["#### ", "the answer is ", "1", "-", "$", ",", ".", "23", " ", "\n", "x", "(B)", "٣", "Yes", "the ", "Q"]
    for _ in range(3000):
        text = "".join(draw.choices(parts, k=draw.randrange(12)))
        for name, rule in rules.items():
            [[expected]] = rule.apply([[text]], [{}])
            found = EXTRACT[name](text, NUMBER)
            assert (found if found is not None else "[invalid]") == expected, (name, text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1,000", "1000", True), ("$1000.", "1000", True), ("1000.0", "1000", False), ("-5", "5", False)],
)
def test_amounts_are_compared_without_what_people_write_around_them(one, other, same):
    assert EQUAL["amount"](one, other) is same


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("So the answer is (B).", "B"),
        (" First, A.\nSo the answer is B.", "B"),
        ("the answer is (C). No, the answer is (B).", "C"),
        ("the answer is \n(B)", "B"),
        ("I think (D) or (B)", "D"),
        ("Perhaps", "P"),  # the first capital letter, as there
        ("none", "none"),
        ("", ""),
        ("the answer is ", ""),
        ("the answer is (", "("),
    ],
)
def test_the_letter_of_bbh(text, letter):
    assert EXTRACT["bbh"](text, LETTER) == letter
    assert EQUAL["bbh"](letter, "(B)") is (letter == "B")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("So the answer is ant bee.", "ant bee"),
        ("So the answer is ant bee.\n\nQ: more\nSo the answer is cow.", "ant bee"),
        ("the answer is **ant bee**.", "**ant bee**"),
        ("the answer is ant bee..", "ant bee."),
        ("ant bee", "ant bee"),
        ("\nant", ""),
        ("", ""),
    ],
)
def test_the_line_of_bbh(text, line):
    assert EXTRACT["bbh"](text, WORDS) == line
    assert EQUAL["bbh"](line, "ant bee") is (line == "ant bee")


def test_bold_type_counts_where_the_tool_says_so():
    assert EXTRACT["bbh_bold"]("the answer is **ant *bee***.", WORDS) == "ant *bee"
    assert EXTRACT["bbh_bold"]("the answer is ant bee.", WORDS) == "ant bee"
    assert EXTRACT["bbh_bold"]("the answer is **B**", LETTER) == "B"


def test_a_translation_is_the_first_line_that_says_something():
    assert EXTRACT["first_line"]("\n  \nGuten Tag. \nTranslate", WORDS) == "Guten Tag."
    assert EXTRACT["first_line"](" \n ", WORDS) == ""


@pytest.mark.parametrize(
    ("rule", "item", "extract", "whole"),
    [
        ("line", WORDS, "first_line", "\n\nHello there. \nTranslate the\nlast"),
        ("bbh", LETTER, "bbh", "One,\ntwo.\nthe answer is none\nor (B)\nor (C)\nthe answer is (D)\n"),
        ("bbh", WORDS, "bbh", "One,\nthe answer is\nand so the answer is \nant bee.\nQ:\nthe answer is x\n"),
        ("final_line", WORDS, "final_answer", "It is\nThe final answer is $5$. I hope so.\nThe final answer is 6.\n"),
    ],
)
def test_once_an_answer_is_settled_nothing_that_follows_changes_it(rule, item, extract, whole):
    lines = whole.splitlines(keepends=True)
    beginnings = ["".join(lines[: number + 1]) for number in range(len(lines))]
    settled = [text for text in beginnings if SETTLED[rule](item, text)]
    assert settled
    assert {EXTRACT[extract](text, item) for text in settled} == {EXTRACT[extract](whole, item)}
    assert not SETTLED[rule](item, beginnings[0])


HOSTILE = [
    "",
    "\0",
    "\ud800",
    "{" * 5_000,
    "\\boxed{" * 5_000,
    "\\text{" * 5_000,
    "\\frac" * 5_000,
    "1" * 5_000,
    "1." * 3_000,
    "-" * 5_000,
    "#### " * 5_000,
    "answer is " * 3_000,
    "the answer is \n" * 3_000,
    "**" * 3_000,
    "*a" * 3_000,
    "$" * 5_000,
    "Final Answer: The final answer is" * 3000,
    "The final answer is\n" * 5000,
    "\n" * 5_000,
    "é\u2028\x85\r" * 5_000,
    "(" * 5_000,
]


@pytest.mark.parametrize("name", EXTRACT)
def test_no_text_fails_or_takes_long(name):
    started = time.process_time()
    for text in HOSTILE:
        for item in (LETTER, WORDS):
            found = EXTRACT[name](text, item)
            for equal in EQUAL.values():
                assert found is None or equal(found, "\\frac{1}{2}") in (True, False)
    assert time.process_time() - started < 5
