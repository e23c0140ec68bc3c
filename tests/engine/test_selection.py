"""Fast selections and draws equal the slow and obvious ones, ties and vocabularies of any size included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from baichuan2.engine import sampling
from baichuan2.engine.sampling import Sampling, distribution, dtype_of_sums, keep_top_p
from baichuan2.engine.selection import argmax, draw, largest, largest_with_ties

SIZES = st.sampled_from([1, 7, 256, 300, 2048, 5120, 125_696])


def logits_of(seed, size, *, rows=2, width=3.0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    # each row of another sharpness
    widths = width * torch.arange(1, rows + 1)[:, None] / rows
    return (torch.randn(rows, size, generator=random) * widths).to(dtype).float()


@given(st.integers(0, 2**31), SIZES, st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_argmax_is_the_first_of_the_largest(seed, size, dtype):
    logits = logits_of(seed, size, dtype=dtype)
    assert argmax(logits).equal(logits.argmax(-1))
    expected = [row.tolist().index(row.max().item()) for row in logits]
    assert argmax(logits).tolist() == expected


def test_argmax_takes_a_nan_for_the_largest_and_survives_rows_without_a_number():
    logits = torch.zeros(3, 1024)
    logits[0, 700], logits[1], logits[2, 3] = torch.nan, -torch.inf, torch.inf
    assert argmax(logits).tolist() == [700, 0, 3]


@given(st.integers(0, 2**31), SIZES, st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_largest_equals_sorting(seed, size, count, dtype):
    logits, count = logits_of(seed, size, dtype=dtype), min(count, size)
    values, places = largest(logits, count)
    ordered = logits.sort(dim=-1, descending=True).values
    assert values.equal(ordered[:, :count])
    assert values.equal(logits.gather(1, places))
    assert all(len(set(row.tolist())) == count for row in places)


@given(st.integers(0, 2**31), SIZES, st.integers(1, 70))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ties_of_the_last_place_are_kept_and_stand_in_order(seed, size, count):
    logits, count = logits_of(seed, size, dtype=torch.bfloat16), min(count, size)  # bfloat16: many ties
    values, places = largest_with_ties(logits, count)
    for row in range(len(logits)):
        ordered, order = logits[row].sort(descending=True, stable=True)
        kept = int((ordered >= ordered[count - 1]).sum())
        assert values[row, :kept].equal(ordered[:kept])
        assert places[row, :kept].equal(order[:kept])
        assert values[row, kept:].isneginf().all()


@pytest.mark.parametrize("size", [60, 2048, 125_696])
def test_minus_infinity_ties_with_nothing(size):
    logits = torch.full((2, size), -torch.inf)
    logits[0, [50, 7, 31]] = torch.tensor([1.0, 3.0, 3.0])
    logits[1, 3:19] = 2.0
    values, places = largest_with_ties(logits, 5)
    assert values.shape == (2, 16)
    assert values[0, :3].tolist() == [3.0, 3.0, 1.0]
    assert places[0, :3].tolist() == [7, 31, 50]
    assert values[0, 3:].isneginf().all()
    assert places[1].tolist() == list(range(3, 19))
    values, _ = largest_with_ties(logits[:1], 5)
    assert values.shape == (1, 5)


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.85, 0.95, 0.9995])
@pytest.mark.parametrize("size", [50, 2048, 125_696])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_p_without_top_k_equals_sorting_the_whole_vocabulary(size, top_p, dtype):
    choice = Sampling(do_sample=True, top_p=top_p)
    for seed, width in enumerate((0.0, 1.0, 3.0, 6.0, 30.0) if size < 100_000 else (1.0, 6.0)):
        logits = logits_of(seed, size, rows=3, width=width, dtype=dtype)
        probabilities, ids = distribution(logits, choice)
        ours = torch.zeros_like(logits).scatter(1, ids, probabilities)
        values, order = logits.sort(dim=-1, descending=True, stable=True)
        expected = torch.zeros_like(logits).scatter(
            1, order, keep_top_p(values.double(), top_p).softmax(-1).to(logits.dtype)
        )
        mass = values.double().softmax(-1).flip(-1).cumsum(-1).flip(-1)
        # a token that meets the bound within rounding may stand on either side of it
        is_at_the_bound = torch.zeros_like(mass).scatter(1, order, (mass - (1 - top_p)).abs()) < 1e-6
        is_same = (ours > 0) == (expected > 0)
        assert (is_same | is_at_the_bound).all(), width
        rows = is_same.all(dim=-1)  # another token at the bound shifts all probabilities of its row
        torch.testing.assert_close(ours[rows], expected[rows], atol=4e-6, rtol=0)


class WithoutFloat64(TorchDispatchMode):
    """Like an accelerator that has no such numbers."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        assert not isinstance(result, torch.Tensor) or result.dtype != torch.float64, function
        return result


@pytest.mark.parametrize("width", [1.0, 6.0])
def test_top_p_needs_no_float64_where_there_may_be_none(width, monkeypatch):
    assert dtype_of_sums(torch.device("cpu")) == torch.float64
    assert dtype_of_sums(torch.device("mps")) == torch.float32
    logits = logits_of(0, 2048, rows=3, width=width)
    choice = Sampling(do_sample=True, top_p=0.9)
    expected, ids = distribution(logits, choice)
    monkeypatch.setattr(sampling, "dtype_of_sums", lambda device: torch.float32)
    with WithoutFloat64():
        found, found_ids = distribution(logits, choice)
    assert torch.equal(found_ids, ids)
    torch.testing.assert_close(found, expected, atol=4e-6, rtol=0)


def test_draws_over_a_large_vocabulary_follow_the_distribution():
    weights = torch.zeros(1, 2048)
    expected = {0: 0.1, 255: 0.2, 256: 0.3, 2000: 0.35, 2047: 0.05}
    for place, weight in expected.items():
        weights[0, place] = weight
    drawn = draw(weights.expand(20_000, -1), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(expected)
    for place, weight in expected.items():
        assert (drawn == place).float().mean().item() == pytest.approx(weight, abs=0.015)


@pytest.mark.parametrize("size", [5, 2048, 2049])
def test_a_draw_of_no_numbers_is_refused_and_a_seed_repeats(size):
    with pytest.raises(RuntimeError):
        draw(torch.full((1, size), torch.nan), None)
    weights = torch.ones(4, size) / size
    runs = [draw(weights, torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
