"""Nothing that two texts begin with is computed twice, and every place is there when it is read."""

import random

import pytest

from baichuan2.engine.scoring_plan import ScoringRequest, plan_readings


def requests_of(seed: int) -> list[ScoringRequest]:
    """Texts over three tokens, which begin alike in all ways there are: equal ones, and ones that others begin with."""
    chance = random.Random(seed)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(chance.randrange(3) for _ in range(chance.randint(1, most)))

    return [ScoringRequest(ids(9), tuple(ids(4) for _ in range(chance.randint(1, 4)))) for _ in range(30)]


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_each_beginning_is_computed_once_and_read_where_it_lies(seed: int, whole: bool, most: int) -> None:
    requests = requests_of(seed)
    plan = plan_readings(requests, whole=whole, prompts=whole)
    text: list[int] = []
    beginnings: list[tuple[int, ...]] = []  # the text up to each place
    for passage in plan.passages(most):
        assert 0 < len(passage.token_ids) <= most
        new = iter(passage.token_ids)
        for start, num_new in passage.pieces:
            assert start <= len(text)  # what it goes on from lies on the path
            del text[start:]
            for _ in range(num_new):
                text.append(next(new))
                beginnings.append(tuple(text))
    inputs = {
        request.prompt_ids + (candidate[:-1] if whole else ())
        for request in requests
        for candidate in request.candidates
    }
    assert len(beginnings) == len({ids[:stop] for ids in inputs for stop in range(1, len(ids) + 1)})
    assert plan.longest == max(map(len, inputs))
    readings = list(zip(plan.places, plan.targets, strict=True))
    assert plan.places == sorted(plan.places)
    assert len(set(readings)) == len(readings)
    for index, request in enumerate(requests):
        for candidate, numbers in zip(request.candidates, plan.candidates[index], strict=True):
            wanted = candidate if whole else candidate[:1]
            found = [(beginnings[plan.places[number]], plan.targets[number]) for number in numbers]
            assert found == [(request.prompt_ids + wanted[:depth], token) for depth, token in enumerate(wanted)]
    last = {index: end for end, index in plan.order}
    assert sorted(last) == list(range(len(requests)))
    for index, rows in enumerate(plan.candidates):
        assert all(plan.places[number] <= last[index] for row in rows for number in row)


@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_is_read_token_by_token(seed: int) -> None:
    requests = requests_of(seed)
    plan = plan_readings(requests, whole=True, prompts=True)
    for request, reading in zip(requests, plan.prompt_ends, strict=True):
        tokens = []
        while reading is not None:
            tokens.append(plan.targets[reading])
            reading = plan.parents[reading]
        assert tuple(reversed(tokens)) == request.prompt_ids[1:]
