"""The whole decoder written the slow and obvious way, in float64: one sequence, one place, one head at a time.

No cache, no batch, no shared code with the package: it takes a state dict and plain numbers, and follows the
formulas of the papers. What the package computes must agree with this.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OracleShape:
    """What the oracle must know besides the weights."""

    num_layers: int
    num_heads: int
    scheme: str
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    is_head_plain: bool = False


@dataclass
class OracleResult:
    """`logits` (T, V), `hidden_states` one (T, C) per entry, `attentions` one (H, T, T) per layer; all float64."""

    logits: Tensor
    hidden_states: list[Tensor]
    attentions: list[Tensor]


def slope(head: int, num_heads: int) -> float:
    """The ALiBi slope of one head, by the sentence in the paper: no recursion, no list."""
    power = 1
    while power * 2 <= num_heads:
        power *= 2
    if head < power:
        return 2.0 ** (-8.0 * (head + 1) / power)
    return 2.0 ** (-4.0 * (2 * (head - power) + 1) / power)


def rms_norm(vector: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`vector` (C,) over its root mean square, times the weight."""
    total = sum(float(value) ** 2 for value in vector)
    return vector / math.sqrt(total / len(vector) + eps) * weight


def rotate(vector: Tensor, position: int, theta: float) -> Tensor:
    """`vector` (D,) with each pair (j, j + D/2) turned by position * theta^(-2j/D)."""
    size = len(vector)
    turned = vector.clone()
    for j in range(size // 2):
        angle = position * theta ** (-2.0 * j / size)
        first, second = float(vector[j]), float(vector[j + size // 2])
        turned[j] = first * math.cos(angle) - second * math.sin(angle)
        turned[j + size // 2] = first * math.sin(angle) + second * math.cos(angle)
    return turned


def attention(states: Tensor, packed: Tensor, shape: OracleShape, visible: list[bool]) -> tuple[Tensor, Tensor]:
    """Mixed values (T, C) before the output projection, and the weights (H, T, T).

    `states` (T, C) are normed, `packed` (3C, C) is the joint projection: all queries, then all keys, then all values.
    """
    length, width = states.shape
    head_size = width // shape.num_heads
    query_weight, key_weight, value_weight = packed[:width], packed[width : 2 * width], packed[2 * width :]
    mixed = torch.zeros(length, width, dtype=torch.float64)
    weights = torch.zeros(shape.num_heads, length, length, dtype=torch.float64)
    for head in range(shape.num_heads):
        rows = slice(head * head_size, (head + 1) * head_size)
        queries = [query_weight[rows] @ state for state in states]
        keys = [key_weight[rows] @ state for state in states]
        values = [value_weight[rows] @ state for state in states]
        if shape.scheme == "rope":
            queries = [rotate(query, place, shape.rope_theta) for place, query in enumerate(queries)]
            keys = [rotate(key, place, shape.rope_theta) for place, key in enumerate(keys)]
        for i in range(length):
            scores = {}
            for j in range(i + 1):
                if not visible[j]:
                    continue
                scores[j] = float(queries[i] @ keys[j]) / math.sqrt(head_size)
                if shape.scheme == "alibi":
                    scores[j] += slope(head, shape.num_heads) * (j - i)
            if not scores:
                continue  # a padding row: nothing is asked of it
            highest = max(scores.values())
            total = sum(math.exp(score - highest) for score in scores.values())
            for j, score in scores.items():
                weights[head, i, j] = math.exp(score - highest) / total
                mixed[i, rows] += weights[head, i, j] * values[j]
    return mixed, weights


def decode(
    state: dict[str, Tensor], ids: list[int], shape: OracleShape, visible: list[bool] | None = None
) -> OracleResult:
    """The result for one sequence; `visible[j]` False hides key j, as padding is hidden."""
    state = {name: weight.double() for name, weight in state.items()}
    visible = visible or [True] * len(ids)
    residual = torch.stack([state["model.embed_tokens.weight"][token] for token in ids])
    hidden_states, attentions = [residual], []
    for layer in range(shape.num_layers):
        own = {
            name.removeprefix(f"model.layers.{layer}."): weight
            for name, weight in state.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        eps = shape.rms_norm_eps
        normed = torch.stack([rms_norm(row, own["input_layernorm.weight"], eps) for row in residual])
        mixed, weights = attention(normed, own["self_attn.W_pack.weight"], shape, visible)
        residual = residual + torch.stack([own["self_attn.o_proj.weight"] @ row for row in mixed])
        rows = []
        for row in residual:
            normed_row = rms_norm(row, own["post_attention_layernorm.weight"], eps)
            gate = own["mlp.gate_proj.weight"] @ normed_row
            gated = gate / (1.0 + torch.exp(-gate)) * (own["mlp.up_proj.weight"] @ normed_row)
            rows.append(row + own["mlp.down_proj.weight"] @ gated)
        residual = torch.stack(rows)
        hidden_states.append(residual)
        attentions.append(weights)
    final = torch.stack([rms_norm(row, state["model.norm.weight"], shape.rms_norm_eps) for row in residual])
    hidden_states[-1] = final
    head = state["lm_head.weight"]
    lengths = [1.0 if shape.is_head_plain else math.sqrt(sum(float(value) ** 2 for value in row)) for row in head]
    logits = torch.stack(
        [torch.stack([row @ final_row / size for row, size in zip(head, lengths, strict=True)]) for final_row in final]
    )
    return OracleResult(logits, hidden_states, attentions)
