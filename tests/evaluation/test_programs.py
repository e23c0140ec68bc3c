"""HumanEval and MBPP: files, prompts, where a program begins and ends, and who is right."""

import gzip
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jinja2
import pytest
import yaml

from baichuan2.cli.main import main
from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation import code_layouts, plan, programs
from baichuan2.evaluation.choices import Question
from baichuan2.evaluation.data import read_examples, read_items
from baichuan2.evaluation.generation import Generated
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.program_texts import PROGRAMS
from baichuan2.evaluation.programs import answer_programs, judged
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.run import evaluate
from baichuan2.evaluation.sandbox.judging import Isolation, Verdict, find_isolation
from baichuan2.evaluation.task import load_task
from baichuan2.evaluation.text_prompts import FittedText, example_chooser, text_prompt
from baichuan2.evaluation.text_recipe import TextRecipe
from baichuan2.evaluation.texts import grade
from baichuan2.settings import EvaluationSettings
from tests.checkpoints.folders import write_folder
from tests.evaluation.small_suite import LOAD, Listener

SAMPLES = Path("../shared/evaldata")
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples of the benchmarks are not here")
RECIPES = ("official", "lm-eval", "opencompass")


def _has_sandbox() -> bool:
    try:
        return bool(find_isolation("sandbox"))
    except SettingsError:
        return False


needs_sandbox = pytest.mark.skipif(not _has_sandbox(), reason="this machine has no namespaces or filters of calls")

HUMANEVAL = [
    {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def add{number}(a, b):\n    """Adds {{a}} and b."""\n',
        "entry_point": f"add{number}",
        "canonical_solution": "    return a + b\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    for number in range(3)
]
MBPP = [
    {
        "text": f"Write a function to add {number}.",
        "code": f"def add(a):\r\n  return a + {number} ",
        "task_id": number,
        "test_setup_code": "",
        "test_list": [f"assert add({a}) == {a + number} " for a in range(3)],
        "challenge_test_list": [],
    }
    for number in range(1, 14)
]


def _write(path: Path, rows: list, *, packed: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    _write(tmp_path / "data" / "humaneval" / "HumanEval.jsonl.gz", HUMANEVAL, packed=True)
    _write(tmp_path / "data" / "mbpp" / "mbpp.jsonl", MBPP)
    return tmp_path / "data"


def _settings(suite: str, data: Path, **more) -> EvaluationSettings:
    return EvaluationSettings(**{"suite": suite, "data": str(data), "generated_code": "sandbox", **more})


# files


def test_humaneval_is_read_packed_or_not(data, tmp_path):
    task = load_task("humaneval")
    packed = read_items(task, data, "test", "main")
    _write(tmp_path / "plain" / "HumanEval.jsonl", HUMANEVAL)
    assert packed == read_items(task, tmp_path / "plain", "test", "main")
    assert [item.number for item in packed] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert packed[1].question == HUMANEVAL[1]["prompt"]
    assert packed[1].details["tests"] == HUMANEVAL[1]["test"] + "\ncheck(add1)"


def test_mbpp_has_its_splits_in_one_file(data):
    task = load_task("mbpp")
    items = read_items(task, data, "test", "main")
    assert [item.number for item in items] == ["11", "12", "13"]
    assert items[0].reference == "def add(a):\r\n  return a + 11 "
    assert [item.number for item in read_examples(task, data, "test", "main")] == ["2", "3", "4"]
    with pytest.raises(DataError, match="holds no question that is asked"):
        read_items(task, data, "train", "main")


WRONG = {
    "no JSON": ("mbpp", b"{\n", "line 1 is no JSON"),
    "no object": ("mbpp", b"\n[1]\n", "line 2: expected an object, got \\[1\\]"),
    "nested": ("mbpp", b"[" * 100_000, "line 1 is no JSON"),
    "no number": ("mbpp", json.dumps({**MBPP[0], "task_id": "x"}).encode(), "line 1 task_id: expected a whole number"),
    "no tests": ("mbpp", json.dumps({**MBPP[0], "test_list": []}).encode(), "line 1 test_list: expected a list"),
    "twice": ("mbpp", (json.dumps(MBPP[0]) + "\n").encode() * 2, "line 2 task_id: 1 stands in an earlier line"),
    "no prompt": ("humaneval", json.dumps({**HUMANEVAL[0], "prompt": None}).encode(), "line 1 prompt: expected a text"),
    "other function": (
        "humaneval",
        json.dumps({**HUMANEVAL[0], "entry_point": "sub"}).encode(),
        "line 1 prompt: it does not define sub",
    ),
    "statement for a name": (
        "humaneval",
        json.dumps({**HUMANEVAL[0], "entry_point": "add0) or print("}).encode(),
        "line 1 entry_point: expected the name of a function",
    ),
    "torn": ("humaneval", gzip.compress(json.dumps(HUMANEVAL[0]).encode())[:-9], "cannot be unpacked: .*download it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_told(name, tmp_path):
    suite, content, message = WRONG[name]
    path = tmp_path / suite / {"mbpp": "mbpp.jsonl", "humaneval": "HumanEval.jsonl.gz"}[suite]
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_items(load_task(suite), tmp_path, "prompt" if suite == "mbpp" else "test", "main")


def test_a_file_that_unpacks_without_end(data, monkeypatch):
    monkeypatch.setattr(code_layouts, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="holds more than 0 MiB"):
        read_items(load_task("humaneval"), data, "test", "main")


# prompts


def test_prompts_of_humaneval(data):
    question = HUMANEVAL[0]["prompt"]
    for name, expected in zip(
        RECIPES, (question, question, f"Complete the following python code:\n{question}"), strict=True
    ):
        recipe, asked = _asked("humaneval", name, data)
        assert text_prompt(recipe, "", asked.examples, asked.item) == expected


def test_prompts_of_mbpp(data):
    def head(number: int) -> str:
        return (
            f"You are an expert Python programmer, and here is your task: Write a function to add {number}. "
            "Your code should pass these tests:\n\n"
        )

    for name in ("official", "opencompass"):
        recipe, asked = _asked("mbpp", name, data)
        blocks = [
            f"{head(n)} assert add(0) == {n} \n assert add(1) == {n + 1} \n assert add(2) == {n + 2} \n\n"
            f"[BEGIN]\n 'def add(a):\r\n  return a + {n}' \n[DONE] \n\n \n"
            for n in (2, 3, 4)
        ]
        last = f"{head(11)} assert add(0) == 11 \nassert add(1) == 12 \nassert add(2) == 13   \n\n[BEGIN]\n"
        assert text_prompt(recipe, "", asked.examples, asked.item) == "".join(blocks) + last
    recipe, asked = _asked("mbpp", "lm-eval", data)
    tests = {n: f"assert add(0) == {n} \nassert add(1) == {n + 1} \nassert add(2) == {n + 2} \n" for n in (2, 3, 4, 11)}
    blocks = [f"{head(n)}{tests[n]}[BEGIN]\ndef add(a):\r\n  return a + {n} \n[DONE]\n\n" for n in (2, 3, 4)]
    expected = "".join(blocks) + f"{head(11)}{tests[11]}[BEGIN]\n"
    assert text_prompt(recipe, "", asked.examples, asked.item) == expected


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness is not installed")
@pytest.mark.parametrize("suite", ["humaneval", "mbpp"])
def test_prompts_and_stops_are_those_of_the_harness(suite, data):
    """Its task files, rendered as it renders them; its Python code is not run, as that asks a server for a metric."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!function", lambda *_: None)
    file = Path(spec.origin).parent / "tasks" / suite / f"{suite}.yaml"
    theirs = yaml.load(file.read_text(encoding="utf-8"), Loader)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    ask, answer = (environment.from_string(theirs[name]) for name in ("doc_to_text", "doc_to_target"))
    rows = {str(row["task_id"]): row for row in (*HUMANEVAL, *MBPP)}
    recipe, asked = _asked(suite, "lm-eval", data)
    examples = [rows[one.number] for one in asked.examples]
    shown = [ask.render(**row) + answer.render(**row, is_fewshot=True) + "\n\n" for row in examples]
    assert text_prompt(recipe, "", asked.examples, asked.item) == "".join(shown) + ask.render(**rows[asked.item.number])
    assert recipe.shots == theirs["num_fewshot"]
    assert list(recipe.stop) == theirs["generation_kwargs"]["until"]
    assert recipe.max_new_tokens == theirs["generation_kwargs"].get("max_gen_toks", 256)
    assert asked.item.details["tests"].strip() == answer.render(**rows[asked.item.number]).strip()


def _asked(suite: str, name: str, data: Path) -> tuple[TextRecipe, Question]:
    task = load_task(suite)
    recipe = task.recipe(name)
    examples = read_examples(task, data, task.split, "main", recipe) if recipe.shots else []
    item = read_items(task, data, task.split, "main", recipe)[0]
    return recipe, Question(item, example_chooser(recipe, examples)(item), "")


# where a program begins and ends

ITEM = Item(subject="main", number="0", question="def f(x):\n")
BODIES = {
    "    return x\n": "    return x\n",
    "    y = x\n\n    return y": "    y = x",
    "return x": "    return x",
    " return x": "    return x",
    "y = x\nreturn y": "    y = x\n    return y",
    "def f(x):\n    return x": "    return x",
    "```python\ndef f(x):\n    return x\n```": "    return x\n",
    "```\n    return x\n``` and so on": "\n    return x\n",
    "import math\ndef f(x):\n    return math.pi": "    return math.pi",
    "from math import pi\n    return pi": "    from math import pi\n        return pi",
    "": "    ",
    "```": "    ",
    "\n\n": "    ",
}


@pytest.mark.parametrize("text", BODIES)
def test_body_of_a_function(text):
    expected = BODIES[text]
    found = PROGRAMS["function_body"](text, ITEM)
    assert found.startswith(ITEM.question)
    assert "".join(found.removeprefix(ITEM.question)) in (expected, "    " + expected.replace("\n", "\n    "))


DONE = {
    "def f(): pass": "def f(): pass",
    " 'def f(): pass' \n[DONE]\n more": "def f(): pass",
    "'def f(): pass'\nDONE": "def f(): pass",
    "[BEGIN]\n 'def f(): pass'\n[DONE]": "def f(): pass",
    "[DONE]": "",
    "": "",
    "'": "",
    "x = 'a'\n": "x = 'a'",
    "'def f():\r\n  return 'a'' \n[DONE] \n\n You are": "def f():\r\n  return 'a'",
    "'def f(): pa": "def f(): pa",
}


@pytest.mark.parametrize("text", DONE)
def test_code_until_done(text):
    assert PROGRAMS["until_done"](text, ITEM) == DONE[text]


BLOCKS = {
    "    return x": "    return x",
    "Sure:\n```python\ndef f(x):\n    return 1\n```\nand\n```\n2\n```": "def f(x):\n    return 1\n",
    "```\nreturn\n```": "return\n",
    "```python\nnever closed": "```python\nnever closed",
    "```": "```",
}


@pytest.mark.parametrize("text", BLOCKS)
def test_first_block(text):
    assert PROGRAMS["first_block"](text, ITEM) == ITEM.question + BLOCKS[text]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("rule", PROGRAMS)
@pytest.mark.parametrize(
    "unit", ["```", "'", "\n\n", "\n", "def\n", " ", "[BEGIN]", "[DONE]", "'  ", "\0", "\ud800", "`\n"]
)
def test_hostile_texts_take_no_time(rule, unit):
    PROGRAMS[rule](unit * 200_000, ITEM)


# who is right


def _record(suite: str, recipe: str, item: Item, text: str) -> ItemRecord:
    prompt, generated = (
        FittedText("", (), 0, 0),
        Generated(text=text, finish_reason="stop", num_new_tokens=1, num_reused_tokens=0),
    )
    return grade(load_task(suite).recipe(recipe), Question(item, (), ""), prompt, generated)


def _answers(monkeypatch, suite: str, recipe: str, items: list[Item], texts: list[str]) -> list[ItemRecord]:
    """The records of a model that says these texts, by the numbers of their items."""
    records = [_record(suite, recipe, item, text) for item, text in zip(items, texts, strict=True)]
    monkeypatch.setattr(programs, "answer_texts", lambda *_, **__: iter(records))
    questions = [Question(item, (), "") for item in items]
    found = answer_programs(None, load_task(suite).recipe(recipe), questions, isolation=Isolation())
    return sorted(found, key=lambda record: [item.number for item in items].index(record.number))


@needs_sandbox
@needs_samples
@pytest.mark.parametrize(
    ("suite", "recipe", "step"),
    [
        ("humaneval", "lm-eval", 4),
        ("mbpp", "official", 4),
        pytest.param("humaneval", "opencompass", 1, marks=pytest.mark.slow),
        pytest.param("mbpp", "lm-eval", 1, marks=pytest.mark.slow),
    ],
)
def test_reference_programs_are_right_and_others_wrong(monkeypatch, suite, recipe, step):
    items = read_items(load_task(suite), SAMPLES, "test", "main")[::step]
    records = _answers(monkeypatch, suite, recipe, items, [str(item.reference) for item in items])
    assert [record.details for record in records if not record.is_right] == []
    assert len(records) == 40 // step
    few = items[:4]
    records = _answers(monkeypatch, suite, recipe, few, ["    return NotImplemented\n"] * 4)
    assert [record.is_right for record in records] == [False] * 4


@needs_samples
def test_references_that_the_official_recipe_cuts():
    """It ends a body at its first empty line, so that some references are cut, and only these."""
    task = load_task("humaneval")
    recipe = task.recipe("official")
    items = read_items(task, SAMPLES, "test", "main")
    rule = PROGRAMS[recipe.extract]
    whole = [item.question + str(item.reference).rstrip("\n") for item in items]
    found = [rule(str(item.reference), item).rstrip("\n") for item in items]
    cut = [item for item, one, other in zip(items, whole, found, strict=True) if one != other]
    with_empty_line = [item for item in items if "\n\n" in str(item.reference).rstrip("\n")]
    assert 0 < len(cut) < len(items)
    assert cut == with_empty_line


@needs_sandbox
def test_what_a_record_says(monkeypatch, data):
    items = read_items(load_task("humaneval"), data, "test", "main")
    texts = ["    return a + b\n\n\nprint(", "    return a", "    raise ValueError(object())"]
    records = _answers(monkeypatch, "humaneval", "official", items, texts)
    assert [record.is_right for record in records] == [True, False, False]
    assert [record.details["outcome"] for record in records] == ["passed", "failed", "error"]
    assert records[2].details["error"] == "ValueError: <object object at 0x...>"
    assert records[0].prediction == items[0].question + "    return a + b"
    assert records[0].output == texts[0]


def test_nobody_knows_where_the_sandbox_failed():
    record = _record("mbpp", "official", replace(ITEM, reference="x"), "x")
    assert judged(record, Verdict("unknown", "no answer")).is_right is None
    assert judged(record, Verdict("timeout")).is_right is False


# the whole way


def test_nothing_is_asked_without_leave(data, capsys):
    command = ["evaluate", "humaneval", "--data", str(data), "-m", "no-such-model"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "pass --generated-code sandbox to run them in a sandbox" in told
    assert len(told.strip().splitlines()) == 1


@needs_sandbox
@pytest.mark.parametrize("suite", ["humaneval", "mbpp"])
def test_a_model_is_asked(suite, data, tmp_path, monkeypatch):
    task = load_task(suite)
    short = {name: replace(recipe, max_new_tokens=8) for name, recipe in task.recipes.items()}
    monkeypatch.setattr(plan, "load_task", lambda _: replace(task, recipes=short))
    write_folder(tmp_path / "model", "13b" if suite == "mbpp" else "7b", "safetensors")
    load = replace(LOAD, model=str(tmp_path / "model"))
    settings = _settings(suite, data, output_dir=str(tmp_path / "out"), shots=0)
    (result,) = evaluate(settings, load, Listener())
    assert (result["items"], result["score"], result["metric"]) == (3, 0.0, "pass@1")
    assert sum(result["outcomes"].values()) == 3
    assert result["sandbox"]["policy"] == "sandbox"
    lines = (tmp_path / "out" / suite / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["details"]["outcome"] in ("failed", "error", "exited") for line in lines)
    (again,) = evaluate(settings, load, Listener(), lambda _: pytest.fail("the model was loaded"))
    assert again == result
