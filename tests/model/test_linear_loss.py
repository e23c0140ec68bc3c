"""The loss without logits against the plain one: values, gradients, what is never computed, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baichuan2.model import linear_loss
from baichuan2.model.linear_loss import LossRequest, loss_of_layer
from baichuan2.model.loss import IGNORED_LABEL, causal_lm_loss
from baichuan2.model.norm_head import NormHead, OutputHead

B, T, C, V = 3, 14, 32, 700
HEADS = [NormHead, OutputHead]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of seven places in blocks of three: every test goes over several of both, the last ones incomplete."""
    monkeypatch.setitem(linear_loss.CHUNK_BYTES, "cpu", V * 4 * 7)
    monkeypatch.setitem(linear_loss.BLOCK_BYTES, "cpu", V * 4 * 3)
    monkeypatch.setattr(linear_loss, "LAYER_ROWS", 7)
    monkeypatch.setattr(linear_loss, "SLICE_ROWS", 300)


def example(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Hidden states (B, T, C) and labels with ignored places."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(B, T, C, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[torch.rand(B, T, generator=generator) < 0.4] = IGNORED_LABEL
    return states, labels


def new_head(kind: type[OutputHead], dtype: torch.dtype = torch.float32) -> OutputHead:
    head = kind(C, V, bias=False)
    with torch.no_grad():
        values = torch.randn(V, C, generator=torch.Generator().manual_seed(3))
        head.weight.copy_(values * torch.linspace(0.05, 3.0, V)[:, None])
        head.weight[5] = 0.0
        head.weight[6] *= 1e-15
    return head.to(dtype)


def gradients(loss: Tensor, head: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    found: Any = torch.autograd.grad(loss, (states, head.weight))
    return found


def assert_same(found: Tensor, wanted: Tensor, limit: float = 1e-6) -> None:
    """Equal relative to the size of the whole tensor."""
    difference = ((found.double() - wanted.double()).norm() / wanted.double().norm()).item()
    assert difference <= limit, f"differs by {difference:.3g}"


def per_input(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the log-probabilities of each row's targets, (B,), written out."""
    targets = labels[:, 1:]
    logprobs = logits[:, :-1].float().log_softmax(-1).gather(2, targets.clamp_min(0)[..., None])[..., 0]
    return (logprobs * (targets != IGNORED_LABEL)).sum(1)


@pytest.mark.parametrize("num_items", [None, 50, torch.tensor(50)])
@pytest.mark.parametrize("z_loss_weight", [0.0, 0.3])
@pytest.mark.parametrize("kind", HEADS)
def test_equals_the_plain_loss(kind: type[OutputHead], z_loss_weight: float, num_items: Any) -> None:
    head, (states, labels) = new_head(kind), example()
    wanted = causal_lm_loss(head(states), labels, z_loss_weight=z_loss_weight, num_items_in_batch=num_items)
    found = head(states, LossRequest(labels, z_loss_weight, num_items))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for ours, plain in zip(
        gradients(found * 1.7, head, states), gradients(wanted * 1.7, head, states), strict=True
    ):  # the row of zeros has a gradient of 1e12, before which all others vanish
        assert_same(ours, plain)
        if len(ours) == V:
            assert_same(ours[7:], plain[7:])
            assert_same(ours[6], plain[6], 3e-6)


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.3])
def test_any_other_head(z_loss_weight: float) -> None:
    head, (states, labels) = nn.Linear(C, V, bias=False), example()
    wanted = causal_lm_loss(head(states), labels, z_loss_weight=z_loss_weight)
    found = loss_of_layer(head, states, LossRequest(labels, z_loss_weight))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    for ours, plain in zip(gradients(found, head, states), gradients(wanted, head, states), strict=True):
        assert_same(ours, plain)
    assert_same(loss_of_layer(head, states, LossRequest(labels, as_logprobs=True)), per_input(head(states), labels))


@pytest.mark.parametrize("kind", HEADS)
def test_log_probabilities_of_each_input(kind: type[OutputHead]) -> None:
    head, (states, labels) = new_head(kind), example()
    with torch.no_grad():
        head.weight[5] = 1.0
    labels[1] = IGNORED_LABEL
    weights = torch.tensor([0.5, -2.0, -0.25])
    wanted = per_input(head(states), labels)
    found = head(states, LossRequest(labels, 0.3, as_logprobs=True))
    assert found.shape == (B,)
    assert found[1] == 0
    assert_same(found, wanted)
    for ours, plain in zip(
        gradients(found @ weights, head, states), gradients(wanted @ weights, head, states), strict=True
    ):
        assert_same(ours, plain)
