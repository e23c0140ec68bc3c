"""What `baichuan2 finetune` shows: on a terminal a bar, elsewhere plain lines; losses on standard output."""

import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from baichuan2.cli.preview_screen import data_summary
from baichuan2.cli.preview_text import PreviewWords, preview_words_for
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import notice, printable
from baichuan2.cli.training_text import TrainingWords, training_words_for
from baichuan2.settings import FinetuneSettings

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from baichuan2.finetune.arguments import FinetuneArguments
    from baichuan2.finetune.preparation import DataReport
    from baichuan2.finetune.preview import ShownExample
    from baichuan2.finetune.train import FinetuneResult
    from baichuan2.finetune.watching import Evaluation, Progress, RunStart

__all__ = ["TrainingScreen", "duration", "print_outcome", "train"]

EXIT_OF_SIGNALS = 128  # as shells count


class TrainingScreen:
    """Shows a run to people: a `Watcher` of `finetune/watching.py`.

    Lines of the log, evaluations and checkpoints are lines on standard output; notes go to standard error. Where that
    is a terminal a bar below them shows each step.
    """

    def __init__(self, words: TrainingWords, data_words: PreviewWords) -> None:
        self._words = words
        self._data_words = data_words
        self._bar: Bar | None = None
        self._open = contextlib.ExitStack()
        self._reading: Callable[[int, int], None] | None = None
        self._num_steps = 0

    def note(self, text: str) -> None:
        """A line on standard error."""
        notice(text)

    def reading(self, done: int, total: int) -> None:
        """A bar of its own, where that takes longer than a moment."""
        if self._reading is None:
            self._reading = self._open.enter_context(progress_bar(self._data_words.reading, delay=1.0))
        self._reading(done, total)

    def read(self, report: "DataReport", first: "ShownExample") -> None:
        """A line of counts, and how the first example begins."""
        self._open.close()
        for line in data_summary(report, first, self._data_words):
            notice(line)

    def started(self, start: "RunStart") -> None:
        """What lies before the run, then the bar."""
        words = self._words
        self._num_steps = start.num_steps
        begin = words.started if start.num_examples is not None else words.started_stream
        notice(
            begin.format(
                examples=f"{start.num_examples:,}" if start.num_examples is not None else "",
                steps=f"{start.num_steps:,}",
                trained=_count(start.num_trained),
                all=_count(start.num_parameters),
            )
        )
        if start.checkpoint is not None:
            notice(words.resumed.format(checkpoint=start.checkpoint, done=start.first_step, steps=start.num_steps))
        if sys.stderr.isatty():
            self._bar = _bar(words.title, start.first_step, start.num_steps)
            self._bar.start()

    def stepped(self, progress: "Progress") -> None:
        """The bar moves on."""
        if self._bar is None:
            return
        facts = [f"loss {progress.loss:.4f}"]
        if progress.learning_rate is not None:
            facts.append(self._words.rate.format(rate=progress.learning_rate))
        facts.append(self._words.speed.format(speed=progress.tokens_per_second))
        if progress.seconds_left is not None:
            facts.append(self._words.left.format(left=duration(progress.seconds_left)))
        self._bar.update(
            self._bar.task_ids[0], description=self._words.title, completed=progress.step, facts="  ".join(facts)
        )

    def logged(self, progress: "Progress") -> None:
        """A line of the log."""
        words = self._words
        parts = [words.step.format(step=progress.step, steps=progress.num_steps), f"loss {progress.loss:.4f}"]
        if progress.learning_rate is not None:
            parts.append(words.rate.format(rate=progress.learning_rate))
        parts += _named(progress.others)
        parts.append(words.speed.format(speed=progress.tokens_per_second))
        if progress.seconds_left is not None:
            parts.append(words.left.format(left=duration(progress.seconds_left)))
        _line("  ".join(parts))

    def evaluating(self, done: int, total: int | None) -> None:
        """The bar says that it is waiting for an evaluation."""
        if self._bar is not None:
            count = f" {done}/{total}" if total is not None else f" {done}"
            self._bar.update(self._bar.task_ids[0], description=self._words.evaluating + count)

    def evaluated(self, evaluation: "Evaluation") -> None:
        """A line of the log."""
        words = self._words
        parts = [words.step.format(step=evaluation.step, steps=evaluation.num_steps)]
        best = words.best if evaluation.is_best else ""
        parts.append(words.held_out.format(loss=evaluation.loss))
        if evaluation.perplexity is not None:
            parts.append(words.perplexity.format(perplexity=evaluation.perplexity))
        _line("  ".join([*parts, *_named(evaluation.others)]) + best)

    def saved(self, folder: Path) -> None:
        """A line."""
        _line(self._words.saved.format(folder=folder))

    def stopping(self, signal_name: str) -> None:
        """A line, at once."""
        notice(self._words.stopping.format(signal=signal_name))

    def ended(self) -> None:
        """The bar goes away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def train(settings: FinetuneSettings, arguments: "FinetuneArguments") -> int:
    """Trains as both say, shows how it goes and what came of it; the exit code: 0, or as after a signal."""
    from baichuan2.finetune.train import finetune

    words = training_words_for(settings.language)
    result = finetune(settings, arguments, TrainingScreen(words, preview_words_for(settings.language)))
    if arguments.process_index == 0:
        base = (settings.model_name_or_path or "demo-base") if settings.has_adapters else None
        print_outcome(result, words, objective=settings.objective, base=base)
    return EXIT_OF_SIGNALS + result.stop_signal if result.stop_signal else 0


def print_outcome(result: "FinetuneResult", words: TrainingWords, *, objective: str, base: str | None) -> None:
    """What a run came to and what to do with it, on standard output; of one that was stopped, on standard error.

    `base`: the model under adapters, as the user named it; None: all weights were trained.
    """
    if result.stop_signal:
        notice(
            words.stopped.format(step=result.num_steps, steps=result.num_planned_steps, checkpoint=result.checkpoint)
        )
        return
    if result.was_finished:
        notice(words.was_finished.format(folder=result.output_dir, steps=result.num_steps))
    elif result.num_tokens:  # else it went on from its last step
        _line(
            words.done.format(
                steps=result.num_steps, loss=result.loss, tokens=result.num_tokens, time=duration(result.seconds)
            )
        )
    if result.evaluation_loss is not None and objective != "dpo":
        perplexity = math.exp(min(result.evaluation_loss, 700.0))
        _line(words.done_held_out.format(loss=result.evaluation_loss, perplexity=perplexity))
    folder = shlex.quote(str(result.output_dir))
    if base is not None:
        name = f" --model {shlex.quote(base)}" if base else ""
        command = words.next_adapter.format(base=name, folder=folder)
    else:
        command = (words.next_generate if objective == "pretrain" else words.next_chat).format(folder=folder)
    _line(words.where.format(folder=result.output_dir, command=command))


def duration(seconds: float) -> str:
    """`0:01:23`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _line(text: str) -> None:
    print(printable(text), flush=True)


def _named(values: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, int | float)]


def _count(number: int) -> str:
    """A number of parameters in three digits: `5.63 M`."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _bar(title: str, first: int, total: int) -> "Bar":
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=20),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[facts]}"),
    )
    bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(title, total=total, completed=first, facts="")
    return bar
