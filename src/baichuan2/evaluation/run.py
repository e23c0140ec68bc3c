"""Evaluations from settings to results: suites one after the other, each answer kept at once, to be gone on with.

All questions of all suites are read before the model is, so what is wrong with the data is told in seconds.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from baichuan2.checkpoints.machine import describe_hardware, describe_software
from baichuan2.errors import GenerationError, SettingsError
from baichuan2.evaluation import processes
from baichuan2.evaluation.candidate import Candidate, candidate_of, find_candidate, folder_name
from baichuan2.evaluation.choices import Question, answer_choices
from baichuan2.evaluation.plan import SuitePlan, plan_suite, plan_suites
from baichuan2.evaluation.programs import answer_programs
from baichuan2.evaluation.records import ItemRecord, Key
from baichuan2.evaluation.report import write_report
from baichuan2.evaluation.results import make_result, submission
from baichuan2.evaluation.sandbox.judging import default_workers
from baichuan2.evaluation.suite_folder import SuiteFolder
from baichuan2.evaluation.text_recipe import TextRecipe
from baichuan2.evaluation.texts import answer_texts
from baichuan2.settings import EvaluationSettings, LoadSettings

__all__ = ["Progress", "Watch", "evaluate", "evaluate_suite", "results_folder"]

Progress = Callable[[int, int], None]
RESULTS = "results"
DIGESTS = {"task": "the template", "model model": "the model", "model adapter": "the adapter"}
"""What of a run's identity says nothing to people."""


class Watch(Protocol):
    """Whoever shows how far an evaluation is; called in the first process alone."""

    def suite(self, plan: SuitePlan, place: Path, answered: int) -> contextlib.AbstractContextManager[Progress]:
        """Around one suite: the function that it gives is told how many of how many items are answered."""

    def finished_before(self, plan: SuitePlan, place: Path) -> None:
        """Nothing of a suite is left to do: its result is there."""

    def remark(self, text: str) -> None:
        """A line that people should read."""

    def written(self, page: Path, no_picture: str | None) -> None:
        """The report of all results in the folder is there; `no_picture`: why it has no picture, if so."""


def evaluate(
    settings: EvaluationSettings,
    load: LoadSettings,
    watch: Watch,
    make_model: Callable[[LoadSettings], Any] | None = None,
) -> list[dict[str, Any]]:
    """Runs the suites that the settings name on the model that `load` names; their results, as result.json holds them.

    Several processes share the work where a launcher has started them; each gets all results. `make_model`: loads the
    model, where `load_model` alone is not enough.

    Raises:
        SettingsError: a setting is wrong, the folder of the results holds another run or cannot be written.
        DataError: a file of a benchmark, or a log, is missing or malformed.
        CheckpointError: the model cannot be loaded.
        GenerationError: the model gave what is no number.
    """
    plans, left_out = plan_suites(settings)
    processes.join()
    load = replace(load, device=processes.own_device(load.device))
    processes.first_decides(lambda: find_candidate(load).name)  # one process fetches it, where it is not here yet
    candidate = find_candidate(load, make_model)
    candidate = replace(candidate, load=_once(candidate.load))
    folder = results_folder(settings, load, candidate)
    if processes.is_first():
        for text in (*left_out, *candidate.remarks):
            watch.remark(text)
    results = [_run_suite(plan, candidate, SuiteFolder(folder / plan.task.name), watch) for plan in plans]
    if processes.is_first():
        watch.written(*write_report(folder))
    return results


def evaluate_suite(
    name: str, settings: EvaluationSettings, loaded: Any, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Runs one suite on a model that is in memory; its result, as result.json holds it.

    It is kept in `settings.output_dir`, and nowhere where none is given.

    Raises: as `evaluate`.
    """
    plan, candidate = plan_suite(name, settings), candidate_of(loaded)
    if settings.output_dir is not None:
        place = SuiteFolder(Path(settings.output_dir).expanduser() / plan.task.name)
        return _run_suite(plan, candidate, place, _Quiet(progress))
    records: dict[Key, ItemRecord] = {}
    for record in _answers(plan, loaded, plan.questions):
        records[record.key] = record
        progress(len(records), len(plan.questions))
    return _complete(plan, candidate, records, seconds=0.0)


def results_folder(settings: EvaluationSettings, load: LoadSettings, candidate: Candidate) -> Path:
    """Where the results of a model go."""
    if settings.output_dir is not None:
        return Path(settings.output_dir).expanduser()
    return Path(RESULTS) / folder_name(candidate, load, settings.recipe)


def _run_suite(plan: SuitePlan, candidate: Candidate, place: SuiteFolder, watch: Watch) -> dict[str, Any]:
    with place.alone() if processes.is_first() else contextlib.nullcontext():
        answered, result = processes.first_decides(lambda: _open(plan, candidate, place))
        if result is not None:
            if processes.is_first():
                watch.finished_before(plan, place.path)
            return result
        started = time.monotonic()
        waiting = [question for question in plan.questions if _key(question) not in answered]
        _answer_share(plan, candidate, place, waiting, watch)
        processes.wait_for_all()
        seconds = time.monotonic() - started
        return processes.first_decides(lambda: _close(plan, candidate, place, seconds))


def _open(plan: SuitePlan, candidate: Candidate, place: SuiteFolder) -> tuple[frozenset[Key], dict[str, Any] | None]:
    """What of a run lies in its folder: the items that are answered, and the result where nothing is left to do."""
    if plan.settings.overwrite:
        place.clear()
    identity = {"model": dict(candidate.identity), **plan.identity()}
    earlier = place.identity()
    if earlier is None:
        place.write_identity(identity)
        return frozenset(), None
    _check_same(earlier, identity, place.path)
    answered = frozenset(place.records())
    asked = {_key(question) for question in plan.questions}
    if not answered <= asked:
        raise SettingsError(
            f"{place.path} holds answers to {len(answered - asked)} items that this command does not ask: leave out "
            "--limit or --subjects, give another --output-dir, or --overwrite to start anew"
        )
    result = place.result()
    if answered == asked and result is not None and result.get("items") == len(asked):
        return answered, result
    place.drop_result()
    place.write_identity({**identity, "data": {**earlier.get("data", {}), **identity["data"]}})
    return answered, None


def _check_same(earlier: Mapping[str, Any], now: Mapping[str, Any], place: Path) -> None:
    """Raises SettingsError where a run in `place` was of something else; the message names what."""
    before, after = _flat(earlier), _flat(now)
    changed = [
        name
        for name in {**after, **before}
        if before.get(name) != after.get(name)
        and name != "changes shots"  # told as the shots
        and not (name.startswith("data ") and (name not in before or name not in after))  # a subject more, or less
    ]
    if not changed:
        return
    shown = [
        f"{DIGESTS.get(name, name)} differs"
        if name in DIGESTS or name.startswith("data ")
        else f"{name.removeprefix('changes ').removeprefix('model ')} was {before.get(name)}, is {after.get(name)}"
        for name in changed
    ]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    raise SettingsError(
        f"{place} holds another run ({'; '.join(shown[:3])}{more}): give another --output-dir, or --overwrite to "
        "delete it and start anew"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{name} ")
        else:
            result[f"{prefix}{name}"] = value
    return result


def _answer_share(
    plan: SuitePlan, candidate: Candidate, place: SuiteFolder, waiting: Sequence[Question], watch: Watch
) -> None:
    """Answers this process's share of the questions, into its own log."""
    own = processes.share(waiting, lambda question: 100 + len(question.item.question))
    if not own:
        return
    loaded = candidate.load()
    answered = len(plan.questions) - len(waiting)
    total = answered + len(own)
    log = place.open_log(processes.rank())
    is_first = processes.is_first()
    with contextlib.closing(log), watch.suite(plan, place.path, answered) if is_first else _silence() as progress:
        progress(answered, total)
        for number, record in enumerate(_answers(plan, loaded, own), start=answered + 1):
            if not all(map(math.isfinite, record.scores)):
                raise GenerationError(
                    f"the model's scores for {record.subject} {record.number} are no finite numbers: {record.scores}; "
                    "is the checkpoint whole, and does its number format hold its values (--dtype float32)?"
                )
            log.append(record)
            progress(number, total)


def _answers(plan: SuitePlan, loaded: Any, questions: Sequence[Question]) -> Iterator[ItemRecord]:
    settings = plan.settings
    if plan.isolation is not None:
        return answer_programs(
            loaded,
            plan.recipe,
            questions,
            isolation=plan.isolation,
            chat_format=settings.chat_format,
            log_prompts=settings.log_prompts,
            workers=default_workers(processes.num_processes()),
        )
    if isinstance(plan.recipe, TextRecipe):
        return answer_texts(
            loaded,
            plan.recipe,
            questions,
            chat_format=settings.chat_format,
            log_prompts=settings.log_prompts,
        )
    return answer_choices(
        loaded,
        plan.recipe,
        questions,
        seed=settings.seed,
        batch_tokens=settings.batch_tokens,
        chat_format=settings.chat_format,
        log_prompts=settings.log_prompts,
    )


def _close(plan: SuitePlan, candidate: Candidate, place: SuiteFolder, seconds: float) -> dict[str, Any]:
    """Joins the logs in the order of the questions, and writes the result."""
    records = place.records()
    result = _complete(plan, candidate, records, seconds)
    place.rewrite(records[_key(question)] for question in plan.questions)
    if all(record.answer is None for record in records.values()) and plan.kind == "choice":
        result["submission"] = str(place.write_submission(submission(records[_key(one)] for one in plan.questions)))
    place.write_result(result)
    return result


def _complete(
    plan: SuitePlan, candidate: Candidate, records: Mapping[Key, ItemRecord], seconds: float
) -> dict[str, Any]:
    missing = [_key(question) for question in plan.questions if _key(question) not in records]
    assert not missing, f"{len(missing)} items have no record, such as {missing[0]}"
    result = make_result(plan, candidate, [records[_key(question)] for question in plan.questions])
    return {
        **result,
        "seconds": round(seconds, 3),
        "processes": processes.num_processes(),
        "software": describe_software(),
        "hardware": describe_hardware(),
    }


def _key(question: Question) -> Key:
    return question.item.subject, question.item.number


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    """`make` called at the first need, its result kept."""
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return get


@contextlib.contextmanager
def _silence() -> Iterator[Progress]:
    yield lambda *_: None


class _Quiet:
    """A watch that passes progress on and says nothing."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextlib.contextmanager
    def suite(self, plan: SuitePlan, place: Path, answered: int) -> Iterator[Progress]:
        del plan, place, answered
        yield self._progress

    def finished_before(self, plan: SuitePlan, place: Path) -> None:
        del plan, place

    def remark(self, text: str) -> None:
        del text

    def written(self, page: Path, no_picture: str | None) -> None:
        del page, no_picture
