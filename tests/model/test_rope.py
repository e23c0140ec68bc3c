"""Rotary angles and rotation of the 7B against loops, in every dtype, and at any position."""

import math
from typing import Any

import pytest
import torch

from baichuan2.model.rope import BaichuanRotaryEmbedding, rotate
from tests.oracle.decoder import rotate as rotate_slowly
from tests.tiny import tiny_config, tiny_model

HEAD_DIM = 32


def embedding(**changes: Any) -> BaichuanRotaryEmbedding:
    return BaichuanRotaryEmbedding(tiny_config("7b", **changes))


def test_frequencies_by_the_formula() -> None:
    frequencies = embedding().inv_freq
    assert frequencies.dtype == torch.float32
    wanted = [10_000.0 ** (-2.0 * j / HEAD_DIM) for j in range(HEAD_DIM // 2)]
    assert frequencies.tolist() == pytest.approx(wanted, rel=1e-6)


def test_base_comes_from_the_config() -> None:
    by_old_key = embedding(rope_theta=500.0)
    by_new_key = embedding(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert by_old_key.inv_freq[1].item() == pytest.approx(500.0 ** (-2 / HEAD_DIM), rel=1e-6)
    assert torch.equal(by_old_key.inv_freq, by_new_key.inv_freq)


def test_rotation_equals_the_oracle() -> None:
    states = torch.randn(2, 3, 6, HEAD_DIM, generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [7, 7, 90, 300, 4095, 20_000]])
    cosine, sine = embedding()(states, positions)
    assert cosine.shape == sine.shape == (2, 1, 6, HEAD_DIM)
    turned = rotate(states, cosine, sine)
    for row in range(2):
        for head in range(3):
            for place in range(6):
                position = int(positions[row, place])
                wanted = rotate_slowly(states[row, head, place].double(), position, 10_000.0)
                # an angle of 20,000 in float32 is exact to 2^-10
                limit = 1e-6 + position * 2e-7
                assert (turned[row, head, place] - wanted).abs().max() <= limit


def test_rotation_keeps_lengths_and_distances() -> None:
    query, key = torch.randn(2, 1, 1, 1, HEAD_DIM, generator=torch.Generator().manual_seed(2)).double()
    rotary = embedding()

    def product(place: int, other: int) -> float:
        turned = [
            rotate(states, *rotary(states, torch.tensor([[position]])))
            for states, position in ((query, place), (key, other))
        ]
        assert turned[0].norm().item() == pytest.approx(query.norm().item(), rel=1e-6)
        return (turned[0] * turned[1]).sum().item()

    assert product(5, 3) == pytest.approx(product(40, 38), abs=1e-5)
    assert abs(product(5, 3) - product(3, 5)) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotation_is_computed_in_float32(dtype: torch.dtype) -> None:
    states = torch.randn(1, 1, 1, HEAD_DIM, generator=torch.Generator().manual_seed(3)).to(dtype)
    positions = torch.tensor([[3001]])
    cosine, sine = embedding()(states, positions)
    assert cosine.dtype == torch.float32
    turned = rotate(states, cosine, sine)
    assert turned.dtype == dtype
    wanted = rotate_slowly(states[0, 0, 0].double(), 3001, 10_000.0)
    assert (turned[0, 0, 0].double() - wanted).abs().max() <= torch.finfo(dtype).eps * 4


@pytest.mark.parametrize("scaling", [None, {"type": "yarn", "factor": 4.0}])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_never_rounds_the_frequencies(dtype: torch.dtype, scaling: dict[str, Any] | None) -> None:
    """Rounded to bfloat16, position 4,000 would be off by whole turns."""
    model = tiny_model("7b", **({} if scaling is None else {"rope_scaling": scaling}))
    rotary = model.model.rotary_emb
    exact = rotary.inv_freq.clone()
    model.to(dtype)
    assert model.lm_head.weight.dtype == dtype
    assert torch.equal(rotary.inv_freq, exact)
    assert torch.equal(rotary.original_inv_freq, exact)
    assert not rotary.state_dict()


def test_dynamic_scaling_grows_and_shrinks_again() -> None:
    rotary = embedding(rope_scaling={"type": "dynamic", "factor": 2.0})
    states = torch.zeros(1, 1, 1, HEAD_DIM)
    short = rotary(states, torch.arange(100)[None])[0]
    long = rotary(states, torch.arange(500)[None])[0]
    assert (long[:, :, :100] - short).abs().max() > 0.1
    assert torch.equal(rotary(states, torch.arange(100)[None])[0], short)


def test_yarn_scales_the_tables() -> None:
    rotary = embedding(rope_scaling={"type": "yarn", "factor": 4.0})
    cosine, _ = rotary(torch.zeros(1, 1, 1, HEAD_DIM), torch.tensor([[0]]))
    assert cosine.flatten().tolist() == pytest.approx([0.1 * math.log(4.0) + 1.0] * HEAD_DIM, rel=1e-5)
