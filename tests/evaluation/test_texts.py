"""From questions to records by what a model writes: side by side as alone, plain or as a user; references are right."""

from pathlib import Path

import pytest

from baichuan2.chat.template import render
from baichuan2.checkpoints.load import load_model
from baichuan2.errors import SettingsError
from baichuan2.evaluation.choices import Question
from baichuan2.evaluation.generation import Generated
from baichuan2.evaluation.plan import plan_suite
from baichuan2.evaluation.run import evaluate_suite
from baichuan2.evaluation.text_prompts import FittedText
from baichuan2.evaluation.texts import answer_texts, fit_question, grade, prompt_limit
from baichuan2.settings import EvaluationSettings
from tests.chat.talkers import TOKENIZER, golden
from tests.evaluation.test_text_prompts import item, recipe

DATA = Path("../shared/evaldata")
SAMPLES = pytest.mark.skipif(not DATA.is_dir(), reason="the samples of benchmarks are not here")
BBH = "boolean_expressions,date_understanding,logical_deduction_three_objects,web_of_lies,word_sorting"
SUITES = {"gsm8k": None, "math": None, "bbh": BBH, "flores": None}
REPLIES = {  # what a model says that knows
    "gsm8k": "\nLet me see: 3.\nThe answer is {reference}\n",
    "math": "\nIt is clear.\nFinal Answer: The final answer is ${reference}$. I hope it is correct.\n",
    "bbh": "\nOne by one.\nSo the answer is {reference}.\n",
    "flores": "\n{reference}\n",
}


def planned(name, recipe="official", limit=None):
    return plan_suite(
        name, EvaluationSettings(suite=name, data=str(DATA), recipe=recipe, subjects=SUITES[name], limit=limit)
    )


def graded(plan, texts):
    for question, text in zip(plan.questions, texts, strict=True):
        generated = Generated(text=text, finish_reason="stop", num_new_tokens=1, num_reused_tokens=0)
        yield grade(plan.recipe, question, FittedText("p", (1,), plan.recipe.shots, 0), generated)


@SAMPLES
@pytest.mark.parametrize("tool", ["official", "lm-eval", "opencompass"])
@pytest.mark.parametrize("name", ["gsm8k", "math", "bbh"])
def test_references_are_right_and_those_of_other_items_are_not(name, tool):
    plan = planned(name, tool)
    said = REPLIES[name].replace("The answer is", "####") if (name, tool) == ("gsm8k", "lm-eval") else REPLIES[name]
    references = [question.item.reference for question in plan.questions]
    assert all(record.is_right for record in graded(plan, [said.replace("{reference}", one) for one in references]))
    turned = references[1:] + references[:1]
    for record, own, other in zip(
        graded(plan, [said.replace("{reference}", one) for one in turned]), references, turned, strict=True
    ):
        assert record.is_right is (own == other)


@SAMPLES
def test_a_translation_by_the_reference_is_worth_100():
    from baichuan2.evaluation.bleu import bleu_result

    plan = planned("flores")
    records = list(graded(plan, [f"\n{question.item.reference}\nmore" for question in plan.questions]))
    assert {record.is_right for record in records} == {None}
    result = bleu_result(records, seed=0)
    spaced = [row["bleu"] for pair, row in result["subjects"].items() if pair != "zh-ja"]
    assert spaced == pytest.approx([100] * 6)
    assert result["subjects"]["zh-ja"]["bleu_characters"] == pytest.approx(100)


@pytest.mark.parametrize("case", ["rope_h4", "alibi_h5"])
def test_side_by_side_as_alone(case):
    loaded, _ = golden(case)
    own = recipe(header="", example="[{question}]", item="Q: {question}", stop=("x",))
    examples = [item("one"), item("two"), item("three" * 40)]
    questions = [Question(item(text, number=text, reference="r"), examples, "") for text in ("a", "七八", "x y z")]
    together = {record.number: record for record in answer_texts(loaded, own, questions)}
    for question in questions:
        [alone] = answer_texts(loaded, own, [question])
        assert together[alone.number] == alone
        assert (alone.shots, alone.details["left_out"], alone.details["new_tokens"]) == (2, 1, 5)
        assert (alone.answer, alone.is_right, alone.details["finish"]) == ("r", False, "length")


def test_a_prompt_as_the_message_of_a_user():
    loaded, _ = golden("rope_h4")
    question = Question(item("a b"), [item("one")], "")
    fitted = fit_question(loaded, recipe(), question, chat_format=True)
    [record] = answer_texts(loaded, recipe(), [question], chat_format=True, log_prompts=True)
    asked = render(TOKENIZER, [{"role": "user", "content": "H[one]?a b"}], model_max_length=80, max_new_tokens=5)
    assert record.details["prompt"] == "H[one]?a b"
    assert [195, *fitted.ids, 196] == asked
    [plain] = answer_texts(loaded, recipe(), [question])
    assert plain.output != record.output
    long = Question(item("a b " * 200), [], "")
    lengths = [len(fit_question(loaded, recipe(), long, chat_format=form).ids) for form in (False, True)]
    context = loaded.model.config.model_max_length
    assert lengths == [context - 5, context - 5 - 2], "the two tokens of the frame have their place"


def test_the_reply_never_claims_more_than_half_of_the_context():
    loaded, _ = golden("rope_h4")
    context = loaded.model.config.model_max_length
    assert prompt_limit(loaded.model, 5) == context - 5
    assert prompt_limit(loaded.model, 5000) == context - context // 2
    loaded.model.config.model_max_length = 4
    with pytest.raises(SettingsError, match=r"context of 4 tokens holds no prompt and reply"):
        prompt_limit(loaded.model, 5)


@SAMPLES
def test_the_demo_model_on_two_questions_of_each_benchmark():
    loaded = load_model("demo-base")
    for name in SUITES:
        subjects = (SUITES[name] or "").split(",")[0] or {"math": "algebra", "flores": "zh-en"}.get(name)
        settings = EvaluationSettings(suite=name, data=str(DATA), limit=2, subjects=subjects, shots=1)
        result = evaluate_suite(name, settings, loaded, lambda *_: None)
        assert (result["items"], result["is_partial"]) == (2, True)
        assert 0 <= result["score"] <= 100
        assert 0 <= result["cut_off_replies"] <= 2
        assert result["metric"] == ("bleu" if name == "flores" else "accuracy")
