"""What a model costs, from its config alone: parameters, bytes of weights and cache, scratch memory, operations.

Formulas of the architecture; nothing is built or loaded. Bytes are exact for weights and cache. Scratch is what the
forward pass of this package holds at its fullest moment, counted from its code.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import NamedTuple

from baichuan2.model.alibi import BLOCK_BYTES
from baichuan2.model.configuration_baichuan import BaichuanConfig

__all__ = [
    "Matrix",
    "Parts",
    "cache_bytes",
    "cache_bytes_per_token",
    "flops_per_token",
    "head_copy_bytes",
    "int8_cache_bits",
    "layer_matrices",
    "num_parameters",
    "scratch_bytes",
    "weight_bytes",
]

FLOAT32_BYTES = 4
# the cache of the engine, a layer above, grows by this many tokens
CACHE_BLOCK = 256
# per logit: its float32 copy, and what sorting, penalties and sums keep beside it while a token is chosen
SAMPLING_BYTES = 40

# bits for each weight of a layer, statistics included; a function where they depend on the length of a row
Bits = float | Callable[[int], float]


class Matrix(NamedTuple):
    """One weight of a decoder layer, (num_rows, row_length), and which part of the model it counts for."""

    part: str
    name: str
    num_rows: int
    row_length: int


@dataclass(frozen=True)
class Parts:
    """A quantity for each part of a model: parameters, or bytes. `attention` and `mlp` are those of all layers."""

    embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        """The sum."""
        return int(sum(astuple(self)))


def layer_matrices(config: BaichuanConfig) -> tuple[Matrix, ...]:
    """The weights of one decoder layer that are quantised where a model is quantised."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return (
        Matrix("attention", "self_attn.W_pack", 3 * hidden, hidden),
        Matrix("attention", "self_attn.o_proj", hidden, hidden),
        Matrix("mlp", "mlp.gate_proj", inner, hidden),
        Matrix("mlp", "mlp.up_proj", inner, hidden),
        Matrix("mlp", "mlp.down_proj", hidden, inner),
    )


def num_parameters(config: BaichuanConfig) -> Parts:
    """How many parameters each part has."""
    return _parts(config, layer_bits=8, embedding_bits=8, norm_bits=8, head_bits=8)


def weight_bytes(
    config: BaichuanConfig,
    layer_bits: Bits,
    *,
    embedding_bits: float = 16,
    norm_bits: float = 16,
    head_bits: float = 16,
) -> Parts:
    """Bytes of the weights of each part.

    `layer_bits`: bits for each weight of the layers' matrices, with its share of scales and offsets; or a function of
    the length of a row. The rest is 16 bits wide unless said otherwise, as quantising leaves it alone.
    """
    return _parts(config, layer_bits, embedding_bits, norm_bits, head_bits)


def _parts(
    config: BaichuanConfig, layer_bits: Bits, embedding_bits: float, norm_bits: float, head_bits: float
) -> Parts:
    layer = {"attention": 0, "mlp": 0}
    for matrix in layer_matrices(config):
        bits = layer_bits(matrix.row_length) if callable(layer_bits) else layer_bits
        layer[matrix.part] += _bytes(matrix.num_rows * matrix.row_length, bits)
    vocabulary = config.vocab_size * config.hidden_size
    num_norms = 2 * config.num_hidden_layers + 1
    return Parts(
        embedding=_bytes(vocabulary, embedding_bits),
        attention=config.num_hidden_layers * layer["attention"],
        mlp=config.num_hidden_layers * layer["mlp"],
        norms=_bytes(num_norms * config.hidden_size, norm_bits),
        head=_bytes(vocabulary, head_bits),
    )


def _bytes(count: int, bits: float) -> int:
    return round(count * bits / 8)


def head_copy_bytes(config: BaichuanConfig, head_bits: float = 16) -> int:
    """Bytes of the normalised rows that `NormHead` keeps beside its weight in inference; 0 for a plain head."""
    return _bytes(config.vocab_size * config.hidden_size, head_bits) if config.normalized_head else 0


def int8_cache_bits(config: BaichuanConfig) -> float:
    """Bits for each number of a cache in 8 bits: its code, and its share of the float32 scale of a token's head."""
    return 8 + 8 * FLOAT32_BYTES / config.head_dim


def cache_bytes_per_token(config: BaichuanConfig, bits: float = 16) -> int:
    """Bytes of the keys and values that one token leaves in the cache, all layers together."""
    return _bytes(2 * config.num_hidden_layers * config.hidden_size, bits)


def cache_bytes(config: BaichuanConfig, num_tokens: int, batch: int = 1, *, bits: float = 16) -> int:
    """Bytes of the cache that holds `num_tokens` tokens of each input, with the room that it keeps for the next."""
    return -(-num_tokens // CACHE_BLOCK) * CACHE_BLOCK * batch * cache_bytes_per_token(config, bits)


def flops_per_token(config: BaichuanConfig, context: int = 0) -> int:
    """Floating-point operations (a multiply and an add are two) for one new token with its logits.

    `context`: how many tokens attention looks at.
    """
    parameters = num_parameters(config)
    matrices = parameters.attention + parameters.mlp + parameters.head
    scores_and_mix = 2 * config.num_hidden_layers * config.hidden_size * context
    return 2 * (matrices + scores_and_mix)


def scratch_bytes(
    config: BaichuanConfig,
    num_tokens: int,
    batch: int = 1,
    *,
    bits: int = 16,
    is_quantized: bool = False,
    is_int8_cache: bool = False,
) -> int:
    """Bytes beside weights and cache while a prompt of `num_tokens` tokens is read in one pass, and one token chosen.

    `bits`: width of the activations. `is_quantized`: one matrix at a time is widened to that for its product, as
    bitsandbytes does; our own layers widen less, in blocks of rows. `is_int8_cache`: keys and values of one layer at a
    time become numbers of that width again. Only the last place of each prompt gets logits.
    """
    width = bits // 8
    hidden, inner = config.hidden_size, config.intermediate_size
    # the layer's input, the sum after attention and its normed copy; then silu(gate), up and their product
    places = num_tokens * batch
    layer = width * (3 * hidden + 3 * inner) * places
    if config.position_embedding == "rope":
        # input, normed copy, packed projection and the turned queries, while keys are turned in five float32 copies
        turning = (width * 6 * hidden + FLOAT32_BYTES * 5 * hidden) * places
        cosine_and_sine = 2 * FLOAT32_BYTES * config.head_dim * places
        layer = max(layer, turning) + cosine_and_sine
    else:
        # input, normed copy, packed projection, the mixed values in blocks and whole; a block of the position bias in
        # float32 and in the width of the model
        bias = min(BLOCK_BYTES, FLOAT32_BYTES * batch * config.num_attention_heads * num_tokens**2)
        layer = max(layer, width * (9 if is_int8_cache else 7) * hidden * places + bias + bias // 2)
    if is_int8_cache:  # the values on their way from codes, by two float32 copies, beside the keys
        layer = max(layer, (width * 8 + FLOAT32_BYTES * 2) * hidden * places)
    mask = batch * num_tokens**2 if batch > 1 else 0  # prompts of different lengths: boolean, by rows
    # a full cache moves layer by layer into larger buffers; that happens while tokens are chosen, not in the prompt
    moving = 2 * width * hidden * places
    logits = batch * config.vocab_size * (width + SAMPLING_BYTES)
    widened = 0
    if is_quantized:
        widened = width * max(matrix.num_rows * matrix.row_length for matrix in layer_matrices(config))
    return max(layer + mask, moving) + logits + widened
