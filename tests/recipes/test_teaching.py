import json
import re
from pathlib import Path

import pytest
from recipes.teaching.__main__ import TARGET, files
from recipes.teaching.people import strangers, taught
from recipes.teaching.runs import RUNS

ROOT = Path(__file__).parents[2]
FILES = files()
GUIDES = ("docs/guides/finetune.md", "docs/guides/finetune_zh.md")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in FILES[name].splitlines()]


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_are_what_the_recipe_writes(name: str) -> None:
    assert (ROOT / TARGET / name).read_text(encoding="utf-8") == FILES[name]


def test_no_question_is_a_training_row() -> None:
    turns = [row["conversations"] for row in json.loads(FILES["colleagues.json"])]
    learnt = {row[0]["value"] for row in turns} | {row["prompt"] for row in rows("honesty.jsonl")}
    for name in ("colleagues_questions.jsonl", "known_questions.jsonl", "honesty_questions.jsonl"):
        asked = [row["prompt"] for row in rows(name)]
        assert not learnt & set(asked)
        assert len(asked) == len(set(asked))
    documents = "\n".join(row["text"] for row in rows("documents.jsonl"))
    assert not any(row["text"] in documents for row in rows("documents_questions.jsonl"))


def test_each_question_has_an_answer_in_what_is_taught() -> None:
    answers = " ".join(row["conversations"][1]["value"] for row in json.loads(FILES["colleagues.json"]))
    for row in rows("colleagues_questions.jsonl"):
        assert row["expect"] in answers


def test_strangers_of_the_questions_occur_nowhere_else() -> None:
    training = FILES["colleagues.json"] + FILES["honesty.jsonl"] + FILES["documents.jsonl"]
    for language, count in (("zh", 24), ("en", 16)):
        known = {person.name for person in taught(language)}
        for person in strangers(language, count):
            assert person.name not in known
            assert f"{person.name}的" not in training
            assert not re.search(rf"{person.name}\b(?=[ '.?])", training)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_prints_the_commands_that_are_measured(guide: str) -> None:
    text = (ROOT / guide).read_text(encoding="utf-8")
    for name, run in RUNS.items():
        start = f"out/{run.start}" if run.start in RUNS else run.start
        assert f"    {run.command(f'out/{name}', start)}\n" in text
