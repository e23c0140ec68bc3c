"""What lies between the products of a prompt's pass, against the modules that it stands for."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baichuan2.kernels import prompts
from baichuan2.model.block import RMSNorm
from baichuan2.model.rope import rotate

pytestmark = pytest.mark.skipif(not prompts.is_available(32), reason="no matrix unit here, or no library of kernels")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def assert_within_one_rounding(found: Tensor, wanted: Tensor) -> None:
    """Sums in another order and another exponential function may round the other way: one unit of bfloat16."""
    assert (found.double() - wanted.double()).abs().le(wanted.double().abs() * 2**-7 + 1e-30).all()
    assert (found == wanted).float().mean() > 0.98


@pytest.mark.parametrize("width", [40, 128, 1000])
def test_a_sum_and_its_norm(width: int) -> None:
    norm = RMSNorm(width, 1e-6)
    norm.weight.data = numbers(width, seed=1)
    hidden, delta = numbers(7, width, seed=2), numbers(7, width, seed=3)
    summed, plain = hidden + delta, hidden.clone()
    assert_within_one_rounding(prompts.add_norm(plain, None, norm.weight.detach(), norm.eps), norm(hidden))
    assert torch.equal(plain, hidden)
    assert_within_one_rounding(prompts.add_norm(hidden, delta, norm.weight.detach(), norm.eps), norm(summed))
    assert torch.equal(hidden, summed)


@pytest.mark.parametrize("size", [32, 128])
def test_rotation_and_cache(size: int) -> None:
    batch, num_new, heads, held, capacity = 2, 5, 3, 4, 11
    packed = numbers(batch, num_new, 3, heads, size)
    query, key, value = packed.clone().permute(2, 0, 3, 1, 4).unbind(0)
    angles = torch.rand(num_new, size // 2, generator=torch.Generator().manual_seed(1)) * 6
    angles = torch.cat((angles, angles), dim=-1)
    rotation = (angles.cos(), angles.sin())
    keys, values = numbers(batch, heads, capacity, size, seed=2), numbers(batch, heads, capacity, size, seed=3)
    wanted_keys, wanted_values = keys.clone(), values.clone()
    wanted_keys[:, :, held : held + num_new] = rotate(key, *rotation)
    wanted_values[:, :, held : held + num_new] = value
    assert torch.equal(prompts.rotate_and_store(packed, rotation, keys, values, held), rotate(query, *rotation))
    assert torch.equal(keys, wanted_keys)
    assert torch.equal(values, wanted_values)
    packed = numbers(batch, num_new, 3, heads, size)
    assert torch.equal(prompts.rotate_and_store(packed, None, keys, values, 0), query)
    assert torch.equal(keys[:, :, :num_new], key)
    assert torch.equal(values[:, :, :num_new], value)


@pytest.mark.parametrize("count", [5, 4096, 10007])
def test_gate(count: int) -> None:
    gate, up = numbers(count) * 8, numbers(count, seed=1)
    gate[0], gate[1], gate[2] = float("nan"), float("inf"), -200.0
    wanted = F.silu(gate) * up
    found = prompts.gated(gate.clone(), up)
    assert found[0].isnan()
    assert_within_one_rounding(found[2:], wanted[2:])
    assert found[1] == wanted[1]


def test_what_does_not_fit_is_refused() -> None:
    good, angles = numbers(1, 2, 3, 2, 32), torch.ones(2, 32)
    cache = numbers(1, 2, 4, 32)
    for held in (-1, 3):
        with pytest.raises(ValueError, match="do not fit"):
            prompts.rotate_and_store(good, (angles, angles), cache, cache.clone(), held)
    with pytest.raises(ValueError, match="keys must be"):
        prompts.rotate_and_store(good, (angles, angles), cache[..., ::2], cache, 0)
    with pytest.raises(ValueError, match="delta must be"):
        prompts.add_norm(numbers(2, 64), numbers(1, 64), numbers(64), 1e-6)
    with pytest.raises(ValueError, match="up must be"):
        prompts.gated(numbers(4), torch.ones(4))
