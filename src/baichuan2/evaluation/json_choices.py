"""Multiple-choice questions in JSON files: AGIEval and JEC-QA, GAOKAO-Bench, MedQA, MedMCQA."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.sources import Files
from baichuan2.evaluation.tables import LETTERS, answer_index, check_item

__all__ = ["read_agieval", "read_gaokao", "read_medmcqa", "read_medqa"]

# how options are numbered in their own texts: `(A)`, `（A）`
_OWN_LETTER = re.compile(r"\s*[(（]\s*([A-Z])\s*[)）]")


def read_agieval(files: Files, name: str, subject: str) -> Iterator[Item]:
    """A JSON object a line: `passage`, `question`, `options`, `label`. Those without options or label are passed over.

    Options lose the letter in parentheses that most begin with; `details` keeps them as they are, as `raw_options`.
    Where several answers are right, all of them are `details["answers"]`, the first one is `answer`.
    """
    for number, (place, row) in enumerate(_lines(files, name)):
        raw, label = row.get("options"), row.get("label")
        if not raw or not label:
            continue  # a cloze
        if not isinstance(raw, list) or len(raw) > len(LETTERS):
            raise DataError(f"{place} options: expected a list of at most {len(LETTERS)}, got {raw!r:.60}")
        check_item(place, row.get("question"), raw)
        passage = row.get("passage") or ""
        if not isinstance(passage, str):
            raise DataError(f"{place} passage: expected a text or null, got {passage!r:.60}")
        answers = sorted({answer_index(place, letter, len(raw)) for letter in _labels(label)})
        yield Item(
            subject=subject,
            number=str(number),
            question=row["question"],
            options=tuple(_without_letter(option, letter) for option, letter in zip(raw, LETTERS, strict=False)),
            answer=answers[0],
            details={"passage": passage, "raw_options": raw, **({"answers": answers} if len(answers) > 1 else {})},
        )


def read_gaokao(files: Files, name: str, subject: str) -> Iterator[Item]:
    """One object with a list `example` of `question`, in whose text the options stand, `answer` (a list), `index`.

    Questions with several parts, or several right letters, have all of these as `details["answers"]`.
    """
    path = files.path_of(name)
    content = _parsed(files.text(name), path)
    rows = content.get("example") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise DataError(f"{path} has no list called example: is this a paper of GAOKAO-Bench?")
    for number, row in enumerate(rows):
        place = f"{path} example {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object, got {row!r:.60}")
        check_item(place, row.get("question"), ())
        answer = row.get("answer")
        if not isinstance(answer, list) or not answer or not all(isinstance(part, str) for part in answer):
            raise DataError(f"{place} answer: expected a list of letters, got {answer!r:.60}")
        letters = _labels(answer)
        answers = [answer_index(place, letter, len(LETTERS) if len(letters) > 1 else 4) for letter in letters]
        details: dict[str, Any] = {"answers": answers} if len(answers) > 1 else {}
        yield Item(
            subject=subject,
            number=str(number),
            question=row["question"],
            options=("A", "B", "C", "D"),
            answer=answers[0],
            details=details,
        )


def read_medqa(files: Files, name: str, subject: str) -> Iterator[Item]:
    """A JSON object a line: `question`, `options` by letter, `answer_idx`."""
    for number, (place, row) in enumerate(_lines(files, name)):
        options = row.get("options")
        letters = LETTERS[: len(options)] if isinstance(options, dict) else ""
        if not isinstance(options, dict) or len(options) < 2 or sorted(options) != list(letters):
            raise DataError(f"{place} options: expected texts by the letters from A on, got {options!r:.60}")
        texts = [options[letter] for letter in letters]
        check_item(place, row.get("question"), texts)
        yield Item(
            subject=subject,
            number=str(number),
            question=row["question"],
            options=tuple(texts),
            answer=answer_index(place, row.get("answer_idx"), len(texts)),
        )


def read_medmcqa(files: Files, name: str, subject: str) -> Iterator[Item]:
    """A JSON object a line: `question`, `opa` to `opd`, `cop`, `id`, `choice_type`.

    `cop` counts from 1, in exports of the hub's copy from 0: the file tells, by a 4 or a 0 in it; one that does not is
    refused.
    """
    rows = list(_lines(files, name))
    seen: set[str] = set()
    values = set()
    for place, row in rows:
        if not isinstance(row.get("cop"), int) or isinstance(row["cop"], bool) or not 0 <= row["cop"] <= 4:
            raise DataError(f"{place} cop: expected a whole number from 1 to 4, got {row.get('cop')!r:.60}")
        values.add(row["cop"])
    if rows and (0 in values) == (4 in values):
        both = "holds both 0 and 4" if 0 in values else "holds neither 0 nor 4"
        raise DataError(
            f"{files.path_of(name)} cop: nobody can say whether the answers count from 1 or from 0: the file {both}"
        )
    first = 0 if 0 in values else 1
    for place, row in rows:
        options = [row.get(f"op{letter}") for letter in "abcd"]
        check_item(place, row.get("question"), options)
        number = row.get("id")
        if not isinstance(number, str) or not number or number in seen:
            raise DataError(f"{place} id: expected a text that no other row has, got {number!r:.60}")
        seen.add(number)
        yield Item(
            subject=subject,
            number=number,
            question=row["question"],
            options=tuple(map(str, options)),
            answer=row["cop"] - first,
            details={"choice_type": row.get("choice_type")},
        )


def _labels(label: object) -> list[Any]:
    """The letters of a label: a letter, several in one text (`AD`, `A B D`), or a list of such."""
    parts = label if isinstance(label, list) else [label]
    letters: list[Any] = []
    for part in parts:
        letters += list("".join(part.split())) if isinstance(part, str) and part.strip() else [part]
    return letters


def _without_letter(option: str, letter: str) -> str:
    match = _OWN_LETTER.match(option)
    rest = option[match.end() :].strip() if match is not None and match[1] == letter else ""
    return rest or option.strip()


def _lines(files: Files, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON Lines file, each with its place; empty lines are passed over."""
    path = files.path_of(name)
    # not splitlines: texts hold other separators, such as U+2028, which end no line of JSON
    for number, line in enumerate(files.text(name).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        row = _parsed(line, place)
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object, got {row!r:.60}")
        yield place, row


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON: {error}") from error


def read_lines(files: Files, name: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON Lines file, each with its place for messages.

    Raises:
        DataError: a line holds no object; the message names it.
    """
    return list(_lines(files, name))
