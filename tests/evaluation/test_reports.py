"""Reports and comparisons, from results that are written here by hand or by a run."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.compare import compare_folders, comparison_text, write_comparison
from baichuan2.evaluation.published import published_beside, released_name
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.report import draw_scores, make_figure, read_results, report_text, write_report
from baichuan2.evaluation.results import averages, submission
from baichuan2.evaluation.suite_folder import SuiteFolder
from baichuan2.evaluation.task import load_task

SEVEN = {"name": "baichuan-inc/Baichuan2-7B-Base", "hidden_size": 4096, "layers": 32, "vocabulary": 125_696}


def record(subject: str, number: int, is_right: bool | None, prediction: str = "A") -> ItemRecord:
    return ItemRecord(
        subject=subject,
        number=str(number),
        is_right=is_right,
        answer="A",
        prediction=prediction,
        prompt_tokens=9,
        shots=5,
        prompt_sha256="",
        scores=(1.0, 0.5, 0.25, 0.0),
    )


def result_of(records: list[ItemRecord], **changes: object) -> dict:
    found = averages(records)
    values = {
        "format": 1,
        "suite": "ceval",
        "title": "C-Eval",
        "is_partial": False,
        "recipe": "official",
        "exactness": "exact",
        "source": "a|b",
        "unknown": "",
        "task_version": 1,
        "task_digest": "d" * 64,
        "split": "val",
        "shots": 5,
        "order": "shuffled",
        "changes": {},
        "chat_format": False,
        "seed": 0,
        "data": {"law": "1", "logic": "2"},
        "model": {**SEVEN, "dtype": "bfloat16", "quantization": "none", "numerics": "exact", "adapter": None},
        "metric": "accuracy",
        "average": "macro",
        "items": len(records),
        "shortened_prompts": 0,
        "score": None if found is None else found.macro,
        "interval": None if found is None else list(found.macro_interval),
        "macro": None if found is None else found.macro,
        "micro": None if found is None else found.micro,
        "chance": 0.25,
        "groups": {"Humanities": {"items": 2, "macro": 0.5, "micro": 0.5}},
        "published": None,
        "software": {"baichuan2": "0", "commit": None, "torch": "2", "transformers": "5"},
        "hardware": {"processor": "P", "accelerators": []},
        "finished": "2026",
    }
    return {**values, **changes}


def write(folder: Path, records: list[ItemRecord], **changes: object) -> Path:
    place = SuiteFolder(folder / "ceval")
    place.path.mkdir(parents=True)
    place.rewrite(records)
    place.write_result(result_of(records, **changes))
    return folder


FIRST = [record("law", n, n < 6) for n in range(8)] + [record("logic", n, n < 1) for n in range(2)]
SECOND = [record("law", n, n < 2, "B") for n in range(8)] + [record("logic", n, n < 2) for n in range(2)]


def test_averages_by_subject_and_by_item():
    found = averages([*FIRST, record("law", 9, None)])
    assert found is not None
    assert (found.items, found.micro, found.macro) == (10, 0.7, (6 / 8 + 1 / 2) / 2)
    assert averages([record("law", 1, None)]) is None


def test_a_submission_has_the_official_shape():
    assert submission([record("law", 0, None, "C"), record("law", 1, None, "B"), record("logic", 0, None, "D")]) == {
        "law": {"0": "C", "1": "B"},
        "logic": {"0": "D"},
    }


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (SEVEN, ("Baichuan2-7B-Base", True)),
        ({"name": "/models/BAICHUAN2-7b-chat-4bits"}, ("Baichuan2-7B-Chat-4bits", True)),
        ({"name": "Baichuan2-13B-Chat"}, ("Baichuan2-13B-Chat", True)),
        ({**SEVEN, "name": "mine"}, ("Baichuan2-7B-Base", False)),
        ({**SEVEN, "name": "my-chat", "hidden_size": 5120, "layers": 40}, ("Baichuan2-13B-Chat", False)),
        ({**SEVEN, "adapter": "law-lora"}, ("Baichuan2-7B-Base", False)),
        ({**SEVEN, "quantization": "int4"}, ("Baichuan2-7B-Base", False)),
        ({**SEVEN, "quantization": "none"}, ("Baichuan2-7B-Base", True)),
        ({"name": "x/Baichuan2-7B-Chat-4bits", "quantization": "nf4"}, ("Baichuan2-7B-Chat-4bits", True)),
        ({"name": "me/Baichuan2-7B-Base-law"}, ("Baichuan2-7B-Base", False)),
        ({"name": "out/Baichuan2-13B-Chat-int8"}, ("Baichuan2-13B-Chat", False)),
        ({"name": "demo-base", "hidden_size": 256, "layers": 8, "vocabulary": 4096}, None),
    ],
)
def test_the_released_model_is_known_by_name_or_shape(model, expected):
    assert released_name(model) == expected


def test_the_published_row_stands_beside_with_its_difference():
    found = published_beside(load_task("mmlu"), {"model": SEVEN, "metric": "accuracy", "score": 0.5})
    assert found is not None
    assert (found["value"], found["difference"]) == (54.16, -4.16)
    assert published_beside(load_task("mmlu"), {"model": {"name": "x"}, "metric": "accuracy", "score": 0.5}) is None


def test_a_report_shows_scores_published_ones_and_what_is_partial(tmp_path):
    published = {"model": "Baichuan2-7B-Base", "is_same_model": True, "value": 54.0, "shots": 5, "split": "test"}
    write(tmp_path, FIRST, is_partial=True, published={**published, "difference": 8.5})
    page, no_picture = write_report(tmp_path)
    text = page.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| ceval"))
    assert "**partial** | 10 | 5 | **62.50** |" in row
    assert "| 62.50 | 70.00 | 25.00 | 54.00 (Baichuan2-7B-Base, split test) | +8.50 |" in row
    assert "not all items were asked" in text
    assert "a|b" in text  # a list, where a bar means nothing
    assert no_picture is None
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_without_matplotlib_says_so(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page, no_picture = write_report(write(tmp_path, FIRST))
    assert "baichuan2[evaluate]" in str(no_picture)
    assert "![" not in page.read_text(encoding="utf-8")


def test_a_picture_takes_results_without_scores_and_bleu():
    bleu = result_of(FIRST, suite="flores", metric="bleu", score=13.2, interval=[11.0, 15.0], chance=None)
    without = result_of([record("law", 0, None)])
    assert draw_scores([bleu, without]).startswith(b"\x89PNG")
    assert draw_scores([without]).startswith(b"\x89PNG")
    text = report_text([bleu, without], has_picture=False)
    assert "**13.20** | 11.00 to 15.00" in text
    assert "no answers" in text


def test_a_picture_names_its_models():
    results = [result_of(FIRST, model={"name": name}) for name in ("Baichuan2-7B$_{", "模型", "Baichuan2-7B$_{")]
    (axes,) = make_figure(results).axes
    assert axes.get_title() == "Baichuan2-7B$_{, ??"
    assert draw_scores(results).startswith(b"\x89PNG")


@pytest.mark.parametrize(("published", "place"), [(58, 58), (95, 57), (20, 57)])
def test_a_number_in_the_picture_stands_at_its_bar_but_not_on_the_published_line(published, place):
    values = {"score": 0.54, "interval": [0.51, 0.57], "published": {"value": published}}
    (axes,) = make_figure([result_of(FIRST, **values)]).axes
    assert axes.texts[0].get_text() == "54.0"
    assert axes.texts[0].xy[1] == pytest.approx(place)


@pytest.mark.parametrize("content", [None, "stopped", "old"])
def test_folders_without_results_are_told_from_others(content, tmp_path):
    place = SuiteFolder(tmp_path / "ceval")
    place.path.mkdir()
    if content == "stopped":
        place.rewrite(FIRST)
    if content == "old":
        place.write_result({"format": 99})
    message = {None: "holds no results", "stopped": "only runs that are not finished", "old": "format 99"}[content]
    with pytest.raises(DataError, match=message):
        read_results(tmp_path)


def test_a_result_that_lacks_something_is_named(tmp_path):
    place = SuiteFolder(write(tmp_path, FIRST) / "ceval")
    result = place.result()
    assert result is not None
    del result["chance"]
    place.write_result(result)
    with pytest.raises(DataError, match=r"the result of ceval has no chance: delete its result\.json"):
        read_results(tmp_path)


def test_a_model_folder_whose_name_is_no_text(tmp_path):
    model = {**SEVEN, "name": "mod\udce4l", "dtype": "d", "quantization": "none", "numerics": "exact", "adapter": None}
    page, _ = write_report(write(tmp_path, FIRST, model=model))
    assert "mod\\udce4l" in page.read_text(encoding="utf-8")
    assert read_results(tmp_path)[0]["model"]["name"] == "mod\udce4l"


def test_a_comparison_goes_item_by_item(tmp_path):
    (found,) = compare_folders(write(tmp_path / "a", FIRST), write(tmp_path / "b", SECOND))
    assert found["items"] == 10
    assert found["first"] == (6 / 8 + 1 / 2) / 2
    assert found["difference"] == pytest.approx((-4 / 8 + 1 / 2) / 2)
    assert found["interval"][0] < found["difference"] < found["interval"][1]
    assert [(flip["subject"], flip["number"]) for flip in found["lost"]] == [("law", n) for n in "2345"]
    assert found["won"] == [{"subject": "logic", "number": "1", "answer": "A", "first": "A", "second": "A"}]
    assert found["p_value"] == 2 * (math.comb(5, 0) + math.comb(5, 1)) / 2**5
    text = comparison_text([found])
    assert "| ceval | 10 | 62.50 | 62.50 | +0.00 |" in text
    assert "## ceval: A right, B wrong" in text


def test_translations_are_compared_by_paired_resampling(tmp_path):
    text = "the cat sat on a mat and looked at the old dog while it was raining outside in town"
    texts = [" ".join(text.split()[start : start + 8]) for start in range(9)]
    good = [replace(record("zh-en", n, None, text), answer=text) for n, text in enumerate(texts)]
    bad = [replace(one, prediction=" ".join(one.answer.split()[:5])) for one in good]
    values = {"metric": "bleu", "score": 0.0, "interval": [0.0, 0.0]}
    folders = write(tmp_path / "a", good, **values), write(tmp_path / "b", bad, **values)
    (found,) = compare_folders(*folders)
    assert found["first"] == pytest.approx(100)
    assert found["interval"][0] <= found["difference"] <= found["interval"][1] < 0
    assert found["p_value"] == 2 / 200
    (same,) = compare_folders(folders[0], folders[0])
    assert (same["difference"], same["p_value"]) == (0.0, 1.0)
    assert "| ceval | 9 | 100.00 |" in comparison_text([found])


def test_a_comparison_is_kept_on_request_and_a_suite_can_be_named(tmp_path):
    folders = [write(tmp_path / "a", FIRST), write(tmp_path / "b", FIRST)]
    found = compare_folders(folders[0] / "ceval", folders[1])
    page = write_comparison(tmp_path / "new" / "out", found)
    assert json.loads(page.with_name("compare.json").read_text())[0]["p_value"] == 1.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipe": "lm-eval"}, "other recipe: official and lm-eval"),
        ({"task_digest": "e" * 64}, "other task digest"),
        ({"shots": 0}, "other shots: 5 and 0"),
        ({"seed": 1}, "other seed: 0 and 1"),
        ({"data": {"law": "9", "logic": "2"}}, "other files of the benchmark"),
    ],
)
def test_what_was_not_made_alike_is_not_compared_unless_forced(changes, named, tmp_path):
    folders = write(tmp_path / "a", FIRST), write(tmp_path / "b", SECOND, **changes)
    with pytest.raises(SettingsError, match="was not made alike") as caught:
        compare_folders(*folders)
    assert named in str(caught.value)
    (found,) = compare_folders(*folders, force=True)
    assert found["reasons"] == [named]
    assert "was not made alike" in comparison_text([found])


def test_items_of_one_side_alone_are_left_out_by_force(tmp_path):
    folders = write(tmp_path / "a", FIRST), write(tmp_path / "b", SECOND[:8])
    with pytest.raises(SettingsError, match="2 items are in one of them only"):
        compare_folders(*folders)
    assert compare_folders(*folders, force=True)[0]["items"] == 8


def test_a_log_that_is_not_its_results_is_refused(tmp_path):
    folder = write(tmp_path / "a", FIRST)
    SuiteFolder(folder / "ceval").rewrite(FIRST[:4])
    with pytest.raises(DataError, match="holds 4 items, its result is of 10"):
        compare_folders(folder, write(tmp_path / "b", SECOND))


def test_nothing_to_compare_is_told(tmp_path):
    folder = write(tmp_path / "a", FIRST)
    with pytest.raises(DataError, match="there is no folder"):
        compare_folders(folder, tmp_path / "none")
    with pytest.raises(SettingsError, match=r"holds ceval, .* holds mmlu"):
        compare_folders(folder, write(tmp_path / "b", FIRST, suite="mmlu"))
    unjudged = [record("law", 0, None)]
    with pytest.raises(SettingsError, match="no item was judged"):
        compare_folders(write(tmp_path / "c", unjudged), write(tmp_path / "d", unjudged))
