"""Token ids in, token ids out: prefill the prompt, decode one token at a time, stop.

`generate_tokens` continues one prompt and yields each token as it is chosen; `iter_batch` and `generate_batch` continue
many at once. The model is anything that fits `LanguageModel`; this module never sees a string.

One forward pass may give several tokens of a single prompt: guesses of what comes next (`engine.lookup`) go through the
model behind the last token, and hold as far as the very choices that would be made without them fall on them. So
guesses change no reply: each token is drawn from its own place's logits, by the same generator, one after the other.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from baichuan2.engine.cache import new_cache
from baichuan2.engine.graphs import graph_model
from baichuan2.engine.lookup import Drafter
from baichuan2.engine.processor import processor_model
from baichuan2.engine.quantized_cache import LAYERS
from baichuan2.engine.sampling import Sampling, choose, new_generator
from baichuan2.engine.stopping import FinishReason
from baichuan2.errors import BaichuanError, ContextLengthError, GenerationError, SettingsError, TokenizerError

__all__ = ["LanguageModel", "TokenStep", "check_prompt", "generate_batch", "generate_tokens", "iter_batch"]


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
) -> Iterator[TokenStep]:
    """The tokens that continue a prompt, each as soon as it is chosen; closing the iterator stops the work.

    Finish reasons: "stop" (a stop id, itself yielded), "length" (`max_new_tokens` are out or the context is full) and
    "cancelled" (`cancelled()` turned true; nothing at all is yielded when it is true from the start).

    Raises ContextLengthError when the prompt leaves no room, SettingsError when it is empty and TokenizerError when an
    id is unknown, all at the call; GenerationError, with the cause chained, when the model fails on the way.
    """
    continuation = _Continuation(model, [prompt_ids], sampling)
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

    Rows stop independently of each other, as in `generate_tokens`, and raise the same errors. Under greedy choice each
    row gets the tokens that it gets alone; with a seed the whole batch is repeatable.
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
            token_ids, logprobs = continuation.advance()
            num_done += 1
            is_cancelled = cancelled()
            steps: list[TokenStep | None] = [None] * len(token_ids)
            for row in sorted(open_rows):
                token_id, logprob = token_ids[row], logprobs[row]
                if not math.isfinite(logprob):
                    raise GenerationError(
                        f"the model's output at new token {num_done} is not a number (logits hold NaN or infinity); "
                        "the weights may be damaged, or need a wider dtype such as bfloat16 or float32"
                    )
                reason: FinishReason | None = None
                if token_id in stop_ids:
                    reason = "stop"
                elif is_cancelled:
                    reason = "cancelled"
                elif num_done >= continuation.limits[row]:
                    reason = "length"
                steps[row] = TokenStep(token_id, reason, logprob)
                if reason is not None:
                    open_rows.remove(row)
            yield steps
    finally:  # gigabytes, which not every version of Python frees with a closed iterator
        continuation.free()


class _Continuation:
    """A batch of prompts while it is being continued: ids so far, the cache, the random generator.

    `limits`: how many tokens each row may get.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        for prompt in prompts:
            check_prompt(model, prompt)
        context = _context_length(model)
        self.limits = [int(min(sampling.max_new_tokens, context - len(prompt))) for prompt in prompts]
        self._sampling = sampling
        self._cache = new_cache(LAYERS[sampling.kv_cache])
        self._num_cached = 0
        self._num_columns = max(len(prompt) for prompt in prompts)
        model = graph_model(processor_model(model), [self._num_columns - len(prompt) for prompt in prompts])
        self._model: LanguageModel = model
        columns = self._num_columns + max(self.limits)
        # Padding stands on the left and repeats the row's first id: a hidden place for the model, and no news to the
        # repetition penalty, which looks at the whole row.
        rows = [[prompt[0]] * (self._num_columns - len(prompt)) + list(prompt) for prompt in prompts]
        self._ids = torch.zeros(len(rows), columns, dtype=torch.long, device=model.device)  # (B, columns)
        self._ids[:, : self._num_columns] = torch.tensor(rows, device=model.device)
        self._mask: Tensor | None = None
        if min(len(prompt) for prompt in prompts) < self._num_columns:
            self._mask = torch.ones_like(self._ids)
            for row, prompt in enumerate(prompts):
                self._mask[row, : self._num_columns - len(prompt)] = 0
        self._generator: torch.Generator | None = None
        most = _most_guesses(model, sampling) if len(prompts) == 1 else 0
        self._drafter = Drafter(prompts[0]) if most else None
        self._most_guesses = most
        self._guesses: list[int] = []  # what stands in the cache behind the tokens that were chosen
        self._ahead: list[Tensor] = []  # logits (1, V) behind each of them

    def free(self) -> None:
        """Gives the cache back; nothing more can be chosen."""
        del self._cache

    def advance(self) -> tuple[list[int], list[float]]:
        """The next id of each row, and its log-probability; GenerationError when the model fails."""
        try:
            return self._advance()
        except BaichuanError:
            raise
        except Exception as error:
            cause = str(error).strip().split("\n")[0] or "no message"
            raise GenerationError(f"the model failed while replying: {type(error).__name__}: {cause}") from error

    @torch.inference_mode()
    def _advance(self) -> tuple[list[int], list[float]]:
        logits = (self._ahead.pop(0) if self._ahead else self._pass()).float()  # (B, V)
        seen = self._num_columns
        next_ids = choose(logits, self._ids[:, :seen].to(logits.device), self._sampling, self._generator)  # (B,)
        logprobs = logits.gather(1, next_ids[:, None]).squeeze(1) - logits.logsumexp(-1)  # (B,)
        if seen < self._ids.shape[1]:
            self._ids[:, seen] = next_ids
            self._num_columns = seen + 1
        chosen: list[int] = next_ids.tolist()
        if self._drafter is not None:
            self._drafter.append(chosen[0])
            self._compare(chosen[0])
        return chosen, logprobs.tolist()

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
        if is_prefill:
            self._generator = new_generator(self._sampling, rows.device)
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


def _context_length(model: LanguageModel) -> float:
    """How many tokens prompt and reply may have together; infinite when the config sets no limit."""
    length = getattr(model.config, "model_max_length", None)
    return math.inf if length is None else int(length)


def _most_guesses(model: LanguageModel, sampling: Sampling) -> int:
    """How many tokens may be guessed for one pass: as the user says, else as many as cost hardly anything."""
    if sampling.draft_tokens is not None:
        return sampling.draft_tokens
    return int(getattr(model, "rows_at_once", 1)) - 1


def check_prompt(model: LanguageModel, prompt_ids: Sequence[int]) -> None:
    """Raises what a forward pass would turn into a riddle, or, on an accelerator, into a dead process."""
    if len(prompt_ids) == 0:
        raise SettingsError("the prompt is empty; give at least one token")
    context = _context_length(model)
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
