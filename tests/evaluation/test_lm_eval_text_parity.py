"""`--recipe lm-eval` beside lm-evaluation-harness where answers are written: prompts, greedy texts, what is taken out.

The demo model writes a few tokens of each answer: the harness is told so by its own setting, we by the recipe's. How
answers are taken out of whole replies is compared on replies that are given to both. See `lm_eval_peer`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baichuan2.checkpoints.load import load_model
from baichuan2.evaluation.generation import Generated
from baichuan2.evaluation.plan import SuitePlan, plan_suite
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.text_prompts import FittedText
from baichuan2.evaluation.texts import answer_texts, grade
from baichuan2.settings import EvaluationSettings, LoadSettings
from tests.evaluation import hub_rows
from tests.evaluation.lm_eval_peer import OWN_WARNINGS, Peer, PeerSample, without_judges

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install -e '.[dev]'")
pytestmark = [
    pytest.mark.skipif(not hub_rows.DATA.is_dir(), reason=f"no sample data in {hub_rows.DATA}"),
    *[pytest.mark.filterwarnings(warning) for warning in OWN_WARNINGS],
]

LONG = 4096  # tokens: room for every prompt here
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def loaded() -> Any:
    """The demo Base in float32; its positions go on behind the 512 that it was trained on."""
    found = load_model(settings=LoadSettings(model="demo-base", dtype="float32"))
    found.model.config.model_max_length = LONG
    found.model.generation_config.max_new_tokens = None  # which the framework would put before the harness's own limit
    return found


def planned(suite: str, data: Path = hub_rows.DATA, **settings: Any) -> SuitePlan:
    return plan_suite(suite, EvaluationSettings(suite=suite, data=str(data), recipe="lm-eval", **settings))


def written(loaded: Any, plan: SuitePlan) -> list[ItemRecord]:
    """The records in the order of the questions."""
    recipe = replace(plan.recipe, max_new_tokens=NEW_TOKENS)
    records = {record.key: record for record in answer_texts(loaded, recipe, plan.questions, log_prompts=True)}
    return [records[question.item.subject, question.item.number] for question in plan.questions]


def assert_same_texts(records: Sequence[ItemRecord], samples: Sequence[PeerSample]) -> None:
    assert len(records) == len(samples) > 0
    for record, sample in zip(records, samples, strict=True):
        assert record.details["prompt"] == sample.context
        assert record.output == sample.output


def peer_of(loaded: Any, folder: Path) -> Peer:
    return Peer.of(loaded.model, loaded.tokenizer, folder, max_length=LONG)


def test_gsm8k(loaded: Any, tmp_path: Path) -> None:
    """The harness draws examples anew for each question: here it may draw the first ones only, as we do."""
    rows = {"train": hub_rows.gsm8k("train"), "test": hub_rows.gsm8k("test")}
    first = {"fewshot_config": {"sampler": "first_n", "split": "train"}}
    samples = peer_of(loaded, tmp_path).ask(
        "gsm8k", "gsm8k/gsm8k.yaml", rows, shots=2, limit=2, new_tokens=NEW_TOKENS, changes=first
    )
    assert_same_texts(written(loaded, planned("gsm8k", shots=2, limit=2)), samples)


@pytest.mark.parametrize("subject", ["boolean_expressions", "word_sorting"])
def test_bbh_with_its_three_worked_examples(loaded: Any, tmp_path: Path, subject: str) -> None:
    task = f"bbh_cot_fewshot_{subject}"
    path = f"bbh/cot_fewshot/{subject}.yaml"
    rows = {"test": hub_rows.bbh(subject)}
    samples = peer_of(loaded, tmp_path).ask(task, path, rows, limit=1, new_tokens=NEW_TOKENS)
    assert_same_texts(written(loaded, planned("bbh", subjects=subject, limit=1)), samples)


def test_math_with_the_examples_of_the_harness(loaded: Any, tmp_path: Path) -> None:
    """Its four worked examples stand in its code; written down as a user's train split they give the same prompts."""
    rows = {"train": hub_rows.math("Algebra"), "test": hub_rows.math("Algebra")}
    with without_judges():
        samples = peer_of(loaded, tmp_path).ask(
            "minerva_math_algebra", "minerva_math/minerva_math_algebra.yaml", rows, limit=2, new_tokens=NEW_TOKENS
        )
        from lm_eval.tasks.minerva_math.utils import list_fewshot_samples
    data = tmp_path / "math"
    kinds = ("Algebra", "Precalculus", "Prealgebra", "Intermediate Algebra")
    for kind, example in zip(kinds, list_fewshot_samples(), strict=True):
        solution, ending, _ = example["solution"].partition("\nFinal Answer:")
        assert ending
        folder = data / "train" / kind.lower().replace(" ", "_")
        _write_problem(folder / "1.json", {**example, "solution": solution, "type": kind})
    for number, row in enumerate(hub_rows.math("Algebra")):
        _write_problem(data / "test" / "algebra" / f"{number}.json", row)
    assert_same_texts(written(loaded, planned("math", data, subjects="algebra", limit=2)), samples)


def _write_problem(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"level": "Level 1", **row}), encoding="utf-8")


def test_humaneval(loaded: Any, tmp_path: Path) -> None:
    with without_judges():
        samples = peer_of(loaded, tmp_path).ask(
            "humaneval", "humaneval/humaneval.yaml", {"test": hub_rows.humaneval()}, limit=2, new_tokens=NEW_TOKENS
        )
    assert_same_texts(written(loaded, planned("humaneval", limit=2, generated_code="sandbox")), samples)


def test_mbpp(loaded: Any, tmp_path: Path) -> None:
    with without_judges():
        samples = peer_of(loaded, tmp_path).ask(
            "mbpp", "mbpp/mbpp.yaml", {"test": hub_rows.mbpp()}, limit=2, new_tokens=NEW_TOKENS
        )
    assert_same_texts(written(loaded, planned("mbpp", limit=2, generated_code="sandbox")), samples)


REPLIES = (
    "#### 18",
    "first 3, then #### 1,234.\nand #### 7",
    "the sum is $1,000.50.",
    "no digits at all",
    "",
    "#### -5 apples",
    "it is 12. So the answer is 12.",
    "the answer is (A).\nthe answer is (B).",
    "So the answer is True.",
    "So the answer is true.",
    "So the answer is not True",
    "So the answer is sort words here. And more.",
    "The answer is (C).",
    "the answer is ",
    "the answer is \nthe answer is False. ",
    "so 3 < 5, ... $ , . ,,. -",
    "٣ and １２",
    "## 3 ### 4 ##### 5",
)
INVALID = "[invalid]"  # what the harness calls an answer that it did not find


def graded(plan: SuitePlan, replies: Sequence[str]) -> list[ItemRecord]:
    """What we make of replies to the first question."""
    prompt = FittedText(text="", ids=(), shots=plan.recipe.shots, num_cut=0)
    texts = [Generated(text=text, finish_reason="stop", num_new_tokens=1, num_reused_tokens=0) for text in replies]
    return [grade(plan.recipe, plan.questions[0], prompt, text) for text in texts]


def test_numbers_are_taken_out_of_replies_to_gsm8k_alike(tmp_path: Path) -> None:
    rows = hub_rows.gsm8k("test")[:1]
    right = rows[0]["answer"].rpartition("#### ")[2]
    replies = [
        *REPLIES,
        f"#### {right}",
        f"#### {right}.",
        f"so ${right}",
        f"{right}, that is 0{right}",
        f"#### {right},",
    ]
    peer = Peer.scripted(replies, tmp_path)
    samples = peer.ask("gsm8k", "gsm8k/gsm8k.yaml", {"train": rows, "test": rows * len(replies)}, shots=0)
    rights = set()
    for record, sample in zip(graded(planned("gsm8k", limit=1), replies), samples, strict=True):
        assert (record.prediction or INVALID) == sample.answers["strict-match"], record.output
        assert record.is_right == bool(sample.metrics["strict-match"]["exact_match"]), record.output
        flexible = bool(sample.metrics["flexible-extract"]["exact_match"])
        assert record.details["is_right_flexible"] == flexible, record.output
        rights.add((record.is_right, flexible))
    assert len(rights) > 2


def test_answers_are_taken_out_of_replies_to_bbh_alike(tmp_path: Path) -> None:
    rows = hub_rows.bbh("boolean_expressions")[:1]
    right = rows[0]["target"]
    replies = [*REPLIES, f"So the answer is {right}.", f"So the answer is {right}", f"So the answer is {right}.\n\nQ:"]
    path = "bbh/cot_fewshot/boolean_expressions.yaml"
    peer = Peer.scripted(replies, tmp_path)
    samples = peer.ask("bbh_cot_fewshot_boolean_expressions", path, {"test": rows * len(replies)})
    rights = set()
    plan = planned("bbh", subjects="boolean_expressions", limit=1)
    for record, sample in zip(graded(plan, replies), samples, strict=True):
        assert (INVALID if record.prediction is None else record.prediction) == sample.answers["get-answer"], (
            record.output
        )
        assert record.is_right == bool(sample.metrics["get-answer"]["exact_match"]), record.output
        rights.add(record.is_right)
    assert rights == {True, False}


FORMULAS = (
    "17",
    "$17$",
    "\\frac{3}{4}",
    "\\frac34",
    "\\dfrac{3}{4}",
    "x = 5",
    "5\\text{ cm}",
    "10\\%",
    "1,000",
    "0,1",
    "\\sqrt2",
    "\\sqrt[3]8",
    "\\left(1, 2\\right)",
    "\\boxed{7}",
    "30^\\circ",
    "the value is $4$.",
    "\\text{(A)}",
    "\\mbox{even}",
    "\\$5.50",
    "2 \\text{ and } 3",
    "{unbalanced",
    "",
    "an integer",
    "\\frac",
    "\\overline{AB}",
)


def test_answers_are_taken_out_of_replies_to_math_alike(tmp_path: Path) -> None:
    rows = hub_rows.math("Algebra")[:1]
    replies = [f"Some steps.\nFinal Answer: The final answer is {text}. I hope it is correct." for text in FORMULAS]
    replies += ["Final Answer: The final answer is $17$", "nothing", "", "Final Answer: The final answer is 1. I hope"]
    with without_judges():
        peer = Peer.scripted(replies, tmp_path)
        path = "minerva_math/minerva_math_algebra.yaml"
        samples = peer.ask("minerva_math_algebra", path, {"train": rows, "test": rows * len(replies)}, shots=0)
        from lm_eval.tasks.minerva_math.utils import get_unnormalized_answer, normalize_final_answer
    rights = set()
    for record, sample in zip(graded(planned("math", subjects="algebra", limit=1), replies), samples, strict=True):
        theirs = normalize_final_answer(get_unnormalized_answer(record.output))
        assert (normalize_final_answer("[invalidanswer]") if record.prediction is None else record.prediction) == theirs
        assert record.is_right == bool(sample.metrics["none"]["exact_match"]), record.output
        rights.add(record.is_right)
    assert rights == {True, False}
