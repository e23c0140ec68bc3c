"""The script that compares planned with measured memory: a row of its table, and one real run."""

from pathlib import Path

import pytest
from finetune_memory import CASES, SHAPES, Case, measure, row_of


def test_a_row_tells_by_how_much_the_plan_is_wrong() -> None:
    run = {"name": "full", "shape": "x", "batch": 4, "tokens": 256}
    assert (
        row_of({**run, "planned": 110_000_000, "taken": 100_000_000})
        == "| full | x | 4 x 256 | 110 MB | 100 MB | +10.0% |"
    )
    assert "failed" in row_of({**run, "error": "one\ntwo"})


def test_cases_have_names_of_their_own_and_shapes_that_exist() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.shape for case in CASES} <= set(SHAPES)


@pytest.mark.slow
def test_a_real_run_takes_what_is_planned(tmp_path: Path) -> None:
    result = measure(Case("full", "rope-60M", 2, 128), tmp_path)
    assert "error" not in result, result["error"]
    assert result["planned"] == pytest.approx(result["taken"], rel=0.15)
