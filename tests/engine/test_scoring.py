"""Scores of many requests at once are those of each of them alone, computed with the whole model."""

from collections.abc import Sequence

import pytest
import torch

from baichuan2.engine.scoring import Scores, ScoringRequest, score, score_texts
from baichuan2.errors import ContextLengthError, TokenizerError
from tests.tiny import SIZES, Size, random_ids, tiny_model

CLOSE = 2e-5


def ids_of(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random_ids(1, length, seed=seed)[0].tolist())


def like_a_test() -> list[ScoringRequest]:
    """Two subjects, each with examples of its own, some of them in another order, and a question asked twice."""
    requests = []
    for subject in range(2):
        header, *examples = (ids_of(12, seed=10 * subject + part) for part in range(4))
        orders = [(0, 1, 2), (0, 2, 1), (2, 1, 0)]
        for item in range(7):
            parts = [header, *(examples[place] for place in orders[item % 3]), ids_of(3 + 4 * item, seed=50 + item)]
            candidates = tuple(ids_of(1 + (item + letter) % 3, seed=90 + letter) for letter in range(4))
            requests.append(ScoringRequest(sum(parts, ()), candidates))
    requests.append(requests[3])
    # ends inside another prompt; candidates that are the beginning of others
    requests.append(ScoringRequest(requests[0].prompt_ids[:-2], (requests[0].prompt_ids[-2:], (300, 301, 302), (300,))))
    requests.append(ScoringRequest((299,), ((300,),)))
    return requests


def alone(model: torch.nn.Module, request: ScoringRequest) -> Scores:
    """The same numbers from one pass for each candidate, over the text and nothing else."""
    logits, logprobs, is_greedy, prompt_logprob = [], [], [], 0.0
    length = len(request.prompt_ids)
    for candidate in request.candidates:
        with torch.inference_mode():
            rows = model(torch.tensor([request.prompt_ids + candidate])).logits[0].float()  # (T, V)
        logs = rows.log_softmax(dim=-1)
        places = [(length - 1 + depth, token) for depth, token in enumerate(candidate)]
        logits.append(float(rows[places[0]]))
        logprobs.append(sum(float(logs[place]) for place in places))
        is_greedy.append(all(int(rows[place].argmax()) == token for place, token in places))
        prompt_logprob = sum(float(logs[place, request.prompt_ids[place + 1]]) for place in range(length - 1))
    return Scores(tuple(logits), tuple(logprobs), tuple(is_greedy), prompt_logprob)


def in_order(found: "Sequence[tuple[int, Scores]]", number: int) -> list[Scores]:
    by_index = dict(found)
    assert len(found) == number
    assert sorted(by_index) == list(range(number))
    return [by_index[index] for index in range(number)]


@pytest.mark.parametrize("batch_tokens", [11, None])
@pytest.mark.parametrize("size", SIZES)
def test_many_at_once_score_as_each_alone(size: Size, batch_tokens: int | None) -> None:
    model, requests = tiny_model(size), like_a_test()
    found = list(score(model, requests, prompt_logprobs=True, batch_tokens=batch_tokens))
    for request, scores in zip(requests, in_order(found, len(requests)), strict=True):
        expected = alone(model, request)
        assert scores.logits == pytest.approx(expected.logits, abs=CLOSE)
        assert scores.logprobs == pytest.approx(expected.logprobs, abs=CLOSE)
        assert scores.is_greedy == expected.is_greedy
        assert scores.prompt_logprob == pytest.approx(expected.prompt_logprob, abs=10 * CLOSE)


def test_logits_alone_are_those_of_the_whole_head() -> None:
    model, requests = tiny_model("13b"), like_a_test()
    few = in_order(list(score(model, requests)), len(requests))
    whole = in_order(list(score(model, requests, logprobs=True)), len(requests))
    for scores, other in zip(few, whole, strict=True):
        assert scores.logits == pytest.approx(other.logits, abs=CLOSE)
        assert scores.logprobs is None
        assert scores.is_greedy is None


def test_the_loss_of_a_text_counts_all_tokens_but_the_first() -> None:
    model = tiny_model("7b")
    groups = [[(*ids_of(20, seed=1), letter) for letter in range(300, 304)], [ids_of(2, seed=2)]]
    found = dict(score_texts(model, groups))
    for index, group in enumerate(groups):
        for loss, text in zip(found[index], group, strict=True):
            with torch.inference_mode():
                logs = model(torch.tensor([text])).logits[0].log_softmax(dim=-1)
            total = -sum(float(logs[place, text[place + 1]]) for place in range(len(text) - 1))
            assert loss == pytest.approx(total / len(text), abs=CLOSE)


def test_a_prompt_beyond_the_context_is_refused() -> None:
    model = tiny_model("7b")
    limit = model.config.model_max_length
    fits = ScoringRequest(ids_of(limit, seed=0), ((300,),))
    assert len(list(score(model, [fits]))) == 1
    with pytest.raises(ContextLengthError, match=f"{limit + 1}, is longer than the model's context of {limit}"):
        list(score(model, [ScoringRequest(fits.prompt_ids, ((300, 301),))]))


def test_ids_beyond_the_vocabulary_and_empty_requests_are_refused() -> None:
    model = tiny_model("7b")
    with pytest.raises(TokenizerError, match="token 512 is beyond the vocabulary of 512"):
        list(score(model, [ScoringRequest((300,), ((512,),))]))
    for request in (ScoringRequest((), ((300,),)), ScoringRequest((300,), ()), ScoringRequest((300,), ((),))):
        with pytest.raises(ValueError, match="one token at least"):
            list(score(model, [request]))
