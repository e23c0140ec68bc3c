"""Greedy text with our kernels and steps in C is the text of the oracle, torch alone, in every format of weights."""

import json
import os
import subprocess
import sys

import pytest
from tests.e2e.conftest import ROOT
from tests.e2e.demo_texts import FORMATS, replies

from baichuan2.engine import generate
from baichuan2.engine.processor import ProcessorModel, processor_model
from baichuan2.kernels import steps
from baichuan2.kernels.products import INSTRUCTIONS, instructions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not steps.is_available() or instructions() == INSTRUCTIONS[0], reason="no kernels of our own here"
    ),
]


@pytest.fixture(scope="module")
def oracle() -> dict[str, list[list[int]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.demo_texts"],
        cwd=ROOT,
        env=os.environ | {"BAICHUAN2_KERNELS": "off", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[list[int]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("way", ["steps", "products alone"])
@pytest.mark.parametrize("name", FORMATS)
def test_greedy_text_is_the_oracles(name, way, oracle, monkeypatch):
    monkeypatch.setattr(steps, "most_rows", lambda *_: steps.MOST_ROWS if way == "steps" else 0)
    models = []
    monkeypatch.setattr(generate, "processor_model", lambda model: models.append(processor_model(model)) or models[-1])
    found = replies(name)
    assert found == oracle[name]
    assert len({tuple(ids) for ids in found}) == len(found)  # the model does not babble
    assert {isinstance(model, ProcessorModel) for model in models} == {way == "steps"}
    if way == "steps":
        assert replies(name, kv_cache="int8") == oracle[name]
