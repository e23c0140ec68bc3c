"""A question and its examples -> the text that a recipe gives to the model, and what is left out of one too long."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baichuan2.evaluation.choice_recipe import ChoiceRecipe, PromptForm
from baichuan2.evaluation.data import LETTERS
from baichuan2.evaluation.items import Item

__all__ = ["FittedPrompt", "answer_text", "choice_prompt", "example_order", "fit_prompt"]

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt within a recipe's limit. `shots`: examples that are left. `has_header`: whether its header is."""

    text: str
    shots: int
    has_header: bool = True


def choice_prompt(form: PromptForm, title: str, examples: Sequence[Item], item: Item, *, header: bool = True) -> str:
    """The prompt that asks `item` after `examples`, in their order. `title`: the subject's, as the prompt says it."""
    parts = [_filled(form.header, {"subject": title})] if header else []
    parts += [_example(form, title, example) for example in examples]
    parts.append(form.close if examples else form.empty)
    return "".join([*parts, _block(form, title, item)])


def fit_prompt(
    recipe: ChoiceRecipe,
    title: str,
    examples: Sequence[Item],
    item: Item,
    count: Callable[[str], int],
    *,
    room: int = 0,
) -> FittedPrompt:
    """The prompt with as many of `examples` as the recipe's `max_tokens` let in.

    `count`: tokens of a text. `room`: tokens that are counted besides the prompt's own.
    """
    form, kept = recipe.form_of(item.subject), list(examples)
    text = choice_prompt(form, title, kept, item)
    limit = recipe.max_tokens
    if limit is None or recipe.drop == "left":  # the model's own limit, which is looked at where ids are known
        return FittedPrompt(text, len(kept))
    if recipe.drop == "longest":
        return _without_longest(form, title, kept, item, count, limit)
    while kept and count(text) + room > limit:
        kept.pop()
        text = choice_prompt(form, title, kept, item)
    return FittedPrompt(text, len(kept))


def _without_longest(
    form: PromptForm, title: str, examples: Sequence[Item], item: Item, count: Callable[[str], int], limit: int
) -> FittedPrompt:
    """CMMLU's rule: lengths of the parts are counted by themselves; all examples of the greatest length go at once."""
    bare = count(_filled(form.header, {"subject": title})) + count(_block(form, title, item))
    if bare > limit:
        return FittedPrompt(choice_prompt(form, title, (), item, header=False), 0, has_header=False)
    lengths = [count(_example(form, title, example)) for example in examples]
    kept = list(range(len(examples)))
    while kept and sum(lengths[index] for index in kept) >= limit - bare:
        longest = max(lengths[index] for index in kept)
        kept = [index for index in kept if lengths[index] != longest]
    return FittedPrompt(choice_prompt(form, title, [examples[index] for index in kept], item), len(kept))


def answer_text(form: PromptForm, item: Item, index: int) -> str:
    """What stands behind a question that is answered by the option of that index."""
    raw = item.details.get("raw_options", item.options)
    return _filled(form.answer, {"letter": LETTERS[index], "text": raw[index]})


def example_order(recipe: ChoiceRecipe, examples: Sequence[Item], item: Item, seed: int) -> list[Item]:
    """The examples in the order in which this item gets them; the same for the same seed, on every machine."""
    order = list(examples)
    if recipe.order == "shuffled":
        random.Random(f"{seed} {item.subject} {item.number}").shuffle(order)
    return order


def _example(form: PromptForm, title: str, example: Item) -> str:
    assert example.answer is not None
    return _block(form, title, example) + answer_text(form, example, example.answer) + form.gap


def _block(form: PromptForm, title: str, item: Item) -> str:
    options = [
        _filled(form.option, {"letter": letter, "text": text})
        for letter, text in zip(LETTERS, item.options, strict=False)
    ]
    passage = item.details.get("passage", "")
    raw = item.details.get("raw_options", item.options)
    return _filled(
        form.item,
        {
            "subject": title,
            "question": item.question.strip() if form.strip else item.question,
            "options": "".join(options),
            "passage": passage,
            "passage_line": f"{passage}\n" if passage else "",
            "raw_options": " ".join(raw),
            "option_lines": "\n".join(raw),
            "last": LETTERS[len(item.options) - 1],
        },
    )


def _filled(template: str, values: dict[str, str]) -> str:
    """The template with its places filled, in one go: what stands in the values' own braces stays."""
    return _PLACE.sub(lambda match: values[match[1]], template)
