"""What stands in the way of saying the same again, kept up to date while a reply grows, and the user's own bias.

Unlike the rules of `engine.sampling` these depend on what was said: ids and counts are kept on the logits' device and
brought up to date token by token, so that a step costs the same however long prompt and reply are.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from baichuan2.engine.sampling import Sampling, penalize_repetition
from baichuan2.errors import SettingsError

__all__ = ["Penalties", "check_logit_bias"]

FIRST_CAPACITY = 64


class _Entries:
    """Ids (1, N), each once, and a number (1, N) for each of them, on a device; both grow."""

    def __init__(self, device: torch.device, ids: Iterable[int] = (), value: float = 0.0) -> None:
        self._places = {token_id: place for place, token_id in enumerate(dict.fromkeys(ids))}
        capacity = max(FIRST_CAPACITY, 2 * len(self._places))
        self._ids = torch.zeros(1, capacity, dtype=torch.long, device=device)
        self._values = torch.zeros(1, capacity, device=device)
        if self._places:
            self._ids[0, : len(self._places)] = torch.tensor(list(self._places), device=device)
            self._values[0, : len(self._places)] = value

    def __len__(self) -> int:
        return len(self._places)

    def set(self, token_id: int, value: float) -> None:
        """Gives an id its number, an id that is known or a new one."""
        place = self._places.get(token_id)
        if place is None:
            place = self._places[token_id] = len(self._places)
            if place == self._ids.shape[1]:
                self._ids = torch.cat([self._ids, torch.zeros_like(self._ids)], dim=1)
                self._values = torch.cat([self._values, torch.zeros_like(self._values)], dim=1)
            self._ids[0, place] = token_id
        self._values[0, place] = value

    def add(self, token_id: int) -> None:
        """Takes an id without a number, once."""
        if token_id not in self._places:
            self.set(token_id, 0.0)

    @property
    def ids(self) -> Tensor:
        """(1, N) int64."""
        return self._ids[:, : len(self._places)]

    @property
    def values(self) -> Tensor:
        """(1, N) float32."""
        return self._values[:, : len(self._places)]


class Penalties:
    """Bias, repetition penalty, frequency and presence penalty of one reply, in this order.

    The repetition penalty (Keskar et al. 2019) divides, and looks at prompt and reply as transformers does. The other
    two are OpenAI's (API reference, "Frequency and presence penalties"): a token that was said c times loses
    c * frequency + presence, where c counts the reply alone, as vLLM does.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], device: torch.device) -> None:
        self._repetition = sampling.repetition_penalty
        self._frequency, self._presence = sampling.frequency_penalty, sampling.presence_penalty
        self._bias = _Entries(device)
        for token_id, bias in sampling.logit_bias.items():
            self._bias.set(token_id, bias)
        self._seen = _Entries(device, prompt_ids if self._repetition != 1 else ())
        self._said = _Entries(device)
        self._counts: dict[int, int] = {}
        self._has_counts = self._frequency != 0 or self._presence != 0

    @property
    def is_neutral(self) -> bool:
        """Whether logits stay as they are, now and later."""
        return self._repetition == 1 and not self._has_counts and not len(self._bias)

    def apply(self, logits: Tensor) -> Tensor:
        """Logits (1, V) float32 with all of it applied; the input stays as it is, and may be what is given back."""
        scores = logits
        if len(self._bias):
            scores = scores.scatter_add(1, self._bias.ids, self._bias.values)
        if len(self._seen):
            scores = penalize_repetition(scores, self._seen.ids, self._repetition)
        if len(self._said):
            scores = scores.scatter_add(1, self._said.ids, self._said.values)
        return scores

    def append(self, token_id: int) -> None:
        """Takes the token that was chosen."""
        if self._repetition != 1:
            self._seen.add(token_id)
        if self._has_counts:
            count = self._counts[token_id] = self._counts.get(token_id, 0) + 1
            self._said.set(token_id, -(count * self._frequency + self._presence))


def check_logit_bias(sampling: Sampling, vocab_size: int) -> None:
    """Raises SettingsError for a biased id outside of the vocabulary: on an accelerator it would end the process."""
    if sampling.logit_bias and max(sampling.logit_bias) >= vocab_size:
        raise SettingsError(
            f"logit_bias names token id {max(sampling.logit_bias)}, outside of the vocabulary of {vocab_size} tokens"
        )
