"""What a run tells while it goes, to whoever shows it: numbers and names here, words and bars in `cli/`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from baichuan2.finetune.preparation import DataReport
from baichuan2.finetune.preview import ShownExample

__all__ = ["Evaluation", "Pace", "Progress", "RunStart", "Silence", "Watcher"]


@dataclass(frozen=True)
class RunStart:
    """What lies before a run when it starts."""

    num_steps: int
    first_step: int
    """Steps that are done already: 0, or those of the checkpoint that the run goes on from."""
    num_examples: int | None
    """None: a stream, whose length nobody knows."""
    num_trained: int
    """Parameters that learn."""
    num_parameters: int
    checkpoint: Path | None
    """Where the run goes on from."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    num_steps: int
    epoch: float
    loss: float
    """Of this step; of a line of the log, the mean since the last line."""
    learning_rate: float | None
    tokens_per_second: float
    """Without padding, of all processes together; of a line of the log since the run started or went on."""
    seconds_left: float | None
    others: Mapping[str, float] = field(default_factory=dict)
    """What else is logged, by the framework's names."""


@dataclass(frozen=True)
class Evaluation:
    """What held-out data said after a step."""

    step: int
    num_steps: int
    loss: float
    perplexity: float | None
    is_best: bool
    seconds: float
    others: Mapping[str, float] = field(default_factory=dict)


class Watcher(Protocol):
    """Is told what happens in a run, in the first process only."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def reading(self, done: int, total: int) -> None:
        """So many megabytes of so many of data are read."""

    def read(self, report: DataReport, first: ShownExample) -> None:
        """The data are ready; `first` is one of the examples."""

    def started(self, start: RunStart) -> None:
        """Training begins."""

    def stepped(self, progress: Progress) -> None:
        """A step is done."""

    def logged(self, progress: Progress) -> None:
        """A line of the log is due."""

    def evaluating(self, done: int, total: int | None) -> None:
        """So many batches of so many held-out ones are done."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation is done."""

    def saved(self, folder: Path) -> None:
        """A checkpoint is whole."""

    def stopping(self, signal_name: str) -> None:
        """A signal came; the run ends after this step."""

    def ended(self) -> None:
        """Training is over, or failed."""


class Silence:
    """A watcher that shows nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def reading(self, done: int, total: int) -> None:
        """Nothing."""

    def read(self, report: DataReport, first: ShownExample) -> None:
        """Nothing."""

    def started(self, start: RunStart) -> None:
        """Nothing."""

    def stepped(self, progress: Progress) -> None:
        """Nothing."""

    def logged(self, progress: Progress) -> None:
        """Nothing."""

    def evaluating(self, done: int, total: int | None) -> None:
        """Nothing."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Nothing."""

    def saved(self, folder: Path) -> None:
        """Nothing."""

    def stopping(self, signal_name: str) -> None:
        """Nothing."""

    def ended(self) -> None:
        """Nothing."""


class Pace:
    """How fast a run goes: tokens a second lately and in all, and the time that is left.

    Evaluating and saving take time too: it counts for the time that is left, not for the speed of training.
    """

    SMOOTHING = 0.9

    def __init__(self) -> None:
        self.num_tokens = 0
        self.seconds = 0.0  # of training alone
        self._started = self._last = time.monotonic()
        self._num_steps = 0
        self._recent: float | None = None

    def resume(self) -> None:
        """Training goes on after something else."""
        self._last = time.monotonic()

    def step(self, num_tokens: int) -> float:
        """Counts a step of so many tokens; tokens a second lately."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self.num_tokens += num_tokens
        self.seconds += seconds
        self._num_steps += 1
        speed = num_tokens / max(seconds, 1e-9)
        # the first step also warms up: it is no measure of the others
        first = self._recent is None or self._num_steps <= 2
        self._recent = speed if first else self.SMOOTHING * self._recent + (1 - self.SMOOTHING) * speed  # type: ignore[operator]
        return self._recent

    @property
    def tokens_per_second(self) -> float:
        """Since the run started or went on."""
        return self.num_tokens / max(self.seconds, 1e-9)

    @property
    def total_seconds(self) -> float:
        """Since the run started or went on, with all that is not training."""
        return time.monotonic() - self._started

    def seconds_left(self, num_steps_left: int) -> float | None:
        """Until the last step, if all goes on as it did; None before the first."""
        if self._num_steps == 0:
            return None
        return (time.monotonic() - self._started) / self._num_steps * num_steps_left
