"""NormHead: normalises without ever changing its weight, and never answers from an outdated copy."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.norm_head import NormHead, OutputHead
from tests.tiny import SIZES, Size, random_ids, tiny_model

WIDTH, ROWS = 16, 24


def new_head(dtype: torch.dtype = torch.float32) -> NormHead:
    head = NormHead(WIDTH, ROWS, dtype=dtype)
    with torch.no_grad():
        values = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3))
        head.weight.copy_(values * torch.linspace(0.01, 5.0, ROWS)[:, None])
    return head.eval()


def states(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(4)).to(dtype)


def wanted(weight: Tensor, inputs: Tensor) -> Tensor:
    rows = weight.detach().double()
    return inputs.double() @ (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)).T


def assert_right(head: NormHead, limit: float = 1e-5) -> None:
    inputs = states(head.weight.dtype)
    with torch.no_grad():
        found = head(inputs)
    assert (found.double() - wanted(head.weight, inputs)).abs().max() <= limit


def test_is_a_linear_layer_without_bias() -> None:
    head = new_head()
    assert isinstance(head, nn.Linear)
    assert head.bias is None
    assert (head.in_features, head.out_features) == (WIDTH, ROWS)
    assert list(head.state_dict()) == ["weight"]
    assert_right(head)
    with pytest.raises(ValueError, match="NormHead has no bias"):
        NormHead(WIDTH, ROWS, bias=True)


def test_a_row_of_zeros_gives_zero_logits() -> None:
    head = new_head()
    with torch.no_grad():
        head.weight[5] = 0.0
        logits = head(states())
    assert torch.equal(logits[..., 5], torch.zeros(2, 3))
    assert logits.isfinite().all()


def test_evaluation_never_changes_the_weight() -> None:
    head = new_head()
    before = head.weight.detach().clone()
    with torch.no_grad():
        first = head(states())
        assert torch.equal(head(states()), first)
    head(states()).sum().backward()
    head.train()
    head(states())
    assert torch.equal(head.weight, before)


def test_the_copy_is_made_once() -> None:
    head = new_head()
    with torch.no_grad():
        copy_of_weight = head.normalized_weight()
        assert head.normalized_weight() is copy_of_weight
    with torch.inference_mode():
        assert head.normalized_weight() is copy_of_weight


def replace(head: NormHead) -> None:
    head.weight = nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(9)))


def step(head: NormHead) -> None:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    head(states()).square().sum().backward()
    optimizer.step()


def write(head: NormHead) -> None:
    with torch.no_grad():
        head.weight[7] = -head.weight[7]


def write_data(head: NormHead) -> None:
    head.weight.data.neg_()


def write_one_row_of_data(head: NormHead) -> None:
    head.weight.data[11] = torch.arange(1.0, WIDTH + 1)


def replace_data(head: NormHead) -> None:
    head.weight.data = -head.weight.data


def write_in_inference_mode(head: NormHead) -> None:
    with torch.inference_mode():
        head.weight[3] = -head.weight[3]


def load(head: NormHead) -> None:
    head.load_state_dict({"weight": -head.weight.detach()})


def assign(head: NormHead) -> None:
    head.load_state_dict({"weight": -head.weight.detach()}, assign=True)


CHANGES = [replace, step, write, write_data, write_one_row_of_data, replace_data, write_in_inference_mode, load, assign]


@pytest.mark.parametrize("change", CHANGES)
def test_the_copy_goes_when_the_weight_changes(change: Callable[[NormHead], None]) -> None:
    head = new_head()
    with torch.no_grad():
        outdated = head(states())
    change(head)
    assert_right(head)
    with torch.no_grad():
        assert (head(states()) - outdated).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_copy_follows_the_dtype(dtype: torch.dtype) -> None:
    head = new_head()
    assert_right(head)
    head.to(dtype)
    assert_right(head, 0.1 if dtype.itemsize == 2 else 1e-5)
    with torch.no_grad():
        assert head(states(dtype)).dtype == dtype
    head.to(torch.float32)
    assert_right(head)


def test_train_then_eval_then_train() -> None:
    head = new_head()
    for _ in range(3):
        head.train()
        head.zero_grad()
        step(head)
        assert_right(head)
        head.eval()
        assert_right(head)


def test_gradient_flows_through_the_normalisation() -> None:
    small = NormHead(3, 4, dtype=torch.float64)
    row = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()

    def logits(weight: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(small, {"weight": weight}, (x,))

    for is_training in (True, False):
        small.train(is_training)
        assert torch.autograd.gradcheck(logits, (small.weight.detach().requires_grad_(), row))
    head = new_head().double()
    inputs = states(torch.float64)
    head.train()
    head.zero_grad()
    head(inputs).square().sum().backward()
    # a unit-length row does not change along itself, so the gradient is orthogonal to the row
    assert (head.weight.grad * head.weight).sum(dim=1).abs().max() < 1e-10


def test_copies_and_pickles_stand_alone() -> None:
    head = new_head()
    assert_right(head)
    twin = copy.deepcopy(head)
    revived = pickle.loads(pickle.dumps(head))
    with torch.no_grad():
        head.weight.neg_()
    for other in (twin, revived):
        assert isinstance(other, NormHead)
        assert_right(other)
        assert (other.weight + head.weight).abs().max() == 0
    assert_right(head)


def test_a_pickle_holds_no_second_weight() -> None:
    head = new_head()
    size = len(pickle.dumps(head))
    assert_right(head)
    assert len(pickle.dumps(head)) == size


@pytest.mark.parametrize("size", SIZES)
def test_saving_after_use_saves_the_raw_weight(size: Size, tmp_path: Path) -> None:
    model = tiny_model(size)
    before = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model(random_ids(1, 4))
    model.save_pretrained(tmp_path)
    assert torch.equal(BaichuanForCausalLM.from_pretrained(tmp_path).lm_head.weight, before)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("vocab_size", [600, 400])
@torch.no_grad()
def test_resizing_keeps_head_and_logits(size: Size, vocab_size: int) -> None:
    model = tiny_model(size)
    ids = random_ids(2, 6) % 190 + 200  # below either size
    before = model(ids).logits
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    assert isinstance(model.lm_head, NormHead)
    assert not model.lm_head.training
    assert model.lm_head.weight.shape[0] == model.lm_head.out_features == model.config.vocab_size == vocab_size
    assert model.model.embed_tokens.weight.shape[0] == vocab_size
    kept = min(512, vocab_size)
    after = model(ids).logits
    assert after.shape[-1] == vocab_size
    # products of another width may be summed in another order, by as many threads as there are
    torch.testing.assert_close(after[..., :kept], before[..., :kept], rtol=0, atol=1e-5)
    assert model.train().lm_head.training


@torch.no_grad()
def test_resizing_works_with_the_frameworks_own_mean() -> None:
    model = tiny_model("7b")
    ids = random_ids(1, 5)
    before = model(ids).logits
    model.resize_token_embeddings(520)
    assert isinstance(model.get_output_embeddings(), NormHead)
    torch.testing.assert_close(model(ids).logits[..., :512], before, rtol=0, atol=1e-5)
    assert model(ids).logits.isfinite().all()


def test_version_one_has_a_plain_head() -> None:
    model = tiny_model("7b", normalized_head=False)
    assert type(model.lm_head) is OutputHead
    ids = random_ids(1, 5)
    with torch.no_grad():
        plain = model(ids, output_hidden_states=True)
        assert torch.allclose(plain.logits, plain.hidden_states[-1] @ model.lm_head.weight.T, atol=1e-4)
    model.resize_token_embeddings(520, mean_resizing=False)
    assert type(model.lm_head) is nn.Linear


@torch.no_grad()
def test_a_write_through_data_that_leaves_the_first_column_alone_is_noticed() -> None:
    model = tiny_model("7b").eval()
    ids = random_ids(1, 4)
    model(ids)
    model.lm_head.weight.data[:, 1:] *= -1
    wanted = torch.nn.functional.normalize(model.lm_head.weight)
    assert torch.equal(model.lm_head.normalized_weight(), wanted)


def test_a_held_head_does_not_read_its_weight_until_torch_records_a_change() -> None:
    head = NormHead(8, 5).eval()
    head.hold()
    with torch.no_grad():
        kept = head.normalized_weight()
        assert head.normalized_weight() is kept
        head.weight.data.mul_(0.0)  # unrecorded: stands for pages that were released
        assert head.normalized_weight() is kept
        head.weight.copy_(torch.eye(5, 8))
        assert torch.equal(head.normalized_weight(), torch.eye(5, 8))
