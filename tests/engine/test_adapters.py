"""Several adapters on one base: each row by its own, as alone, and no keys and values of another one."""

import queue
from typing import Any

import pytest
import torch

from baichuan2.engine import prompt
from baichuan2.engine.aligned import AlignedBatch
from baichuan2.engine.batch import Part
from baichuan2.engine.batches import Batches
from baichuan2.engine.cache import new_cache
from baichuan2.engine.job import Job, Request
from baichuan2.engine.paged import PagedBatch
from baichuan2.engine.processor import ProcessorModel, processor_model
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.scheduler import Scheduler
from baichuan2.kernels import steps
from baichuan2.kernels.low_rank import ChangeTable
from tests.engine.adapted import merged, with_adapters
from tests.tiny import SIZES, Size, random_ids, tiny_model

ADAPTERS = (-1, 0, 1)
needs_steps = pytest.mark.skipif(steps.most_rows() < 8, reason="no steps in C here, or short ones")
GREEDY = Sampling(max_new_tokens=12, do_sample=False)


@torch.inference_mode()
def logits(model: Any, ids: torch.Tensor, numbers: list[int], rows: Any) -> torch.Tensor:
    with rows.chosen(numbers):
        output = model(
            input_ids=ids, attention_mask=None, past_key_values=new_cache(), use_cache=True, logits_to_keep=ids.shape[1]
        )
    found: torch.Tensor = output.logits.float()
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_row_has_its_own_adapter_as_if_it_were_merged(size: Size) -> None:
    model, ids = with_adapters(tiny_model(size)), random_ids(3, 12)
    found = logits(model, ids, [1, -1, 0], model.row_adapters)
    for row, number in enumerate([1, -1, 0]):
        alone = merged(with_adapters(tiny_model(size)), number) if number >= 0 else tiny_model(size)
        with torch.no_grad():
            wanted = alone(input_ids=ids[row : row + 1]).logits[0]
        assert (found[row] - wanted).abs().max() < 1e-4 * wanted.abs().max()


@needs_steps
@pytest.mark.parametrize("size", SIZES)
def test_a_step_computes_rows_of_different_adapters_bit_for_bit_as_alone(size: Size) -> None:
    model, ids = with_adapters(tiny_model(size).bfloat16()), random_ids(3, 20)
    exact = with_adapters(tiny_model(size).bfloat16().float())
    fast = processor_model(model)
    assert isinstance(fast, ProcessorModel)
    numbers = [0, 1, -1]
    together = logits(fast, ids, numbers, model.row_adapters)
    wanted = logits(exact, ids, numbers, exact.row_adapters)
    for row, number in enumerate(numbers):
        alone = logits(fast, ids[row : row + 1], [number], model.row_adapters)
        assert torch.equal(together[row : row + 1], alone)
        # rounding to bfloat16 in all stages; another adapter differs by more than a whole
        assert (together[row] - wanted[row]).norm() < 0.03 * wanted[row].norm()


@needs_steps
def test_prompts_with_adapters_go_through_steps_or_modules_never_through_whole_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids, numbers = with_adapters(tiny_model("7b").bfloat16()), random_ids(3, 40), [0, -1, 1]
    fast = processor_model(model)
    assert isinstance(fast, ProcessorModel)
    wanted = logits(fast, ids, numbers, model.row_adapters)
    monkeypatch.setattr(prompt, "suits", lambda *_: True)  # as with a matrix unit
    assert torch.equal(logits(fast, ids, numbers, model.row_adapters), wanted)
    monkeypatch.setattr(steps, "most_rows", lambda *_: 0)  # as where steps are slower than modules
    found = logits(fast, ids, numbers, model.row_adapters)
    assert not torch.equal(found, wanted)
    for row in range(3):
        assert (found[row] - wanted[row]).norm() < 0.03 * wanted[row].norm()


def test_a_prompt_waits_for_none_of_another_adapter() -> None:
    first, same, other = (
        Job(
            Request(prompt_ids=[5] * 9, sampling=GREEDY, stop_ids=frozenset(), adapter=number), lambda _: None, 0, 100.0
        )
        for number in (0, 0, 1)
    )
    assert same.begins_like(first, 8)
    assert not other.begins_like(first, 8)


def batches() -> list[Any]:
    return [
        pytest.param("paged", marks=needs_steps),
        "aligned",
    ]


def new_batch(kind: str) -> tuple[Any, Any]:
    if kind == "aligned":
        model = with_adapters(tiny_model("7b"))
        return model, AlignedBatch(model, capacity=2048)
    model = with_adapters(tiny_model("7b").bfloat16())
    batch = Batches(model, max_running=4, cache_bytes=None, kv_cache="same").new()
    assert isinstance(batch, PagedBatch)
    return model, batch


@torch.inference_mode()
@pytest.mark.parametrize("kind", batches())
def test_keys_and_values_are_never_those_of_another_adapter(kind: str) -> None:
    _, batch = new_batch(kind)
    ids = random_ids(1, 100)[0].tolist()
    for number in ADAPTERS:
        held = batch.open(ids, number)
        assert held.num_tokens == 0  # nothing of those before
        while held.num_tokens < len(ids):
            piece = ids[held.num_tokens :][: batch.most_tokens]
            assert batch.reserve(held, len(piece))
            batch.step([Part(held, piece, 1)])
        other = batch.open(ids, (number + 2) % 3 - 1)
        assert other.num_tokens in (0, 99)  # 99: kept by that very adapter, an earlier turn of this loop
        assert (other.num_tokens == 99) == ((number + 2) % 3 - 1 < number)
        batch.close(other, ids)
        batch.close(held, ids)
        again = batch.open(ids, number)
        assert again.num_tokens == 99  # all of its own
        batch.close(again, ids)


def replies(scheduler: Scheduler, requests: list[Request]) -> list[list[int]]:
    delivered: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in requests]
    for request, box in zip(requests, delivered, strict=True):
        scheduler.submit(request, box.put)
    found = []
    for box in delivered:
        ids = []
        while True:
            step = box.get(timeout=60)
            ids.append(step.token_id)
            if step.finish_reason is not None:
                break
        found.append(ids)
    return found


@pytest.mark.parametrize("kind", batches())
def test_requests_together_get_what_each_adapter_says_alone(kind: str) -> None:
    dtype = torch.float32 if kind == "aligned" else torch.bfloat16
    model = with_adapters(tiny_model("13b").to(dtype))
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 30, 17)]
    requests = [
        Request(prompt_ids=prompt, sampling=GREEDY, stop_ids=frozenset(), adapter=number)
        for prompt in (*prompts, prompts[0])
        for number in ADAPTERS
    ]
    scheduler = Scheduler(model, max_running=8, max_waiting=32)
    try:
        alone = [replies(scheduler, [request])[0] for request in requests[:9]]
        together = replies(scheduler, requests)
    finally:
        scheduler.close()
    assert together == [*alone, *alone[:3]]
    assert len({tuple(reply) for reply in alone}) == 9


def test_a_table_of_changes_refuses_what_c_would_misread() -> None:
    down, up = torch.zeros(2, 64), torch.zeros(2, 32)
    shapes = [[(32, 64)] * 5]
    assert ChangeTable([[[(down, up, None)] * 5]], shapes).most_rank == 2
    for change in (
        (down[:, :32], up, None),
        (down, up.T, None),
        (down.double(), up, None),
        (down, up, torch.zeros(31)),
    ):
        with pytest.raises(ValueError, match="a change of a weight"):
            ChangeTable([[[change] * 5]], shapes)
    with pytest.raises(ValueError, match="for each weight of each layer"):
        ChangeTable([[[None] * 4]], shapes)
