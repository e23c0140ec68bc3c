"""Questions whose answer is a program: a model writes it, and a sandbox says whether it passes its tests.

This process never runs any of it: see `sandbox/`.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from baichuan2.evaluation.choices import Question
from baichuan2.evaluation.records import ItemRecord
from baichuan2.evaluation.sandbox.judging import Isolation, Judges, Limits, Program, Verdict
from baichuan2.evaluation.text_recipe import TextRecipe
from baichuan2.evaluation.texts import answer_texts

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["answer_programs", "judged"]

_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


def answer_programs(
    loaded: "ReadyModel",
    recipe: TextRecipe,
    questions: Sequence[Question],
    *,
    isolation: Isolation,
    chat_format: bool = False,
    log_prompts: bool = False,
    limits: Limits | None = None,
    workers: int | None = None,
) -> Iterator[ItemRecord]:
    """A record for each question, as soon as its program is judged, which is in any order.

    Programs are judged while others are still written. `prediction` is the program, `details` say its `outcome` and
    `error` (`sandbox.judging.Verdict`); it is right if it passed, and nobody can say where the sandbox itself failed.
    `workers`: programs that are judged at once; None: one for each core.

    Raises: as `answer_texts`.
    """
    tests = {(question.item.subject, question.item.number): question.item.details["tests"] for question in questions}
    waiting: deque[tuple[ItemRecord, Future[Verdict]]] = deque()
    with Judges(isolation, limits=limits, workers=workers) as judges:
        for record in answer_texts(loaded, recipe, questions, chat_format=chat_format, log_prompts=log_prompts):
            program = Program(record.prediction or "", tests[record.subject, record.number])
            waiting.append((record, judges.submit(program)))
            while waiting and waiting[0][1].done():
                yield judged(*_known(waiting.popleft()))
        while waiting:
            yield judged(*_known(waiting.popleft()))


def judged(record: ItemRecord, verdict: Verdict) -> ItemRecord:
    """The record with what became of its program."""
    # addresses differ from run to run, results must not
    details = {"outcome": verdict.outcome, "error": _ADDRESS.sub("0x...", verdict.error)}
    is_right = None if verdict.outcome == "unknown" else verdict.outcome == "passed"
    return replace(record, is_right=is_right, details={**record.details, **details})


def _known(waiting: tuple[ItemRecord, "Future[Verdict]"]) -> tuple[ItemRecord, Verdict]:
    record, verdict = waiting
    return record, verdict.result()
