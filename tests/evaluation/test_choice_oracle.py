"""The official recipes beside prompts written by hand, one pass an item: C-Eval, MMLU, CMMLU on tiny models.

Both sizes, with the demo model's tokenizer; data in the published layouts, made here, with rows that readers spoil. See
`tests/oracle/choices.py`.
"""

import csv
import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from baichuan2.checkpoints.load import LoadedModel
from baichuan2.evaluation.records import ItemRecord, record_of
from baichuan2.evaluation.run import evaluate_suite
from baichuan2.settings import EvaluationSettings
from tests.evaluation.known_models import demo_tokenizer
from tests.oracle import choices as oracle
from tests.tiny import SIZES, tiny_model

TITLES = {
    "ceval": {"mao_zedong_thought": "毛泽东思想和中国特色社会主义理论概论", "law": "法学"},
    "cmmlu": {"agronomy": "农学", "anatomy": "解剖学"},
    "mmlu": {"us_foreign_policy": "", "anatomy": ""},
}
TEXTS = (
    "None",
    "nan",
    "两行\n文字",
    'a "quoted" word, and a comma',
    "{question}",
    "  spaces  ",
    "全角　（Ａ）",
    "plain",
)
CLOSE = 2e-5
SEED = 7


@pytest.fixture(scope="module", params=SIZES)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    tokenizer = demo_tokenizer()
    room = {"model_max_length": 4096} if request.param == "13b" else {"max_position_embeddings": 4096}
    model = tiny_model(request.param, vocab_size=tokenizer.vocab_size, **room)
    return LoadedModel(model=model, tokenizer=tokenizer, generation_config=model.generation_config, name="tiny")


def write(folder: Path, suite: str) -> None:
    """Two subjects of a suite in its layout: five examples, four questions."""
    draw = random.Random(suite)
    for subject in TITLES[suite]:
        for split in ("dev", "val" if suite == "ceval" else "test"):
            rows = []
            for number in range(5 if split == "dev" else 4):
                cells = [f"{number} {draw.choice(TEXTS)}", *draw.sample(TEXTS, 4), draw.choice("ABCD")]
                rows.append(cells if suite == "mmlu" else [str(number), *cells])
            head = {"ceval": ["id", "question", *"ABCD", "answer"], "cmmlu": ["", "Question", *"ABCD", "Answer"]}
            path = folder / suite / split / f"{subject}{'' if suite == 'cmmlu' else f'_{split}'}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([head[suite], *rows] if suite in head else rows)


def rows_of(folder: Path, suite: str, subject: str, split: str) -> list[dict[str, str]]:
    path = folder / suite / split / f"{subject}{'' if suite == 'cmmlu' else f'_{split}'}.csv"
    return oracle.table(path, ("question", *"ABCD", "answer") if suite == "mmlu" else ())


def scored(loaded: Any, folder: Path, suite: str, **changes: Any) -> list[ItemRecord]:
    """The records by the official recipe."""
    settings = EvaluationSettings(
        suite=suite,
        data=str(folder),
        subjects=",".join(TITLES[suite]),
        output_dir=str(folder / "out"),
        seed=SEED,
        batch_tokens=700,  # some prompts together, not all
        **changes,
    )
    evaluate_suite(suite, settings, loaded, lambda *_: None)
    lines = (folder / "out" / suite / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [record_of(line) for line in lines]


def assert_agrees(loaded: Any, records: Sequence[ItemRecord], expected: Sequence[tuple[str, str]]) -> None:
    """`expected`: prompt and right letter of each item."""
    assert len(records) == len(expected) > 0
    for record, (prompt, answer) in zip(records, expected, strict=True):
        assert record.prompt_sha256 == sha256(prompt.encode()).hexdigest()
        assert record.prompt_tokens == len(loaded.tokenizer.encode(prompt))
        logits = oracle.letter_logits(loaded.model, loaded.tokenizer, prompt)
        assert record.scores == pytest.approx(logits, abs=CLOSE, rel=CLOSE)
        assert record.prediction == "ABCD"[oracle.first_best(logits)]
        assert record.answer == answer
        assert record.is_right == (record.prediction == answer)


def test_ceval_with_its_shuffled_examples(loaded: LoadedModel, tmp_path: Path) -> None:
    write(tmp_path, "ceval")
    expected = []
    for subject, title in TITLES["ceval"].items():
        examples = rows_of(tmp_path, "ceval", subject, "dev")
        for row in rows_of(tmp_path, "ceval", subject, "val"):
            order = oracle.shuffled(examples, subject, row["id"], SEED)
            expected.append((oracle.ceval_prompt(title, order, row), row["answer"]))
    assert_agrees(loaded, scored(loaded, tmp_path, "ceval"), expected)


def test_mmlu_leaves_out_the_last_examples(loaded: LoadedModel, tmp_path: Path) -> None:
    write(tmp_path, "mmlu")
    limit, expected, left_out = 330, [], 0
    for subject in TITLES["mmlu"]:
        for row in rows_of(tmp_path, "mmlu", subject, "test"):
            examples = rows_of(tmp_path, "mmlu", subject, "dev")
            while len(loaded.tokenizer.encode(oracle.mmlu_prompt(subject, examples, row))) > limit:
                examples, left_out = examples[:-1], left_out + 1
            expected.append((oracle.mmlu_prompt(subject, examples, row), row["answer"]))
    assert 0 < left_out < 5 * len(expected)
    assert_agrees(loaded, scored(loaded, tmp_path, "mmlu", max_tokens=limit), expected)


def test_cmmlu(loaded: LoadedModel, tmp_path: Path) -> None:
    write(tmp_path, "cmmlu")
    expected = [
        (oracle.cmmlu_prompt(title, rows_of(tmp_path, "cmmlu", subject, "dev"), row), row["Answer"])
        for subject, title in TITLES["cmmlu"].items()
        for row in rows_of(tmp_path, "cmmlu", subject, "test")
    ]
    assert_agrees(loaded, scored(loaded, tmp_path, "cmmlu"), expected)
