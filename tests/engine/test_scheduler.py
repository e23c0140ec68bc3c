"""Many requests on one model: the same tokens as alone, cancelled at any step, refused when too many wait."""

import threading

import pytest
import torch

from baichuan2.engine.aligned import cached_bytes
from baichuan2.engine.batches import LEAST_ROWS
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.paged import PagedBatch
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.scheduler import Request, Scheduler
from baichuan2.errors import ContextLengthError, GenerationError, OverloadedError, SettingsError
from baichuan2.kernels import steps
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.scheme import QuantizationSpec
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
    many = [
        scheduler.generate_tokens(request([1], max_new_tokens=2)) for _ in range(2)
    ]  # at once, with nothing in work
    assert [len(list(stream)) for stream in many] == [2, 2]
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


@pytest.mark.skipif(steps.most_rows(is_16_bits=True) < LEAST_ROWS, reason="replies are no steps in C here")
def test_a_request_that_is_computed_alone_takes_guesses(monkeypatch):
    model = tiny_model("7b", max_position_embeddings=512).to(torch.bfloat16)
    done = []
    step = PagedBatch.step
    monkeypatch.setattr(PagedBatch, "step", lambda batch, parts: done.append(parts) or step(batch, parts))
    scheduler = Scheduler(model, max_running=1)
    found, num_steps = [], []
    for draft_tokens in (0, 7):
        asked = request([5, 6, 7] * 20, max_new_tokens=64, draft_tokens=draft_tokens)
        found.append([step.token_id for step in scheduler.generate_tokens(asked)])
        num_steps.append(len(done))
        done.clear()
    scheduler.close()
    assert found[0] == found[1]
    assert num_steps[0] >= 64
    assert num_steps[1] < num_steps[0] - 3


PROMPTS = [
    [5, 6, 7],
    [300, 301],
    [9] * 20,
    [5, 6, 7, 8],
    [11 + i for i in range(70)],
    [11 + i for i in range(60)] + [4],
]


def alone(model, prompt, **sampling):
    return [step.token_id for step in generate_tokens(model, prompt, Sampling(**sampling), stop_ids=STOP)]


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.float32, marks=pytest.mark.gpu),
    ],
)
def test_a_crowd_gets_what_each_gets_alone(size, device, dtype):
    """Greedy, seeded and penalised requests, joining while others decode, with more of them than places."""
    if dtype == torch.bfloat16 and steps.most_rows(True) < LEAST_ROWS:
        pytest.skip("no steps in C here with weights in 16 bits: a product's last bits depend on its number of rows")
    model = tiny_model(size).to(device, dtype)
    kinds = [
        {"do_sample": False},
        {"do_sample": True, "seed": 7, "top_k": 0},
        {"do_sample": False, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"do_sample": True, "seed": 8, "top_k": 5, "temperature": 0.8, "num_top_logprobs": 2},
    ]
    cases = [
        (prompt, {**kind, "max_new_tokens": 4 + 2 * index}) for index, prompt in enumerate(PROMPTS) for kind in kinds
    ]
    expected = [alone(model, prompt, **kind) for prompt, kind in cases]
    scheduler = Scheduler(model, max_running=5)
    streams = [scheduler.generate_tokens(request(prompt, **kind)) for prompt, kind in cases]
    got = [[step.token_id for step in stream] for stream in streams]
    scheduler.close()
    assert got == expected
    assert scheduler.load().num_running == scheduler.load().num_waiting == 0


@pytest.mark.parametrize("kv_cache", ["same", "int8"])
def test_company_changes_nothing_with_weights_in_few_bits(kv_cache):
    """On a matrix unit, too, where one and two tokens would add up in another order than three."""
    model = tiny_model("7b").to(torch.bfloat16)
    quantize_model(model, QuantizationSpec(format="int4", group_size=64, head="int8"))
    requests = [request(prompt, max_new_tokens=10) for prompt in PROMPTS]
    one_by_one, together = Scheduler(model, kv_cache=kv_cache), Scheduler(model, kv_cache=kv_cache)
    expected = [[(step.token_id, step.logprob) for step in one_by_one.generate_tokens(wanted)] for wanted in requests]
    streams = [together.generate_tokens(wanted) for wanted in requests]
    got = [[(step.token_id, step.logprob) for step in stream] for stream in streams]
    one_by_one.close()
    together.close()
    assert got == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # one cache of rows; pages
def test_replies_that_find_no_room_are_computed_again_and_stay_the_same(dtype):
    model = tiny_model("7b", max_position_embeddings=512).to(dtype)  # the cache holds a context and a half
    scheduler = Scheduler(model, max_running=4, cache_bytes=768 * cached_bytes(model, "same"))
    cases = [[place + other % 90 for other in range(230)] for place in (5, 6, 7, 8)]
    sampling = {"max_new_tokens": 40, "do_sample": True, "seed": 3}
    streams = [scheduler.generate_tokens(request(prompt, **sampling)) for prompt in cases]
    got = [[step.token_id for step in stream] for stream in streams]
    load = scheduler.load()
    scheduler.close()
    assert load.total_preempted > 0
    assert got == [alone(model, prompt, **sampling) for prompt in cases]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_too_small_for_one_context_is_refused(dtype):
    model = tiny_model("7b").to(dtype)
    with pytest.raises(SettingsError, match="context of"):
        Scheduler(model, cache_bytes=100 * cached_bytes(model, "same"))


def test_a_beginning_is_computed_once():
    model, system = tiny_model("7b"), [20 + i for i in range(80)]
    scheduler = Scheduler(model, max_running=4)
    prompts = [[*system, 5], [*system, 6], [*system, 7]]
    streams = [scheduler.generate_tokens(request(prompt, max_new_tokens=6)) for prompt in prompts]
    got = [[step.token_id for step in stream] for stream in streams]
    load = scheduler.load()
    scheduler.close()
    assert got == [alone(model, prompt, max_new_tokens=6) for prompt in prompts]
    assert load.total_prompt_tokens == 3 * 81
    assert load.total_reused_tokens == 2 * 80


def test_the_next_turn_of_a_conversation_reuses_the_last():
    model = tiny_model("7b")
    scheduler = Scheduler(model)
    first = [*range(20, 50)]
    said = [step.token_id for step in scheduler.generate_tokens(request(first, max_new_tokens=10))]
    second = [*first, *said, 99]
    got = [step.token_id for step in scheduler.generate_tokens(request(second, max_new_tokens=5))]
    load = scheduler.load()
    scheduler.close()
    assert got == alone(model, second, max_new_tokens=5)
    assert load.total_reused_tokens == 39  # the last token of a reply was never put into the cache


def test_a_long_prompt_holds_no_reply_up():
    """While a prompt of many pieces is computed, a reply gets a token with each piece."""
    model = tiny_model("7b", max_position_embeddings=2048)
    scheduler = Scheduler(model)
    reply = scheduler.generate_tokens(request([5, 6], max_new_tokens=2000))
    next(reply)
    started, before = threading.Event(), scheduler.load().total_new_tokens
    scheduler.submit(request([7 + i % 90 for i in range(1800)], max_new_tokens=2), lambda step: started.set())
    assert started.wait(60)
    assert scheduler.load().total_new_tokens - before >= 1800 // 512
    reply.close()
    scheduler.close()


def test_one_client_does_not_crowd_out_another():
    order = []
    model = tiny_model("7b")
    scheduler = Scheduler(model, max_running=2)
    done = threading.Event()

    def deliver(name, step):
        if step.finish_reason is not None:
            order.append(name)
            if len(order) == 7:
                done.set()

    for index in range(6):
        many = Request(
            prompt_ids=[5, index + 3], sampling=Sampling(max_new_tokens=20), stop_ids=frozenset(), client="a"
        )
        scheduler.submit(many, lambda step: deliver("a", step))
    few = Request(prompt_ids=[8, 9], sampling=Sampling(max_new_tokens=20), stop_ids=frozenset(), client="b")
    scheduler.submit(few, lambda step: deliver("b", step))
    assert done.wait(60)
    scheduler.close()
    assert order.index("b") <= 3


def test_a_reader_that_fails_is_a_reader_that_has_left():
    model = tiny_model("7b")
    scheduler = Scheduler(model)

    def deliver(step):
        raise RuntimeError("gone")

    scheduler.submit(request([5, 6], max_new_tokens=50), deliver)
    assert len(list(scheduler.generate_tokens(request([5, 6], max_new_tokens=5)))) == 5
    scheduler.close()


def test_cancelled_at_every_step_and_closed_with_work_left():
    model = tiny_model("7b")
    expected = alone(model, PROMPTS[2], max_new_tokens=30)
    scheduler = Scheduler(model, max_running=3)
    steady = scheduler.generate_tokens(request(PROMPTS[2], max_new_tokens=30))
    for num_taken in range(6):
        stream = scheduler.generate_tokens(request([40 + num_taken] * 30, max_new_tokens=60))
        for _ in range(num_taken):
            next(stream)
        stream.close()
    assert [step.token_id for step in steady] == expected
    left = scheduler.generate_tokens(request([5, 6], max_new_tokens=120))
    next(left)
    scheduler.close()
    with pytest.raises(OverloadedError, match="before the reply was finished"):
        list(left)
    assert not scheduler.load().is_alive
