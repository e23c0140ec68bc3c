"""Task files: their tables against the facts that are public, and their recipes against the classes that read them."""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from baichuan2.errors import SettingsError
from baichuan2.evaluation.choice_recipe import ChoiceRecipe
from baichuan2.evaluation.task import Task, load_task, task_names

EVALDATA = Path(__file__).parents[2].parent / "shared" / "evaldata"
# the choice suites among the README's rows
SUITES = {
    "ceval": 52,
    "mmlu": 57,
    "cmmlu": 67,
    "gaokao": 9,
    "agieval": 19,
    "jecqa": 2,
    "medical": 17,
    "medqa_usmle": 1,
    "medqa_mcmle": 1,
    "medmcqa": 1,
}


def sizes(task: Task) -> dict[str, int]:
    """How many subjects each group has."""
    return dict(Counter(group for subject in task.subjects.values() for group in subject.groups))


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_its_subjects_and_an_official_recipe(name: str) -> None:
    task = load_task(name)
    assert len(task.subjects) == SUITES[name]
    assert next(iter(task.recipes)) == "official"
    for recipe in task.recipes.values():
        assert isinstance(recipe, ChoiceRecipe)
        assert recipe.source
        assert recipe.exactness == "exact" or recipe.unknown, "an approximation says what is unknown"
        assert set(recipe.forms) | set(recipe.titles) | set(recipe.subjects or ()) <= set(task.subjects)
        assert recipe.shots == 0 or recipe.held_out or task.example_split in task.splits


def test_groups_of_ceval() -> None:
    task = load_task("ceval")
    assert sizes(task) == {"STEM": 20, "Social Science": 10, "Humanities": 11, "Other": 11, "Hard": 8}
    hard = {name for name, subject in task.subjects.items() if "Hard" in subject.groups}
    assert hard == {
        "advanced_mathematics",
        "discrete_mathematics",
        "probability_and_statistics",
        "college_chemistry",
        "college_physics",
        "high_school_mathematics",
        "high_school_chemistry",
        "high_school_physics",
    }


@pytest.mark.skipif(not EVALDATA.is_dir(), reason="needs ../shared/evaldata")
def test_ceval_has_the_names_of_the_official_mapping() -> None:
    mapping = json.loads((EVALDATA / "ceval" / "subject_mapping.json").read_text(encoding="utf-8"))
    task = load_task("ceval")
    assert {name: [subject.title, subject.groups[0]] for name, subject in task.subjects.items()} == {
        name: [chinese, group] for name, (_, chinese, group) in mapping.items()
    }
    # the script that made the official row calls one subject by another name
    assert task.recipe("official").titles == {"mao_zedong_thought": "毛泽东思想和中国特色社会主义理论概论"}


def test_groups_of_mmlu() -> None:
    task = load_task("mmlu")
    found = sizes(task)
    categories = {name: count for name, count in found.items() if "/" not in name}
    assert categories == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14}
    assert len(found) - len(categories) == 17
    assert sum(count for name, count in found.items() if "/" in name) == 57
    assert task.subjects["anatomy"].groups == ("other", "other/health")
    assert all(subject.title == name.replace("_", " ") for name, subject in task.subjects.items())


def test_groups_of_cmmlu() -> None:
    found = sizes(load_task("cmmlu"))
    assert found == {"STEM": 17, "Humanities": 13, "Social Science": 22, "Other": 15, "China specific": 15}
    assert load_task("cmmlu").subjects["traditional_chinese_medicine"].groups == ("Other", "China specific")


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-evaluation-harness")
@pytest.mark.parametrize(
    ("suite", "pattern"), [("ceval", "ceval/ceval-valid_"), ("cmmlu", "cmmlu/cmmlu_"), ("mmlu", "mmlu/default/mmlu_")]
)
def test_the_harness_calls_every_subject_the_same(suite: str, pattern: str) -> None:
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    task = load_task(suite)
    header = task.recipe("lm-eval").form.header
    described = {}
    for path in folder.glob(f"{pattern}*.yaml"):
        text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if "!function" not in line)
        values = yaml.safe_load(text)
        described[values["dataset_name"]] = values["description"]
    assert described == {name: header.replace("{subject}", one.title) for name, one in task.subjects.items()}


def test_the_medical_subjects_are_those_of_the_readme() -> None:
    medical = load_task("medical")
    for name, subject in medical.subjects.items():
        suite, _, inner = name.partition("/")
        assert subject.title == load_task(suite).subjects[inner].title
        assert subject.groups == (load_task(suite).title,)
    assert sizes(medical) == {"C-Eval": 2, "MMLU": 8, "CMMLU": 7}
    in_english = set(medical.recipe("official").forms)
    assert in_english == {name for name in medical.subjects if name.startswith("mmlu/")}


def test_published_values_are_those_of_known_suites() -> None:
    suites = [name for name in task_names() if load_task(name).published]
    assert set(SUITES) <= set(suites)
    bases = {"Baichuan-7B", "Baichuan2-7B-Base", "Baichuan-13B-Base", "Baichuan2-13B-Base"}
    for name in suites:
        published = load_task(name).published
        assert bases <= set(published)
        assert all(0 < row["value"] < 100 and row["shots"] in (0, 3, 4, 5, 8) for row in published.values())
        shots = {row["shots"] for row in published.values()}
        assert shots == {load_task(name).recipe("official").shots}, name
    assert load_task("ceval").published["Baichuan2-13B-Base"] == {"shots": 5, "value": 58.10, "split": "test"}
    assert load_task("cmmlu").published["Baichuan2-7B-Chat-4bits"] == {"shots": 5, "value": 52.84}
    # the digest tells which prompts made a score, so a published value is not part of it
    assert load_task("mmlu").digest != load_task("cmmlu").digest


def test_what_all_suites_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    for name in ("ceval", "mmlu", "cmmlu"):
        assert load_task.__wrapped__(name) == load_task(name)
    assert read.count("published.yaml") <= 1


def test_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"unknown suite 'c-eval': did you mean ceval\?"):
        load_task("c-eval")
    with pytest.raises(SettingsError, match="gaokao has no recipe 'lm-eval': use one of official"):
        load_task("gaokao").recipe("lm-eval")
