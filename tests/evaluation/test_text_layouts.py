"""Questions whose answer is a text, as their files hold them, and what is said of files that are wrong."""

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.data import asked_subjects, read_examples, read_items
from baichuan2.evaluation.task import load_task

GSM = {"question": "q", "answer": "5*3=<<5*3=15>>15 in all.\n#### 1,015"}
MATH = {"problem": "p", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."}
CANARY = "BENCHMARK DATA. canary GUID 0\n-----\n"
PROMPT = (
    "Do it.\n\nQ: a\nA: Let's think step by step.\nSo the answer is x.\n\nQ: b\n(A) c\n\n(B) d"
    "\nA: Let's think step by step.\nNo.\n\nSo the answer is (B)."
)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="")


def test_gsm8k_loses_its_calculator_marks_and_commas(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "test.jsonl", GSM)
    [item] = read_items(load_task("gsm8k"), tmp_path, "test", "main")
    assert (item.number, item.question, item.reference) == ("0", "q", "1015")
    assert item.details == {"solution": "5*3=15 in all.", "answer": GSM["answer"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GSM, "answer": "no end"}, r"test.jsonl line 2 answer: expected a last line such as #### 72, got 'no end'"),
        ({**GSM, "answer": "#### many"}, r"line 2 answer: expected a last line"),
        ({**GSM, "question": None}, r"test.jsonl line 2 question: expected a text, got None"),
        ("[1]\n", r"test.jsonl line 2: expected an object"),
        ('{"question": \n', r"test.jsonl line 2 is no JSON"),
    ],
)
def test_a_bad_line_of_gsm8k_is_named(tmp_path: Path, row: object, message: str) -> None:
    write(tmp_path / "test.jsonl", json.dumps(GSM) + "\n" + (row if isinstance(row, str) else json.dumps(row)))
    with pytest.raises(DataError, match=message):
        read_items(load_task("gsm8k"), tmp_path, "test", "main")


def math_files(folder: Path) -> None:
    for number, text in ((2, "two"), (10, "ten"), (1, "one")):
        write(folder / "MATH" / "test" / "algebra" / f"{number}.json", {**MATH, "problem": text})
    for subject, kind in (("algebra", "Algebra"), ("prealgebra", "Prealgebra")):
        for number in (1, 2):
            problem = f"{subject} {number}"
            write(folder / f"MATH/train/{subject}/{number}.json", {**MATH, "type": kind, "problem": problem})


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_math_comes_as_folders_or_as_an_archive_of_them(tmp_path: Path, form: str) -> None:
    math_files(tmp_path / "unpacked")
    data = tmp_path / "unpacked"
    if form == "tar":
        data = tmp_path / "MATH.tar"
        with tarfile.open(data, "w") as archive:
            archive.add(tmp_path / "unpacked" / "MATH", arcname="MATH")
    elif form == "zip":
        data = tmp_path / "MATH.zip"
        with zipfile.ZipFile(data, "w") as zipped:
            for path in sorted((tmp_path / "unpacked").rglob("*.json")):
                zipped.write(path, path.relative_to(tmp_path / "unpacked"))
    task = load_task("math")
    items = read_items(task, data, "test", "algebra")
    assert [(item.number, item.question, item.reference) for item in items] == [
        ("1", "one", r"\frac{1}{2}"),
        ("2", "two", r"\frac{1}{2}"),
        ("10", "ten", r"\frac{1}{2}"),
    ]
    with pytest.raises(DataError, match=r"lacks the test files of counting_and_probability, .*--subjects algebra"):
        asked_subjects(task, task.recipe("official"), data, "test", None)


def test_math_examples_are_one_of_each_of_four_subjects_or_the_questions_themselves(tmp_path: Path) -> None:
    kinds = {"Algebra": 2, "Precalculus": 1, "Prealgebra": 1, "Intermediate Algebra": 2, "Geometry": 1}
    rows = [{**MATH, "type": kind, "problem": f"{kind} {n}"} for kind, count in kinds.items() for n in range(count)]
    write(tmp_path / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("math")
    wanted = ["Algebra 0", "Precalculus 0", "Prealgebra 0", "Intermediate Algebra 0", "Algebra 1"]
    examples = read_examples(task, tmp_path, "test", "geometry", task.recipe("official"))
    assert [one.question for one in examples[:5]] == wanted
    assert list(asked_subjects(task, task.recipe("official"), tmp_path, "test", ["geometry"])) == ["geometry"]
    train = [{**row, "problem": f"train {row['problem']}"} for row in rows]
    write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in train))
    examples = read_examples(task, tmp_path, "test", "geometry", task.recipe("official"))
    assert [one.question for one in examples[:5]] == [f"train {question}" for question in wanted]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "Logic"}, r"line 1 type: expected one of Algebra, .*, got 'Logic'"),
        ({"solution": "no box"}, r"line 1 solution: there is no answer in \\boxed\{\}: 'no box'"),
        ({"solution": r"\boxed{5"}, r"line 1 solution: there is no answer"),
        ({"problem": " "}, r"line 1 problem: expected a text"),
    ],
)
def test_a_bad_row_of_math_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    write(tmp_path / "test.jsonl", {**MATH, **change})
    with pytest.raises(DataError, match=message):
        read_items(load_task("math"), tmp_path, "test", "algebra")


@pytest.mark.parametrize("above", [CANARY, "", CANARY.replace("\n", "\r\n")])
def test_a_prompt_file_of_bbh_is_put_together_again_as_it_was(tmp_path: Path, above: str) -> None:
    write(tmp_path / "bbh" / "navigate.json", {"canary": "x", "examples": [{"input": "turn", "target": "Yes"}]})
    prompt = PROMPT.replace("\n", "\r\n") if "\r" in above else PROMPT
    write(tmp_path / "cot-prompts" / "navigate.txt", above + prompt + "\n")
    task = load_task("bbh")
    [item] = read_items(task, tmp_path, "bbh", "navigate")
    assert (item.question, item.reference, item.details) == ("turn", "Yes", {"description": "Do it."})
    examples = read_items(task, tmp_path, "cot-prompts", "navigate")
    assert [one.question for one in examples] == ["a", "b\n(A) c\n\n(B) d"]
    assert "\n\n".join([item.details["description"], *(one.details["block"] for one in examples)]) == PROMPT


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("bbh/navigate.json", "[]", r"navigate.json: expected an object"),
        ("bbh/navigate.json", "{", r"navigate.json is no JSON"),
        ("bbh/navigate.json", {"rows": []}, r"navigate.json has no list called examples"),
        ("bbh/navigate.json", {"examples": [{"input": "x"}]}, r"navigate.json example 0 target: expected a text"),
        ("bbh/navigate.json", {"examples": [5]}, r"navigate.json example 0: expected an object, got 5"),
        ("cot-prompts/navigate.txt", "Do it.\n\nQ: a\nA: at once", r"navigate.txt example 0: there is no line"),
        ("cot-prompts/navigate.txt", "Do it.", r"navigate.txt holds no example"),
    ],
)
def test_bad_files_of_bbh_are_named(tmp_path: Path, file: str, content: object, message: str) -> None:
    write(tmp_path / "bbh" / "navigate.json", {"examples": [{"input": "turn", "target": "Yes"}]})
    write(tmp_path / "cot-prompts" / "navigate.txt", PROMPT)
    write(tmp_path / file, content)
    with pytest.raises(DataError, match=message):
        read_items(load_task("bbh"), tmp_path, "bbh", "navigate")


@pytest.mark.parametrize(("source", "target"), [("zho_simpl", "fra"), ("zho_Hans", "fra_Latn")])
def test_flores_by_the_codes_of_both_editions(tmp_path: Path, source: str, target: str) -> None:
    for split in ("dev", "devtest"):
        write(tmp_path / "flores101_dataset" / split / f"{source}.{split}", "你好。\n再见\u2028。\n")
        write(tmp_path / "flores101_dataset" / split / f"{target}.{split}", "Bonjour.\nAu revoir.")
    task = load_task("flores")
    items = read_items(task, tmp_path, "devtest", "zh-fr")
    assert [(item.question, item.reference) for item in items] == [
        ("你好。", "Bonjour."),
        ("再见\u2028。", "Au revoir."),
    ]
    assert items[0].details == {"source": "Chinese (Simpl)", "target": "French"}
    with pytest.raises(DataError, match=r"lacks the devtest files of zh-en.*--subjects zh-fr"):
        asked_subjects(task, task.recipe("official"), tmp_path, "devtest", None)


def test_flores_asks_the_first_hundred_lines_of_its_test_and_takes_examples_from_all(tmp_path: Path) -> None:
    for code in ("zho_simpl", "eng"):
        for split in ("dev", "devtest"):
            write(tmp_path / split / f"{code}.{split}", "".join(f"{split} {number}\n" for number in range(130)))
    task = load_task("flores")
    recipe = task.recipe("official")
    assert len(read_items(task, tmp_path, "devtest", "zh-en", recipe)) == 100
    assert len(read_examples(task, tmp_path, "devtest", "zh-en", recipe)) == 130


def test_flores_files_that_do_not_match_are_named(tmp_path: Path) -> None:
    task = load_task("flores")
    write(tmp_path / "devtest" / "eng.devtest", "Hello.\nBye.\n")
    with pytest.raises(DataError, match=r"zho_simpl.devtest is missing: the sentences that .*eng.devtest translates"):
        read_items(task, tmp_path, "devtest", "zh-en")
    write(tmp_path / "devtest" / "zho_simpl.devtest", "你好。\n")
    with pytest.raises(DataError, match=r"zho_simpl.devtest has 1 lines, .*eng.devtest 2"):
        read_items(task, tmp_path, "devtest", "zh-en")
    write(tmp_path / "devtest" / "zho_simpl.devtest", "你好。\n\n再见\n")
    with pytest.raises(DataError, match=r"zho_simpl.devtest line 2 is empty"):
        read_items(task, tmp_path, "devtest", "zh-en")


def test_what_there_is_not_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GSM8K was not found at --data .*test.jsonl"):
        read_items(load_task("gsm8k"), tmp_path, "test", "main")
    with pytest.raises(SettingsError, match=r"flores has no 'zh-it'"):
        asked_subjects(load_task("flores"), load_task("flores").recipe("official"), tmp_path, "devtest", ["zh-it"])
    with pytest.raises(SettingsError, match=r"flores has no recipe 'lm-eval': use one of official, opencompass"):
        load_task("flores").recipe("lm-eval")
