"""Token ids in, token ids out: prefill the prompt, decode one token at a time, stop.

`generate_tokens` continues one prompt and yields each token as it is chosen; `iter_batch` and `generate_batch` continue
many at once. The model is anything that fits `LanguageModel`; this module never sees a string.

One forward pass may give several tokens of a single prompt: guesses of what comes next (`engine.lookup`) go through the
model behind the last token, and hold as far as the very choices that would be made without them fall on them. So
guesses change no reply: each token is drawn from its own place's logits, by the same generator, one after the other.
"""

import math
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from baichuan2.engine.cache import new_cache
from baichuan2.engine.chooser import Choice, Chooser, choose_greedy_rows
from baichuan2.engine.constraint import Constraint
from baichuan2.engine.graphs import graph_model
from baichuan2.engine.lookup import Drafter
from baichuan2.engine.penalties import check_logit_bias
from baichuan2.engine.processor import processor_model
from baichuan2.engine.quantized_cache import LAYERS
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.stopping import FinishReason
from baichuan2.errors import BaichuanError, ContextLengthError, GenerationError, SettingsError, TokenizerError

__all__ = [
    "LanguageModel",
    "TokenStep",
    "check_prompt",
    "context_length",
    "generate_batch",
    "generate_tokens",
    "iter_batch",
]


class ModelOutput(Protocol):
    """What a forward pass gives back."""

    @property
    def logits(self) -> Tensor:
        """(B, N, V): of all new tokens, or of the last `logits_to_keep` only."""


class LanguageModel(Protocol):
    """A causal language model as the framework builds them, or a fake of ten lines.

    It may have `rows_at_once`: up to how many tokens of one prompt go through it at hardly more than the cost of one,
    each with the very logits that it has alone. Then guesses are made without being asked for.
    """

    @property
    def config(self) -> object:
        """May have `model_max_length` (no limit without it) and `vocab_size` (ids are not checked without it)."""

    @property
    def device(self) -> torch.device:
        """Where token ids go."""

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        past_key_values: object,
        use_cache: bool,
        logits_to_keep: int,
    ) -> ModelOutput:
        """Logits after T new tokens, (B, T); the mask (B, S), None without padding, covers the cached ones as well."""


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One new token; `finish_reason` is set on the last one.

    `logprob` is the natural logarithm of the probability that the model itself gave to the token, before penalty,
    temperature and cuts. `top_logprobs`: the most likely tokens and theirs, best first, as many as were asked for.
    """

    token_id: int
    finish_reason: FinishReason | None
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


def generate_tokens(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    cancelled: Callable[[], bool] | None = None,
    constraint: Constraint | None = None,
) -> Iterator[TokenStep]:
    """The tokens that continue a prompt, each as soon as it is chosen; closing the iterator stops the work.

    Finish reasons: "stop" (a stop id, itself yielded), "length" (`max_new_tokens` are out or the context is full) and
    "cancelled" (`cancelled()` turned true; nothing at all is yielded when it is true from the start). `constraint`
    says which tokens may come next, and is told which did.

    Raises ContextLengthError when the prompt leaves no room, SettingsError when it is empty or `logit_bias` names an
    unknown token, and TokenizerError when the prompt does, all at the call; GenerationError, with the cause chained,
    when the model fails on the way.
    """
    continuation = _Continuation(model, [prompt_ids], sampling, constraint)
    return _iter_single(continuation, stop_ids, cancelled or _never)


def iter_batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
    cancelled: Callable[[], bool] | None = None,
) -> Iterator[list[TokenStep | None]]:
    """One list a step: the next token of each prompt, None for those that have finished.

    Rows stop independently of each other, as in `generate_tokens`, and raise the same errors. Each row gets the tokens
    that it gets alone, with a seed as under greedy choice: so with a seed equal prompts get equal replies.
    """
    if not prompts:
        return iter(())
    continuation = _Continuation(model, prompts, sampling)
    return _iter_rows(continuation, stop_ids, cancelled or _never)


def generate_batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: frozenset[int],
) -> list[list[int]]:
    """The new ids of each prompt, a closing stop id included; see `iter_batch`."""
    replies: list[list[int]] = [[] for _ in prompts]
    for steps in iter_batch(model, prompts, sampling, stop_ids=stop_ids):
        for reply, step in zip(replies, steps, strict=True):
            if step is not None:
                reply.append(step.token_id)
    return replies


def _never() -> bool:
    return False


def _iter_single(
    continuation: "_Continuation", stop_ids: frozenset[int], cancelled: Callable[[], bool]
) -> Iterator[TokenStep]:
    with closing(_iter_rows(continuation, stop_ids, cancelled)) as rows:
        for steps in rows:
            step = steps[0]
            assert step is not None  # the iterator ends with its only row
            yield step


def _iter_rows(
    continuation: "_Continuation", stop_ids: frozenset[int], cancelled: Callable[[], bool]
) -> Generator[list[TokenStep | None], None, None]:
    open_rows = set(range(len(continuation.limits)))
    num_done = 0
    if cancelled():
        return
    try:
        while open_rows:
            choices = continuation.advance(open_rows)
            num_done += 1
            is_cancelled = cancelled()
            steps: list[TokenStep | None] = [None] * len(choices)
            for row, choice in enumerate(choices):
                if choice is None:
                    continue
                token_id = choice.token_id
                reason: FinishReason | None = None
                if token_id in stop_ids:
                    reason = "stop"
                elif is_cancelled:
                    reason = "cancelled"
                elif num_done >= continuation.limits[row]:
                    reason = "length"
                steps[row] = TokenStep(token_id, reason, choice.logprob, choice.top_logprobs)
                if reason is not None:
                    open_rows.remove(row)
            yield steps
    finally:  # gigabytes, which not every version of Python frees with a closed iterator
        continuation.free()


class _Continuation:
    """A batch of prompts while it is being continued: ids so far, the cache, who chooses for each row.

    `limits`: how many tokens each row may get.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        constraint: Constraint | None = None,
    ) -> None:
        """`constraint`: of a single prompt's reply."""
        for prompt in prompts:
            check_prompt(model, prompt, sampling)
        context = context_length(model)
        self.limits = [int(min(sampling.max_new_tokens, context - len(prompt))) for prompt in prompts]
        self._prompts, self._sampling, self._constraint = prompts, sampling, constraint
        self._choosers: list[Chooser] = []
        self._cache = new_cache(LAYERS[sampling.kv_cache])
        self._num_cached = 0
        self._num_columns = max(len(prompt) for prompt in prompts)
        model = graph_model(processor_model(model), [self._num_columns - len(prompt) for prompt in prompts])
        self._model: LanguageModel = model
        columns = self._num_columns + max(self.limits)
        # padding stands on the left and repeats the row's first id: a hidden place for the model
        rows = [[prompt[0]] * (self._num_columns - len(prompt)) + list(prompt) for prompt in prompts]
        self._ids = torch.zeros(len(rows), columns, dtype=torch.long, device=model.device)  # (B, columns)
        self._ids[:, : self._num_columns] = torch.tensor(rows, device=model.device)
        self._mask: Tensor | None = None
        if min(len(prompt) for prompt in prompts) < self._num_columns:
            self._mask = torch.ones_like(self._ids)
            for row, prompt in enumerate(prompts):
                self._mask[row, : self._num_columns - len(prompt)] = 0
        most = _most_guesses(model, sampling) if len(prompts) == 1 else 0
        self._drafter = Drafter(prompts[0]) if most else None
        self._most_guesses = most
        self._guesses: list[int] = []  # what stands in the cache behind the tokens that were chosen
        self._ahead: list[Tensor] = []  # logits (1, V) behind each of them

    def free(self) -> None:
        """Gives the cache back; nothing more can be chosen."""
        del self._cache

    def advance(self, rows: Collection[int]) -> list[Choice | None]:
        """What is chosen next for each of these rows, None for all others; GenerationError when the model fails."""
        try:
            return self._advance(rows)
        except BaichuanError:
            raise
        except Exception as error:
            cause = str(error).strip().split("\n")[0] or "no message"
            raise GenerationError(f"the model failed while replying: {type(error).__name__}: {cause}") from error

    @torch.inference_mode()
    def _advance(self, rows: Collection[int]) -> list[Choice | None]:
        logits = (self._ahead.pop(0) if self._ahead else self._pass()).float()  # (B, V)
        choices = self._choose(logits, rows)
        seen = self._num_columns
        if seen < self._ids.shape[1]:
            for row, choice in enumerate(choices):  # one that has finished is fed some token: nobody reads what follows
                if choice is not None:
                    self._ids[row, seen] = choice.token_id
            self._num_columns = seen + 1
        if self._drafter is not None and choices[0] is not None:
            self._drafter.append(choices[0].token_id)
            self._compare(choices[0].token_id)
        return choices

    def _choose(self, logits: Tensor, rows: Collection[int]) -> list[Choice | None]:
        if not self._choosers:
            self._choosers = [
                Chooser(self._sampling, prompt, logits.device, self._constraint) for prompt in self._prompts
            ]
        if self._choosers[0].is_plain:
            together = choose_greedy_rows(logits)
            return [self._choosers[row].took(together[row]) if row in rows else None for row in range(len(together))]
        return [chooser.choose(logits[row]) if row in rows else None for row, chooser in enumerate(self._choosers)]

    def _pass(self) -> Tensor:
        """Logits (B, V) of the next place, after a forward pass; those behind right guesses are kept in `_ahead`."""
        seen = self._num_columns
        is_prefill = self._num_cached == 0
        # the pass gives one token more than are guessed, and no more than are left to choose are wanted
        most = min(self._most_guesses, self._ids.shape[1] - seen - 1)
        # none behind the prompt itself: that pass may take another way through the model, with other roundings
        guesses = self._drafter.draft(most) if self._drafter is not None and not is_prefill else []
        if guesses:
            self._ids[0, seen : seen + len(guesses)] = torch.tensor(guesses, device=self._ids.device)
        output = self._model(
            input_ids=self._ids[:, self._num_cached : seen + len(guesses)],
            attention_mask=None if self._mask is None else self._mask[:, :seen],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1 + len(guesses),
        )
        rows = output.logits[:, -1 - len(guesses) :]  # (B, 1 + guesses, V)
        self._guesses = guesses
        self._ahead = [rows[:, place] for place in range(1, 1 + len(guesses))]
        self._num_cached = seen
        return rows[:, 0]

    def _compare(self, chosen: int) -> None:
        """Goes on behind the guess that was right, or takes all guesses back out of the cache."""
        if not self._guesses:
            return
        if chosen == self._guesses[0]:
            del self._guesses[0]
            self._num_cached += 1
            return
        self._cache.crop(-len(self._guesses))
        self._guesses, self._ahead = [], []


def context_length(model: LanguageModel) -> float:
    """How many tokens prompt and reply may have together; infinite when the config sets no limit."""
    length = getattr(model.config, "model_max_length", None)
    return math.inf if length is None else int(length)


def _most_guesses(model: LanguageModel, sampling: Sampling) -> int:
    """How many tokens may be guessed for one pass: as the user says, else as many as cost hardly anything."""
    if sampling.draft_tokens is not None:
        return sampling.draft_tokens
    return int(getattr(model, "rows_at_once", 1)) - 1


def check_prompt(model: LanguageModel, prompt_ids: Sequence[int], sampling: Sampling | None = None) -> None:
    """Raises what a forward pass would turn into a riddle, or, on an accelerator, into a dead process.

    See `generate_tokens`; with `sampling` the ids that it names are looked at as well.
    """
    if len(prompt_ids) == 0:
        raise SettingsError("the prompt is empty; give at least one token")
    context = context_length(model)
    if len(prompt_ids) >= context:
        raise ContextLengthError(
            f"the prompt has {len(prompt_ids)} tokens, the model's context {context:g}; shorten the prompt, "
            "as at least one token must be left for the reply"
        )
    vocab_size = getattr(model.config, "vocab_size", None)
    lowest, highest = min(prompt_ids), max(prompt_ids)
    if lowest < 0 or (vocab_size is not None and highest >= vocab_size):
        wrong = lowest if lowest < 0 else highest
        raise TokenizerError(f"prompt holds token id {wrong}, outside of the vocabulary of {vocab_size} tokens")
    if sampling is not None and vocab_size is not None:
        check_logit_bias(sampling, vocab_size)
