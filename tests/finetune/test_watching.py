"""The pace of a run: tokens a second of training alone, and the time that is left with everything."""

from types import SimpleNamespace

import pytest

from baichuan2.finetune import watching
from baichuan2.finetune.watching import Pace


def test_evaluating_counts_for_the_time_left_but_not_for_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock))
    pace = Pace()
    assert pace.seconds_left(10) is None
    for _ in range(4):
        clock += 2.0
        assert pace.step(100) == pytest.approx(50.0)
    clock += 8.0  # an evaluation
    pace.resume()
    clock += 2.0
    assert pace.step(100) == pytest.approx(50.0)
    assert pace.tokens_per_second == pytest.approx(50.0)
    assert pace.seconds_left(10) == pytest.approx(18.0 / 5 * 10)
    assert pace.total_seconds == pytest.approx(18.0)


def test_the_first_step_is_no_measure_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock))
    pace = Pace()
    clock += 10.0
    pace.step(100)
    clock += 1.0
    assert pace.step(100) == pytest.approx(100.0)
