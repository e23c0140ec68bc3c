"""Questions whose answer is a text: from questions to records, by what a model writes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from baichuan2.engine.generate import context_length
from baichuan2.errors import SettingsError
from baichuan2.evaluation.answers import EQUAL, EXTRACT, SETTLED
from baichuan2.evaluation.choices import Question
from baichuan2.evaluation.generation import AT_ONCE, Generated, TextRequest, generate_texts
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.text_prompts import FittedText, fit_text
from baichuan2.evaluation.text_recipe import TextRecipe
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["answer_texts", "fit_question", "grade", "prompt_limit"]

FRAME = 2  # tokens around a message: the user's and the assistant's
UNBOUNDED = 1 << 20  # tokens of a context, where a model sets no limit


def answer_texts(
    loaded: "ReadyModel",
    recipe: TextRecipe,
    questions: Sequence[Question],
    *,
    chat_format: bool = False,
    log_prompts: bool = False,
    at_once: int = AT_ONCE,
) -> Iterator[ItemRecord]:
    """A record for each question, as soon as it is known, which is in any order; see `grade` for what it says.

    Questions are asked in their order, `at_once` of them side by side, so those with the same examples should follow
    each other. `chat_format`: each prompt is the message of a user. `log_prompts`: `details` hold them.

    Raises:
        SettingsError: the model's context holds no prompt and reply.
        GenerationError: the model failed.
    """
    prompts: dict[int, FittedText] = {}  # of the texts that are being written

    def requests() -> Iterator[TextRequest]:
        for index, question in enumerate(questions):
            prompt = prompts[index] = fit_question(loaded, recipe, question, chat_format=chat_format)
            yield TextRequest(
                prompt_ids=_framed(prompt, chat_format),
                max_new_tokens=recipe.max_new_tokens,
                stop=recipe.stop,
                is_settled=partial(SETTLED[recipe.settled], question.item) if recipe.settled else None,
            )

    for index, generated in generate_texts(loaded, requests(), at_once=at_once):
        prompt = prompts.pop(index)
        record = grade(recipe, questions[index], prompt, generated)
        yield _with_prompt(record, prompt.text) if log_prompts else record


def fit_question(loaded: "ReadyModel", recipe: TextRecipe, question: Question, *, chat_format: bool) -> FittedText:
    """The prompt that a question gets: as many of its examples as leave room for the reply."""
    limit = prompt_limit(loaded.model, recipe.max_new_tokens) - FRAME * chat_format
    encode = loaded.tokenizer.encode_text
    return fit_text(recipe, question.title, question.examples, question.item, encode, limit=limit)


def prompt_limit(model: Any, max_new_tokens: int) -> int:
    """How many tokens a prompt may have: all but the reply's, which never claims more than half of the context.

    Raises:
        SettingsError: a context so small has no room for both.
    """
    context = int(min(context_length(model), UNBOUNDED))
    limit = context - min(max_new_tokens, context // 2)
    if limit <= FRAME:
        raise SettingsError(f"the model's context of {context} tokens holds no prompt and reply")
    return limit


def grade(recipe: TextRecipe, question: Question, prompt: FittedText, generated: Generated) -> ItemRecord:
    """What a text is worth, as the recipe reads it.

    `details` say how the text ended (`finish`: stop, or length where it was cut off), how many tokens it has
    (`new_tokens`), how many examples (`left_out`) or tokens (`cut`) a prompt lost that was too long, and by other rules
    whether its answer is right (`is_right_NAME`). A record whose item has no reference is right for nobody; nor is one
    of a translation, whose score is that of the whole set.
    """
    item = question.item
    prediction = EXTRACT[recipe.extract](generated.text, item)
    details: dict[str, Any] = {"finish": generated.finish_reason, "new_tokens": generated.num_new_tokens}
    if prompt.shots < len(question.examples):
        details["left_out"] = len(question.examples) - prompt.shots
    if prompt.num_cut:
        details["cut"] = prompt.num_cut
    for name, rule in recipe.also.items():
        details[f"is_right_{name}"] = _is_right(recipe, EXTRACT[rule](generated.text, item), item)
    return ItemRecord(
        subject=item.subject,
        number=item.number,
        is_right=_is_right(recipe, prediction, item),
        answer=item.reference,
        prediction=prediction,
        prompt_tokens=len(prompt.ids),
        shots=prompt.shots,
        prompt_sha256=sha256(prompt.text.encode("utf-8", "surrogatepass")).hexdigest(),
        output=generated.text,
        details=details,
    )


def _is_right(recipe: TextRecipe, prediction: str | None, item: Item) -> bool | None:
    if item.reference is None or recipe.equal in ("corpus", "program"):
        return None
    return prediction is not None and EQUAL[recipe.equal](prediction, item.reference)


def _framed(prompt: FittedText, chat_format: bool) -> Sequence[int]:
    """The prompt's tokens, as they are or as the message of a user."""
    return (USER_TOKEN_ID, *prompt.ids, ASSISTANT_TOKEN_ID) if chat_format else prompt.ids


def _with_prompt(record: ItemRecord, text: str) -> ItemRecord:
    return replace(record, details={**record.details, "prompt": text})
