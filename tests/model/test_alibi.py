"""Slopes and bias of the 13B against the paper's formula; blocks of the bias against the whole."""

import math

import pytest
import torch
from torch import Tensor

from baichuan2.model.alibi import AlibiBias, BaichuanAlibi, alibi_slopes
from tests.oracle.decoder import slope
from tests.tiny import random_ids, tiny_model


@pytest.mark.parametrize("num_heads", range(1, 65))
def test_slopes_by_the_sentence_in_the_paper(num_heads: int) -> None:
    slopes = alibi_slopes(num_heads)
    assert len(slopes) == num_heads
    assert slopes == pytest.approx([slope(head, num_heads) for head in range(num_heads)], rel=1e-12)
    assert len(set(slopes)) == num_heads
    assert all(0 < value < 1 for value in slopes)


def test_slopes_of_the_released_size() -> None:
    slopes = alibi_slopes(40)
    assert slopes[:2] == pytest.approx([0.8408964, 0.7071068], abs=1e-7)
    assert slopes[31] == pytest.approx(2.0**-8, rel=1e-12)
    assert slopes[32:] == pytest.approx(
        [0.91700, 0.77111, 0.64842, 0.54525, 0.45850, 0.38555, 0.32421, 0.27263], abs=1e-5
    )


def new_bias(form: str = "relative", past: int | Tensor = 0, dtype: torch.dtype = torch.float32) -> AlibiBias:
    return AlibiBias(BaichuanAlibi(5).slopes, past, 7, dtype, form)  # type: ignore[arg-type]


@pytest.mark.parametrize("past", [0, 4, torch.tensor(4)])
def test_relative_bias_is_slope_times_distance(past: int | Tensor) -> None:
    whole = new_bias(past=past).block(0, 7, 11)
    assert whole.shape == (1, 5, 7, 11)
    for head in range(5):
        for row in range(7):
            for key in range(11):
                wanted = slope(head, 5) * (key - row - int(past))
                assert math.isclose(float(whole[0, head, row, key]), wanted, rel_tol=1e-6, abs_tol=1e-7)


@pytest.mark.parametrize("form", ["relative", "key_index"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_and_elements_are_parts_of_the_whole(form: str, dtype: torch.dtype) -> None:
    bias = new_bias(form, past=3, dtype=dtype)
    whole = bias.block(0, 7, 10).expand(1, 5, 7, 10)
    assert whole.dtype == dtype
    for start, stop in ((0, 3), (3, 6), (6, 7)):
        assert torch.equal(bias.block(start, stop, 9).expand(1, 5, stop - start, 9), whole[:, :, start:stop, :9])
    for head, row, key in ((0, 0, 0), (4, 6, 9), (2, 5, 1)):
        element = bias[torch.tensor(0), torch.tensor(head), torch.tensor(row), torch.tensor(key)]
        assert element.dtype == torch.float32
        assert torch.equal(element.to(dtype), whole[0, head, row, key])


def test_both_forms_give_the_same_attention() -> None:
    scores = torch.randn(1, 5, 7, 7, generator=torch.Generator().manual_seed(2))
    relative = (scores + new_bias("relative").block(0, 7, 7)).softmax(-1)
    by_key = (scores + new_bias("key_index").block(0, 7, 7)).softmax(-1)
    assert torch.allclose(relative, by_key, atol=1e-6)


def test_rows_in_a_block_stay_within_its_bytes() -> None:
    slopes = BaichuanAlibi(40).slopes
    bias = AlibiBias(slopes, 0, 4096, torch.float32, "relative")
    rows = bias.rows_per_block(4096)
    assert rows * 40 * 4096 * 4 <= 32 * 2**20 < (rows + 1) * 40 * 4096 * 4
    assert bias.rows_per_block(4096, batch=4) == rows // 4
    assert bias.rows_per_block(10**9) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_never_rounds_the_slopes(dtype: torch.dtype) -> None:
    alibi = BaichuanAlibi(40)
    exact = alibi.slopes.clone()
    model = torch.nn.Sequential(alibi, torch.nn.Linear(2, 2)).to(dtype)
    assert model[1].weight.dtype == dtype
    assert torch.equal(alibi.slopes, exact)
    model.to("meta")
    assert alibi.slopes.is_meta
    assert alibi.slopes.dtype == torch.float32
    assert "slopes" not in alibi.state_dict()


@torch.no_grad()
def test_the_switch_changes_half_precision_only() -> None:
    """In float32 both numerics agree; in bfloat16 the exact one is nearer to float32, ever more so with length."""
    ids = random_ids(1, 1024)
    exact = tiny_model("13b", model_max_length=1024)
    official = tiny_model("13b", model_max_length=1024, alibi_numerics="official")
    wanted = exact(ids).logits
    assert (official(ids).logits - wanted).abs().max() < 1e-3
    error = {
        model.config.alibi_numerics: (model.bfloat16()(ids).logits.float() - wanted).abs().mean().item()
        for model in (exact, official)
    }
    assert error["exact"] < error["official"] / 2, error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hidden_keys_get_no_attention_and_rows_stay_numbers(dtype: torch.dtype) -> None:
    bias = new_bias(dtype=dtype)
    visible = torch.ones(2, 1, 7, 9, dtype=torch.bool).tril()
    visible[1, :, :, :3] = False  # the first rows of the second input see nothing
    masked = bias.block(0, 7, 9, visible=visible)
    assert masked.shape == (2, 5, 7, 9)
    assert masked.dtype == dtype
    assert masked.isfinite().all()
    shown = visible.expand(2, 5, 7, 9)
    assert torch.equal(masked[shown], bias.block(0, 7, 9).expand(2, 5, 7, 9)[shown])
    scores = 500 * torch.randn(2, 5, 7, 9, generator=torch.Generator().manual_seed(6))
    weights = (scores + masked.float()).softmax(-1)
    assert weights.isfinite().all()
    sees_something = visible.any(-1, keepdim=True).expand(2, 5, 7, 9)
    assert weights[~shown & sees_something].max() == 0
