"""From logits to the next token id: one pure function per rule, in the official order.

bias -> repetition, frequency and presence penalty -> constraint -> temperature -> top_k -> top_p -> min_p -> draw.
From the repetition penalty on that is the order of transformers' `generate`; bias before penalties, and both before
the temperature, are as in vLLM. What comes before the temperature needs to know what was said: `engine.chooser`.
`resolve` settles once, before the first token, which value each rule uses; nothing here reads a setting, a file or a
string afterwards.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from baichuan2.engine.selection import argmax, draw, largest_with_ties
from baichuan2.errors import SettingsError
from baichuan2.settings import SamplingSettings, flag_name

__all__ = [
    "Sampling",
    "distribution",
    "dtype_of_sums",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "new_generator",
    "penalize_repetition",
    "pick",
    "resolve",
    "scale_temperature",
]

# What a generation_config.json means that leaves a value out: the framework's own reading (top_k 50 included), except
# for the length, where the framework's 20 tokens in all would cut every reply; 2,048 is what the official files say.
FALLBACKS: dict[str, bool | float | int] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_new_tokens": 2048,
}
SAMPLES = ("temperature", "top_k", "top_p", "min_p")  # who sets one of these wants sampling
LARGEST_BIAS = 100.0  # OpenAI's bound: enough to forbid a token, or to leave no other
LARGEST_SEED = 2**63 - 1
FIRST_LOOK = 64  # candidates that mostly hold top_p
MANY = 8  # with more candidates than one in so many tokens, sorting all is faster
HALVINGS = 6  # of a range of about 15, a logarithm: what is left is a factor of 1.3


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Every choice made, none left to the checkpoint; `seed=None` draws from torch's global generator.

    `draft_tokens=None` leaves the number of guesses to the model that computes them; they change no choice.
    `kv_cache`: the numbers in which keys and values are kept, see `quantized_cache.LAYERS`.
    `logit_bias`: what is added to the logits of single tokens, by their ids; `num_top_logprobs`: of how many of the
    most likely tokens each step tells the log-probability.

    Raises SettingsError for a `logit_bias` or `num_top_logprobs` that cannot work.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    num_top_logprobs: int = 0
    max_new_tokens: int = 2048
    seed: int | None = None
    draft_tokens: int | None = None
    kv_cache: Literal["same", "int8"] = "same"

    def __post_init__(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise SettingsError(f"logit_bias must map token ids to numbers, got {type(self.logit_bias).__name__}")
        for token_id, bias in self.logit_bias.items():
            if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
                raise SettingsError(f"logit_bias must map token ids, whole numbers from 0, got {token_id!r}")
            if not isinstance(bias, int | float) or isinstance(bias, bool) or not abs(bias) <= LARGEST_BIAS:
                raise SettingsError(
                    f"logit_bias[{token_id}] must be a number in [-{LARGEST_BIAS:g}, {LARGEST_BIAS:g}], got {bias!r}"
                )
        number = self.num_top_logprobs
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise SettingsError(f"num_top_logprobs must be a whole number from 0, got {number!r}")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return not self.do_sample or self.temperature == 0


def resolve(
    settings: SamplingSettings | None,
    generation_config: object,
    *,
    logit_bias: Mapping[int, float] | None = None,
    num_top_logprobs: int = 0,
) -> Sampling:
    """The values in force: the user's, else those of `generation_config` (any object with such attributes), else ours.

    Somebody who sets a temperature, top_k, top_p or min_p without a word on `do_sample` wants sampling and gets it.
    Raises SettingsError when a value, the checkpoint's included, lies out of bounds, and for settings of another class.
    """
    if settings is not None and not isinstance(settings, SamplingSettings):
        raise SettingsError(f"sampling must be SamplingSettings(...), got {type(settings).__name__}")
    asked = settings or SamplingSettings()
    values: dict[str, Any] = {}
    for name, fallback in FALLBACKS.items():
        value = getattr(asked, name)
        if value is None:
            value = getattr(generation_config, name, None)
        values[name] = _of_kind(name, fallback if value is None else value)
    if asked.do_sample is None and any(getattr(asked, name) is not None for name in SAMPLES):
        values["do_sample"] = True
    if asked.seed is not None and asked.seed > LARGEST_SEED:
        raise SettingsError(f"--seed must lie in [0, {LARGEST_SEED}], got {asked.seed}")
    checked = SamplingSettings(**values)  # the checkpoint's own values obey the same bounds
    return Sampling(
        **{name: getattr(checked, name) for name in FALLBACKS},
        seed=asked.seed,
        draft_tokens=asked.draft_tokens,
        kv_cache=asked.kv_cache,
        logit_bias={} if logit_bias is None else logit_bias,
        num_top_logprobs=num_top_logprobs,
    )


def _of_kind(name: str, value: object) -> object:
    """The value, if it is of the kind that its fallback is; a generation_config.json may hold anything."""
    fallback = FALLBACKS[name]
    if isinstance(fallback, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(fallback, int):
        fits, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        fits, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    if not fits:
        raise SettingsError(f"{flag_name(name)} must be {expected}, got {value!r}")
    return value


def new_generator(sampling: Sampling, device: torch.device) -> torch.Generator | None:
    """A random generator of this call's own, or None (torch's global one) when no seed was given."""
    if sampling.seed is None or sampling.is_greedy:
        return None
    return torch.Generator(device=device).manual_seed(sampling.seed)


def penalize_repetition(logits: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Logits (B, V) in which each id of `seen_ids` (B, S) has become less likely, once, however often it was seen.

    Positive logits are divided by the penalty, negative ones multiplied.
    """
    if penalty == 1:
        return logits
    seen = logits.gather(1, seen_ids)  # (B, S)
    return logits.scatter(1, seen_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits (B, V) divided by a temperature above zero."""
    return logits if temperature == 1 else logits / temperature


def keep_top_k(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The candidates, best first: their logits (B, K) and their ids (B, K); 0 keeps the whole vocabulary.

    Every token that ties with the last one kept is kept too, as in the framework, so K may exceed `top_k`; rows with
    fewer candidates than K are filled with minus infinity. Equal logits stand in the order of their ids.
    """
    if top_k <= 0 or top_k >= logits.shape[-1]:
        values, ids = logits.sort(dim=-1, descending=True, stable=True)
        return values, ids
    return largest_with_ties(logits, top_k)


def keep_top_p(values: Tensor, top_p: float) -> Tensor:
    """Candidates' logits (B, K), best first, with minus infinity behind the smallest set that holds `top_p`.

    The best candidate always stays.
    """
    if top_p >= 1:
        return values
    # summed from the unlikely end, as the framework does, so that rounding falls on the same side
    mass = values.flip(-1).softmax(-1).cumsum(-1).flip(-1)  # (B, K): this candidate and all worse ones
    dropped = mass <= 1 - top_p
    dropped[:, 0] = False
    return values.masked_fill(dropped, -torch.inf)


def keep_most_likely(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """What `keep_top_p` leaves of the whole vocabulary, without sorting all of it: logits (B, K) and ids (B, K).

    Best first, minus infinity behind the smallest set that holds `top_p`; where nothing is cut off in the order of ids.
    """
    if top_p >= 1:
        return logits, torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
    probabilities = logits.softmax(-1)  # (B, V)
    exact = dtype_of_sums(logits.device)
    total = probabilities.sum(-1, keepdim=True, dtype=exact)  # (B, 1)
    values, ids = keep_top_k(logits, min(FIRST_LOOK, logits.shape[-1]))  # (B, K)
    if not _holds(probabilities.gather(-1, ids), values, top_p):
        least = _least_needed(probabilities, top_p)  # (B, 1)
        count = int((probabilities >= least).sum(-1).max())
        values, ids = keep_top_k(logits, count if count * MANY < logits.shape[-1] else 0)
    kept = probabilities.gather(-1, ids).masked_fill(values == -torch.inf, 0).to(exact)
    # this candidate and all worse ones, those that are not candidates included
    mass = kept.flip(-1).cumsum(-1).flip(-1) + (total - kept.sum(-1, keepdim=True)).clamp(min=0)
    dropped = mass <= (1 - top_p) * total
    dropped[:, 0] = False
    return values.masked_fill(dropped, -torch.inf), ids


def dtype_of_sums(device: torch.device) -> torch.dtype:
    """What probabilities of a vocabulary are summed in.

    float64 on the processor, whose sums in float32 lie 5e-6 off, by its way to add. Some accelerators have no float64.
    """
    return torch.float64 if device.type == "cpu" else torch.float32


def _holds(probabilities: Tensor, values: Tensor, top_p: float) -> bool:
    """Whether in each row `keep_top_p` would drop whatever is not among these candidates (B, K)."""
    rest = 1 - probabilities.masked_fill(values == -torch.inf, 0).sum(-1)  # (B,)
    return bool((rest <= 1 - top_p).all())


def _least_needed(probabilities: Tensor, top_p: float) -> Tensor:
    """A probability for each row of (B, V), (B, 1): all below it together are among what `keep_top_p` drops.

    Found by halving, to within a factor that leaves few too many.
    """
    lower = torch.full_like(probabilities[:, :1], (1 - top_p) / probabilities.shape[-1]).log()
    upper = probabilities.amax(-1, keepdim=True).log()
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        below = torch.where(probabilities < middle.exp(), probabilities, 0).sum(-1, keepdim=True)
        fits = below <= 1 - top_p
        lower, upper = torch.where(fits, middle, lower), torch.where(fits, upper, middle)
    return lower.exp()


def keep_min_p(values: Tensor, min_p: float) -> Tensor:
    """Candidates' logits (B, K) with minus infinity for all less likely than `min_p` times the most likely.

    min-p of Nguyen et al. 2024 (arXiv 2407.01082). It compares with the best candidate alone, so it cuts the same
    whatever top_k has cut before.
    """
    if min_p <= 0:
        return values
    return values.masked_fill(values < values.amax(-1, keepdim=True) + math.log(min_p), -torch.inf)


def distribution(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities (B, K) and ids (B, K) of the candidates, by the rules from the temperature on.

    Best first, or, where neither top_k nor top_p cuts anything off, in the order of ids. `scores` (B, V) float32: the
    logits behind bias, penalties and constraint.
    """
    scores = scale_temperature(scores, sampling.temperature)
    if sampling.top_k <= 0:
        values, ids = keep_most_likely(scores, sampling.top_p)
    else:
        values, ids = keep_top_k(scores, sampling.top_k)
        values = keep_top_p(values, sampling.top_p)
    return keep_min_p(values, sampling.min_p).softmax(-1), ids


def pick(scores: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """The next ids (B,): the most likely ones when greedy, else drawn.

    `scores` (B, V) float32 as in `distribution`. Raises RuntimeError when they hold NaN and a draw is made.
    """
    if sampling.is_greedy:
        return argmax(scores)  # (B,)
    probabilities, ids = distribution(scores, sampling)
    drawn = draw(probabilities, generator)  # (B,)
    return ids.gather(1, drawn[:, None]).squeeze(1)  # (B,)
