"""Training: checkpointing only when asked, exact accumulation through the framework's trainer, half precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from baichuan2.model import alibi
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM, DecoderLayer
from tests.tiny import SIZES, Size, left_padded, random_ids, tiny_config, tiny_model

LENGTHS = (12, 3, 9, 5, 11, 4, 7, 2)


def padded_examples() -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels (8, 12), with very unequal numbers of targets."""
    ids, mask = left_padded([random_ids(1, length, seed=seed)[0].tolist() for seed, length in enumerate(LENGTHS)])
    return ids, mask, ids.masked_fill(mask == 0, -100)


def gradients(model: BaichuanForCausalLM) -> dict[str, Tensor]:
    model.zero_grad()
    ids, mask, labels = padded_examples()
    model(ids, attention_mask=mask, labels=labels).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], limit: float = 1e-6) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        difference = (value - wanted[name]).abs().max().item()
        assert difference <= limit, f"{name} differs by {difference:.3g}"


def count_layer_calls(model: BaichuanForCausalLM) -> list[int]:
    calls: list[int] = []
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    return calls


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("written", [False, True, [False]])
def test_no_checkpointing_unless_asked(size: Size, written: Any) -> None:
    """The released 13B code always checkpointed in training, whatever config.json said."""
    fields = {**tiny_config(size).to_dict(), "gradient_checkpointing": written}
    config = BaichuanConfig.from_dict(fields)
    assert not hasattr(config, "gradient_checkpointing")
    model = BaichuanForCausalLM(config).train()
    calls = count_layer_calls(model)
    gradients(model)
    assert calls == [0, 1]


def checkpoint(model: BaichuanForCausalLM, use_reentrant: bool = False) -> None:
    # transformers 5.24 knows it as activation checkpointing, and warns of the older name
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("block_bytes", [alibi.BLOCK_BYTES, 4 * 5 * 8 * 12 * 5])
@pytest.mark.parametrize("size", SIZES)
def test_checkpointing_gives_equal_gradients(
    size: Size, block_bytes: int, use_reentrant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(size).train()
    monkeypatch.setattr(alibi, "BLOCK_BYTES", block_bytes)
    wanted = gradients(model)
    checkpoint(model, use_reentrant)
    model.enable_input_require_grads()
    calls = count_layer_calls(model)
    assert_same(gradients(model), wanted)
    assert sorted(calls) == [0, 0, 1, 1]  # each layer once forward, once again on the way back
    assert all(layer.gradient_checkpointing for layer in model.modules() if isinstance(layer, DecoderLayer))


def test_checkpointing_and_a_cache() -> None:
    model = tiny_model("7b").train()
    checkpoint(model)
    ids = random_ids(1, 4)
    with torch.no_grad():
        out = model.eval()(ids, use_cache=True)
    cache = out["cache"] if "cache" in out else out["past_key_values"]
    model.train()
    with pytest.raises(ValueError, match="a cache cannot be filled while gradient checkpointing trains"):
        model(ids, cache=cache)
    assert model(ids, labels=ids).loss.requires_grad


class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The padded examples, one by one."""

    def __init__(self) -> None:
        self.columns = dict(zip(("input_ids", "attention_mask", "labels"), padded_examples(), strict=True))

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self.columns.items()}


LEARNING_RATE = 0.1


def trained(size: Size, folder: Path, batch_size: int, **fields: Any) -> tuple[dict[str, Tensor], float]:
    """The change of each weight by one step over all eight examples, and the loss that the trainer logged."""
    model = tiny_model(size, **fields)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=8 // batch_size,
        max_steps=1,
        optim="sgd",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Examples())
    assert trainer.model_accepts_loss_kwargs
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}, losses[0]


@pytest.mark.parametrize("size", SIZES)
def test_accumulation_is_exact_through_the_trainer(size: Size, tmp_path: Path) -> None:
    """One batch of 8, four of 2 and eight of 1 are the same step, though their examples have unequal lengths."""
    model = tiny_model(size).train()
    wanted = gradients(model)  # the mean over all targets of all eight
    whole, loss = trained(size, tmp_path, 8)
    for name, change in whole.items():
        limit = 2e-5 * LEARNING_RATE * wanted[name].abs().max().item() + 5e-7  # weights of size 3 are rounded by 2e-7
        assert (change + LEARNING_RATE * wanted[name]).abs().max() <= limit, name
    for batch_size in (2, 1):
        parts, part_loss = trained(size, tmp_path, batch_size)
        assert part_loss == pytest.approx(loss, rel=1e-5)
        for name, change in parts.items():
            limit = 2e-5 * whole[name].abs().max().item() + 5e-7
            assert (change - whole[name]).abs().max() <= limit, (batch_size, name)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_a_cpu(size: Size, dtype: torch.dtype) -> None:
    ids, mask, labels = padded_examples()
    model = tiny_model(size)
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask).logits[mask.bool()]
    model.to(dtype)
    with torch.no_grad():
        found = model(ids, attention_mask=mask).logits[mask.bool()]
    assert found.dtype == dtype
    assert (found - wanted).abs().mean() < 0.05
    model.train()
    loss = model(ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_a_padding_id_learns_nothing_but_all_else_does(size: Size) -> None:
    model = tiny_model(size).train()
    found = gradients(model)
    assert found["model.embed_tokens.weight"][0].abs().max() == 0
    assert all(gradient.abs().max() > 0 for gradient in found.values())
