"""The loop itself, on a fake model: stopping, limits, cancelling, errors, padding."""

import gc
import math
import weakref

import pytest
import torch

from baichuan2.engine.generate import generate_batch, generate_tokens, iter_batch
from baichuan2.engine.quantized_cache import LAYERS
from baichuan2.engine.sampling import Sampling
from baichuan2.errors import ContextLengthError, GenerationError, SettingsError, TokenizerError
from tests.engine.fake_model import FakeModel

STOP = frozenset({2})


def steps_of(model, prompt=(1, 3), max_new_tokens=5, stop_ids=STOP, **keywords):
    return list(generate_tokens(model, prompt, Sampling(max_new_tokens=max_new_tokens), stop_ids=stop_ids, **keywords))


def test_a_stop_id_is_the_last_step():
    steps = steps_of(FakeModel([4, 5, 2, 6]))
    assert [step.token_id for step in steps] == [4, 5, 2]
    assert [step.finish_reason for step in steps] == [None, None, "stop"]


def test_the_length_ends_a_reply_and_a_stop_id_in_last_place_still_counts_as_stop():
    assert [step.finish_reason for step in steps_of(FakeModel([4]), max_new_tokens=2)] == [None, "length"]
    assert steps_of(FakeModel([4, 2]), max_new_tokens=2)[-1].finish_reason == "stop"


def test_the_context_is_never_overrun():
    model = FakeModel([4], model_max_length=10)
    steps = steps_of(model, prompt=[1] * 7, max_new_tokens=50)
    assert len(steps) == 3
    assert steps[-1].finish_reason == "length"
    assert sum(call["input_ids"].shape[1] for call in model.calls) < 10


def test_logprob_is_the_models_own():
    step = steps_of(FakeModel([4]), max_new_tokens=1)[0]
    assert step.logprob == pytest.approx(5 - math.log(math.exp(5) + 9), abs=1e-5)


def test_prefill_asks_for_one_position_and_decode_feeds_one_token():
    model = FakeModel([4, 5, 6])
    steps_of(model, prompt=[1, 3, 7], max_new_tokens=3)
    assert [call["input_ids"].tolist() for call in model.calls] == [[[1, 3, 7]], [[4]], [[5]]]
    assert all(call["logits_to_keep"] == 1 and call["use_cache"] for call in model.calls)
    assert all(call["attention_mask"] is None for call in model.calls)
    assert len({id(call["past_key_values"]) for call in model.calls}) == 1


@pytest.mark.parametrize("kv_cache", LAYERS)
def test_the_setting_decides_the_numbers_of_the_cache(kv_cache):
    model = FakeModel([4])
    list(generate_tokens(model, [1], Sampling(max_new_tokens=2, kv_cache=kv_cache), stop_ids=STOP))
    assert model.calls[0]["past_key_values"].layer_class_to_replicate is LAYERS[kv_cache]


def test_the_model_runs_without_autograd_and_the_consumer_keeps_it():
    model = FakeModel([4])
    for _ in generate_tokens(model, [1], Sampling(max_new_tokens=2), stop_ids=STOP):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert all(call["inference"] for call in model.calls)


def test_cancelling_marks_the_token_in_hand_as_the_last():
    model = FakeModel([4])
    steps = steps_of(model, max_new_tokens=50, cancelled=lambda: len(model.calls) == 3)
    assert [step.finish_reason for step in steps] == [None, None, "cancelled"]
    assert len(model.calls) == 3


def test_cancelled_from_the_start_never_runs_the_model():
    model = FakeModel([4])
    assert steps_of(model, cancelled=lambda: True) == []
    assert model.calls == []


def test_closing_the_iterator_stops_the_model_and_frees_the_cache():
    model = FakeModel([4])
    steps = generate_tokens(model, [1], Sampling(max_new_tokens=50), stop_ids=STOP)
    next(steps)
    cache = weakref.ref(model.calls[0].pop("past_key_values"))
    steps.close()
    gc.collect()
    assert cache() is None
    assert list(steps) == []
    assert len(model.calls) == 1


def test_a_failing_model_is_one_clear_error_and_the_first_tokens_arrive():
    steps = generate_tokens(FakeModel([4], fails_at=2), [1], Sampling(max_new_tokens=9), stop_ids=STOP)
    assert [next(steps).token_id for _ in range(2)] == [4, 4]
    with pytest.raises(GenerationError, match=r"^the model failed while replying: ValueError: wrong shape$") as caught:
        next(steps)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("do_sample", [False, True])
def test_logits_that_are_no_numbers_are_an_error(value, do_sample):
    class Broken(FakeModel):
        def __call__(self, **call):
            output = super().__call__(**call)
            output.logits[..., 3] = value
            return output

    with pytest.raises(GenerationError):
        list(generate_tokens(Broken([4]), [1], Sampling(do_sample=do_sample), stop_ids=STOP))


def test_bad_prompts_are_refused_at_the_call():
    model = FakeModel([4], vocab_size=10, model_max_length=6)
    sampling = Sampling()
    with pytest.raises(SettingsError, match="prompt is empty"):
        generate_tokens(model, [], sampling, stop_ids=STOP)
    with pytest.raises(ContextLengthError, match="prompt has 6 tokens, the model's context 6"):
        generate_tokens(model, [1] * 6, sampling, stop_ids=STOP)
    with pytest.raises(TokenizerError, match="token id 10, outside of the vocabulary of 10"):
        generate_tokens(model, [1, 10], sampling, stop_ids=STOP)
    with pytest.raises(TokenizerError, match="token id -1"):
        iter_batch(model, [[1], [-1]], sampling, stop_ids=STOP)
    assert model.calls == []


def test_a_batch_is_padded_on_the_left_and_the_padding_is_hidden():
    model = FakeModel([4])
    replies = generate_batch(model, [[1, 2, 3], [5]], Sampling(max_new_tokens=2), stop_ids=STOP)
    assert replies == [[4, 4], [4, 4]]
    assert model.calls[0]["input_ids"].tolist() == [[1, 2, 3], [5, 5, 5]]
    assert model.calls[0]["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert model.calls[1]["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_rows_of_a_batch_stop_on_their_own():
    class PerRow(FakeModel):
        def __call__(self, **call):
            output = super().__call__(**call)
            if len(self.calls) == 2:
                output.logits[0, -1, 2] = 9.0  # only the first row says the stop id
            return output

    model = PerRow([4], model_max_length=9)
    rows = list(iter_batch(model, [[1, 1], [1, 1, 1, 1, 1]], Sampling(max_new_tokens=9), stop_ids=STOP))
    assert [[step and step.finish_reason for step in steps] for steps in rows] == [
        [None, None],
        ["stop", None],
        [None, None],
        [None, "length"],
    ]
    assert rows[2][0] is None


def test_an_empty_batch_has_no_replies():
    assert generate_batch(FakeModel([4]), [], Sampling(), stop_ids=STOP) == []
