"""The whole command on models whose answers are known: the one that knows all, the one that guesses, the undecided."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from baichuan2.cli.main import main
from tests.evaluation.known_models import MARKS, guesser, reader
from tests.tiny import SIZES, Size

SUBJECTS = ("law", "logic")
ODD = (
    "None",
    "两行\n文字",
    '有"引号"的',
    "{question} {0} %s \\n",
    " 前后有空格 ",
)  # texts that readers of tables spoil


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[Size, Path]:
    folder = tmp_path_factory.mktemp("readers")
    return {size: reader(folder / size, size) for size in SIZES}


def write_questions(folder: Path, count: int, *, marked: bool = True, seed: int = 0) -> list[str]:
    """Writes C-Eval's val and dev; gives the answers of val in order. `marked`: questions hold their answer's word."""
    draw = random.Random(seed)
    answers = []
    for subject in SUBJECTS:
        for split in ("dev", "val"):
            path = folder / "ceval" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = []
            for number in range(5 if split == "dev" else count):
                answer = draw.choice("ABCD")
                words = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(draw.randrange(4, 12)))
                word = MARKS["ABCD".index(answer)] if marked and split == "val" else ""
                question = f"{words}{word}{ODD[number % len(ODD)]}"
                rows.append([number, question, *draw.sample([*ODD, "一", "二"], 4), answer])
                answers += [answer] if split == "val" else []
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["id", "question", *"ABCD", "answer"], *rows])
    return answers


def evaluate(model: Path, data: Path, out: Path, *more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result and the items that the command writes."""
    words = ["evaluate", "ceval", "--subjects", ",".join(SUBJECTS), "--data", str(data), "-m", str(model)]
    assert main([*words, "--output-dir", str(out), "--dtype", "float32", "--device", "cpu", *more]) == 0
    lines = (out / "ceval" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads((out / "ceval" / "result.json").read_text()), [json.loads(line) for line in lines]


@pytest.mark.parametrize("recipe", ["official", "lm-eval", "opencompass"])
@pytest.mark.parametrize("size", SIZES)
def test_who_knows_all_scores_one_hundred_per_cent(
    readers: dict[Size, Path], tmp_path: Path, size: Size, recipe: str
) -> None:
    answers = write_questions(tmp_path, 12)
    result, items = evaluate(readers[size], tmp_path, tmp_path / "out", "--recipe", recipe, "--shots", "2")
    assert [item["prediction"] for item in items] == answers
    assert len(set(answers)) == 4
    assert result["macro"] == result["micro"] == result["score"] == 1.0
    assert result["interval"][1] == 1.0


def test_who_knows_all_but_is_told_other_answers_scores_as_many_as_agree(
    readers: dict[Size, Path], tmp_path: Path
) -> None:
    answers = write_questions(tmp_path, 12)
    path = tmp_path / "ceval" / "val" / "law_val.csv"
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    rows = [[*row[:-1], "ABCD"[("ABCD".index(row[-1]) + 1) % 4]] if int(row[0]) < 3 else row for row in rows]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    result, items = evaluate(readers["7b"], tmp_path, tmp_path / "out")
    assert [item["prediction"] for item in items] == answers
    assert result["subjects"]["law"]["right"] == 9
    assert result["micro"] == pytest.approx(21 / 24)
    assert result["macro"] == pytest.approx((9 / 12 + 1) / 2)


def test_who_guesses_scores_a_quarter_within_the_interval(tmp_path: Path) -> None:
    write_questions(tmp_path, 150, marked=False)
    result, items = evaluate(guesser(tmp_path / "model"), tmp_path, tmp_path / "out", "--shots", "0")
    assert result["chance"] == 0.25
    assert result["interval"][0] < 0.25 < result["interval"][1]
    assert result["interval"][1] - result["interval"][0] < 0.12
    assert len({item["prediction"] for item in items}) > 2


@pytest.mark.parametrize("recipe", ["official", "lm-eval", "opencompass"])
def test_the_first_letter_wins_a_tie(readers: dict[Size, Path], tmp_path: Path, recipe: str) -> None:
    write_questions(tmp_path, 4, marked=False)
    _, items = evaluate(readers["7b"], tmp_path, tmp_path / "out", "--recipe", recipe, "--shots", "0")
    for item in items:
        assert len(set(item["scores"])) == 1
        assert item["prediction"] == "A"


def test_a_prompt_that_lost_its_examples_still_asks_its_question(readers: dict[Size, Path], tmp_path: Path) -> None:
    """Cut from the left, or left without examples: the question, which stands last, stays whole."""
    answers = write_questions(tmp_path, 6)
    result, items = evaluate(readers["7b"], tmp_path, tmp_path / "out", "--shots", "5", "--max-tokens", "150")
    assert result["shortened_prompts"] == len(items)
    assert all(item["shots"] < 5 for item in items)
    assert [item["prediction"] for item in items] == answers
