"""How likely a model thinks given continuations are: the passes behind every multiple-choice test.

Prompts of one test begin alike, with the same examples. `scoring_plan` finds what any of them have in common, so that
each beginning is computed once; `scoring_pass` computes. Memory holds the keys and values of a single text, however
many there are.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from baichuan2.engine.generate import context_length
from baichuan2.engine.scoring_pass import branch_states, likelihoods, token_logits
from baichuan2.engine.scoring_plan import Plan, ScoringRequest, plan_readings
from baichuan2.errors import ContextLengthError, GenerationError, TokenizerError
from baichuan2.kernels.wide_products import WideProducts, multiplies_half_slowly
from baichuan2.model.branches import Branches, Path

__all__ = ["Scores", "ScoringRequest", "score", "score_texts"]

BATCH_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Scores:
    """One number for each candidate.

    `logits`: at the last place of the prompt, of the candidate's first token, in float32 before any softmax.
    `logprobs`: natural logarithm of the probability of the whole candidate after the prompt; float32 softmax over all
    of the vocabulary. None where it was not asked for.
    `is_greedy`: whether each token of the candidate is the likeliest one at its place. None as above.
    `prompt_logprob`: of all tokens of the prompt after its first. None where it was not asked for.
    """

    logits: tuple[float, ...]
    logprobs: tuple[float, ...] | None = None
    is_greedy: tuple[bool, ...] | None = None
    prompt_logprob: float | None = None


@torch.inference_mode()
def score(
    model: Any,
    requests: Sequence[ScoringRequest],
    *,
    logprobs: bool = False,
    prompt_logprobs: bool = False,
    batch_tokens: int | None = None,
) -> Iterator[tuple[int, Scores]]:
    """The scores of each request with its index, as soon as they are known, which is in any order.

    `model`: a `BaichuanForCausalLM` or `PlainBaichuan`, set to answer.
    `logprobs`: also those of the whole candidates; without, only the rows of the head that are asked for are computed.
    `prompt_logprobs`: also those of the prompts; includes `logprobs`.
    `batch_tokens`: tokens that go through the model at once. None: as many as are fast on a processor.

    Numbers are those of each text alone, to the rounding of float sums; but where `rope_scaling` is dynamic and texts
    are longer than what the model was trained on, when all of a pass get the angles of its longest.

    Raises:
        ContextLengthError: a prompt with its candidate is longer than the model's context.
        TokenizerError: a token id is beyond the vocabulary.
        GenerationError: the model computes something that is no number.
    """
    _check(model, requests)
    is_whole = logprobs or prompt_logprobs
    plan = plan_readings(requests, whole=is_whole, prompts=prompt_logprobs)
    values = _Values(plan, is_whole, prompt_logprobs)
    path, num_done, num_yielded = Path(plan.longest), 0, 0
    for passage in plan.passages(batch_tokens or BATCH_TOKENS):
        stop = num_done + len(passage.token_ids)
        with _fast_products(model):
            states = branch_states(model, passage.token_ids, Branches(tuple(passage.pieces), path))  # (N, C)
            values.read(model, states, num_done, stop)
        num_done = stop
        while num_yielded < len(requests) and plan.order[num_yielded][0] < num_done:
            index = plan.order[num_yielded][1]
            yield index, values.scores(index)
            num_yielded += 1


def score_texts(
    model: Any, groups: Sequence[Sequence[tuple[int, ...]]], *, batch_tokens: int | None = None
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """The mean loss of each text of each group, with the group's index, as soon as they are known, in any order.

    The summed cross entropy of all tokens but the first, by the number of tokens, the first included. Texts, of two
    tokens at least, may have any lengths; what they begin with is computed once.

    Raises: as `score`.
    """
    texts = [(index, number) for index, group in enumerate(groups) for number in range(len(group))]
    requests = [ScoringRequest(groups[index][number][:-1], (groups[index][number][-1:],)) for index, number in texts]
    losses: list[dict[int, float]] = [{} for _ in groups]
    for which, scores in score(model, requests, prompt_logprobs=True, batch_tokens=batch_tokens):
        index, number = texts[which]
        assert scores.prompt_logprob is not None
        assert scores.logprobs is not None
        losses[index][number] = -(scores.prompt_logprob + scores.logprobs[0]) / len(groups[index][number])
        if len(losses[index]) == len(groups[index]):
            yield index, tuple(loss for _, loss in sorted(losses[index].items()))


def _fast_products(model: Any) -> AbstractContextManager[object]:
    """What speeds up the products of a model in half precision, where the processor has none."""
    is_slow = model.device.type == "cpu" and multiplies_half_slowly(model.dtype)
    return WideProducts() if is_slow else nullcontext()


class _Values:
    """What was read so far."""

    def __init__(self, plan: Plan, is_whole: bool, prompts: bool) -> None:
        self._plan = plan
        self._is_whole = is_whole
        self._prompts = prompts
        self._logits: list[float] = []
        self._logprobs: list[float] = []
        self._is_greedy: list[bool] = []
        self._totals: dict[int | None, float] = {None: 0.0}

    def read(self, model: Any, states: torch.Tensor, start: int, stop: int) -> None:
        """The readings at the places start..stop, whose hidden states (N, C) are given."""
        readings = self._plan.readings(start, stop)
        if not readings:
            return
        rows = [place - start for place in self._plan.places[readings.start : readings.stop]]
        targets = self._plan.targets[readings.start : readings.stop]
        if self._is_whole:
            read = likelihoods(model, states, rows, targets)
            self._logits += read.logits
            self._logprobs += read.logprobs
            self._is_greedy += read.is_greedy
        else:
            self._logits += token_logits(model, states, rows, targets)
        if any(map(math.isnan, self._logits[readings.start :])):
            raise GenerationError(
                f"the model computes something that is no number (NaN) in {str(model.dtype).removeprefix('torch.')}: "
                "its weights are damaged, or beyond that format; try --dtype float32"
            )

    def scores(self, index: int) -> Scores:
        """Those of a request whose readings are all there."""
        candidates = self._plan.candidates[index]
        logits = tuple(self._logits[readings[0]] for readings in candidates)
        if not self._is_whole:
            return Scores(logits)
        return Scores(
            logits,
            tuple(math.fsum(self._logprobs[reading] for reading in readings) for readings in candidates),
            tuple(all(self._is_greedy[reading] for reading in readings) for readings in candidates),
            self._total(self._plan.prompt_ends[index]) if self._prompts else None,
        )

    def _total(self, reading: int | None) -> float:
        """The log-probability of a prompt up to the token of a reading."""
        chain = []
        while reading not in self._totals:
            assert reading is not None
            chain.append(reading)
            reading = self._plan.parents[reading]
        total = self._totals[reading]
        for reading in reversed(chain):
            total += self._logprobs[reading]
            self._totals[reading] = total
        return total


def _check(model: Any, requests: Sequence[ScoringRequest]) -> None:
    vocab_size, limit = int(model.config.vocab_size), context_length(model)
    for index, request in enumerate(requests):
        candidates = request.candidates
        if not request.prompt_ids or not candidates or not all(candidates):
            raise ValueError(f"request {index}: a prompt and each of its candidates need one token at least")
        tokens = (*request.prompt_ids, *(token for candidate in candidates for token in candidate))
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            wrong = next(token for token in tokens if not 0 <= token < vocab_size)
            raise TokenizerError(f"request {index}: token {wrong} is beyond the vocabulary of {vocab_size}")
        length = len(request.prompt_ids) + max(map(len, candidates)) - 1  # a candidate's last token does not go in
        if length > limit:
            raise ContextLengthError(
                f"a prompt of {len(request.prompt_ids)} tokens, with its answer {length}, is longer than the model's "
                f"context of {limit}: use fewer --shots"
            )
