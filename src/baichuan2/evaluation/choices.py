"""Multiple-choice questions: from questions to records, by what a model thinks of each option."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from baichuan2.engine.generate import context_length
from baichuan2.engine.scoring import ScoringRequest, score, score_texts
from baichuan2.errors import ContextLengthError, SettingsError
from baichuan2.evaluation.choice_recipe import ChoiceRecipe
from baichuan2.evaluation.data import LETTERS
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.pass_size import tokens_at_once
from baichuan2.evaluation.prompts import answer_text, example_order, fit_prompt
from baichuan2.evaluation.records import ItemRecord
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID

__all__ = ["Question", "answer_choices", "letter_ids"]

AT_ONCE = 2048  # questions whose prompts are held in memory together
Ids = tuple[int, ...]
Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Question:
    """An item, the examples that stand before it in the order of their file, and its subject's words for the header."""

    item: Item
    examples: Sequence[Item]
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A question as the model gets it: the same prompt with each option behind it.

    `prompts`: one, or one for each option: where tokens were cut from the left, options of different lengths leave
    prompts of different lengths. None where whole texts are compared, which are the candidates then.
    """

    question: Question
    text: str
    shots: int
    prompt_tokens: int
    prompts: tuple[Ids, ...]
    candidates: tuple[Ids, ...]
    details: Mapping[str, Any]


def answer_choices(
    loaded: Any,
    recipe: ChoiceRecipe,
    questions: Sequence[Question],
    *,
    seed: int,
    batch_tokens: int | None,
    chat_format: bool = False,
    log_prompts: bool = False,
) -> Iterator[ItemRecord]:
    """A record for each question, as soon as it is known, which is in any order.

    `scores` of a record are logits, log-probabilities or mean losses, as the recipe compares them. Its `details` say
    what was left out of a prompt that was too long: `left_out` examples, the `header`, or `cut` tokens; and
    `is_right_normalised`, where options are compared as texts: by their log-probability for each character.
    `chat_format`: each prompt is the message of a user. `log_prompts`: `details` hold them.

    Raises:
        SettingsError: the tokenizer has no tokens for the letters that the recipe compares.
    """
    encode = lru_cache(maxsize=256)(loaded.tokenizer.encode_text)
    limit = context_length(loaded.model)
    batch_tokens = batch_tokens or tokens_at_once(loaded.model)
    for start in range(0, len(questions), AT_ONCE):
        asked = [
            _ask(recipe, question, encode, limit, seed=seed, chat_format=chat_format)
            for question in questions[start : start + AT_ONCE]
        ]
        for index, scores in _scores(loaded.model, recipe, asked, batch_tokens):
            yield _record(recipe, asked[index], scores, log_prompts)


def _ask(
    recipe: ChoiceRecipe, question: Question, encode: Encode, limit: float, *, seed: int, chat_format: bool
) -> _Asked:
    item, form = question.item, recipe.form_of(question.item.subject)
    order = example_order(recipe, question.examples, item, seed)
    room = 0
    if recipe.scoring == "text":  # whose limit is one of whole texts
        room = max(len(encode(answer_text(form, item, index))) for index in range(len(item.options)))
    fitted = fit_prompt(recipe, question.title, order, item, lambda text: len(encode(text)), room=room)
    prompts, candidates = _prompt_and_candidates(recipe, item, fitted.text, encode, chat_format)
    details: dict[str, Any] = {}
    if fitted.shots < len(order):
        details["left_out"] = len(order) - fitted.shots
    if not fitted.has_header:
        details["header"] = False
    if recipe.scoring == "text":
        candidates, num_cut = _texts_within(candidates, limit)
    else:
        prompts, num_cut = _within(prompts, candidates, limit, frame=1 if chat_format else 0)
    if num_cut:
        details["cut"] = num_cut
    return _Asked(
        question=question,
        text=fitted.text,
        shots=fitted.shots,
        prompt_tokens=max(map(len, prompts)) if prompts else len(encode(fitted.text)) - num_cut,
        prompts=prompts,
        candidates=candidates,
        details=details,
    )


def _prompt_and_candidates(
    recipe: ChoiceRecipe, item: Item, text: str, encode: Encode, chat_format: bool
) -> tuple[tuple[Ids, ...], tuple[Ids, ...]]:
    """The ids of the prompt, and of what may follow it; of whole texts, and of no prompt, where these are compared."""
    form, count = recipe.form_of(item.subject), len(item.options)
    message = (USER_TOKEN_ID, *encode(text), ASSISTANT_TOKEN_ID) if chat_format else ()
    if recipe.scoring == "letters":
        candidates = tuple((token,) for token in letter_ids(recipe, encode, count))
        return (message or tuple(encode(text)),), candidates
    ends = [answer_text(form, item, index) for index in range(count)]
    if recipe.scoring == "text":
        return (), tuple((*message, *encode(end)) if message else tuple(encode(text + end)) for end in ends)
    if message:
        return (message,), tuple(tuple(encode(end.lstrip())) for end in ends)
    # lm-evaluation-harness draws the border so: white space at the prompt's end belongs to what follows; both are
    # encoded together, and the tokens behind as many as the prompt has by itself are those of what follows
    bare = text.rstrip()
    prompt = tuple(encode(bare))
    return (prompt,), tuple(tuple(encode(text + end)[len(prompt) :]) for end in ends)


def letter_ids(recipe: ChoiceRecipe, encode: Encode, count: int) -> tuple[int, ...]:
    """The tokens whose logits stand for the first `count` letters.

    Raises:
        SettingsError: the tokenizer has no such token for one of them, or the same one for two.
    """
    space = " " if recipe.letters == "spaced" else ""
    encoded = [encode(space + letter) for letter in LETTERS[:count]]
    if len({ids[-1] for ids in encoded}) < count or (space and any(len(ids) != 1 for ids in encoded)):
        raise SettingsError(
            f"--letters {recipe.letters}: this tokenizer has no tokens of their own for {LETTERS[:count]} "
            f"{'with a space before them' if space else ''}: use --letters {'bare' if space else 'spaced'}"
        )
    return tuple(ids[-1] for ids in encoded)


def _within(
    prompts: tuple[Ids, ...], candidates: Sequence[Ids], limit: float, *, frame: int
) -> tuple[tuple[Ids, ...], int]:
    """The prompts cut from the left to what the model can read, and how many tokens the most cut one lost.

    `frame`: tokens at the left that stay. The last token of a candidate is never read.
    """
    (ids,) = prompts
    rooms = [limit + 1 - len(candidate) for candidate in candidates]
    if len(ids) <= min(rooms):
        return prompts, 0
    if min(rooms) <= 2 * frame:
        raise ContextLengthError(f"an option has {limit - min(rooms) + 1:g} tokens, the model's context {limit:g}")
    cut = tuple(ids[:frame] + ids[frame + max(0, len(ids) - int(room)) :] for room in rooms)
    return (cut if len(set(map(len, cut))) > 1 else cut[:1]), len(ids) - min(map(len, cut))


def _texts_within(texts: tuple[Ids, ...], limit: float) -> tuple[tuple[Ids, ...], int]:
    """Texts cut from the left to what the model can read, and how many tokens the longest lost."""
    num_cut = max(0, max(map(len, texts)) - int(min(limit, 1 << 40)))
    return tuple(text[num_cut:] for text in texts), num_cut


def _scores(
    model: Any, recipe: ChoiceRecipe, asked: Sequence[_Asked], batch_tokens: int | None
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """The scores of each question's options, higher ones better but for losses, with the question's index."""
    if recipe.scoring == "text":
        yield from score_texts(model, [one.candidates for one in asked], batch_tokens=batch_tokens)
        return
    requests, owners = [], []
    for index, one in enumerate(asked):
        if len(one.prompts) == 1:
            requests.append(ScoringRequest(one.prompts[0], one.candidates))
            owners.append((index, 0))
            continue
        for number, (prompt, candidate) in enumerate(zip(one.prompts, one.candidates, strict=True)):
            requests.append(ScoringRequest(prompt, (candidate,)))
            owners.append((index, number))
    is_whole = recipe.scoring == "continuation"
    parts: dict[int, dict[int, tuple[float, ...]]] = {}
    for which, scores in score(model, requests, logprobs=is_whole, batch_tokens=batch_tokens):
        index, number = owners[which]
        values = scores.logprobs if is_whole else scores.logits
        assert values is not None
        found = parts.setdefault(index, {})
        found[number] = values
        if len(found) == len(asked[index].prompts):
            yield index, tuple(value for _, group in sorted(parts.pop(index).items()) for value in group)


def _record(recipe: ChoiceRecipe, asked: _Asked, scores: tuple[float, ...], log_prompts: bool) -> ItemRecord:
    item = asked.question.item
    sign = -1 if recipe.scoring == "text" else 1
    choice = _best([sign * value for value in scores])
    details = dict(asked.details)
    if recipe.candidates == "options" and item.answer is not None:
        options = item.details.get("raw_options", item.options)
        each = [value / len(option) for value, option in zip(scores, options, strict=True)]
        details["is_right_normalised"] = _is_right(item, _best(each))
    if log_prompts:
        details["prompt"] = asked.text
    return ItemRecord(
        subject=item.subject,
        number=item.number,
        is_right=_is_right(item, choice),
        answer=None if item.answer is None else "".join(LETTERS[index] for index in _answers(item)),
        prediction=LETTERS[choice],
        prompt_tokens=asked.prompt_tokens,
        shots=asked.shots,
        prompt_sha256=sha256(asked.text.encode()).hexdigest(),
        scores=scores,
        details=details,
    )


def _best(values: Sequence[float]) -> int:
    """The index of the greatest; the first wins a tie, and what is no number never wins."""
    return max(range(len(values)), key=lambda index: -math.inf if math.isnan(values[index]) else values[index])


def _answers(item: Item) -> Sequence[int]:
    assert item.answer is not None
    answers: Sequence[int] = item.details.get("answers", (item.answer,))
    return answers


def _is_right(item: Item, choice: int) -> bool | None:
    return None if item.answer is None else choice in _answers(item)
