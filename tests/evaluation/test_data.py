"""From a folder to the questions of a recipe: what is missing, what is left out, what is held out."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.data import asked_subjects, read_items
from baichuan2.evaluation.task import load_task, task_names

EVALDATA = Path(__file__).parents[2].parent / "shared" / "evaldata"
needs_samples = pytest.mark.skipif(not EVALDATA.is_dir(), reason="needs ../shared/evaldata")


def agieval(count: int, label: str = "A") -> str:
    row = {"passage": None, "options": ["(A)a", "(B)b", "(C)c", "(D)d"], "label": label}
    return "".join(json.dumps(row | {"question": f"q{number}"}) + "\n" for number in range(count))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_missing_subjects_are_named_and_those_that_are_there(tmp_path: Path) -> None:
    task = load_task("ceval")
    recipe = task.recipe("official")
    row = "id,question,A,B,C,D,answer\n0,q,a,b,c,d,A\n"
    for name in ("val/law_val.csv", "val/logic_val.csv", "dev/logic_dev.csv"):
        write(tmp_path / "ceval" / name, row)
    with pytest.raises(DataError) as caught:
        asked_subjects(task, recipe, tmp_path, "val", None)
    message = str(caught.value)
    assert "lacks the val files of computer_network, operating_system," in message
    assert "accountant" in message
    assert message.endswith(": --subjects logic,law asks the others")
    with pytest.raises(DataError, match=r"lacks the examples \(dev\) of law: --subjects logic asks the others"):
        asked_subjects(task, recipe, tmp_path, "val", ["law", "logic"])
    with pytest.raises(DataError, match=r"lacks the examples \(dev\) of law, or ask without examples: --shots 0"):
        asked_subjects(task, recipe, tmp_path, "val", ["law"])
    assert list(asked_subjects(task, recipe, tmp_path, "val", ["logic", "logic"])) == ["logic"]
    with pytest.raises(SettingsError, match="ceval has no 'lgic': did you mean logic"):
        asked_subjects(task, recipe, tmp_path, "val", ["lgic"])
    agieval_task = load_task("agieval")
    with pytest.raises(SettingsError, match="this recipe of agieval does not ask it"):
        asked_subjects(agieval_task, agieval_task.recipe("official"), tmp_path, "scored", ["lsat-ar"])
    with pytest.raises(SettingsError, match=r"--split: ceval has no '\.\./val': use one of val, test, dev"):
        asked_subjects(task, recipe, tmp_path, "../val", ["logic"])
    with pytest.raises(DataError, match=r"C-Eval: .*test/logic_test\.csv is missing"):
        read_items(task, tmp_path, "test", "logic", recipe)


def test_a_file_without_questions_is_told(tmp_path: Path) -> None:
    write(tmp_path / "val/law_val.csv", "id,question,A,B,C,D,answer\n")
    with pytest.raises(DataError, match=r"law_val\.csv holds no question that is asked"):
        read_items(load_task("ceval"), tmp_path, "val", "law")


@pytest.mark.parametrize(("count", "held"), [(40, 5), (11, 5), (9, 4), (2, 1), (1, 0)])
def test_questions_held_out_as_examples_are_not_asked(tmp_path: Path, count: int, held: int) -> None:
    task = load_task("agieval")
    recipe = task.recipe("official")
    write(tmp_path / "data/v1/sat-math.jsonl", agieval(count))
    asked = read_items(task, tmp_path, "scored", "sat-math", recipe)
    numbers = [item.number for item in asked]
    examples = []
    if held:
        examples = [item.number for item in read_items(task, tmp_path, "examples", "sat-math", recipe)]
    assert len(examples) == held
    assert sorted(numbers + examples, key=int) == [str(number) for number in range(count)]
    assert numbers == sorted(numbers, key=int)
    if count == 40:
        assert examples == ["4", "7", "11", "13", "16"], "a change would change all scores of such suites"
        assert len(read_items(task, tmp_path, "scored", "sat-math", task.recipe("lm-eval"))) == count


def test_only_questions_with_four_options_and_one_answer_are_asked(tmp_path: Path) -> None:
    task = load_task("jecqa")
    write(tmp_path / "jec-qa/jec-qa-kd.jsonl", agieval(30) + agieval(30, "AB") + agieval(1).replace(', "(D)d"', ""))
    recipe = task.recipe("official")
    items = [*read_items(task, tmp_path, "scored", "jec-qa-kd", recipe)]
    items += read_items(task, tmp_path, "examples", "jec-qa-kd", recipe)
    assert sorted(int(item.number) for item in items) == list(range(30))
    assert len(read_items(task, tmp_path, "scored", "jec-qa-kd", task.recipe("lm-eval"))) == 61


def test_medmcqa_asks_rows_of_one_choice(tmp_path: Path) -> None:
    task = load_task("medmcqa")
    row = {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "cop": 4}
    rows = [row | {"id": str(number), "choice_type": "multi" if number % 3 else "single"} for number in range(9)]
    write(tmp_path / "dev.json", "\n".join(map(json.dumps, rows)))
    items = read_items(task, tmp_path, "dev", "medicine", task.recipe("official"))
    assert [item.number for item in items] == ["0", "3", "6"]
    assert len(read_items(task, tmp_path, "dev", "medicine", task.recipe("lm-eval"))) == 9


@needs_samples
def test_medical_subjects_come_from_three_benchmarks() -> None:
    task = load_task("medical")
    recipe = task.recipe("official")
    sizes = {}
    for subject in ("ceval/clinical_medicine", "mmlu/anatomy", "cmmlu/anatomy"):
        items = read_items(task, EVALDATA, "scored", subject, recipe)
        assert {item.subject for item in items} == {subject}
        assert len(read_items(task, EVALDATA, "examples", subject, recipe)) == 5
        sizes[subject] = len(items)
    assert sizes == {"ceval/clinical_medicine": 22, "mmlu/anatomy": 135, "cmmlu/anatomy": 148}
    with pytest.raises(DataError, match=r"lacks the scored files of ceval/basic_medicine, mmlu/college_medicine, .*"):
        asked_subjects(task, recipe, EVALDATA, "scored", None)


@needs_samples
def test_samples_are_read_as_a_plain_reader_reads_them() -> None:
    for suite, columns in (("ceval", "question"), ("cmmlu", "Question")):
        task = load_task(suite)
        for split in task.splits:
            for path in sorted((EVALDATA / suite / split).glob("*.csv")):
                subject = path.stem.removesuffix(f"_{split}")
                with path.open(encoding="utf-8", newline="") as file:
                    rows = list(csv.DictReader(file))
                items = read_items(task, EVALDATA, split, subject)
                assert [item.question for item in items] == [row[columns] for row in rows]
                assert [list(item.options) for item in items] == [[row[letter] for letter in "ABCD"] for row in rows]
                answers = [row.get("answer") or row.get("Answer") for row in rows]
                assert [None if item.answer is None else "ABCD"[item.answer] for item in items] == answers


@needs_samples
def test_none_is_a_text() -> None:
    items = read_items(load_task("mmlu"), EVALDATA, "test", "college_computer_science")
    assert sum("None" in item.options for item in items) == 2


@needs_samples
@pytest.mark.parametrize(
    ("suite", "recipe_name", "counts"),
    [
        ("gaokao", "official", {"Biology": 35, "Math_I_": 35, "Physics": 19}),
        ("agieval", "official", {"gaokao-biology": 55, "gaokao-english": 10, "sat-math": 35}),
        ("agieval", "lm-eval", {"gaokao-biology": 60, "sat-math": 40, "lsat-lr": 30, "aqua-rat": 40}),
        ("jecqa", "official", {"jec-qa-kd": 1}),
        ("medqa_usmle", "official", {"US": 3}),
        ("medqa_mcmle", "official", {"Mainland": 3}),
        ("medmcqa", "official", {"medicine": 3}),
    ],
)
def test_samples_of_every_suite_are_read(suite: str, recipe_name: str, counts: dict[str, int]) -> None:
    task = load_task(suite)
    recipe = replace(task.recipe(recipe_name), shots=0)
    for part, count in counts.items():
        (subject,) = asked_subjects(task, recipe, EVALDATA, task.split, [one for one in task.subjects if part in one])
        items = read_items(task, EVALDATA, task.split, subject, recipe)
        assert len(items) == count
        assert all(item.answer is not None for item in items)
        assert {len(item.options) for item in items} == {recipe.num_options or (5 if part[:2] in ("ls", "aq") else 4)}


def test_every_suite_names_splits_that_it_has() -> None:
    for name in task_names():
        task = load_task(name)
        if task.kind == "choice":
            assert {task.split, task.example_split} <= set(task.splits), name
