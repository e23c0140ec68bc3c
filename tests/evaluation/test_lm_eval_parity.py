"""`--recipe lm-eval` beside lm-evaluation-harness itself, item by item, on the demo model and the sample data.

The harness runs with its own task files and templates; see `lm_eval_peer`. Its data are read by `hub_rows`, ours by the
package, from the same files.
"""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from baichuan2.checkpoints.load import load_model
from baichuan2.evaluation.records import ItemRecord, record_of
from baichuan2.evaluation.run import evaluate_suite
from baichuan2.settings import EvaluationSettings, LoadSettings
from tests.evaluation import hub_rows
from tests.evaluation.lm_eval_peer import OWN_WARNINGS, Peer, PeerSample

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install -e '.[dev]'")
pytestmark = [
    pytest.mark.skipif(not hub_rows.DATA.is_dir(), reason=f"no sample data in {hub_rows.DATA}"),
    *[pytest.mark.filterwarnings(warning) for warning in OWN_WARNINGS],
]

LONG, SHORT = 2048, 512  # tokens: room for every prompt here; the demo model's own, for which prompts are cut
TOLERANCE = {
    "abs": 1e-4,
    "rel": 2**-22,
}  # of a log-likelihood; the harness adds up in float32: two steps of its last bit


@pytest.fixture(scope="module")
def loaded() -> Any:
    """The demo Base in float32; its positions go on behind the 512 that it was trained on."""
    return load_model(settings=LoadSettings(model="demo-base", dtype="float32"))


@pytest.fixture
def long(loaded: Any) -> Iterator[Any]:
    loaded.model.config.model_max_length = LONG
    yield loaded
    loaded.model.config.model_max_length = SHORT


def ours(loaded: Any, folder: Path, suite: str, data: Path = hub_rows.DATA, **settings: Any) -> list[ItemRecord]:
    """The records of a suite in the order of its files."""
    chosen = EvaluationSettings(
        suite=suite, data=str(data), recipe="lm-eval", output_dir=str(folder / "ours"), log_prompts=True, **settings
    )
    evaluate_suite(suite, chosen, loaded, lambda *_: None)
    lines = (folder / "ours" / suite / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [record_of(line) for line in lines]


def assert_same_choices(records: list[ItemRecord], samples: list[PeerSample], metric: str = "acc") -> None:
    """The same prompts, to the letter; log-likelihoods within the tolerance; the same choices, right or wrong."""
    assert len(records) == len(samples) > 0
    for record, sample in zip(records, samples, strict=True):
        assert record.details["prompt"] == sample.context
        assert record.prompt_sha256 == sha256(sample.context.encode()).hexdigest()
        assert record.scores == pytest.approx(sample.logprobs, **TOLERANCE)
        best = max(range(len(sample.logprobs)), key=sample.logprobs.__getitem__)
        assert record.prediction == "ABCDE"[best]
        assert record.is_right == bool(sample.metrics["none"][metric])


CHOICES: dict[str, tuple[str, str, Any]] = {
    "ceval law": ("ceval-valid_law", "ceval/ceval-valid_law.yaml", hub_rows.ceval),
    "ceval college_physics": ("ceval-valid_college_physics", "ceval/ceval-valid_college_physics.yaml", hub_rows.ceval),
    "cmmlu agronomy": ("cmmlu_agronomy", "cmmlu/cmmlu_agronomy.yaml", hub_rows.cmmlu),
    "cmmlu college_mathematics": ("cmmlu_college_mathematics", "cmmlu/cmmlu_college_mathematics.yaml", hub_rows.cmmlu),
    "mmlu anatomy": ("mmlu_anatomy", "mmlu/default/mmlu_anatomy.yaml", hub_rows.mmlu),
}


@pytest.mark.parametrize("case", CHOICES)
def test_suites_with_examples(long: Any, tmp_path: Path, case: str) -> None:
    task, path, read = CHOICES[case]
    suite, subject = case.split()
    rows = {split: read(subject, split) for split in ("dev", "val" if suite == "ceval" else "test")}
    peer = Peer.of(long.model, long.tokenizer, tmp_path, max_length=LONG)
    samples = peer.ask(task, path, rows, shots=3, limit=2)
    assert_same_choices(ours(long, tmp_path, suite, subjects=subject, shots=3, limit=2), samples)


def test_a_prompt_that_is_too_long_loses_its_beginning(loaded: Any, tmp_path: Path) -> None:
    rows = {split: hub_rows.mmlu("anatomy", split) for split in ("dev", "test")}
    peer = Peer.of(loaded.model, loaded.tokenizer, tmp_path, max_length=SHORT)
    samples = peer.ask("mmlu_anatomy", "mmlu/default/mmlu_anatomy.yaml", rows, shots=5, limit=2)
    records = ours(loaded, tmp_path, "mmlu", subjects="anatomy", shots=5, limit=2)
    assert all(record.details["cut"] > 0 and record.prompt_tokens == SHORT for record in records)
    assert_same_choices(records, samples)


@pytest.mark.parametrize("subject", ["gaokao-biology", "sat-math", "lsat-lr"])  # without and with passages
def test_agieval_compares_the_options_as_texts(long: Any, tmp_path: Path, subject: str) -> None:
    task = f"agieval_{subject.replace('-', '_')}"
    peer = Peer.of(long.model, long.tokenizer, tmp_path, max_length=LONG)
    samples = peer.ask(task, f"agieval/{subject}.yaml", {"test": hub_rows.agieval(subject)}, limit=2)
    records = ours(long, tmp_path, "agieval", subjects=subject, limit=2)
    assert_same_choices(records, samples)
    normalised = [bool(sample.metrics["none"]["acc_norm"]) for sample in samples]
    assert [record.details["is_right_normalised"] for record in records] == normalised


def test_jecqa_where_several_answers_are_right(long: Any, tmp_path: Path) -> None:
    rows = hub_rows.agieval("jec-qa-kd", folder="jecqa_agieval_layout")
    assert any(len(row["gold"]) > 1 for row in rows)
    peer = Peer.of(long.model, long.tokenizer, tmp_path, max_length=LONG)
    samples = peer.ask("agieval_jec_qa_kd", "agieval/jec-qa-kd.yaml", {"test": rows})
    assert_same_choices(ours(long, tmp_path, "jecqa", subjects="jec-qa-kd"), samples)


def test_medmcqa(long: Any, tmp_path: Path) -> None:
    peer = Peer.of(long.model, long.tokenizer, tmp_path, max_length=LONG)
    rows = hub_rows.medmcqa()
    samples = peer.ask("medmcqa", "medmcqa/medmcqa.yaml", {"train": rows, "validation": rows}, shots=0)
    assert_same_choices(ours(long, tmp_path, "medmcqa"), samples)


def test_medqa_with_four_options(long: Any, tmp_path: Path) -> None:
    rows = hub_rows.medqa()
    data = tmp_path / "medqa" / "questions" / "US" / "4_options"
    data.mkdir(parents=True)
    letters = dict(enumerate("ABCD"))
    lines = [
        {
            "question": row["sent1"],
            "options": {letter: row[f"ending{number}"] for number, letter in letters.items()},
            "answer_idx": letters[row["label"]],
        }
        for row in rows
    ]
    (data / "phrases_no_exclude_test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    peer = Peer.of(long.model, long.tokenizer, tmp_path, max_length=LONG)
    splits = {"train": rows, "validation": rows, "test": rows}
    samples = peer.ask("medqa_4options", "medqa/medqa.yaml", splits, shots=0)
    assert_same_choices(ours(long, tmp_path, "medqa_usmle", data=tmp_path), samples)
