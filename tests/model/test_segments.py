"""Packed inputs: no text sees another, in attention and in the loss, and attention is not computed for hidden pairs."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.segments import find_segments
from tests.tiny import SIZES, Size, random_ids, tiny_model

LENGTHS = ((5, 4, 1, 3), (9, 2))
WIDTH = 14


def packed() -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Ids, labels and segment ids (2, 14) of packed texts, and the texts; -100 in the first half of the long ones."""
    ids, segments = torch.zeros(2, WIDTH, dtype=torch.long), torch.zeros(2, WIDTH, dtype=torch.long)
    labels, texts = torch.full((2, WIDTH), -100), []
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths, start=1):
            text = random_ids(1, length, seed=10 * row + number)[0]
            place = slice(start, start + length)
            ids[row, place], segments[row, place], labels[row, place] = text, number, text
            labels[row, start : start + length // 2] = -100
            texts.append(text)
            start += length
    return ids, labels, segments, texts


def gradients(model: BaichuanForCausalLM) -> dict[str, Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("numerics", ["exact", "official"])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_packed_texts_learn_what_they_learn_alone(size: Size, numerics: str, name: str, restarts: bool) -> None:
    """Loss and gradients of packed rows equal the sums over the texts, each alone."""
    model = tiny_model(size, **({"alibi_numerics": numerics} if size == "13b" else {})).train()
    model.set_attn_implementation(name)
    ids, labels, segments, texts = packed()
    count = (labels[:, 1:] != -100).sum()
    positions = None
    if restarts:
        positions = torch.cat([torch.arange(n) for n in (*LENGTHS[0], 1, *LENGTHS[1], 3)]).view(2, WIDTH)
    loss = model(ids, attention_mask=segments, position_ids=positions, labels=labels, num_items_in_batch=count).loss
    loss.backward()
    found = gradients(model)
    alone = 0.0
    for text in texts:
        targets = text.clone()
        targets[: len(text) // 2] = -100
        part = model(text[None], labels=targets[None], num_items_in_batch=count).loss
        part.backward()
        alone += part.item()
    assert loss.item() == pytest.approx(alone, rel=1e-6)
    for parameter, wanted in gradients(model).items():
        difference = ((found[parameter] - wanted).norm() / wanted.norm()).item()
        assert difference <= 3e-6, f"{parameter} differs by {difference:.3g}"


def test_the_first_label_of_a_segment_is_not_learnt_from_the_text_before() -> None:
    model = tiny_model("7b").train()
    ids, _, segments, _ = packed()
    labels = ids.masked_fill(segments == 0, -100)  # the first labels of all segments are given
    cut = labels.clone()
    cut[:, 1:][(segments[:, 1:] != segments[:, :-1])] = -100
    assert (cut != labels).sum() == 4
    for skip in (True, False):
        found = model(ids, attention_mask=segments, labels=labels, skip_logits=skip).loss
        assert torch.equal(found, model(ids, attention_mask=segments, labels=cut, skip_logits=skip).loss)


@pytest.mark.parametrize("size", SIZES)
def test_segments_in_several_pieces_still_see_each_other(size: Size) -> None:
    model = tiny_model(size)
    ids = random_ids(1, 7)
    segments = torch.tensor([[1, 1, 2, 2, 1, 1, 0]])
    assert find_segments(segments) is None
    rows = (segments[:, :, None] == segments[:, None, :]) & (segments > 0)[:, None]
    with torch.no_grad():
        found = model(ids, attention_mask=segments).logits[:, :6]
        wanted = model(ids, attention_mask=(rows | torch.eye(7).bool()).tril()).logits[:, :6]
    assert (found - wanted).abs().max() <= 2e-5


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor made."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


@pytest.mark.parametrize("name", ["sdpa", "eager"])
@pytest.mark.parametrize("size", SIZES)
def test_no_tensor_of_rows_times_keys_is_made(size: Size, name: str) -> None:
    length, number = 16, 64
    model = tiny_model(size, num_hidden_layers=1, vocab_size=512).train()
    model.set_attn_implementation(name)
    ids = random_ids(1, length * number)
    segments = torch.arange(1, number + 1).repeat_interleave(length)[None]
    with Largest() as largest:
        model(ids, attention_mask=segments, labels=ids).loss.backward()
    assert largest.size < ids.numel() ** 2
