"""How likely a model thinks given continuations are: the passes behind every multiple-choice test.

Prompts of one test begin alike, with the same examples. What all of a call's prompts begin with is computed once, and
its keys and values serve all of them; the rest goes through the model in batches of similar length, padded on the
right, where no earlier place sees it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baichuan2.engine.cache import new_cache

__all__ = ["Scores", "ScoringRequest", "score"]


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A prompt and what may follow it, as token ids; at least one of each."""

    prompt_ids: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """One number for each candidate.

    `logits`: at the last place of the prompt, of the candidate's first token, in float32 before any softmax.
    `logprobs`: natural logarithm of the probability of the whole candidate after the prompt; float32 softmax over all
    of the vocabulary. None where it was not asked for.
    `is_greedy`: whether each token of the candidate is the likeliest one at its place. None as above.
    """

    logits: tuple[float, ...]
    logprobs: tuple[float, ...] | None = None
    is_greedy: tuple[bool, ...] | None = None


@torch.inference_mode()
def score(
    model: Any, requests: Sequence[ScoringRequest], *, logprobs: bool = False, batch_tokens: int = 4096
) -> Iterator[tuple[int, Scores]]:
    """The scores of each request with its index, as soon as they are known, which is in any order.

    `logprobs`: also those of the whole candidates; without, only the rows of the head that are asked for are computed.
    `batch_tokens`: places that go through the model at once, padding included.
    """
    if logprobs or any(len(ids) != 1 for request in requests for ids in request.candidates):
        raise NotImplementedError
    prefix = _common_prefix(requests)
    held = new_cache()
    device = model.device
    if prefix:
        ids = torch.tensor([requests[0].prompt_ids[:prefix]], device=device)
        model.model(input_ids=ids, past_key_values=held, use_cache=True)
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt_ids))
    for batch in _batches(requests, order, prefix, batch_tokens):
        rows = [torch.tensor(requests[index].prompt_ids[prefix:]) for index in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)  # (B, T)
        cache = new_cache()
        if prefix:
            for number, layer in enumerate(held.layers):
                keys, values = (part.expand(len(batch), -1, -1, -1) for part in (layer.keys, layer.values))
                cache.update(keys, values, number)
        states = model.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state  # (B, T, C)
        for row, index in enumerate(batch):
            last = states[row, len(rows[row]) - 1]
            yield index, Scores(_logits(model, last, [ids[0] for ids in requests[index].candidates]))


def _logits(model: Any, state: Tensor, token_ids: list[int]) -> tuple[float, ...]:
    """The logits of some tokens for a hidden state (C,)."""
    return tuple(model.lm_head(state).float()[token_ids].tolist())


def _common_prefix(requests: Sequence[ScoringRequest]) -> int:
    """How many ids all prompts begin with; each keeps one of its own at least."""
    first, last = (pick(request.prompt_ids for request in requests) for pick in (min, max))
    shortest = min(len(request.prompt_ids) for request in requests)
    count = 0
    while count < shortest - 1 and first[count] == last[count]:
        count += 1
    return count


def _batches(
    requests: Sequence[ScoringRequest], order: Sequence[int], prefix: int, batch_tokens: int
) -> Iterator[list[int]]:
    batch: list[int] = []
    for index in order:  # lengths grow, so the newest is the longest
        length = len(requests[index].prompt_ids) - prefix
        if batch and (len(batch) + 1) * length > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
