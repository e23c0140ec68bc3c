"""A question and its examples -> the text that a recipe gives to the model."""

import random
from collections.abc import Sequence

from baichuan2.evaluation.data import LETTERS
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.task import ChoiceRecipe

__all__ = ["choice_prompt", "example_order"]


def choice_prompt(recipe: ChoiceRecipe, title: str, examples: Sequence[Item], item: Item) -> str:
    """The prompt that asks `item` after `examples`, in their order. `title`: the subject's, for the header."""
    parts = [recipe.header.replace("{subject}", title)]
    for example in examples:
        assert example.answer is not None
        parts += [_block(recipe, example), recipe.answer.replace("{letter}", LETTERS[example.answer]), recipe.gap]
    return "".join([*parts, _block(recipe, item)])


def example_order(recipe: ChoiceRecipe, examples: Sequence[Item], item: Item, seed: int) -> list[Item]:
    """The examples in the order in which this item gets them; the same for the same seed, on every machine."""
    order = list(examples)
    if recipe.order == "shuffled":
        random.Random(f"{seed} {item.subject} {item.number}").shuffle(order)
    return order


def _block(recipe: ChoiceRecipe, item: Item) -> str:
    # one after the other, not by str.format: questions hold braces
    options = "".join(
        recipe.option.replace("{letter}", letter, 1).replace("{text}", text, 1)
        for letter, text in zip(LETTERS, item.options, strict=False)
    )
    before, after = recipe.item.split("{question}")
    return before + item.question + after.replace("{options}", options)
