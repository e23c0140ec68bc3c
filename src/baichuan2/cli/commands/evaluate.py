"""`baichuan2 evaluate`: scores on benchmarks, by named recipes; what there is; two results beside each other."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from baichuan2.cli.evaluation_screen import EvaluationScreen, print_comparison, print_results, print_suites
from baichuan2.cli.evaluation_text import EvaluationWords, evaluation_words_for
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import accept_any_text, notice, print_json, printable
from baichuan2.cli.text import words_for
from baichuan2.errors import SettingsError
from baichuan2.settings import EvaluationSettings, LoadSettings, OutputSettings, flag_name

SETTINGS = (EvaluationSettings, LoadSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 evaluate list                                        what there is to run
  baichuan2 evaluate ceval --data DIR -m baichuan-inc/Baichuan2-7B-Base
  baichuan2 evaluate ceval,mmlu,cmmlu --data DIR --limit 20      a first look; the results say that they are partial
  baichuan2 evaluate ceval --split test --data DIR               writes submission.json for the leaderboard
  baichuan2 evaluate mmlu --recipe lm-eval --data DIR            as lm-evaluation-harness scores it
  baichuan2 evaluate ceval --data DIR -m path/to/model --quantize int4 --output-dir results/int4
  baichuan2 evaluate ceval --data DIR --revisions output         how scores went from checkpoint to checkpoint
  baichuan2 evaluate compare results/demo-base results/int4      what changed, item by item, and whether that is chance
  baichuan2 evaluate report results/demo-base                    table, page and picture again
  torchrun --nproc_per_node 8 -m baichuan2 evaluate mmlu --data DIR -m path/to/model
The same command goes on where a run was stopped."""
TAKEN_BY: dict[str, tuple[str, ...]] = {"list": (), "compare": ("output_dir", "force"), "report": ()}
"""Flags that mean something to words which are no suites."""
BAR_DELAY = 1.5  # seconds of quantising after which its bar appears


def run(settings: EvaluationSettings, load: LoadSettings, output: OutputSettings) -> int:
    """Scores the model on each suite, or does what the first word says; the exit code."""
    accept_any_text()
    words = evaluation_words_for(settings.language)
    if not settings.suite_names:
        raise SettingsError(
            "SUITE is missing: baichuan2 evaluate SUITE --data DIR; baichuan2 evaluate list shows what there is"
        )
    _check_flags(settings)
    if settings.suite == "list":
        print_suites(words, is_json=output.json)
        return 0
    if settings.suite == "compare":
        return _compare(settings, output, words)
    if settings.suite == "report":
        return _report(settings, output, words)
    if settings.first is not None:
        raise SettingsError(
            f"unexpected {settings.first!r}: several suites are written with commas, such as {settings.suite},"
            f"{settings.first}; only compare and report take folders"
        )
    return _evaluate(settings, load, output, words)


def _check_flags(settings: EvaluationSettings) -> None:
    """Raises SettingsError for a flag that would change nothing about what the first word asks for."""
    taken = TAKEN_BY.get(str(settings.suite))
    for item in fields(settings):
        if getattr(settings, item.name) == item.default or item.metadata["is_positional"]:
            continue
        if taken is not None and item.name not in (*taken, "language", "data"):  # data may come from the environment
            raise SettingsError(f"{flag_name(item.name)} is for suites: evaluate {settings.suite} has no use for it")
        if taken is None and item.name == "force":
            raise SettingsError("--force is for evaluate compare; --overwrite starts an evaluation anew")


def _evaluate(settings: EvaluationSettings, load: LoadSettings, output: OutputSettings, words: EvaluationWords) -> int:
    from baichuan2.evaluation import processes

    screen = EvaluationScreen(words, processes.num_processes())
    with processes.one_report(), _told_when_stopped(screen, words, is_first=processes.is_first()):
        if settings.revisions is not None:
            _evaluate_revisions(settings, load, output, screen)
        else:
            from baichuan2.evaluation.run import evaluate

            results = evaluate(settings, load, screen, _loader(settings, is_first=processes.is_first()))
            if processes.is_first():
                _show(results, output, words)
        processes.leave()
    return 0


def _loader(settings: EvaluationSettings, *, is_first: bool) -> Callable[[LoadSettings], Any]:
    """What loads the model and tells so, in the process that speaks for all."""
    words = words_for(settings.language)

    def make(load: LoadSettings) -> Any:
        from baichuan2.checkpoints.load import load_model

        if not is_first:
            return load_model(settings=load)
        name = load.model if load.adapter is None else " + ".join(filter(None, (load.model, load.adapter)))
        notice(words.loading_demo if name is None else words.loading.format(model=name))
        with progress_bar(words.quantizing, delay=BAR_DELAY) as show:
            return load_model(settings=load, watch=show)

    return make


def _evaluate_revisions(
    settings: EvaluationSettings, load: LoadSettings, output: OutputSettings, screen: EvaluationScreen
) -> None:
    from baichuan2.evaluation import processes
    from baichuan2.evaluation.dynamics import table
    from baichuan2.evaluation.revisions import evaluate_revisions, revisions_folder

    make = _loader(settings, is_first=processes.is_first())
    dynamics = evaluate_revisions(settings, load, screen, make, started=screen.revision)
    if not processes.is_first():
        return
    if output.json:
        print_json(dynamics.to_dict())
    else:
        print(printable(table(dynamics)), end="")
    screen.curves_written(revisions_folder(settings, load))


def _compare(settings: EvaluationSettings, output: OutputSettings, words: EvaluationWords) -> int:
    from baichuan2.evaluation.compare import compare_folders, write_comparison

    if settings.first is None or settings.second is None:
        raise SettingsError("compare needs two folders of results: baichuan2 evaluate compare A B")
    places = [Path(place).expanduser() for place in (settings.first, settings.second)]
    comparisons = compare_folders(places[0], places[1], force=settings.force)
    if settings.output_dir is not None:
        page = write_comparison(Path(settings.output_dir).expanduser(), comparisons)
        notice(words.written.format(path=page))
    if output.json:
        for comparison in comparisons:
            print_json(comparison)
    else:
        print_comparison(comparisons, words)
    return 0


def _report(settings: EvaluationSettings, output: OutputSettings, words: EvaluationWords) -> int:
    from baichuan2.evaluation.report import read_results, write_report

    if settings.first is None or settings.second is not None:
        raise SettingsError("report takes one folder of results: baichuan2 evaluate report DIR")
    folder = Path(settings.first).expanduser()
    results = read_results(folder)
    EvaluationScreen(words, 1).written(*write_report(folder))
    _show(results, output, words)
    return 0


def _show(results: list[dict[str, Any]], output: OutputSettings, words: EvaluationWords) -> None:
    if output.json:
        for result in results:
            print_json(result)
    else:
        print_results(results, words)


@contextlib.contextmanager
def _told_when_stopped(screen: EvaluationScreen, words: EvaluationWords, *, is_first: bool) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run at once, which loses nothing; one line says how to go on."""

    def leave(number: int, frame: object) -> NoReturn:
        del frame
        sys.exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if is_main else None
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        is_signal = isinstance(stop, KeyboardInterrupt) or stop.code == 128 + signal.SIGTERM
        if is_first and is_signal and screen.folder is not None:
            notice(words.stopped.format(folder=screen.folder))
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
