"""The loss without logits under FSDP2: its hooks on the modules gather the weights that the loss reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from tests.tiny import SIZES, Size, random_ids, tiny_model


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """One process that believes to be one of many."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def loss_of(model: BaichuanForCausalLM, kind: str) -> Tensor:
    ids = random_ids(2, 12)
    labels = ids.clone()
    labels[0, :6] = -100
    if kind == "logprobs":
        logprobs = model(ids, labels=labels, return_logprobs=True).logprobs
        return -(logprobs * torch.tensor([1.0, 0.3])).sum() / 10
    loss: Tensor = model(ids, labels=labels).loss
    return loss


@pytest.mark.parametrize("kind", ["loss", "logprobs", "frozen head"])
@pytest.mark.parametrize("size", SIZES)
def test_fully_sharded_weights(size: Size, kind: Literal["loss", "logprobs", "frozen head"], mesh: DeviceMesh) -> None:
    whole, sharded = (tiny_model(size, z_loss_weight=0.1).train() for _ in range(2))
    for model in (whole, sharded):
        model.lm_head.weight.requires_grad_(kind != "frozen head")
    for module in (*sharded.model.layers, sharded.lm_head, sharded):
        fully_shard(module, mesh=mesh)
    wanted, found = loss_of(whole, kind), loss_of(sharded, kind)
    assert isinstance(sharded.lm_head.weight, DTensor)  # given back after the pass
    assert torch.equal(found, wanted)
    wanted.backward()
    found.backward()
    for (name, weight), other in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        if other.grad is None:
            assert weight.grad is None
        else:
            assert torch.equal(weight.grad.full_tensor(), other.grad), name
