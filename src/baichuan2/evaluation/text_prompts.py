"""A question and its examples -> the text that a recipe gives to the model: which examples, and as many as fit."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baichuan2.evaluation.items import Item
from baichuan2.evaluation.text_recipe import TextRecipe

__all__ = ["FittedText", "Nearest", "example_chooser", "fit_text", "text_prompt"]

_PLACE = re.compile(r"\{(\w+)\}")
GRAMS = (1, 2, 3)  # characters
LONGEST = 2000  # characters of a sentence that are compared


@dataclass(frozen=True, slots=True)
class FittedText:
    """A prompt that fits. `shots`: examples that are left in it. `ids`: its tokens. `num_cut`: tokens cut off."""

    text: str
    ids: tuple[int, ...]
    shots: int
    num_cut: int


def text_prompt(recipe: TextRecipe, title: str, examples: Sequence[Item], item: Item) -> str:
    """The prompt that asks `item` after `examples`, in their order."""
    parts = [_filled(recipe.header, title, item)]
    parts += [_filled(recipe.example, title, example) + recipe.gap for example in examples]
    return "".join([*parts, _filled(recipe.item, title, item)])


def fit_text(
    recipe: TextRecipe,
    title: str,
    examples: Sequence[Item],
    item: Item,
    encode: Callable[[str], Sequence[int]],
    *,
    limit: int,
) -> FittedText:
    """The prompt with as many examples as `limit` tokens and the recipe's own limit let in.

    Where the question alone is longer, or the recipe says so, tokens are cut from the left, as those at the end ask.
    """
    limit = min(limit, recipe.max_tokens or limit)
    kept = list(examples)
    text = text_prompt(recipe, title, kept, item)
    ids = encode(text)
    while len(ids) > limit and kept and recipe.drop != "left":
        kept.pop(0 if recipe.drop == "first" else -1)
        text = text_prompt(recipe, title, kept, item)
        ids = encode(text)
    num_cut = max(0, len(ids) - limit)
    return FittedText(text, tuple(ids[num_cut:]), len(kept), num_cut)


def example_chooser(recipe: TextRecipe, examples: Sequence[Item]) -> Callable[[Item], Sequence[Item]]:
    """Which of the examples stand before a question, in their order; fewer than the recipe wants where there are fewer.

    A question is never its own example.
    """
    if recipe.examples == "nearest":
        return Nearest(examples, recipe.shots).of

    def first(item: Item) -> Sequence[Item]:
        return [one for one in examples if one.question != item.question][: recipe.shots]

    return first


class Nearest:
    """Examples like a question: by the cosine of their counts of character 1- to 3-grams.

    A count weighs 1 + ln(count), times the logarithm of how rare the gram is among the examples (TF-IDF). It knows
    nothing of meaning, which the embeddings do that others choose by; it is the same on every machine.
    """

    def __init__(self, examples: Sequence[Item], count: int) -> None:
        self._examples, self._count = examples, count
        grams = [_grams(example.question) for example in examples]
        found = Counter(gram for counts in grams for gram in counts)
        self._rarity = {gram: math.log((1 + len(examples)) / (1 + number)) + 1 for gram, number in found.items()}
        self._rows = [self._weighed(counts) for counts in grams]

    def of(self, item: Item) -> Sequence[Item]:
        """The nearest first; of two that are equally near, the one that stands first."""
        own = self._weighed(_grams(item.question))
        near = [
            (-sum(weight * own.get(gram, 0.0) for gram, weight in row.items()), place)
            for place, row in enumerate(self._rows)
            if self._examples[place].question != item.question
        ]
        return [self._examples[place] for _, place in sorted(near)[: self._count]]

    def _weighed(self, counts: Counter[str]) -> dict[str, float]:
        """Unit length."""
        row = {
            gram: (1 + math.log(count)) * self._rarity[gram] for gram, count in counts.items() if gram in self._rarity
        }
        length = math.sqrt(sum(weight * weight for weight in row.values()))
        return {gram: weight / length for gram, weight in row.items()}


def _grams(text: str) -> Counter[str]:
    text = " ".join(text.split())[:LONGEST]
    return Counter(text[start : start + size] for size in GRAMS for start in range(len(text) - size + 1))


def _filled(template: str, title: str, item: Item) -> str:
    """The template with its places filled, in one go: what stands in the values' own braces stays."""
    values = {"subject": title, "question": item.question, "reference": item.reference or "", **item.details}
    return _PLACE.sub(lambda match: str(values[match[1]]), template)
