"""What `benchmarks/evaluate.py` makes of its measurements."""

import importlib.util
from pathlib import Path
from types import ModuleType

import evaluate_page
import pytest


@pytest.fixture
def evaluate() -> ModuleType:
    """The script, which shares its name with a library."""
    path = Path(__file__).parents[2] / "benchmarks" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("evaluate_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_of(way: str, seconds: float, scores: list[list[float]]) -> dict[str, object]:
    measured = {"model": "wide", "suite": "mmlu", "way": way, "seconds": seconds, "items": len(scores)}
    return {**measured, "tokens": 100 * len(scores), "scores": {"anatomy": scores}}


def test_ratios_are_taken_within_a_turn_and_answers_compared(evaluate: ModuleType) -> None:
    ours, theirs = [[-1.0, -2.0], [-3.0, -1.0]], [[-1.0, -2.25], [-0.5, -1.0]]
    runs = [run_of("ours", 1.0, ours), run_of("harness", 4.0, theirs)]
    runs += [run_of("ours", 2.0, ours), run_of("harness", 4.0, theirs)]
    (row,) = evaluate.summary(runs)
    assert row["ratios"] == [2.0, 4.0]
    assert (row["ours"], row["harness"]) == (1.5, 0.5)
    assert (row["alike"], row["largest_difference"]) == (1, 2.5)
    assert row["tokens_per_item"] == 100
    table = evaluate_page.table([row])
    assert "| **3.0** (2.0 to 4.0) | 3: met | 1 of 2 | 2.5e+00 |" in table
    row["ratios"] = [2.9]
    assert "3: **missed**" in evaluate_page.table([row])


def test_two_runs_of_different_items_are_no_pair(evaluate: ModuleType) -> None:
    runs = [run_of("ours", 1.0, [[0.0, 1.0]]), run_of("harness", 1.0, [[0.0, 1.0], [0.0, 1.0]])]
    with pytest.raises(ValueError, match="longer"):
        evaluate.summary(runs)
