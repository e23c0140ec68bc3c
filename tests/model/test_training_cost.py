"""What training is said to keep is what autograd keeps: the formulas beside tensors that were really saved."""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.training_cost import (
    Adapters,
    Numbers,
    Rows,
    kept_around_layers,
    kept_by_layer,
)
from tests.tiny import VOCAB_SIZE, Size, tiny_config

ALL = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
BATCH, TOKENS = 2, 56  # places unlike any width
HALF = Numbers(weights=2, compute=2, adapters=2)
MIXED = Numbers(weights=4, compute=2, adapters=2)
FROZEN_MIXED = Numbers(weights=2, compute=2, adapters=2)


def kept_bytes(size: Size, num_layers: int, numbers: Numbers, adapters: Adapters | None, mask: Tensor | None) -> int:
    """Bytes of all tensors that autograd keeps in a pass up to the final norm, each storage once, weights left out."""
    config = tiny_config(size, num_hidden_layers=num_layers, use_cache=False)
    model: Any = BaichuanForCausalLM(config)
    body = model.to({4: torch.float32, 2: torch.bfloat16}[numbers.weights]).train().model
    if adapters is not None:
        peft = pytest.importorskip("peft")
        model.enable_input_require_grads()
        dropout = 0.1 if adapters.has_dropout else 0.0
        options = peft.LoraConfig(
            task_type="CAUSAL_LM", target_modules=list(adapters.targets), r=adapters.rank, lora_dropout=dropout
        )
        peft.get_peft_model(model, options).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    # copies of weights that autocast makes are another part of the plan; they have the shapes of weights, turned
    shapes = {tuple(sorted(weight.shape)) for weight in model.parameters() if weight.dim() == 2}
    storages: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_copy = tensor.dtype == torch.bfloat16 and tuple(sorted(tensor.shape)) in shapes
        if storage.data_ptr() not in own and not is_copy:
            storages[storage.data_ptr()] = storage
        return tensor

    is_autocast = numbers.adapters == 2
    autocast = torch.autocast("cpu", torch.bfloat16) if is_autocast else contextlib.nullcontext()
    ids = torch.randint(200, VOCAB_SIZE, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        result = body(ids, attention_mask=mask).last_hidden_state
    total = sum(storage.nbytes() for storage in storages.values())
    return total + (0 if result.untyped_storage().data_ptr() in storages else result.untyped_storage().nbytes())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize(
    ("numbers", "adapters"),
    [
        (Numbers(), None),
        (MIXED, None),
        (Numbers(), Adapters(rank=4, targets=ALL)),
        (Numbers(), Adapters(rank=4, targets=ALL, has_dropout=False)),
        (Numbers(), Adapters(rank=4, targets=("W_pack",))),
        (FROZEN_MIXED, Adapters(rank=4, targets=ALL)),
    ],
    ids=["full", "full mixed", "lora", "lora without dropout", "lora on W_pack", "lora mixed"],
)
def test_a_layer_keeps_what_is_planned(size: Size, numbers: Numbers, adapters: Adapters | None) -> None:
    rows = Rows(batch=BATCH, tokens=TOKENS, has_mask=False)
    two, three = (kept_bytes(size, number, numbers, adapters, None) for number in (2, 3))
    config = tiny_config(size)
    planned = kept_by_layer(config, rows, numbers, adapters, on_processor=True)
    assert planned == pytest.approx(three - two, rel=0.02)
    around = kept_around_layers(config, rows, numbers, trains_norm=adapters is None)
    assert around == pytest.approx(two - 2 * (three - two), rel=0.15, abs=40 * rows.places)
