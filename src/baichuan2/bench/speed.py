"""`baichuan2 bench`: speed, memory and time to load of a model in several precisions, beside a LLaMA of equal size.

Every turn is a process of its own (`turn.py`), and the lines take turns, so that a machine that slows down slows all of
them; what is told is the median of a line's turns, with the lowest and the highest.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baichuan2.bench.turn import Task, Turn
from baichuan2.bench.workload import LLAMA, MakeCopy, Stage, Variant, Workload
from baichuan2.checkpoints.machine import describe_hardware, describe_software
from baichuan2.errors import BaichuanError, SettingsError
from baichuan2.settings import BenchmarkSettings

__all__ = ["Benchmark", "Line", "Spread", "run_benchmark"]

PREFIX = "baichuan2-bench-"


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some turns, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """That of one value or more."""
        return cls(median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model in one precision, measured. `problem`: why turns are missing."""

    model: str
    precision: str
    how: str
    prompt_tokens: int
    new_tokens: int
    batch: int
    turns: tuple[Turn, ...]
    problem: str | None = None

    @property
    def is_llama(self) -> bool:
        """Whether it is the yardstick."""
        return self.model == LLAMA

    def prefill(self) -> Spread | None:
        """Prompt tokens a second, of all sequences together."""
        return self._of([self.batch * self.prompt_tokens / turn.prefill_seconds for turn in self.turns])

    def decode(self) -> Spread | None:
        """New tokens a second, of all sequences together."""
        return self._of([self.batch * self.new_tokens / turn.decode_seconds for turn in self.turns])

    def load(self) -> Spread | None:
        """Seconds until the model is loaded; None where it was made."""
        return self._of([turn.load_seconds for turn in self.turns if turn.load_seconds is not None])

    def first(self) -> Spread | None:
        """Seconds until the first token after the load."""
        return self._of([turn.first_seconds for turn in self.turns])

    def peak(self) -> Spread | None:
        """Bytes at the highest point."""
        return self._of([turn.peak_bytes for turn in self.turns if turn.peak_bytes is not None])

    @staticmethod
    def _of(values: Sequence[float]) -> Spread | None:
        return Spread.of(values) if values else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the figures, then each turn."""
        figures = {"prefill": self.prefill(), "decode": self.decode(), "load_seconds": self.load()}
        figures |= {"first_seconds": self.first(), "peak_bytes": self.peak()}
        return {
            "model": self.model,
            "precision": self.precision,
            "how": self.how,
            "problem": self.problem,
            "weight_bytes": self.turns[0].weight_bytes if self.turns else None,
            **{name: None if value is None else asdict(value) for name, value in figures.items()},
            "turns": [turn.to_dict() for turn in self.turns],
        }


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All lines of one run, and what they were measured on; `released`: "7b" or "13b" where it is one, whole."""

    model: str
    released: str | None
    shape: dict[str, Any]
    settings: BenchmarkSettings
    device: str
    lines: tuple[Line, ...]
    software: dict[str, Any]
    hardware: dict[str, Any]

    def llama(self) -> Line | None:
        """The yardstick, if it was measured."""
        return next((line for line in self.lines if line.is_llama and line.turns), None)

    @property
    def is_whole(self) -> bool:
        """Whether every line that was asked for has all its turns."""
        return all(len(line.turns) == self.settings.turns for line in self.lines if not line.is_llama)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; speeds in tokens a second, sizes in bytes."""
        return {
            "model": self.model,
            "released": self.released,
            "shape": self.shape,
            "device": self.device,
            "settings": asdict(self.settings),
            "lines": [line.to_dict() for line in self.lines],
            "software": self.software,
            "hardware": self.hardware,
        }


def run_benchmark(settings: BenchmarkSettings, make_copy: MakeCopy, stage: Stage) -> Benchmark:
    """Measures what the settings ask for; models made for it are removed again, however it ends.

    A line whose process fails keeps the turns before, and says why. `make_copy` writes quantised copies of a model.

    Raises:
        SettingsError: see `Workload`; or nothing can be written at --scratch.
        CheckpointError: see `Workload`; the disk has no room.
        BaichuanError: not one turn succeeded; the message is that of the first line.
    """
    workload = Workload(settings)
    try:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=settings.scratch) as scratch:
            variants = workload.prepare(Path(scratch), make_copy, stage)
            lines = _take_turns(variants, settings, stage)
    except OSError as error:
        place = settings.scratch if settings.scratch is not None else tempfile.gettempdir()
        raise SettingsError(f"--scratch {place} cannot be written: {error.strerror or error}") from error
    if not any(line.turns for line in lines):
        raise BaichuanError(f"{lines[0].precision} could not be measured: {lines[0].problem}")
    config = workload.config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    shape = {name: getattr(config, name) for name in (*names, "position_embedding")}
    return Benchmark(
        model=workload.name,
        released=workload.released,
        shape=shape,
        settings=settings,
        device=str(workload.device),
        lines=tuple(lines),
        software=describe_software(),
        hardware=describe_hardware(),
    )


def _take_turns(variants: Sequence[Variant], settings: BenchmarkSettings, stage: Stage) -> list[Line]:
    """Round after round, each beginning with another line, as the first after a pause may have a cooler processor."""
    taken: list[list[Turn]] = [[] for _ in variants]
    problems = [variant.problem for variant in variants]
    total, done = settings.turns * len(variants), 0
    with stage("", "turns") as progress:
        progress(0, total)
        for number in range(settings.turns):
            for place in range(len(variants)):
                index = (place + number) % len(variants)
                task = variants[index].task
                if task is not None and problems[index] is None:
                    problems[index] = _try(task, taken[index])
                done += 1
                progress(done, total)
    return [
        Line(
            model=variant.model,
            precision=variant.precision,
            how=variant.how,
            prompt_tokens=settings.prompt_tokens,
            new_tokens=settings.new_tokens,
            batch=settings.batch,
            turns=tuple(turns),
            problem=problem,
        )
        for variant, turns, problem in zip(variants, taken, problems, strict=True)
    ]


def _try(task: Task, turns: list[Turn]) -> str | None:
    """Adds one turn; what went wrong, if anything."""
    try:
        turns.append(_in_child(task))
    except BaichuanError as error:
        return str(error)
    return None


def _in_child(task: Task) -> Turn:
    """One turn in a fresh process, which ends with this one's work, also after Ctrl-C.

    Raises:
        BaichuanError: it gave no figures; the message says why.
    """
    # pieces of a megabyte go back to the system when they are freed, so that the peak is what was alive at once
    environment = {"MALLOC_MMAP_THRESHOLD_": "1000000", **os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "baichuan2.bench.turn", json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    lines = done.stdout.splitlines()
    answer: dict[str, Any] = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    if "error" in answer:
        raise BaichuanError(answer["error"])
    if not answer:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        killed = ", as the system does for want of memory" if done.returncode == -9 else ""
        raise BaichuanError(f"its process ended with status {done.returncode}{killed}: {said}")
    return Turn(**answer)
