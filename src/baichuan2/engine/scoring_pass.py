"""One pass of a scoring run: hidden states of many texts in a row, and what the head says at some of their places."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baichuan2.model.block import alibi_bias
from baichuan2.model.branches import Branches
from baichuan2.model.norm_head import NormHead, OutputHead

__all__ = ["Likelihoods", "branch_states", "likelihoods", "token_logits"]

LOGITS_BYTES = 64 * 2**20  # float32 logits over the whole vocabulary that exist at once


def branch_states(model: Any, token_ids: Sequence[int], branches: Branches) -> Tensor:
    """Hidden states after the final norm, (N, C), of the new tokens of all branches, one branch after the other.

    `model`: a `BaichuanForCausalLM` or `PlainBaichuan`, whose layers are called one by one.
    """
    decoder = model.model
    embedding = decoder.embed_tokens
    device = next(chain(embedding.parameters(), embedding.buffers())).device
    hidden_states = embedding(torch.tensor([token_ids], device=device))  # (1, N, C)
    places = branches.places().to(hidden_states.device)[None]  # (1, N)
    rotation = decoder.rotary_emb(hidden_states, places) if decoder.rotary_emb is not None else None
    bias = alibi_bias(decoder.alibi, decoder.config, hidden_states, 0, is_training=False)
    for layer in decoder.layers:
        hidden_states = layer(hidden_states, attention_mask=branches, rotation=rotation, bias=bias)
    states: Tensor = decoder.norm(hidden_states)[0]
    return states


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Of M tokens at M places: `logits` and `logprobs` (M,) float32, `is_greedy` (M,) whether none is likelier."""

    logits: list[float]
    logprobs: list[float]
    is_greedy: list[bool]


def likelihoods(model: Any, states: Tensor, rows: Sequence[int], token_ids: Sequence[int]) -> Likelihoods:
    """How likely token `token_ids[m]` is after the hidden state `states[rows[m]]`, among all of the vocabulary.

    `states` (N, C). `rows` grow. The softmax is computed in float32, of logits in the number format of the model.
    """
    result = Likelihoods([], [], [])
    distinct = sorted(set(rows))
    step = max(1, LOGITS_BYTES // (4 * model.config.vocab_size))
    done = 0
    for begin in range(0, len(distinct), step):
        part = distinct[begin : begin + step]
        end = done
        while end < len(rows) and rows[end] <= part[-1]:
            end += 1
        logits = model.lm_head(states[torch.tensor(part, device=states.device)]).float()  # (R, V)
        device = logits.device
        position = {row: number for number, row in enumerate(part)}
        where = torch.tensor([position[row] for row in rows[done:end]], device=device)  # (M,)
        targets = torch.tensor(token_ids[done:end], device=device)
        chosen = logits[where, targets]
        result.logits.extend(chosen.tolist())
        result.logprobs.extend((chosen - logits.logsumexp(dim=-1)[where]).tolist())
        result.is_greedy.extend((logits.argmax(dim=-1)[where] == targets).tolist())
        done = end
    return result


def token_logits(model: Any, states: Tensor, rows: Sequence[int], token_ids: Sequence[int]) -> list[float]:
    """The logits of `likelihoods` alone, of no more tokens than are asked for where the head allows it."""
    wanted, tokens = sorted(set(rows)), sorted(set(token_ids))
    weight = _rows_of(model.lm_head, tokens)
    states = states[torch.tensor(wanted, device=states.device)]  # (R, C)
    if weight is None:
        return likelihoods(model, states, [wanted.index(row) for row in rows], token_ids).logits
    logits = F.linear(states.to(weight.device), weight).float()  # (R, U)
    row_number = {row: number for number, row in enumerate(wanted)}
    token_number = {token: number for number, token in enumerate(tokens)}
    where = torch.tensor([row_number[row] for row in rows], device=logits.device)
    which = torch.tensor([token_number[token] for token in token_ids], device=logits.device)
    chosen: list[float] = logits[where, which].tolist()
    return chosen


def _rows_of(head: nn.Module, token_ids: list[int]) -> Tensor | None:
    """The rows (U, C) of the head's weight as its product takes them; None for a head that computes in other ways."""
    if "forward" in vars(head) or head._forward_hooks or head._forward_pre_hooks:  # a weight that lies elsewhere
        return None
    if isinstance(head, NormHead):
        weight = head.normalized_weight()
    elif isinstance(head, nn.Linear) and type(head) in (OutputHead, nn.Linear) and getattr(head, "bias", None) is None:
        weight = head.weight
    else:
        return None
    return weight[torch.tensor(token_ids, device=weight.device)]
