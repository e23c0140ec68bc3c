"""Checkpoints of one training run: found, put in order, evaluated one after the other, and drawn."""

import contextlib
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.evaluation import revisions
from baichuan2.evaluation.dynamics import BILLIONS, PUBLISHED, Dynamics, Point, make_figure, published_score, table
from baichuan2.evaluation.revisions import OFFICIAL, evaluate_revisions, find_revisions
from baichuan2.settings import EvaluationSettings, LoadSettings
from tests.checkpoints.folders import write_folder

CPU = LoadSettings(device="cpu", threads=1)


class Listener:
    """What an evaluation tells."""

    def __init__(self) -> None:
        self.suites: list[tuple[str, int]] = []
        self.finished: list[str] = []
        self.remarks: list[str] = []
        self.pages: list[Path] = []

    def suite(self, plan, place, answered):
        self.suites.append((place.parent.name, answered))
        return contextlib.nullcontext(lambda *_: None)

    def finished_before(self, plan, place):
        self.finished.append(place.parent.name)

    def written(self, page, no_picture):
        self.pages.append(page)

    def remark(self, text):
        self.remarks.append(text)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model") / "tiny", "7b", "safetensors")


@pytest.fixture
def run_folder(model, tmp_path) -> Path:
    """What a fine-tuning run leaves: checkpoints whose names sort wrongly as text, the end result, and other things."""
    folder = tmp_path / "out"
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-3", "final"):
        shutil.copytree(model, folder / name)
    (folder / "runs").mkdir()
    (folder / ".checkpoint-200.tmp").mkdir()
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    """Two subjects of C-Eval, with two examples and three questions each."""
    head = ["id", "question", *"ABCD", "answer"]
    for subject in ("law", "logic"):
        for split, count in (("dev", 2), ("val", 3)):
            path = tmp_path / "ceval" / split / f"{subject}_{split}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                rows = [head, *([n, f"第{n}题", "一", "二", "三", "四", "ABCD"[n % 4]] for n in range(count))]
                csv.writer(file).writerows(rows if split == "val" else [[*row, "-"] for row in rows])
    return tmp_path


def test_a_run_of_our_own_in_the_order_of_its_steps(run_folder) -> None:
    found, others = find_revisions(str(run_folder), CPU)
    assert [(one.name, one.at, one.unit) for one in found] == [
        ("checkpoint-3", 3, "steps"),
        ("checkpoint-20", 20, "steps"),
        ("checkpoint-100", 100, "steps"),
    ]
    assert found[0].load == replace(CPU, model=str(run_folder / "checkpoint-3"))
    assert others == ["final"]


def test_checkpoints_of_an_adapter_go_on_the_model_that_is_named(tmp_path) -> None:
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "adapter_config.json").write_text("{}")
    found, _ = find_revisions(str(tmp_path), replace(CPU, model="demo-base"))
    assert [(one.load.model, one.load.adapter) for one in found] == [
        ("demo-base", str(tmp_path / "checkpoint-5")),
        ("demo-base", str(tmp_path / "checkpoint-10")),
    ]


def test_the_official_revisions_are_branches_of_one_repository() -> None:
    found, _ = find_revisions("official", CPU)
    assert [one.name for one in found] == list(OFFICIAL)
    assert (OFFICIAL[0], OFFICIAL[-1], len(OFFICIAL)) == ("train_00220B", "train_02420B", 11)
    assert {one.load.model for one in found} == {revisions.REPOSITORY}
    assert found[3].load.revision == "train_00880B"
    assert found[3].at == 880
    some, _ = find_revisions("train_02200B,train_00220B", replace(CPU, model="owner/name"))
    assert [(one.load.model, one.load.revision) for one in some] == [
        ("owner/name", "train_00220B"),
        ("owner/name", "train_02200B"),
    ]


def test_a_model_can_be_given_a_place_on_the_curve(model) -> None:
    text = f"train_02640B={model},train_00220B=baichuan-inc/Some-Model"
    found, _ = find_revisions(text, CPU)
    assert [(one.name, one.at, one.load.model, one.load.revision) for one in found] == [
        ("train_00220B", 220, "baichuan-inc/Some-Model", None),
        ("train_02640B", 2640, str(model), None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train_00220B", "no such folder; for revisions on the hub name the repository with --model"),
        ("main=owner/name", "--revisions main: the name does not tell how far"),
        ("train_00220B=a/b,220B=c/d", "train_00220B and 220B are at the same place"),
        ("train_00220B=a/b,checkpoint-5=c/d", "train_00220B counts tokens and checkpoint-5 steps"),
        ("checkpoint-5=", "checkpoint-5= names no model behind"),
    ],
)
def test_lists_that_make_no_curve_are_refused(text, message) -> None:
    with pytest.raises(SettingsError, match=message):
        find_revisions(text, CPU)


def test_a_folder_without_checkpoints_says_what_they_are_called(tmp_path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(SettingsError, match="they are called checkpoint-100 or train_00220B"):
        find_revisions(str(tmp_path), CPU)


def test_a_checkpoint_without_all_its_weights_is_found_before_the_first_is_run(run_folder, data) -> None:
    (run_folder / "checkpoint-100" / "model.safetensors").unlink()
    settings = EvaluationSettings(suite="ceval", data=str(data), revisions=str(run_folder), output_dir=str(data / "r"))
    with pytest.raises(CheckpointError, match="checkpoint-100"):
        evaluate_revisions(settings, CPU, Listener())
    assert not (data / "r").exists()


def test_each_checkpoint_has_its_results_and_a_second_run_does_nothing_anew(run_folder, data) -> None:
    settings = EvaluationSettings(
        suite="ceval",
        shots=0,
        data=str(data),
        subjects="law,logic",
        revisions=str(run_folder),
        output_dir=str(data / "r"),
    )
    first = Listener()
    found = evaluate_revisions(settings, CPU, first)
    names = ["checkpoint-3", "checkpoint-20", "checkpoint-100"]
    assert first.suites == [(name, 0) for name in names]
    assert first.remarks[0] == "left out, as their names tell no steps or tokens: final"
    assert [(point.revision, point.at, point.suite, point.items) for point in found.points] == [
        (name, at, "ceval", 6) for name, at in zip(names, (3, 20, 100), strict=True)
    ]
    assert len({point.score for point in found.points}) == 1  # one model, three times
    assert all(point.published is None for point in found.points)
    for point in found.points:
        result = json.loads((data / "r" / point.revision / "ceval" / "result.json").read_text(encoding="utf-8"))
        assert (point.score, point.is_partial) == (result["score"], True)
    written = json.loads((data / "r" / "dynamics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(found.to_dict()))
    assert (data / "r" / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    shutil.rmtree(data / "r" / "checkpoint-20")
    second = Listener()
    assert evaluate_revisions(settings, CPU, second) == found
    assert second.finished == ["checkpoint-3", "checkpoint-100"]
    assert second.suites == [("checkpoint-20", 0)]


def point(at: int, score: float | None, **changes: object) -> Point:
    values = {"revision": f"train_{at:05d}B", "at": at, "suite": "mmlu", "title": "MMLU", "metric": "accuracy",
              "recipe": "official", "score": score, "interval": (0.2, 0.4), "chance": 0.25, "items": 100,
              "is_partial": False, "published": published_score("mmlu", at)}  # fmt: skip
    return Point(**{**values, **changes})


def test_the_published_curve() -> None:
    assert published_score("ceval", 220) == 23.9
    assert published_score("cmmlu", 2640) == 57.1
    assert published_score("mmlu", 230) is None
    assert published_score("bbh", 220) is None
    assert {len(values) for values in PUBLISHED.values()} == {12}


REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "baichuan2.md"


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the collected facts are not beside this checkout")
def test_the_published_curve_is_the_one_that_was_read_off_the_chart() -> None:
    text = REFERENCE.read_text(encoding="utf-8").partition("5-shot scores [chart]:")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[:5]]
    assert rows[0][1:] == [str(place) for place in BILLIONS]
    found = {row[0].lower().replace("-", ""): tuple(map(float, row[1:])) for row in rows[2:]}
    assert found == PUBLISHED


def test_the_picture_and_the_table_show_what_was_measured() -> None:
    points = (
        point(440, 0.35),
        point(220, 0.3),
        point(220, 12.5, suite="flores", title="Flores", metric="bleu", chance=None, interval=None, published=None),
        point(660, None),
    )
    dynamics = Dynamics(unit="tokens", points=points)
    axes = make_figure(dynamics).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["MMLU", "MMLU, published", "Flores", "guessing (25)"]
    assert lines["MMLU"].get_xydata().tolist() == [[220, 30], [440, 35]]
    assert lines["Flores"].get_xydata().tolist() == [[220, 12.5]]
    assert lines["MMLU, published"].get_xydata().tolist()[:2] == [[220, 24.3], [440, 33.3]]
    assert lines["MMLU"].get_color() == lines["MMLU, published"].get_color() != lines["Flores"].get_color()
    assert axes.get_xlabel() == "training tokens, billions"
    assert axes.get_ylim()[0] == axes.get_xlim()[0] == 0
    rows = table(dynamics).splitlines()
    assert rows[0] == "| checkpoint | tokens, billions | MMLU | MMLU, published | Flores |"
    assert "| train_00220B | 220 | 30.0 (20.0 to 40.0) | 24.3 | 12.5 |" in rows
    assert "| train_00660B | 660 | unknown | 46.6 |  |" in rows
    assert "Guessing gives: MMLU 25.0." in rows[-1]
