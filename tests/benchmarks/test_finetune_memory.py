"""The script that compares planned with measured memory: a row of its table, and one real run."""

from pathlib import Path

import pytest
from finetune_memory import CASES, SHAPES, Case, measure
from finetune_memory_page import page, row_of


def test_a_row_tells_by_how_much_the_plan_is_wrong() -> None:
    run = {"name": "full", "shape": "x", "batch": 4, "tokens": 256}
    assert (
        row_of({**run, "planned": 110_000_000, "taken": 100_000_000})
        == "| full | x | 4 x 256 | 110 MB | 100 MB | +10.0% |"
    )
    assert "failed" in row_of({**run, "error": "one\ntwo"})


def test_the_page_tells_what_was_measured_in_the_order_of_cases_and_what_was_not() -> None:
    run = {"shape": "x", "batch": 1, "tokens": 8, "planned": 90_000_000, "taken": 100_000_000}
    facts = {"command": "python this.py", "commit": "abc", "torch": "2", "transformers": "5", "machine": "two cores"}
    by_hand = {"name": "7B", "rows": "4 x 8", "planned": 20.13e9, "taken": 20.61e9, "tokens_per_second": 6552}
    report = {**facts, "cases": [{**run, "name": "b"}, {**run, "name": "a"}]}
    short = page(report, ["a", "b", "c"])
    assert "| a | x | 1 x 8 | 90 MB | 100 MB | -10.0% |\n| b |" in short
    assert "Not measured: c." in short
    assert "GPU" not in short
    whole = page({**report, "by_hand": [by_hand], "by_hand_remark": "Run by hand."}, ["a", "b"])
    assert "Run by hand.\n\n| run |" in whole
    assert "| 7B | 4 x 8 | 20.13 GB | 20.61 GB | -2.3% | 6,552 |" in whole
    assert "Not measured" not in whole


def test_cases_have_names_of_their_own_and_shapes_that_exist() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.shape for case in CASES} <= set(SHAPES)


@pytest.mark.slow
def test_a_real_run_takes_what_is_planned(tmp_path: Path) -> None:
    result = measure(Case("full", "rope-60M", 2, 128), tmp_path)
    assert "error" not in result, result["error"]
    assert result["planned"] == pytest.approx(result["taken"], rel=0.15)
