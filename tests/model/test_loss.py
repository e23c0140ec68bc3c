"""The training loss against loops, and its exactness when a batch is split."""

import math

import pytest
import torch
from torch import Tensor

from baichuan2.model.loss import IGNORED_LABEL, causal_lm_loss
from tests.tiny import random_ids, tiny_model


def example(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (3, 6, 11) and labels with ignored places, a different number in each row."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 6, 11, generator=generator) * 3
    labels = torch.randint(0, 11, (3, 6), generator=generator)
    labels[0, :4] = IGNORED_LABEL
    labels[1, 2] = IGNORED_LABEL
    return logits, labels


def slow_parts(logits: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """The cross entropies of all targets, and the squared largest logits of all shifted places."""
    entropies, squares = [], []
    for row, wanted in zip(logits.double(), labels, strict=True):
        for place in range(len(wanted) - 1):
            largest = max(float(value) for value in row[place])
            squares.append(largest**2)
            target = int(wanted[place + 1])
            if target != IGNORED_LABEL:
                total = sum(math.exp(float(value) - largest) for value in row[place])
                entropies.append(math.log(total) + largest - float(row[place, target]))
    return entropies, squares


@pytest.mark.parametrize("z_loss_weight", [0.0, 2e-4, 0.5])
def test_equals_the_formula(z_loss_weight: float) -> None:
    logits, labels = example()
    entropies, squares = slow_parts(logits, labels)
    wanted = sum(entropies) / len(entropies) + z_loss_weight * sum(squares) / len(squares)
    assert causal_lm_loss(logits, labels, z_loss_weight=z_loss_weight).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_parts_of_a_batch_add_up_to_its_mean(as_tensor: bool) -> None:
    logits, labels = example()
    whole = causal_lm_loss(logits, labels)
    targets = (labels[:, 1:] != IGNORED_LABEL).sum()
    count = targets if as_tensor else int(targets)
    parts = [causal_lm_loss(logits[row : row + 1], labels[row : row + 1], num_items_in_batch=count) for row in range(3)]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    # the mean of the means, which frameworks used to take, is something else
    means = [causal_lm_loss(logits[row : row + 1], labels[row : row + 1]) for row in range(3)]
    assert abs((sum(means) / 3 - whole).item()) > 0.05


def test_the_z_term_of_parts_is_shared_out_by_targets() -> None:
    """Only the cross entropy of a split batch is exact; the z term weighs each part's mean by its targets."""
    logits, labels = example()
    counts = (labels[:, 1:] != IGNORED_LABEL).sum(dim=1)
    total = counts.sum()
    found = sum(
        causal_lm_loss(logits[row : row + 1], labels[row : row + 1], z_loss_weight=0.5, num_items_in_batch=total)
        for row in range(3)
    )
    means = logits[:, :-1].amax(-1).square().mean(-1)
    wanted = causal_lm_loss(logits, labels) + 0.5 * (means * counts / total).sum()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_no_target_at_all() -> None:
    logits, labels = example()
    nothing = torch.full_like(labels, IGNORED_LABEL)
    assert causal_lm_loss(logits, nothing).isnan()
    assert causal_lm_loss(logits, nothing, num_items_in_batch=7) == 0  # an empty part of a batch adds nothing


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int64])
def test_labels_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, labels = example()
    assert torch.equal(causal_lm_loss(logits, labels.to(dtype)), causal_lm_loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = example()
    loss = causal_lm_loss(logits.to(dtype), labels, z_loss_weight=0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, causal_lm_loss(logits.to(dtype).float(), labels, z_loss_weight=0.1))


def test_the_model_takes_its_weight_from_the_config() -> None:
    ids = random_ids(2, 8)
    plain, with_z = tiny_model("7b"), tiny_model("7b", z_loss_weight=0.25)
    with torch.no_grad():
        logits = plain(ids).logits
        assert torch.equal(plain(ids, labels=ids).loss, causal_lm_loss(logits, ids))
        assert torch.equal(with_z(ids, labels=ids).loss, causal_lm_loss(logits, ids, z_loss_weight=0.25))
        half = plain(ids, labels=ids, num_items_in_batch=torch.tensor(28)).loss
    assert half.item() == pytest.approx(causal_lm_loss(logits, ids).item() / 2, rel=1e-6)
