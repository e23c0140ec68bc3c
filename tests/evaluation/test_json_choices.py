"""Questions in JSON files: AGIEval, GAOKAO-Bench, MedQA, MedMCQA."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.json_choices import read_agieval, read_gaokao, read_medmcqa, read_medqa
from baichuan2.evaluation.sources import Files, find_files

Reader = Callable[[Files, str, str], Iterator[Item]]
AGI = {"passage": None, "question": "q", "options": ["(A)a", "(B)b", "(C)c", "(D)d"], "label": "B", "answer": None}
GAO = {"year": "2010", "question": "1. q\nA. a\n", "answer": ["D"], "index": 0}
USMLE = {"question": "q", "answer": "b", "options": {"B": "b", "A": "a", "C": "c"}, "answer_idx": "B"}
MCQA = {"question": "q", "cop": 4, "opa": "a", "opb": "b", "opc": "c", "opd": "d", "id": "x", "choice_type": "single"}


def read(tmp_path: Path, reader: Reader, text: str) -> list[Item]:
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    return list(reader(find_files(tmp_path, "x", folders=[], roots=[""], expected=["x.jsonl"]), "x.jsonl", "s"))


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_agieval_numbers_options_itself_and_passes_clozes_over(tmp_path: Path) -> None:
    text = lines(
        AGI,
        AGI | {"options": None, "label": None, "answer": "2"},
        AGI | {"passage": "p\u2028p", "options": ["（A） a", "plain", "(D)d is its text", "(D)"], "label": ["D"]},
    )
    first, third = read(tmp_path, read_agieval, "\n" + text)
    assert (first.number, first.options, first.answer) == ("0", ("a", "b", "c", "d"), 1)
    assert first.details == {"passage": "", "raw_options": ["(A)a", "(B)b", "(C)c", "(D)d"]}
    assert third.number == "2", "rows keep the numbers of their lines, whatever is passed over"
    assert third.options == ("a", "plain", "(D)d is its text", "(D)")
    assert (third.answer, third.details["passage"]) == (3, "p\u2028p")


@pytest.mark.parametrize("label", ["AD", "D A", "A B D", ["A", "D"], ["D", "B", "A"]])
def test_several_right_answers_are_all_kept(tmp_path: Path, label: Any) -> None:
    (item,) = read(tmp_path, read_agieval, lines(AGI | {"label": label}))
    assert item.answer == 0
    assert item.details["answers"] == ([0, 1, 3] if "B" in label else [0, 3])


def test_gaokao_holds_the_options_in_the_question(tmp_path: Path) -> None:
    rows = [GAO, GAO | {"answer": ["AC"]}, GAO | {"answer": ["B", "C", "G"]}]
    items = read(tmp_path, read_gaokao, json.dumps({"keywords": "k", "example": rows}))
    assert [(item.number, item.options, item.answer) for item in items] == [
        ("0", ("A", "B", "C", "D"), 3),
        ("1", ("A", "B", "C", "D"), 0),
        ("2", ("A", "B", "C", "D"), 1),
    ]
    assert [item.details.get("answers") for item in items] == [None, [0, 2], [1, 2, 6]]


def test_medqa_takes_options_by_their_letters(tmp_path: Path) -> None:
    (item,) = read(tmp_path, read_medqa, lines(USMLE))
    assert (item.options, item.answer) == (("a", "b", "c"), 1)


@pytest.mark.parametrize(("cops", "answers"), [([4, 1, 2], [3, 0, 1]), ([0, 3, 2], [0, 3, 2])])
def test_medmcqa_counts_from_one_or_from_zero_as_the_file_shows(
    tmp_path: Path, cops: list[int], answers: list[int]
) -> None:
    items = read(tmp_path, read_medmcqa, lines(*(MCQA | {"cop": cop, "id": str(cop)} for cop in cops)))
    assert [item.answer for item in items] == answers
    assert items[0].details == {"choice_type": "single"}


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_agieval, "{}\n[1]\n", r"x\.jsonl line 2: expected an object, got \[1\]"),
        (read_agieval, lines(AGI) + "{'a'}\n", r"x\.jsonl line 2 is no JSON"),
        (read_agieval, "[" * 100_000, r"x\.jsonl line 1 is no JSON"),
        (read_agieval, lines(AGI | {"label": "E"}), r"line 1 answer: expected a letter from A to D, got 'E'"),
        (read_agieval, lines(AGI | {"label": 2}), r"line 1 answer: expected a letter from A to D, got 2"),
        (read_agieval, lines(AGI | {"label": [["A"]]}), r"line 1 answer: expected a letter"),
        (read_agieval, lines(AGI | {"options": {"A": "a"}}), r"line 1 options: expected a list of at most 10"),
        (read_agieval, lines(AGI | {"options": ["(A)a", None]}), r"line 1 B: expected the text of an option, got None"),
        (
            read_agieval,
            lines(AGI | {"options": ["(A)a", "", "c", ""]}),
            r"line 1 D: expected the text of an option, got ''",
        ),
        (read_agieval, lines(AGI | {"question": None}), r"line 1 question: expected a text, got None"),
        (read_agieval, lines(AGI | {"passage": ["p"]}), r"line 1 passage: expected a text or null"),
        (read_gaokao, "[]", r"x\.jsonl has no list called example"),
        (read_gaokao, json.dumps({"example": [GAO, 3]}), r"example 1: expected an object, got 3"),
        (
            read_gaokao,
            json.dumps({"example": [GAO | {"answer": "D"}]}),
            r"example 0 answer: expected a list",
        ),
        (read_gaokao, json.dumps({"example": [GAO | {"answer": []}]}), r"example 0 answer: expected a list"),
        (
            read_gaokao,
            json.dumps({"example": [GAO | {"answer": ["E"]}]}),
            r"example 0 answer: expected a letter",
        ),
        (
            read_medqa,
            lines(USMLE | {"options": {"A": "a", "C": "c"}}),
            r"line 1 options: expected texts by",
        ),
        (read_medqa, lines(USMLE | {"options": ["a", "b"]}), r"line 1 options: expected texts by"),
        (read_medqa, lines(USMLE | {"answer_idx": "D"}), r"line 1 answer: expected a letter from A to C, got 'D'"),
        (read_medqa, lines({"question": "q"}), r"line 1 options: expected texts by"),
        (read_medmcqa, lines(MCQA, MCQA), r"line 2 id: expected a text that no other row has, got 'x'"),
        (read_medmcqa, lines(MCQA | {"cop": 5}), r"line 1 cop: expected a whole number from 1 to 4, got 5"),
        (read_medmcqa, lines(MCQA | {"cop": True}), r"line 1 cop: expected a whole number from 1 to 4, got True"),
        (read_medmcqa, lines(MCQA | {"cop": 2}), r"whether the answers count from 1 or from 0: the file holds neither"),
        (read_medmcqa, lines(MCQA, MCQA | {"cop": 0, "id": "y"}), r"count from 1 or from 0: the file holds both"),
        (read_medmcqa, lines(MCQA | {"opc": None}), r"line 1 C: expected the text of an option, got None"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, reader: Reader, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, reader, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
