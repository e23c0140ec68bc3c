"""Many requests on one model: the same tokens as alone, cancelled at any step, refused when too many wait."""

import threading

import pytest

from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.scheduler import Request, Scheduler
from baichuan2.errors import ContextLengthError, GenerationError, OverloadedError
from tests.engine.fake_model import FakeModel
from tests.tiny import tiny_model

STOP = frozenset({2})


def request(prompt, **sampling):
    return Request(prompt_ids=prompt, sampling=Sampling(**sampling), stop_ids=STOP)


@pytest.fixture
def scheduler():
    with_model = Scheduler(tiny_model("7b"))
    yield with_model
    with_model.close()


def test_tokens_are_those_of_a_generation_alone(scheduler):
    prompts = [[5, 6, 7], [300, 301], [9] * 20]
    alone = [list(generate_tokens(tiny_model("7b"), p, Sampling(max_new_tokens=12), stop_ids=STOP)) for p in prompts]
    streams = [scheduler.generate_tokens(request(p, max_new_tokens=12)) for p in prompts]
    together = [list(stream) for stream in streams]
    assert [[s.token_id for s in steps] for steps in together] == [[s.token_id for s in steps] for steps in alone]
    assert [steps[-1].finish_reason for steps in together] == [steps[-1].finish_reason for steps in alone]


def test_a_bad_prompt_is_refused_at_the_call(scheduler):
    with pytest.raises(ContextLengthError):
        scheduler.generate_tokens(request([5] * 128))


def test_a_failing_model_ends_one_request_with_an_error_and_not_the_next():
    model = FakeModel([3, 4], fails_at=1)
    scheduler = Scheduler(model)
    with pytest.raises(GenerationError, match="wrong shape"):
        list(scheduler.generate_tokens(request([1], max_new_tokens=4)))
    model.fails_at = None
    assert [step.token_id for step in scheduler.generate_tokens(request([1], max_new_tokens=2))] == [4, 3]
    scheduler.close()


def test_a_full_queue_refuses_and_goes_on():
    gate = threading.Event()

    class SlowModel(FakeModel):
        def __call__(self, **call):
            assert gate.wait(10)
            return super().__call__(**call)

    scheduler = Scheduler(SlowModel([3]), max_running=1, max_waiting=1)
    first = scheduler.generate_tokens(request([1], max_new_tokens=2))
    while scheduler.load().num_running == 0:
        pass
    second = scheduler.generate_tokens(request([1], max_new_tokens=2))
    with pytest.raises(OverloadedError, match="1 requests are waiting"):
        scheduler.generate_tokens(request([1], max_new_tokens=2))
    gate.set()
    assert [len(list(stream)) for stream in (first, second)] == [2, 2]
    scheduler.close()
    with pytest.raises(OverloadedError, match="shutting down") as caught:
        scheduler.generate_tokens(request([1], max_new_tokens=2))
    assert caught.value.is_closing


def test_closing_the_iterator_frees_the_place():
    scheduler = Scheduler(tiny_model("7b"), max_running=1)
    stream = scheduler.generate_tokens(request([5, 6], max_new_tokens=100))
    next(stream)
    stream.close()
    assert len(list(scheduler.generate_tokens(request([5, 6], max_new_tokens=3)))) == 3
    scheduler.close()
