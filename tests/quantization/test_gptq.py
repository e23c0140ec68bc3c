"""Calibrated rounding: it must lose less of a layer's outputs than rounding to nearest, whatever the layer is fed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan2.errors import QuantizationError
from baichuan2.quantization import gptq
from baichuan2.quantization.blockwise import (
    NONUNIFORM_CODEBOOK,
    UNIFORM_CODEBOOK,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)
from baichuan2.quantization.gptq import Hessian, gptq_int4, gptq_int8

CODEBOOKS = pytest.mark.parametrize("codebook", [UNIFORM_CODEBOOK, NONUNIFORM_CODEBOOK], ids=["uniform", "nonuniform"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(tokens: int, in_features: int, seed: int = 1) -> Tensor:
    """Inputs as hidden states are: correlated, with a common offset and a few large features."""
    mixing = random(in_features, in_features, seed=seed) / in_features**0.5
    inputs = random(tokens, in_features, seed=seed + 1) @ mixing + 0.3 * random(in_features, seed=seed + 2)
    inputs[:, :3] *= 8
    return inputs


def hessian_of(inputs: Tensor, reference: Tensor | None = None) -> Hessian:
    hessian = Hessian(inputs.shape[1])
    hessian.add(inputs, reference)
    return hessian


def loss(weight: Tensor, restored: Tensor, inputs: Tensor, reference: Tensor | None = None) -> Tensor:
    """The squared error of each output (N,), by running the layer."""
    wanted = (inputs if reference is None else reference).double() @ weight.double().T
    return (inputs.double() @ restored.double().T - wanted).square().sum(0)


def test_hessian_is_the_sum_over_batches() -> None:
    inputs, reference = correlated_inputs(50, 12), correlated_inputs(50, 12, seed=9)
    hessian = Hessian(12)
    hessian.add(inputs[:20], reference[:20])
    hessian.add(inputs[20:].double(), reference[20:])
    assert hessian.num_tokens == 50
    assert torch.allclose(hessian.matrix, inputs.T @ inputs, rtol=1e-4, atol=1e-3)
    assert hessian.drift is not None
    assert torch.allclose(hessian.drift, (reference - inputs).T @ inputs, rtol=1e-4, atol=1e-3)


@CODEBOOKS
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_4_bits_lose_less_than_half_of_what_nearest_loses(codebook: Tensor, group_size: int) -> None:
    weight, inputs = random(64, 192) * 0.02, correlated_inputs(600, 192)
    hessian = hessian_of(inputs)
    nearest = quantize_int4(weight, group_size=group_size, codebook=codebook, importance=hessian.matrix.diagonal())
    chosen = gptq_int4(weight, hessian, group_size=group_size, codebook=codebook)
    before, after = (loss(weight, dequantize_int4(tensor), inputs) for tensor in (nearest, chosen))
    assert (after <= before).all()
    assert after.sum() < 0.5 * before.sum()


@pytest.mark.parametrize("group_size", [0, 32, 128])
def test_8_bits_lose_less_than_half_of_what_nearest_loses(group_size: int) -> None:
    weight, inputs = random(64, 192) * 0.02, correlated_inputs(600, 192)
    nearest = quantize_int8(weight, group_size=group_size)
    chosen = gptq_int8(weight, hessian_of(inputs), group_size=group_size)
    before, after = (loss(weight, dequantize_int8(tensor), inputs) for tensor in (nearest, chosen))
    assert (after <= before).all()
    assert after.sum() < 0.5 * before.sum()
    assert chosen.codes.abs().max() <= 127


@pytest.mark.parametrize("group_size", [32, 128])
def test_each_step_lowers_the_error(group_size: int) -> None:
    weight, inputs = random(64, 192) * 0.02, correlated_inputs(600, 192)
    hessian = hessian_of(inputs)
    losses = [
        loss(weight, dequantize_int4(gptq_int4(weight, hessian, group_size=group_size, sweeps=sweeps)), inputs).sum()
        for sweeps in (0, 1, 4)
    ]
    assert losses[1] < 0.97 * losses[0]
    assert losses[2] < 0.99 * losses[1]


def gptq_oracle(weight: Tensor, matrix: Tensor, scales: Tensor) -> Tensor:
    """The rounded weight (N, K) with given `scales`, input by input: the paper's equations 2 and 3, in groups of 32."""
    weight, inverse = weight.double().clone(), torch.linalg.inv(matrix.double())
    rounded = torch.zeros_like(weight)
    for k in range(weight.shape[1]):
        rounded[:, k] = nearest_value(weight[:, k], scales[:, k // 32])
        weight -= ((weight[:, k] - rounded[:, k]) / inverse[k, k])[:, None] * inverse[k]
        inverse -= torch.outer(inverse[:, k], inverse[k]) / inverse[k, k]
        weight[:, : k + 1] = 0
    return rounded


def nearest_value(wanted: Tensor, scale: Tensor) -> Tensor:
    choices = scale.double()[:, None] * UNIFORM_CODEBOOK.double() / 128
    return choices.gather(1, (choices - wanted.double()[:, None]).abs().argmin(1, keepdim=True))[:, 0]


def descent_oracle(weight: Tensor, matrix: Tensor, rounded: Tensor, scales: Tensor) -> Tensor:
    """`rounded` (N, K) after one sweep: least squares for each scale and each weight, the others standing still."""
    matrix, rounded, scales = matrix.double(), rounded.double().clone(), scales.double().clone()
    for k in range(weight.shape[1]):
        group = slice(k // 32 * 32, k // 32 * 32 + 32)
        if k % 32 == 0:
            values = rounded[:, group] / scales[:, k // 32, None]
            rounded[:, group] = 0
            wanted = ((weight - rounded) @ matrix)[:, group]
            best = (values * wanted).sum(1) / (values * (values @ matrix[group, group])).sum(1)
            scales[:, k // 32] = best.half().double()
            rounded[:, group] = values * scales[:, k // 32, None]
        best = rounded[:, k] + ((weight - rounded) @ matrix)[:, k] / matrix[k, k]
        rounded[:, k] = nearest_value(best, scales[:, k // 32])
    return rounded


def test_rounding_and_one_sweep_agree_with_the_equations() -> None:
    weight, hessian = random(48, 288) * 0.02, hessian_of(correlated_inputs(600, 288))
    diagonal = hessian.matrix.diagonal()
    matrix = hessian.matrix + torch.diag(2 * 288 / 600 * diagonal + 0.01 * diagonal.mean())
    plain, swept = (gptq_int4(weight, hessian, group_size=32, sweeps=sweeps) for sweeps in (0, 1))
    same = (gptq_oracle(weight, matrix, plain.scales) - dequantize_int4(plain)).abs() < 1e-6
    assert same.float().mean() > 0.97  # a tie decided otherwise changes what follows in its row
    expected = descent_oracle(weight.double(), matrix, dequantize_int4(plain), plain.scales)
    same = (expected - dequantize_int4(swept)).abs() < 1e-5
    assert same.float().mean() > 0.97


def test_rows_that_nearest_serves_better_are_taken_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = random(16, 96) * 0.02, hessian_of(correlated_inputs(300, 96))
    good = gptq_int4(weight, hessian, group_size=32, sweeps=0)
    rounding = gptq._gptq

    def spoilt(*arguments: Any) -> Any:
        rounded = rounding(*arguments)
        rounded.values[:, 3] = 0
        rounded.scales[:, 3] = 1
        return rounded

    monkeypatch.setattr(gptq, "_gptq", spoilt)
    spoilt_weight = dequantize_int4(gptq_int4(weight, hessian, group_size=32, sweeps=0))
    diagonal = hessian.matrix.diagonal()
    importance = (1 + 2 * 96 / 300) * diagonal + 0.01 * diagonal.mean()
    nearest = dequantize_int4(quantize_int4(weight, group_size=32, importance=importance))
    assert torch.allclose(spoilt_weight[3], nearest[3], atol=1e-5)
    others = torch.arange(16) != 3
    assert torch.equal(spoilt_weight[others], dequantize_int4(good)[others])


def test_the_target_is_what_the_unquantised_model_would_say() -> None:
    weight, reference = random(64, 96) * 0.02, correlated_inputs(4000, 96)
    inputs = reference + 0.1 * reference @ random(96, 96, seed=5) / 96**0.5  # which other weights undo
    with_drift = gptq_int4(weight, hessian_of(inputs, reference), group_size=32)
    without = gptq_int4(weight, hessian_of(inputs), group_size=32)
    after, before = (loss(weight, dequantize_int4(t), inputs, reference).sum() for t in (with_drift, without))
    assert after < 0.5 * before


def test_no_drift_changes_nothing() -> None:
    weight, inputs = random(16, 96) * 0.02, correlated_inputs(600, 96)
    with_drift, without = (
        gptq_int4(weight, hessian, group_size=32) for hessian in (hessian_of(inputs, inputs), hessian_of(inputs))
    )
    assert torch.equal(with_drift.codes, without.codes)


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    weight, hessian = random(16, 96) * 0.02, Hessian(96)
    hessian.matrix.fill_diagonal_(3.0)
    chosen, nearest = gptq_int4(weight, hessian, group_size=32, sweeps=0), quantize_int4(weight, group_size=32)
    assert torch.equal(chosen.codes, nearest.codes)
    assert torch.equal(chosen.scales, nearest.scales)


@CODEBOOKS
def test_weights_that_the_format_holds_come_back(codebook: Tensor) -> None:
    codes = torch.randint(0, 16, (8, 128), generator=torch.Generator().manual_seed(0))
    codes[:, ::32] = 0
    weight = codebook.float()[codes] / 128 * 0.5
    restored = dequantize_int4(
        gptq_int4(weight, hessian_of(correlated_inputs(300, 128)), group_size=32, codebook=codebook)
    )
    assert torch.allclose(restored, weight, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("rows", "in_features"), [(1, 70), (3, 31), (2, 1), (5, 200)])
def test_any_size(rows: int, in_features: int) -> None:
    weight, inputs = random(rows, in_features) * 0.02, correlated_inputs(300, in_features)
    tensor = gptq_int4(weight, hessian_of(inputs), group_size=64)
    assert tensor.codes.shape == (rows, -(-in_features // 64) * 32)
    assert tensor.scales.shape == (rows, -(-in_features // 64))
    nearest = quantize_int4(weight, group_size=64, importance=hessian_of(inputs).matrix.diagonal())
    before, after = (loss(weight, dequantize_int4(t), inputs).sum() for t in (nearest, tensor))
    assert after <= before * 1.001
    assert gptq_int8(weight, hessian_of(inputs), group_size=0).scales.shape == (rows, 1)


def test_many_rows_are_the_same_as_few() -> None:
    weight, hessian = random(2500, 64) * 0.02, hessian_of(correlated_inputs(300, 64))
    whole = dequantize_int4(gptq_int4(weight, hessian, group_size=32))
    part = dequantize_int4(gptq_int4(weight[-100:], hessian, group_size=32))
    inputs = correlated_inputs(300, 64)
    assert (whole[-100:] == part).float().mean() > 0.99  # products of other sizes may differ in their last bit
    a, b = (loss(weight[-100:], restored, inputs).sum() for restored in (whole[-100:], part))
    assert a / b == pytest.approx(1, abs=1e-3)


def test_the_same_twice_and_arguments_stay_as_they_are() -> None:
    weight, hessian = random(16, 96) * 0.02, hessian_of(correlated_inputs(300, 96), correlated_inputs(300, 96, seed=7))
    before = (weight.clone(), hessian.matrix.clone())
    first, second = (gptq_int4(weight, hessian, group_size=32) for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scales, second.scales)
    assert torch.equal(weight, before[0])
    assert torch.equal(hessian.matrix, before[1])


def test_dead_inputs_and_empty_groups() -> None:
    weight, inputs = random(16, 128) * 0.02, correlated_inputs(300, 128)
    inputs[:, 40:72] = 0
    weight[:, 96:128] = 0
    restored = dequantize_int4(gptq_int4(weight, hessian_of(inputs), group_size=32, codebook=NONUNIFORM_CODEBOOK))
    unseen = restored[:, 40:72] - weight[:, 40:72]
    assert unseen.square().mean().sqrt() < 0.2 * weight.std()  # they keep about their values all the same
    assert restored.isfinite().all()
    assert loss(weight, restored, inputs).sum() < 0.02 * loss(weight, torch.zeros_like(weight), inputs).sum()


@pytest.mark.parametrize("num_tokens", [0, 3])
def test_hardly_any_inputs(num_tokens: int) -> None:
    weight = random(16, 128) * 0.02
    hessian = Hessian(128)
    hessian.add(correlated_inputs(num_tokens, 128))
    restored = dequantize_int4(gptq_int4(weight, hessian, group_size=32))
    assert (restored - weight).square().mean() < 0.05 * weight.square().mean()


def test_identical_inputs_do_not_break_the_factorisation() -> None:
    weight, inputs = random(16, 256) * 0.02, random(64, 1).expand(64, 256) * 1e4
    restored = dequantize_int4(gptq_int4(weight, hessian_of(inputs), group_size=32, damping=1e-9))
    assert restored.isfinite().all()
    assert (
        loss(weight, restored, inputs).sum()
        < loss(weight, dequantize_int4(quantize_int4(weight, group_size=32)), inputs).sum()
    )


def test_what_cannot_be_used_is_told() -> None:
    hessian = Hessian(8)
    with pytest.raises(QuantizationError, match=r"\(tokens, 8\), got \(3, 7\)"):
        hessian.add(torch.zeros(3, 7))
    with pytest.raises(QuantizationError, match="NaN or infinity"):
        hessian.add(torch.full((3, 8), float("nan")))
    with pytest.raises(QuantizationError, match="has 9 inputs, its Hessian 8"):
        gptq_int4(torch.zeros(3, 9), hessian, group_size=32)
    with pytest.raises(QuantizationError, match="holds NaN"):
        gptq_int8(torch.full((3, 8), float("nan")), hessian, group_size=32)
    with pytest.raises(QuantizationError, match="damping must be a positive number, got 0"):
        gptq_int8(torch.zeros(3, 8), hessian, group_size=32, damping=0)
    hessian.add(torch.full((3, 8), 1e30))
    with pytest.raises(QuantizationError, match="their products overflow"):
        gptq_int8(torch.zeros(3, 8), hessian, group_size=32)
