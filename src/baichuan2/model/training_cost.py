"""What training holds beside the weights, from the config alone: adapters, activations, the loss, in bytes.

Counted from the forward passes of `block.py`, `attention.py` and `linear_loss.py`: each tensor that autograd keeps for
the way back has its term. `tests/model/test_training_cost.py` compares the terms with what autograd really keeps, so
that a change of the model that keeps more, or less, is noticed there.

Letters (docs/shapes.md): B batch, T tokens, C hidden size, I inner size, V vocabulary; a place is one token of one row.
"""

from dataclasses import dataclass

from baichuan2.model.alibi import BLOCK_BYTES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.cost import FLOAT32_BYTES, layer_matrices
from baichuan2.model.linear_loss import BLOCK_BYTES as LOSS_BLOCK_BYTES
from baichuan2.model.linear_loss import CHUNK_BYTES, SLICE_ROWS

__all__ = [
    "Adapters",
    "Numbers",
    "Rows",
    "adapter_parameters",
    "kept_around_layers",
    "kept_by_layer",
    "layer_scratch",
    "loss_bytes",
]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Bytes of one number: of the `weights`, of what products are computed with (2 under autocast), of `adapters`'."""

    weights: int = FLOAT32_BYTES
    compute: int = FLOAT32_BYTES
    adapters: int = FLOAT32_BYTES

    @property
    def is_mixed(self) -> bool:
        """Whether products are computed with other numbers than those of the weights, which are then copied."""
        return self.weights != self.compute


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Weights of low rank beside the layers `targets` (the last parts of their names), in float32."""

    rank: int
    targets: tuple[str, ...]
    has_dropout: bool = True
    is_dora: bool = False


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What one pass works on: `batch` rows of `tokens`; whether some are padded or packed, and so need a mask."""

    batch: int
    tokens: int
    has_mask: bool = True

    @property
    def places(self) -> int:
        """Tokens of all rows."""
        return self.batch * self.tokens


def adapter_parameters(config: BaichuanConfig, adapters: Adapters) -> int:
    """How many parameters the adapters of all layers have."""
    count = 0
    for matrix in layer_matrices(config):
        if matrix.name.rpartition(".")[2] in adapters.targets:
            count += adapters.rank * (matrix.num_rows + matrix.row_length)
            count += matrix.num_rows if adapters.is_dora else 0
    return config.num_hidden_layers * count


def kept_by_layer(
    config: BaichuanConfig, rows: Rows, numbers: Numbers, adapters: Adapters | None, *, on_processor: bool
) -> int:
    """Bytes that one decoder layer keeps for the way back, without gradient checkpointing.

    `on_processor`: dropout keeps its mask in the numbers of its input there, in one byte elsewhere.
    """
    hidden, inner, wide = config.hidden_size, config.intermediate_size, numbers.compute
    is_rotary = config.position_embedding == "rope"
    # two norms: their input in float32, and one number a place; rotated queries and keys, or those of the packed
    # projection, which stays whole for the values; the mixed values; gate, silu(gate), up
    place = 2 * FLOAT32_BYTES * (hidden + 1)
    place += wide * (6 if is_rotary else 4) * hidden + FLOAT32_BYTES * config.num_attention_heads
    place += wide * 3 * inner
    if adapters is None:
        # the normed states before and after the norms' weights; under autocast gate and up copy the latter each
        place += 2 * numbers.weights * hidden + wide * (3 if numbers.is_mixed else 2) * hidden
        place += wide * inner
    else:
        place += _kept_by_adapters(config, numbers, adapters, on_processor=on_processor)
    return place * rows.places + _kept_masks(config, rows, numbers)


def _kept_by_adapters(config: BaichuanConfig, numbers: Numbers, adapters: Adapters, *, on_processor: bool) -> int:
    """Bytes for each place of one layer: the inputs of adapters, and their products of low rank."""
    narrow = numbers.adapters
    mask = FLOAT32_BYTES if on_processor else 1
    # without dropout, float32 inputs are kept as they are, once for gate and up, and mixed values are kept already
    is_shared = not adapters.has_dropout and numbers.weights == FLOAT32_BYTES and narrow == FLOAT32_BYTES
    total = 0
    for matrix in layer_matrices(config):
        name = matrix.name.rpartition(".")[2]
        if name not in adapters.targets:
            continue
        total += narrow * adapters.rank
        has_input = is_shared and (name == "o_proj" or (name == "up_proj" and "gate_proj" in adapters.targets))
        if not has_input:
            total += (narrow + (mask if adapters.has_dropout else 0)) * matrix.row_length
        if adapters.is_dora:  # the product of the weight itself, scaled by the magnitude, and that of low rank
            total += (numbers.compute + narrow) * matrix.num_rows
    return total


def _kept_masks(config: BaichuanConfig, rows: Rows, numbers: Numbers) -> int:
    """Bytes of the masks and position biases that one layer's attention keeps."""
    by_row = rows.tokens**2 * rows.batch
    if config.position_embedding == "rope":
        return numbers.compute * by_row if rows.has_mask else 0
    heads = config.num_attention_heads
    whole = FLOAT32_BYTES * heads * (by_row if rows.has_mask else rows.tokens**2)
    if whole > BLOCK_BYTES:
        return 0  # made in blocks of rows, and again on the way back
    return whole if numbers.compute == FLOAT32_BYTES else whole * numbers.compute // FLOAT32_BYTES


def layer_scratch(config: BaichuanConfig, rows: Rows, numbers: Numbers) -> int:
    """Bytes that the way back through one layer holds at its fullest beside what was kept for it.

    That is in the MLP: gradients of the layer's output and of the gated product, whose own values go then. Later, in
    attention, what the MLP kept has gone, which is more than the gradients there; but for ALiBi's blocks of bias.
    """
    bias = 0
    if config.position_embedding == "alibi":
        of_all = FLOAT32_BYTES * config.num_attention_heads * rows.tokens**2 * (rows.batch if rows.has_mask else 1)
        bias = 2 * min(BLOCK_BYTES, of_all)
    mlp = numbers.compute * config.intermediate_size + FLOAT32_BYTES * 2 * config.hidden_size
    return mlp * rows.places + bias


def kept_around_layers(config: BaichuanConfig, rows: Rows, numbers: Numbers, *, trains_norm: bool) -> int:
    """Bytes kept outside of the layers: the final norm, its result, ids, labels and mask, and the angles of the 7B."""
    hidden = config.hidden_size
    place = FLOAT32_BYTES * (hidden + 1) + numbers.weights * hidden * (2 if trains_norm else 1)
    place += 4 * 8  # ids, labels, mask and positions, int64
    angles = 2 * FLOAT32_BYTES * config.head_dim if config.position_embedding == "rope" else 0
    return place * rows.places + angles * rows.tokens


def loss_bytes(config: BaichuanConfig, rows: Rows, numbers: Numbers, *, on_processor: bool, trains_head: bool) -> int:
    """Bytes of the loss at its fullest, where every place is learnt; without the gradient of the head's weight."""
    hidden, words = config.hidden_size, config.vocab_size
    kind = "cpu" if on_processor else "other"
    logits = rows.places * words
    chunk = max(numbers.compute * words, min(CHUNK_BYTES[kind], numbers.compute * logits))
    if numbers.compute != FLOAT32_BYTES:  # a block at a time in float32
        chunk += max(FLOAT32_BYTES * words, min(LOSS_BLOCK_BYTES[kind], FLOAT32_BYTES * logits))
    states = 2 * numbers.weights * hidden * rows.places  # those that are learnt from, and their gradient
    copy = numbers.compute * words * hidden if numbers.is_mixed else 0
    slices = 2 * FLOAT32_BYTES * min(SLICE_ROWS, words) * hidden if trains_head else 0
    return chunk + states + copy + slices
