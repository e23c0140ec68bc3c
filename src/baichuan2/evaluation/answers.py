"""What is taken for the answer in a text that a model wrote, and whether it is the right one.

Rules by the names that recipes call them, one for each tool and benchmark, with the quirks that scores depend on. Texts
are hostile: no rule may fail or run for long, whatever is in them, so patterns have nothing to try in two ways.
"""

import re
from collections.abc import Callable, Mapping

from baichuan2.evaluation.items import Item
from baichuan2.evaluation.math_answers import (
    FINAL,
    boxed_answer,
    final_answer,
    is_same_answer,
    minerva_answer,
    minerva_form,
)
from baichuan2.evaluation.program_texts import PROGRAMS

__all__ = ["EQUAL", "EXTRACT", "SETTLED"]

CUE = "answer is "
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_TARGET = re.compile(r"\([A-Z]\)")
_IN_BRACKETS = re.compile(r"\(([A-Z])")
_CAPITAL = re.compile(r"[A-Z]")


def _last_number(text: str, item: Item) -> str | None:
    """The last number before the next question; `1,000` reads as 000, as it does there."""
    del item
    numbers = _NUMBER.findall(text.split("Question:", 1)[0])
    return numbers[-1] if numbers else None


def _strict_number(text: str, item: Item) -> str | None:
    """The number behind the first `#### `."""
    del item
    found = _STRICT.search(text)
    return None if found is None else found[1]


def _flexible_number(text: str, item: Item) -> str | None:
    """The last thing that looks like a number, or like an amount."""
    del item
    found = _FLEXIBLE.findall(text)
    return found[-1] if found else None


def _bbh(text: str, item: Item) -> str:
    """The letter, or the rest of the line, behind the first `answer is `; of all of the text where it never says so."""
    return _bbh_letter(text) if _is_letter(item) else _bbh_line(text)


def _bbh_bold(text: str, item: Item) -> str:
    """As `_bbh`, but what stands in bold type is the answer."""
    if _is_letter(item):
        return _bbh_letter(text)
    line = _bbh_line(text)
    parts = line.split("**", 2)
    return parts[1] if len(parts) > 2 else line


def _bbh_letter(text: str) -> str:
    said = _behind_cue(text)
    found = _IN_BRACKETS.search(said)
    if found is not None:
        return found[1]
    capital = _CAPITAL.search(said)
    return said if capital is None else capital[0]


def _bbh_line(text: str) -> str:
    line = _behind_cue(text).split("\n", 1)[0].strip()
    return line[:-1].strip() if line.endswith(".") else line


def _behind_cue(text: str) -> str:
    """What stands between the first two cues, or behind the only one; all of the text without a cue."""
    parts = text.split(CUE, 2)
    return parts[1].strip() if len(parts) > 1 else text


def _bbh_harness(text: str, item: Item) -> str | None:
    """The line behind the first `the answer is ` but for its last character, which should be a full stop."""
    del item
    start = 0
    cue = "the answer is "
    while (start := text.find(cue, start)) >= 0:
        start += len(cue)
        line = text[start:].split("\n", 1)[0]
        if line:
            return line[:-1].strip()
    return None


def _is_letter(item: Item) -> bool:
    return item.reference is not None and _TARGET.fullmatch(item.reference) is not None


def _first_line(text: str, item: Item) -> str:
    del item
    return text.strip().split("\n", 1)[0].rstrip()


def _final_answer(text: str, item: Item) -> str | None:
    del item
    return final_answer(text.split("\nProblem:", 1)[0])


def _boxed_answer(text: str, item: Item) -> str:
    del item
    return boxed_answer(text)


def _minerva_answer(text: str, item: Item) -> str | None:
    del item
    found = minerva_answer(text)
    return None if found is None else minerva_form(found)


EXTRACT: Mapping[str, Callable[[str, Item], str | None]] = {
    "last_number": _last_number,
    "strict_number": _strict_number,
    "flexible_number": _flexible_number,
    "final_answer": _final_answer,
    "boxed_answer": _boxed_answer,
    "minerva_answer": _minerva_answer,
    "bbh": _bbh,
    "bbh_bold": _bbh_bold,
    "bbh_harness": _bbh_harness,
    "first_line": _first_line,
    **PROGRAMS,
}
"""The answer in a text that was written about an item; None where there is none."""


def _is_same_number(prediction: str, reference: str) -> bool:
    try:
        return prediction == reference or abs(float(prediction) - int(reference)) < 1e-6
    except (ValueError, OverflowError):
        return False


def _is_same_amount(prediction: str, reference: str) -> bool:
    """As lm-evaluation-harness compares: without commas, dollar signs and a full stop at the end."""
    one, other = (
        text.replace(",", "").replace("$", "").lower().removesuffix("\n").removesuffix(".")
        for text in (prediction, reference)
    )
    return one == other


EQUAL: Mapping[str, Callable[[str, str], bool]] = {
    "text": lambda prediction, reference: prediction == reference,
    "number": _is_same_number,
    "amount": _is_same_amount,
    "math": is_same_answer,
    "minerva": lambda prediction, reference: prediction == minerva_form(reference),
    "bbh": lambda prediction, reference: (
        prediction == (_bbh_letter(reference) if _TARGET.fullmatch(reference) else reference)
    ),
}
"""Whether an answer is the right one: the prediction, the reference. `corpus` is none: see `evaluation.bleu`."""


def _is_line_written(item: Item, text: str) -> bool:
    del item
    return "\n" in text.lstrip()


def _is_bbh_answered(item: Item, text: str) -> bool:
    _, found, said = text.partition(CUE)
    if not found or "\n" not in said.lstrip():
        return False
    return not _is_letter(item) or _IN_BRACKETS.search(said.split(CUE, 1)[0]) is not None


def _is_final_line_written(item: Item, text: str) -> bool:
    del item
    return "\n" in text.partition(FINAL)[2]


SETTLED: Mapping[str, Callable[[Item, str], bool]] = {
    "line": _is_line_written,
    "bbh": _is_bbh_answered,
    "final_line": _is_final_line_written,
}
"""Whether nothing that may follow a text changes its answer."""
