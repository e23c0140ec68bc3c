"""What people see of a run: lines on standard output, a bar on a terminal, words in two languages."""

import io
import signal
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from baichuan2.cli.preview_text import preview_words_for
from baichuan2.cli.training_screen import TrainingScreen, duration, print_outcome
from baichuan2.cli.training_text import CHINESE, ENGLISH, TrainingWords
from baichuan2.finetune.train import FinetuneResult
from baichuan2.finetune.watching import Evaluation, Progress, RunStart

PROGRESS = Progress(12, 120, 0.5, 1.23456, 2e-5, 1234.4, 83.2, {"rewards/margins": 0.123456})
START = RunStart(120, 10, 1000, 1_500_000, 8_520_000, Path("out/checkpoint-10"))


class Screen(io.StringIO):
    """Standard error that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = TrainingScreen(ENGLISH, preview_words_for("en"))
    screen.started(START)
    screen.stepped(PROGRESS)
    screen.logged(PROGRESS)
    screen.evaluating(1, 2)
    screen.evaluated(Evaluation(12, 120, 1.5, 4.4817, True, 1.0, {}))
    screen.saved(Path("out/checkpoint-12"))
    screen.note("by the way")
    screen.stopping("SIGTERM")
    screen.ended()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "step 12/120  loss 1.2346  lr 2.00e-05  rewards/margins 0.1235  1,234 tokens/s  0:01:23 left",
        "step 12/120  held-out loss 1.5000  perplexity 4.48 (best so far)",
        "checkpoint: out/checkpoint-12",
    ]
    assert printed.err.splitlines()[:3] == [
        "1,000 examples, 120 steps; 1.5 M of 8.52 M parameters learn",
        "going on from out/checkpoint-10: 10 of 120 steps are done",
        "by the way",
    ]
    assert "SIGTERM" in printed.err


def test_a_bar_with_each_step_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Screen()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    screen = TrainingScreen(ENGLISH, preview_words_for("en"))
    screen.started(START)
    screen.stepped(PROGRESS)
    screen.ended()
    shown = found.getvalue()
    for fact in ("12/120", "loss 1.2346", "lr 2.00e-05", "1,234 tokens/s", "0:01:23 left"):
        assert fact in shown


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_the_outcome_names_the_next_command(words: TrainingWords, capsys: pytest.CaptureFixture[str]) -> None:
    result = FinetuneResult(Path("my out"), 120, 0.5, 1.0, num_tokens=5000, seconds=61.0)
    print_outcome(result, words, objective="sft", base=None)
    text = capsys.readouterr().out
    assert "baichuan2 chat --model 'my out'" in text
    for fact in ("120", "0.5000", "5,000", "0:01:01", "1.0000", "2.72"):
        assert fact in text
    print_outcome(result, words, objective="pretrain", base=None)
    assert "baichuan2 generate --model 'my out'" in capsys.readouterr().out
    print_outcome(result, words, objective="dpo", base="demo-base")
    text = capsys.readouterr().out
    assert "baichuan2 chat --model demo-base --adapter 'my out'" in text
    assert "2.72" not in text  # the loss of preferences has no perplexity


def test_a_run_that_was_stopped_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    result = FinetuneResult(
        Path("out"), 12, 0.5, num_planned_steps=120, stop_signal=signal.SIGINT, checkpoint=Path("out/checkpoint-12")
    )
    print_outcome(result, ENGLISH, objective="sft", base=None)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "stopped after step 12 of 120" in printed.err
    assert "the same command goes on from out/checkpoint-12" in printed.err


def test_both_languages_fill_the_same_gaps() -> None:
    gaps = [
        {item.name: sorted(part.split("}")[0].split(":")[0] for part in getattr(words, item.name).split("{")[1:])}
        for words in (ENGLISH, CHINESE)
        for item in fields(words)
    ]
    assert gaps[: len(gaps) // 2] == gaps[len(gaps) // 2 :]


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3661)] == ["0:00:00", "0:01:00", "1:01:01"]
