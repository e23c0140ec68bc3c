"""What goes wrong in the engine ends those that it concerns, at once, and nobody starves meanwhile."""

import threading
import weakref

import pytest
import torch

from baichuan2.engine import job as job_module
from baichuan2.engine.paged import PagedBatch
from baichuan2.engine.processor import ProcessorModel
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.scheduler import Request, Scheduler
from baichuan2.errors import BaichuanError, GenerationError, OverloadedError
from baichuan2.kernels import steps
from tests.engine.fake_model import FakeModel
from tests.tiny import tiny_model

in_steps = pytest.mark.skipif(steps.most_rows(is_16_bits=True) < 8, reason="replies are no steps in C here")


def request(prompt, **sampling):
    return Request(prompt_ids=prompt, sampling=Sampling(**sampling), stop_ids=frozenset())


class Reader:
    """Takes what is delivered; `ended` is set with the last step or the error."""

    def __init__(self):
        self.items, self.ended = [], threading.Event()

    def __call__(self, item):
        self.items.append(item)
        if isinstance(item, BaichuanError) or item.finish_reason is not None:
            self.ended.set()


@in_steps
def test_guesses_of_several_replies_fit_into_one_step(monkeypatch):
    class Eager:  # as a text that repeats itself makes it
        def __init__(self, token_ids):
            pass

        def append(self, token_id):
            pass

        def draft(self, most):
            return [7] * most

    model = tiny_model("7b").to(torch.bfloat16)
    scheduler = Scheduler(model, max_running=3)
    prompts = [[5 + number] * 20 for number in range(3)]
    plain = [scheduler.generate_tokens(request(prompt, max_new_tokens=100)) for prompt in prompts]
    expected = [[step.token_id for step in stream] for stream in plain]
    monkeypatch.setattr(job_module, "Drafter", Eager)
    eager = [scheduler.generate_tokens(request(prompt, max_new_tokens=100, draft_tokens=64)) for prompt in prompts]
    assert [[step.token_id for step in stream] for stream in eager] == expected
    scheduler.close()


def test_a_request_that_cannot_choose_ends_alone():
    scheduler = Scheduler(tiny_model("7b"))
    steady = scheduler.generate_tokens(request([5, 6], max_new_tokens=100))
    next(steady)
    with pytest.raises(GenerationError):
        list(scheduler.generate_tokens(request([5, 7], do_sample=True, seed=2**70)))
    assert len(list(steady)) == 99
    scheduler.close()


@in_steps
def test_the_load_is_told_without_a_look_at_what_a_step_changes(monkeypatch):
    lookers = set()
    count = PagedBatch.num_used.fget
    monkeypatch.setattr(
        PagedBatch, "num_used", property(lambda batch: lookers.add(threading.current_thread().name) or count(batch))
    )
    scheduler = Scheduler(tiny_model("7b").to(torch.bfloat16))
    stream = scheduler.generate_tokens(request([5] * 40, max_new_tokens=50))
    next(stream)
    next(stream)
    assert 40 <= scheduler.load().cache_tokens <= 90
    list(stream)
    scheduler.close()
    assert scheduler.load().cache_tokens == 0
    assert lookers == {"scheduler"}


def test_nothing_is_delivered_behind_the_error_of_a_shutdown():
    is_in_step, gate = threading.Event(), threading.Event()

    class SlowModel(FakeModel):
        def __call__(self, **call):
            is_in_step.set()
            assert gate.wait(20)
            return super().__call__(**call)

    scheduler, reader = Scheduler(SlowModel([3])), Reader()
    scheduler.submit(request([1], max_new_tokens=50), reader)
    assert is_in_step.wait(20)
    closing = threading.Thread(target=scheduler.close)
    closing.start()
    assert reader.ended.wait(20)
    gate.set()
    closing.join(20)
    assert not scheduler.load().is_alive
    assert [type(item) for item in reader.items] == [OverloadedError]


def test_a_request_that_cannot_be_opened_ends_with_an_error(monkeypatch):
    scheduler, reader = Scheduler(FakeModel([3])), Reader()
    with monkeypatch.context() as patched:
        patched.setattr(type(scheduler._batch), "open", lambda batch, token_ids: 1 // 0)
        scheduler.submit(request([1], max_new_tokens=2), reader)
        assert reader.ended.wait(20)
    assert isinstance(reader.items[0], GenerationError)
    assert len(list(scheduler.generate_tokens(request([1], max_new_tokens=2)))) == 2
    scheduler.close()


def test_an_engine_that_cannot_go_on_tells_everybody(monkeypatch):
    scheduler = Scheduler(FakeModel([3], fails_at=0), max_running=1)
    monkeypatch.setattr(scheduler._batches, "new", lambda: 1 // 0)
    readers = [Reader() for _ in range(3)]
    with scheduler._changed:  # all are there before the first step
        for reader in readers:
            scheduler.submit(request([1], max_new_tokens=2), reader)
    assert all(reader.ended.wait(20) for reader in readers)
    assert all(isinstance(reader.items[0], GenerationError) for reader in readers)
    scheduler._thread.join(20)
    with pytest.raises(OverloadedError):
        scheduler.submit(request([1]), Reader())


@in_steps
def test_whoever_keeps_the_error_of_a_step_keeps_no_cache(monkeypatch):
    scheduler, reader = Scheduler(tiny_model("7b").to(torch.bfloat16)), Reader()
    pool = weakref.ref(scheduler._batch._pool)
    with monkeypatch.context() as patched:
        patched.setattr(ProcessorModel, "paged_logits", lambda *arguments, **others: 1 // 0)
        scheduler.submit(request([1], max_new_tokens=2), reader)
        assert reader.ended.wait(20)
    assert len(list(scheduler.generate_tokens(request([1], max_new_tokens=2)))) == 2
    assert isinstance(reader.items[0].__cause__, ZeroDivisionError)
    assert pool() is None
    scheduler.close()


@in_steps
def test_where_a_step_has_few_places_prompts_and_long_replies_get_their_share(monkeypatch):
    monkeypatch.setattr(ProcessorModel, "most_rows", 8)
    scheduler = Scheduler(tiny_model("7b", max_position_embeddings=1024).to(torch.bfloat16), max_running=12)
    first, others, prompt = Reader(), [Reader() for _ in range(9)], Reader()
    seen = []  # tokens of the first reply when another gets one

    def started(reader, item):
        reader(item)
        seen.append(len(first.items))

    stream = scheduler.generate_tokens(request([9, 9], max_new_tokens=300))
    for _ in range(300):
        next(stream)
    scheduler.submit(request([5, 5], max_new_tokens=900), first)
    while len(first.items) < 100:
        pass
    with scheduler._changed:
        for number, reader in enumerate(others):
            scheduler.submit(
                request([6, 6 + number], max_new_tokens=80), lambda item, reader=reader: started(reader, item)
            )
        scheduler.submit(request([7] * 60, max_new_tokens=1), prompt)
    assert prompt.ended.wait(60)
    assert not any(reader.ended.is_set() for reader in others)  # while these went on
    assert all(reader.ended.wait(60) for reader in others)
    assert seen[-1] - seen[0] > 40  # and so did who had said more than they
    scheduler.close()


def test_short_prompts_that_keep_coming_do_not_stop_a_long_one():
    model = tiny_model("7b", max_position_embeddings=2048)
    scheduler, long = Scheduler(model, max_running=3), Reader()
    num_short, is_over = [0], threading.Event()

    def next_short(_item):
        if long.items or num_short[0] == 60:
            is_over.set()
            return
        num_short[0] += 1
        scheduler.submit(request([5, 6, num_short[0]], max_new_tokens=1), next_short)

    with scheduler._changed:
        scheduler.submit(request([7 + place % 90 for place in range(1500)], max_new_tokens=1), long)
        next_short(None)
    assert is_over.wait(60)
    assert long.ended.wait(60)
    scheduler.close()
    assert num_short[0] < 40
