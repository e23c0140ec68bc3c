"""Multiple-choice questions: from questions to records, by the logits of a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from baichuan2.engine.scoring import ScoringRequest, score
from baichuan2.evaluation.data import LETTERS
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.prompts import choice_prompt, example_order
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.task import ChoiceRecipe

__all__ = ["Question", "answer_choices"]


@dataclass(frozen=True, slots=True)
class Question:
    """An item, the examples that stand before it in the order of their file, and its subject's words for the header."""

    item: Item
    examples: Sequence[Item]
    title: str


def answer_choices(
    loaded: Any, recipe: ChoiceRecipe, questions: Sequence[Question], *, seed: int, batch_tokens: int | None
) -> Iterator[ItemRecord]:
    """A record for each question, as soon as it is known, which is in any order."""
    encode = loaded.tokenizer.encode_text
    letters = [encode((" " if recipe.letters == "spaced" else "") + letter)[-1] for letter in LETTERS]
    prompts, requests = [], []
    for question in questions:
        order = example_order(recipe, question.examples, question.item, seed)
        prompts.append(choice_prompt(recipe, question.title, order, question.item))
        candidates = tuple((letter,) for letter in letters[: len(question.item.options)])
        requests.append(ScoringRequest(tuple(encode(prompts[-1])), candidates))
    for index, scores in score(loaded.model, requests, batch_tokens=batch_tokens or 4096):
        item = questions[index].item
        choice = max(range(len(scores.logits)), key=scores.logits.__getitem__)  # the first wins a tie
        yield ItemRecord(
            subject=item.subject,
            number=item.number,
            is_right=None if item.answer is None else choice == item.answer,
            answer=None if item.answer is None else LETTERS[item.answer],
            prediction=LETTERS[choice],
            prompt_tokens=len(requests[index].prompt_ids),
            shots=len(questions[index].examples),
            prompt_sha256=sha256(prompts[index].encode()).hexdigest(),
            scores=scores.logits,
        )
