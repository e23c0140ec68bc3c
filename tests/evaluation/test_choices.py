"""Questions through a model: what is compared, what wins, what is cut."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baichuan2.errors import ContextLengthError, SettingsError
from baichuan2.evaluation import choices
from baichuan2.evaluation.choices import Question, answer_choices, letter_ids
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.task import load_task
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID
from tests.tiny import SIZES, Size, tiny_model

FIRST = 200


class Letters:
    """A tokenizer with a token for each character, and for a space with the letter behind it."""

    def encode_text(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            token = FIRST + ord(character) % 150
            if ids and ids[-1] == FIRST + ord(" ") and character in "ABCDE":
                ids[-1] = 400 + ord(character)
            else:
                ids.append(token)
        return ids


def loaded(size: Size, **changes: Any) -> Any:
    return SimpleNamespace(model=tiny_model(size, **changes), tokenizer=Letters())


def item(number: int, answer: int | None = 0, options: str = "wxyz", **details: Any) -> Item:
    return Item(
        subject="s",
        number=str(number),
        question=f"{number}{number}?",
        options=tuple(options),
        answer=answer,
        details=details,
    )


def answers(model: Any, recipe: Any, items: Sequence[Item], shots: int = 1, **changes: Any) -> list[ItemRecord]:
    questions = [Question(one, [item(90 + shot, shot % 4) for shot in range(shots)], "t") for one in items]
    records = list(answer_choices(model, recipe, questions, seed=0, batch_tokens=None, log_prompts=True, **changes))
    assert len(records) == len(items)
    return sorted(records, key=lambda record: int(record.number))


def logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Of all places (T, V), by the model's own forward pass."""
    with torch.inference_mode():
        return model.model(torch.tensor([list(ids)])).logits[0].float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("letters", ["bare", "spaced"])
def test_letters_are_compared_by_their_logits_after_the_prompt(size: Size, letters: Any) -> None:
    model = loaded(size, model_max_length=512)
    recipe = replace(load_task("mmlu").recipe("official"), letters=letters)
    for record in answers(model, recipe, [item(number, number % 4) for number in range(6)]):
        ids = Letters().encode_text(record.details["prompt"])
        assert record.details["prompt"].endswith("Answer:")
        space = " " if letters == "spaced" else ""
        tokens = [Letters().encode_text(space + letter)[-1] for letter in "ABCD"]
        expected = logits(model, ids)[-1, tokens]
        torch.testing.assert_close(torch.tensor(record.scores), expected, atol=1e-4, rtol=1e-4)
        assert record.prediction == "ABCD"[int(expected.argmax())]
        assert record.is_right == (record.prediction == record.answer)
        assert (record.prompt_tokens, record.shots) == (len(ids), 1)


@pytest.mark.parametrize("size", SIZES)
def test_continuations_are_compared_by_their_log_probability(size: Size) -> None:
    model = loaded(size, model_max_length=512)
    recipe = load_task("cmmlu").recipe("lm-eval")
    for record in answers(model, recipe, [item(number) for number in range(3)], shots=2):
        ids = Letters().encode_text(record.details["prompt"])
        expected = logits(model, ids).log_softmax(-1)[-1, [400 + ord(letter) for letter in "ABCD"]]
        torch.testing.assert_close(torch.tensor(record.scores), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_whole_texts_are_compared_by_their_mean_loss(size: Size) -> None:
    model = loaded(size, model_max_length=512)
    recipe = load_task("ceval").recipe("opencompass")
    for record in answers(model, recipe, [item(number) for number in range(3)]):
        expected = []
        for letter in "ABCD":
            ids = Letters().encode_text(record.details["prompt"] + "\n" + letter)
            values = logits(model, ids).log_softmax(-1)
            expected.append(-float(values[range(len(ids) - 1), ids[1:]].sum()) / len(ids))
        assert record.scores == pytest.approx(expected, abs=1e-4)
        assert record.prediction == "ABCD"[expected.index(min(expected))]


def log_probability(model: Any, prompt: str, end: str) -> float:
    """Of `end` behind `prompt`, which are encoded together."""
    ids, start = Letters().encode_text(prompt + end), len(Letters().encode_text(prompt))
    values = logits(model, ids).log_softmax(-1)
    return float(values[range(start - 1, len(ids) - 1), ids[start:]].sum())


def test_white_space_at_the_end_of_a_prompt_belongs_to_what_follows() -> None:
    model = loaded("7b", model_max_length=512)
    recipe = load_task("cmmlu").recipe("lm-eval")
    recipe = replace(recipe, form=replace(recipe.form, item="{question}\n{options}答案： \n"))
    (record,) = answers(model, recipe, [item(1)])
    bare = record.details["prompt"].rstrip()
    assert record.details["prompt"] == bare + " \n"
    assert record.prompt_tokens == len(Letters().encode_text(bare))
    expected = [log_probability(model, bare, f" \n {letter}") for letter in "ABCD"]
    assert record.scores == pytest.approx(expected, abs=1e-3)


def test_options_are_compared_with_and_without_their_lengths() -> None:
    model = loaded("7b", model_max_length=512)
    recipe = load_task("agieval").recipe("lm-eval")
    raw = ["(A)ww", "(B)x", "(C)yyyyyyyyyyyy", "(D)z"]
    differ = 0
    for number in range(8):
        one = item(number, passage="", raw_options=raw)
        (record,) = answers(model, recipe, [one], shots=0)
        expected = [log_probability(model, record.details["prompt"], f" {option}") for option in raw]
        assert record.scores == pytest.approx(expected, abs=1e-3)
        best = expected.index(max(expected))
        each = [value / len(option) for value, option in zip(expected, raw, strict=True)]
        normalised = each.index(max(each))
        assert record.prediction == "ABCD"[best]
        assert record.details["is_right_normalised"] == (normalised == 0)
        (record,) = answers(model, recipe, [replace(one, answer=normalised)], shots=0)
        assert record.details["is_right_normalised"]
        differ += best != normalised
    assert differ, "lengths change nothing here, so this shows nothing"


def test_each_of_several_right_answers_is_right() -> None:
    model = loaded("7b", model_max_length=512)
    recipe = load_task("agieval").recipe("lm-eval")
    raw = ["(A)w", "(B)x", "(C)y", "(D)z"]
    first = answers(model, recipe, [item(number, passage="", raw_options=raw) for number in range(8)], shots=0)
    for record in first:
        best = "ABCD".index(record.prediction or "")
        for right in ([(best + 1) % 4, best], [(best + 1) % 4, (best + 2) % 4]):
            one = item(int(record.number), right[0], passage="", raw_options=raw, answers=right)
            (again,) = answers(model, recipe, [one], shots=0)
            assert again.is_right == (best in right)
            assert again.answer == "".join("ABCD"[index] for index in right)


def test_the_first_letter_wins_a_tie() -> None:
    model = loaded("7b", model_max_length=512)
    with torch.no_grad():
        model.model.model.norm.weight.zero_()  # all hidden states become 0, all logits alike
    for suite, recipe in (("mmlu", "official"), ("mmlu", "lm-eval"), ("mmlu", "opencompass")):
        (record,) = answers(model, load_task(suite).recipe(recipe), [item(1, 2)])
        assert len(set(record.scores)) == 1
        assert (record.prediction, record.is_right) == ("A", False)


def test_five_options_have_five_letters_and_no_answer_is_no_mistake() -> None:
    model = loaded("7b", model_max_length=512)
    recipe = load_task("medqa_usmle").recipe("official")
    (record,) = answers(model, recipe, [item(1, None, "vwxyz")])
    assert len(record.scores) == 5
    assert "\nE. z\nAnswer:" in record.details["prompt"]
    assert (record.is_right, record.answer) == (None, None)


def test_examples_that_do_not_fit_are_left_out_and_counted() -> None:
    model = loaded("7b", model_max_length=512)
    recipe = load_task("mmlu").recipe("official")
    (whole,) = answers(model, recipe, [item(1)], shots=3)
    assert (whole.shots, set(whole.details)) == (3, {"prompt"})
    (cut,) = answers(model, replace(recipe, max_tokens=whole.prompt_tokens - 1), [item(1)], shots=3)
    assert (cut.shots, cut.details["left_out"]) == (2, 1)
    assert cut.details["prompt"].startswith(whole.details["prompt"][:60])
    assert cut.details["prompt"].count("Answer:") == 3
    recipe = load_task("cmmlu").recipe("official")
    (bare,) = answers(model, replace(recipe, max_tokens=5), [item(1)], shots=3)
    assert (bare.shots, bare.details["left_out"], bare.details["header"]) == (0, 3, False)
    assert bare.details["prompt"].startswith("题目：")


@pytest.mark.parametrize("chat_format", [False, True])
def test_a_prompt_beyond_the_context_is_cut_from_the_left(chat_format: bool) -> None:
    model = loaded("7b", model_max_length=64)
    for name, scoring in (("lm-eval", "continuation"), ("official", "letters")):
        recipe = load_task("ceval").recipe(name)
        assert recipe.scoring == scoring
        (record,) = answers(model, recipe, [item(1)], shots=2, chat_format=chat_format)
        ids = Letters().encode_text(record.details["prompt"])
        assert record.prompt_tokens == 64
        assert record.details["cut"] == len(ids) + 2 * chat_format - 64
        ids = [USER_TOKEN_ID, *ids[-62:], ASSISTANT_TOKEN_ID] if chat_format else ids[-64:]
        is_spaced = scoring == "continuation" and not chat_format
        tokens = [(400 if is_spaced else FIRST) + ord(letter) for letter in "ABCD"]
        values = logits(model, ids)[-1]
        expected = values.log_softmax(-1)[tokens] if scoring == "continuation" else values[tokens]
        torch.testing.assert_close(torch.tensor(record.scores), expected, atol=1e-4, rtol=1e-4)


def test_options_of_different_lengths_leave_different_prompts() -> None:
    model = loaded("7b", model_max_length=64)
    recipe = load_task("agieval").recipe("lm-eval")
    raw = ["(A)" + "w" * 30, "(B)x", "(C)y", "(D)" + "z" * 5]
    (record,) = answers(model, recipe, [item(1, passage="p" * 40, raw_options=raw)], shots=0)
    prompt = Letters().encode_text(record.details["prompt"])
    for option, score in zip(raw, record.scores, strict=True):
        end = Letters().encode_text(f" {option}")
        ids = [*prompt, *end][-65:]
        values = logits(model, ids[:-1]).log_softmax(-1)
        expected = float(values[range(64 - len(end), 64), end].sum())
        assert score == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ContextLengthError, match="an option has 80 tokens, the model's context 64"):
        answers(model, recipe, [item(1, raw_options=["(A)" + "w" * 76, "b", "c", "d"])], shots=0)


def test_a_tokenizer_without_the_letters_is_refused() -> None:
    recipe = load_task("mmlu").recipe("official")
    with pytest.raises(SettingsError, match=r"--letters bare: this tokenizer has no tokens of their own for ABCD"):
        letter_ids(recipe, lambda text: [1] * len(text), 4)
    with pytest.raises(SettingsError, match=r"--letters spaced: .* use --letters bare"):
        letter_ids(replace(recipe, letters="spaced"), lambda text: [ord(one) for one in text], 4)


def test_many_questions_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("13b", model_max_length=512)
    recipe = load_task("ceval").recipe("official")
    items = [item(number) for number in range(7)]
    together = answers(model, recipe, items, shots=3)
    monkeypatch.setattr(choices, "AT_ONCE", 2)
    for one, other in zip(together, answers(model, recipe, items, shots=3), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert replace(one, scores=()) == replace(other, scores=())
