"""Costs from the config alone equal those of built models: tensors, cache, head copy, operations, peak of a pass."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from baichuan2.engine import cache as cache_module
from baichuan2.engine.cache import GrowingLayer, new_cache
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.model import cost
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from tests.tiny import SIZES, Size, left_padded, random_ids, tiny_config, tiny_model

OFFICIAL = {
    "7b": BaichuanConfig(max_position_embeddings=4096),
    "13b": BaichuanConfig(
        hidden_size=5120,
        intermediate_size=13_696,
        num_hidden_layers=40,
        num_attention_heads=40,
        model_max_length=4096,
    ),
}
README_16_BIT = {"7b": 14.0, "13b": 25.9}  # its table, in GiB


def part_of(name: str) -> str:
    for piece, part in (("embed_tokens", "embedding"), ("self_attn", "attention"), ("mlp", "mlp"), ("norm", "norms")):
        if piece in name:
            return part
    return "head"


def built(config: BaichuanConfig) -> dict[str, int]:
    """Parameters of each part, counted in the tensors of a model without memory."""
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
    counts: dict[str, int] = {}
    for name, weight in model.named_parameters():
        counts[part_of(name)] = counts.get(part_of(name), 0) + weight.numel()
    return counts


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_those_of_the_built_model(size: Size) -> None:
    counts = built(OFFICIAL[size])
    parameters = cost.num_parameters(OFFICIAL[size])
    assert {part: getattr(parameters, part) for part in counts} == counts
    assert parameters.total == sum(counts.values()) == {"7b": 7_505_973_248, "13b": 13_896_668_160}[size]
    assert cost.weight_bytes(OFFICIAL[size], 16).total == 2 * parameters.total
    assert cost.weight_bytes(OFFICIAL[size], 32, embedding_bits=32, norm_bits=32, head_bits=32).total == (
        4 * parameters.total
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_16_bit_row_of_the_readme(size: Size) -> None:
    assert round(cost.weight_bytes(OFFICIAL[size], 16).total / 2**30, 1) == README_16_BIT[size]


@pytest.mark.parametrize("size", SIZES)
def test_layer_matrices_are_the_linear_layers(size: Size) -> None:
    with torch.device("meta"):
        layer = BaichuanForCausalLM(OFFICIAL[size]).model.layers[0]
    linear = {name: tuple(part.weight.shape) for name, part in layer.named_modules() if hasattr(part, "in_features")}
    assert {item.name: (item.num_rows, item.row_length) for item in cost.layer_matrices(OFFICIAL[size])} == linear


def test_quantised_layers_leave_the_rest_at_16_bits() -> None:
    config = OFFICIAL["7b"]
    count, whole, four = cost.num_parameters(config), cost.weight_bytes(config, 16), cost.weight_bytes(config, 4.5)
    assert (four.embedding, four.norms, four.head) == (whole.embedding, whole.norms, whole.head)
    assert four.attention + four.mlp == (count.attention + count.mlp) * 4.5 / 8
    small = cost.weight_bytes(config, 4.5, head_bits=8, embedding_bits=8)
    assert (small.head, small.embedding) == (whole.head // 2, whole.embedding // 2)


def test_bits_that_depend_on_the_row() -> None:
    config = OFFICIAL["13b"]
    parts = cost.weight_bytes(config, lambda row_length: 8 + 16 / row_length)  # one 16-bit scale for each row
    hidden, inner, layers = 5120, 13_696, 40
    assert parts.attention == layers * (4 * hidden * hidden + 2 * 4 * hidden)
    assert parts.mlp == layers * (3 * hidden * inner + 2 * (2 * inner + hidden))


@pytest.mark.parametrize("num_tokens", [3, 300])
@pytest.mark.parametrize("size", SIZES)
def test_cache_holds_as_many_bytes(size: Size, num_tokens: int) -> None:
    model, cache = tiny_model(size, num_hidden_layers=3), new_cache()
    with torch.inference_mode():
        model(input_ids=random_ids(2, num_tokens), past_key_values=cache, use_cache=True, logits_to_keep=1)
    held = sum(buffer.nbytes for layer in cache.layers for part in layer.buffers for buffer in part)
    assert held == cost.cache_bytes(model.config, num_tokens, 2, bits=32)
    used = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert used == 2 * num_tokens * cost.cache_bytes_per_token(model.config, bits=32)


def test_cache_grows_by_the_blocks_of_the_engine() -> None:
    assert cost.CACHE_BLOCK == cache_module.BLOCK
    assert cost.cache_bytes_per_token(OFFICIAL["7b"]) == 524_288


@pytest.mark.parametrize("is_normalized", [True, False])
def test_head_copy(is_normalized: bool) -> None:
    model = tiny_model("7b", normalized_head=is_normalized).bfloat16()
    with torch.inference_mode():
        model(input_ids=random_ids(1, 3))
    copies = [value for value in vars(model.lm_head).values() if isinstance(value, torch.Tensor)]
    held = max((copy.nbytes for copy in copies), default=0)  # beside it stand two values of each row
    assert held == cost.head_copy_bytes(model.config, 16)
    assert (held > 0) == is_normalized


@pytest.mark.parametrize("size", SIZES)
def test_operations_are_those_that_torch_counts(size: Size) -> None:
    model, cache = tiny_model(size, attn_implementation="eager"), new_cache()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        model(input_ids=random_ids(1, 7), past_key_values=cache, use_cache=True)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=random_ids(1, 1), past_key_values=cache, use_cache=True)
    assert counter.get_total_flops() == cost.flops_per_token(model.config, context=8)


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made inside of it held at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, key: int, num_bytes: int) -> None:
        self.seen.discard(key)
        self.live -= num_bytes


@pytest.mark.parametrize("is_int8", [False, True], ids=["same", "int8"])
@pytest.mark.parametrize("lengths", [[1024], [512, 300]], ids=["one prompt", "two lengths"])
@pytest.mark.parametrize("size", SIZES)
def test_scratch_covers_the_fullest_moment_and_little_more(size: Size, lengths: list[int], is_int8: bool) -> None:
    changes: dict[str, Any] = {"hidden_size": 320, "num_attention_heads": 5, "intermediate_size": 832}
    model = tiny_model(size, num_hidden_layers=4, **changes).bfloat16()
    ids, mask = left_padded([[200] * length for length in lengths])
    attention_mask = mask if len(lengths) > 1 else None
    with torch.inference_mode():
        model.lm_head.normalized_weight()  # counted for itself
        cache = new_cache(Int8Layer if is_int8 else GrowingLayer)
        with PeakBytes() as measured:
            model(input_ids=ids, attention_mask=attention_mask, past_key_values=cache, logits_to_keep=1)
    longest, batch = max(lengths), len(lengths)
    bits = cost.int8_cache_bits(model.config) if is_int8 else 16
    scratch = cost.scratch_bytes(model.config, longest, batch, is_int8_cache=is_int8)
    estimate = cost.cache_bytes(model.config, longest, batch, bits=bits) + scratch
    assert measured.peak <= estimate <= 1.3 * measured.peak


def test_scratch_of_a_quantised_model_has_room_for_one_widened_matrix() -> None:
    config = tiny_config("7b")
    widened = cost.scratch_bytes(config, 8, is_quantized=True) - cost.scratch_bytes(config, 8)
    assert widened == 2 * 3 * config.hidden_size**2
