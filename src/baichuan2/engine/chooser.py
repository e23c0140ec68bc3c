"""The next token of each reply: what was said so far, a grammar and a random generator, one of each for every reply.

A reply's choices depend on its own logits, settings and seed, and on nothing that is computed beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan2.engine.constraint import Constraint
from baichuan2.engine.penalties import Penalties, check_logit_bias
from baichuan2.engine.sampling import Sampling, new_generator, pick
from baichuan2.engine.selection import argmax, largest_with_ties
from baichuan2.errors import GenerationError

__all__ = ["Choice", "Chooser", "choose_greedy_rows"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A token and its log-probabilities; see `engine.generate.TokenStep`."""

    token_id: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Chooser:
    """Chooses the tokens of one reply, one after the other."""

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Sequence[int],
        device: torch.device,
        constraint: Constraint | None = None,
    ) -> None:
        """`device`: where the logits will be."""
        self.sampling = sampling
        self._penalties = Penalties(sampling, prompt_ids, device)
        self._constraint = constraint
        self._generator = new_generator(sampling, device)
        self._num_chosen = 0
        self.is_plain = (
            sampling.is_greedy and self._penalties.is_neutral and constraint is None and not sampling.num_top_logprobs
        )
        """Whether `choose_greedy_rows` may choose in its place, as long as it is told by `took`."""

    def choose(self, logits: Tensor) -> Choice:
        """The next token, by logits (V,) float32, which stay as they are; it counts as said from now on.

        Raises GenerationError when the logits are no numbers or nothing may be said, and SettingsError when
        `logit_bias` names a token that they do not have.
        """
        return self._choose(logits[None])

    def took(self, choice: Choice) -> Choice:
        """The choice that was made elsewhere for this plain reply; raises GenerationError when it is no number."""
        if not math.isfinite(choice.logprob):
            raise self._no_number()
        self._num_chosen += 1
        return choice

    def _choose(self, logits: Tensor) -> Choice:
        sampling = self.sampling
        if self.is_plain:
            return self.took(choose_greedy_rows(logits)[0])
        if self._num_chosen == 0:
            check_logit_bias(sampling, logits.shape[-1])
        scores = self._penalties.apply(logits)  # (1, V)
        if self._constraint is not None:
            scores = scores.clone() if scores is logits else scores
            self._constraint.apply(scores[0])
        logprobs = logits.log_softmax(-1)  # (1, V)
        try:
            token_id = self._pick(scores)
        except RuntimeError as error:  # a draw among what are no numbers; the message of the framework helps nobody
            if isinstance(error, GenerationError) or math.isfinite(logprobs.amax()):
                raise
            raise self._no_number() from None
        choice = Choice(token_id, logprobs[0, token_id].item(), self._top_logprobs(logits, logprobs))
        self.took(choice)
        if self._constraint is not None:
            self._constraint.accept(token_id)
        self._penalties.append(token_id)
        return choice

    def _pick(self, scores: Tensor) -> int:
        """The next id, by scores (1, V)."""
        if self._constraint is not None and scores.amax() == -torch.inf:
            raise GenerationError(f"the grammar of the reply allows no token at new token {self._num_chosen + 1}")
        return int(pick(scores, self.sampling, self._generator))

    def _no_number(self) -> GenerationError:
        return GenerationError(
            f"the model's output at new token {self._num_chosen + 1} is not a number (logits hold NaN or infinity); "
            "the weights may be damaged, or need a wider dtype such as bfloat16 or float32"
        )

    def _top_logprobs(self, logits: Tensor, logprobs: Tensor) -> tuple[tuple[int, float], ...]:
        number = min(self.sampling.num_top_logprobs, logits.shape[-1])
        if not number:
            return ()
        ids = largest_with_ties(logits, number)[1][0, :number]  # (number,)
        return tuple(zip(ids.tolist(), logprobs[0, ids].tolist(), strict=True))


def choose_greedy_rows(logits: Tensor) -> list[Choice]:
    """The most likely token of each row of (B, V) float32, for rows under no rule at all: `Chooser.is_plain`.

    The log-probability of a row that holds NaN is no number; `Chooser.took` finds that out.
    """
    next_ids = argmax(logits)  # (B,)
    if logits.device.type == "cpu":
        # row by row: of several, torch shares even few numbers among threads, which then wait for busy cores
        logprobs = torch.stack([row.log_softmax(-1)[token_id] for row, token_id in zip(logits, next_ids, strict=True)])
    else:
        logprobs = logits.gather(1, next_ids[:, None]).squeeze(1) - logits.logsumexp(-1)  # (B,)
    return [Choice(*pair) for pair in zip(next_ids.tolist(), logprobs.tolist(), strict=True)]
