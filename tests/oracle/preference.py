"""Direct preference optimisation the slow and obvious way: one pair at a time, each token's probability by itself."""

import math

from torch import Tensor

from tests.oracle.decoder import OracleShape, decode

IGNORED = -100


def reply_logprob(state: dict[str, Tensor], ids: list[int], labels: list[int], shape: OracleShape) -> float:
    """The logarithm of the probability of all labelled tokens, each after those before it."""
    logits = decode(state, ids, shape).logits
    total = 0.0
    for place in range(1, len(ids)):
        if labels[place] == IGNORED:
            continue
        row = [float(value) for value in logits[place - 1]]
        highest = max(row)
        normaliser = highest + math.log(sum(math.exp(value - highest) for value in row))
        total += row[labels[place]] - normaliser
    return total


def dpo_loss(
    policy: tuple[float, float], reference: tuple[float, float], *, beta: float, flipped: float = 0.0
) -> float:
    """Equation 7 for one pair; `flipped` is the probability that chosen and rejected were mixed up.

    `policy` and `reference` are the log-probabilities of the chosen and of the rejected reply.
    """
    chosen_reward = beta * (policy[0] - reference[0])
    rejected_reward = beta * (policy[1] - reference[1])
    probability = 1.0 / (1.0 + math.exp(-(chosen_reward - rejected_reward)))
    return -(1.0 - flipped) * math.log(probability) - flipped * math.log(1.0 - probability)
