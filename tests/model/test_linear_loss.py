"""The loss without logits against the plain one: values, gradients, what is never computed, and what is refused."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from baichuan2.model import linear_loss
from baichuan2.model.linear_loss import LossRequest, loss_of_layer
from baichuan2.model.loss import IGNORED_LABEL, causal_lm_loss
from baichuan2.model.norm_head import NormHead, OutputHead
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.scheme import QuantizationSpec
from tests.tiny import SIZES, Size, random_ids, tiny_model

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


@pytest.mark.parametrize("kind", HEADS)
def test_autocast_computes_products_in_half_precision_and_sums_in_float32(kind: type[OutputHead]) -> None:
    head, (states, labels) = new_head(kind), example()
    with torch.no_grad():
        head.weight[5:7] = 1.0
    wanted = causal_lm_loss(head(states), labels)
    exact = gradients(wanted, head, states)
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(causal_lm_loss(head(states), labels), head, states)
        found = head(states, LossRequest(labels))
        ours = gradients(found, head, states)
    assert found.dtype == torch.float32
    assert found.item() != wanted.item()
    assert found.item() == pytest.approx(wanted.item(), rel=2e-3)
    for one, other, truth in zip(ours, plain, exact, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert_same(one, truth, max(0.01, ((other - truth).norm() / truth.norm()).item()))


@pytest.mark.parametrize("kind", HEADS)
def test_weights_in_bfloat16(kind: type[OutputHead]) -> None:
    """No farther from the truth than the plain loss is, whose gradients are rounded once."""
    head, (states, labels) = new_head(kind, torch.bfloat16), example(dtype=torch.bfloat16)
    with torch.no_grad():
        head.weight[5:7] = 1.0
    wide, exact_states = new_head(kind), states.detach().float().requires_grad_()
    wide.weight = nn.Parameter(head.weight.detach().float())
    exact = gradients(causal_lm_loss(wide(exact_states), labels), wide, exact_states)
    plain = gradients(causal_lm_loss(head(states), labels), head, states)
    found = gradients(head(states, LossRequest(labels)), head, states)
    for one, other, truth in zip(found, plain, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert_same(one, truth, ((other.float() - truth).norm() / truth.norm()).item() * 1.05)


class Made(TorchDispatchMode):
    """Records the largest tensor made (views are not made), and the number of products."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        old = {tensor.data_ptr() for tensor in args if isinstance(tensor, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and tensor.data_ptr() not in old:
                self.largest = max(self.largest, tensor.numel())
        return result


def test_a_frozen_head_costs_no_gradient_of_its_weight() -> None:
    head, (states, labels) = new_head(NormHead), example()
    with Made() as trained:
        head(states, LossRequest(labels)).backward()
    wanted, states.grad = states.grad, None
    head.weight.requires_grad_(False)
    with Made() as frozen:
        head(states, LossRequest(labels)).backward()
    assert states.grad is not None
    assert wanted is not None
    assert torch.equal(states.grad, wanted)
    assert frozen.products * 3 == trained.products * 2
    assert frozen.largest < head.weight.numel()
    with torch.no_grad(), Made() as alone:
        head(states, LossRequest(labels))
    assert alone.products * 3 == trained.products


@pytest.mark.parametrize("as_logprobs", [False, True])
def test_places_without_a_label_are_not_computed(as_logprobs: bool) -> None:
    head, (states, labels) = new_head(NormHead), example()
    labels[:] = IGNORED_LABEL
    labels[0, 3:10] = 4  # one chunk
    with torch.no_grad():
        for request in (LossRequest(labels, as_logprobs=as_logprobs), LossRequest(labels, 0.1)):
            with Made() as made:
                head(states, request)
            asks_all = request.z_loss_weight > 0
            assert made.products == (-(-B * (T - 1) // 7) if asks_all else 1)


def test_no_tensor_of_places_times_words_is_made() -> None:
    head, (states, labels) = new_head(NormHead), example()
    for request in (LossRequest(labels, 0.1), LossRequest(labels, as_logprobs=True)):
        with Made() as made:
            head(states, request).sum().backward()
        assert made.largest == V * C
    assert V * C < B * (T - 1) * V


def test_no_target_at_all() -> None:
    head, (states, labels) = new_head(NormHead), example()
    nothing = torch.full_like(labels, IGNORED_LABEL)
    assert head(states, LossRequest(nothing)).isnan()
    assert head(states, LossRequest(nothing, 0.1)).isnan()
    part = head(states, LossRequest(nothing, 0.1, num_items_in_batch=7))
    assert part == 0  # an empty part of a batch adds nothing
    for gradient in gradients(part, head, states):
        assert not gradient.any()
    assert torch.equal(head(states, LossRequest(nothing, as_logprobs=True)), torch.zeros(B))
    assert loss_of_layer(nn.Linear(C, V), states, LossRequest(nothing)).isnan()


@pytest.mark.parametrize("length", [0, 1])
def test_inputs_too_short_to_predict_anything(length: int) -> None:
    head = new_head(NormHead)
    states, labels = torch.randn(B, length, C, requires_grad=True), torch.ones(B, length, dtype=torch.long)
    assert head(states, LossRequest(labels)).isnan()
    assert torch.equal(head(states, LossRequest(labels, as_logprobs=True)), torch.zeros(B))


@pytest.mark.parametrize("label", [V, -1, -101, 2**40])
def test_labels_that_are_no_words_are_refused(label: int) -> None:
    head, (states, labels) = new_head(NormHead), example()
    labels[1, 5] = label
    with pytest.raises(ValueError, match=f"labels must be -100 or lie between 0 and {V - 1}, got {label}"):
        head(states, LossRequest(labels))
    with pytest.raises(ValueError, match="labels must have the shape of the inputs, \\(3, 14\\), got \\(3, 13\\)"):
        head(states, LossRequest(labels[:, 1:]))


def test_a_second_way_back_is_refused() -> None:
    head, (states, labels) = new_head(NormHead), example()
    loss = head(states, LossRequest(labels))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="pass skip_logits=False"):
        loss.backward()


def test_gradients_are_added_up_and_handed_over_without_a_copy() -> None:
    head, (states, labels) = new_head(NormHead), example()
    head(states, LossRequest(labels)).backward()
    assert head.weight.grad is not None
    once = head.weight.grad.clone()
    head(states, LossRequest(labels)).backward()
    assert_same(head.weight.grad, 2 * once)


def test_extreme_logits_stay_finite() -> None:
    head, (states, labels) = new_head(OutputHead), example()
    states = (states.detach() * 1e4).requires_grad_()
    wanted = causal_lm_loss(head(states), labels)
    found = head(states, LossRequest(labels))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert all(gradient.isfinite().all() for gradient in gradients(found, head, states))


def labelled_batch() -> dict[str, Tensor]:
    ids = random_ids(3, 12)
    labels = ids.clone()
    labels[:2, :6] = IGNORED_LABEL
    mask = torch.ones_like(ids)
    mask[2, 9:] = 0
    labels[2, 9:] = IGNORED_LABEL
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.05])
@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_model_trains_as_with_logits(size: Size, is_normalized: bool, z_loss_weight: float) -> None:
    model = tiny_model(size, normalized_head=is_normalized, z_loss_weight=z_loss_weight).train()
    batch = labelled_batch()
    plain = model(**batch, skip_logits=False)
    plain.loss.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    out = model(**batch)
    assert out.logits is None
    assert plain.logits.shape == (3, 12, 512)
    out.loss.backward()
    assert out.loss.item() == pytest.approx(plain.loss.item(), rel=1e-6)
    for name, weight in model.named_parameters():
        assert_same(weight.grad, wanted[name], 2e-6)
    model.eval()
    with torch.no_grad():
        out = model(**batch)
        assert out.logits is not None
        skipped = model(**batch, skip_logits=True)
        assert skipped.logits is None
        assert skipped.loss.item() == pytest.approx(out.loss.item(), rel=1e-6)
        told = model(**batch, return_logprobs=True)
    assert told.logits is None
    assert told.loss is None
    assert_same(told.logprobs, per_input(out.logits, batch["labels"]))


def test_log_probabilities_need_labels() -> None:
    with pytest.raises(ValueError, match="return_logprobs=True needs labels"):
        tiny_model("7b")(random_ids(1, 4), return_logprobs=True)


def test_tuples_without_logits() -> None:
    model, batch = tiny_model("7b", use_cache=False).train(), labelled_batch()
    found = model(**batch, return_dict=False)
    assert len(found) == 1
    assert torch.equal(found[0], model(**batch).loss)


def test_the_copy_for_inference_is_given_up_in_training() -> None:
    model = tiny_model("7b")
    with torch.no_grad():
        before = model(random_ids(1, 4)).logits
    model.train()
    model(**labelled_batch()).loss.backward()
    with torch.no_grad():
        model.lm_head.weight.data[:, 1:-1] *= -1  # unrecorded, and at places that no probe looks at
    with torch.no_grad():
        assert (model.eval()(random_ids(1, 4)).logits - before).abs().max() > 0.1


def test_a_head_in_few_bits() -> None:
    model, batch = tiny_model("7b"), labelled_batch()
    quantize_model(model, QuantizationSpec(format="int8", group_size=64, head="int8"))
    with torch.no_grad():
        wanted = model(**batch)
        found = model(**batch, skip_logits=True)
        told = model(**batch, return_logprobs=True)
    assert found.logits is None
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
    assert_same(told.logprobs, per_input(wanted.logits, batch["labels"]))
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}  # rows that only fill up a last batch
    assert model(**nothing, return_logprobs=True).logprobs.tolist() == [0.0] * len(batch["labels"])
    part = model.train()(**nothing, num_items_in_batch=7).loss
    part.backward()
    assert part == 0


# peft 0.21 asks by the name that transformers 5.24 has replaced
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_head_that_an_adapter_saves_whole() -> None:
    model, batch = tiny_model("7b"), labelled_batch()
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["W_pack"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    ).train()
    head = adapted.base_model.model.lm_head
    loss = adapted(**batch).loss
    loss.backward()
    assert head.computes_loss
    assert head.modules_to_save["default"].weight.grad.abs().max() > 0
    assert head.original_module.weight.grad is None
    assert loss.item() == pytest.approx(adapted(**batch, skip_logits=False).loss.item(), rel=1e-6)
