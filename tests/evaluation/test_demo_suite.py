"""Suite `demo`: the demo model knows its facts, four bits keep nearly all of them, and an untrained model guesses.

A part of the questions; all of them, and all formats: `benchmarks/evaluate_demo.py` and its page.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan2.checkpoints.load import LoadedModel, load_model
from baichuan2.evaluation.run import evaluate_suite
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.settings import EvaluationSettings, LoadSettings

LIMIT = 12  # of each of the eleven relations
SETTINGS = EvaluationSettings(suite="demo", limit=LIMIT)


def score(loaded: Any, suite: str = "demo") -> dict[str, Any]:
    return evaluate_suite(suite, SETTINGS, loaded, lambda *_: None)


@pytest.fixture(scope="module")
def base() -> Any:
    return load_model(settings=LoadSettings(model="demo-base", device="cpu"))


@pytest.fixture(scope="module")
def sixteen_bits(base: Any) -> Mapping[str, Any]:
    return score(base)


def test_the_demo_model_knows_its_facts(sixteen_bits: Mapping[str, Any]) -> None:
    assert sixteen_bits["items"] > 10 * LIMIT
    assert sixteen_bits["chance"] == 0.25
    assert sixteen_bits["interval"][0] > 0.9  # the page has 0.97 of all


def test_four_bits_keep_nearly_all_of_them(sixteen_bits: Mapping[str, Any]) -> None:
    four_bits = score(load_model(settings=LoadSettings(model="demo-base", device="cpu", quantize="int4")))
    assert four_bits["model"]["quantization"] == "int4"
    assert sixteen_bits["score"] - 0.06 < four_bits["score"] < sixteen_bits["score"] + 0.03


def test_an_untrained_model_of_the_same_shape_guesses(base: Any) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BaichuanForCausalLM(base.model.config).eval()
    found = score(LoadedModel(model=model, tokenizer=base.tokenizer, generation_config=None, name="untrained"))
    assert found["interval"][0] < 0.25 < found["interval"][1]


def test_the_questions_come_with_the_package_and_need_no_data(base: Any, tmp_path: Path) -> None:
    """Another folder named by --data changes nothing."""
    settings = EvaluationSettings(suite="demo_letters", limit=1, data=str(tmp_path))
    assert evaluate_suite("demo_letters", settings, base, lambda *_: None)["items"] == 11
