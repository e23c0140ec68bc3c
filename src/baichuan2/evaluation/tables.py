"""Multiple-choice questions in CSV files: C-Eval, CMMLU and MMLU, whose files have no header.

Texts stay as they are: `None` is a text, not a missing value, as some readers of tables have it.
"""

import ast
import csv
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.sources import Files

__all__ = ["LETTERS", "answer_index", "check_item", "read_ceval", "read_cmmlu", "read_mmlu"]

LETTERS = "ABCDEFGHIJ"
_FULL_WIDTH = {ord("Ａ") + index: letter for index, letter in enumerate(LETTERS)}
_OTHER_NAMES = {"input": "question", "prompt": "question", "target": "answer", "label": "answer"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table, and where it begins."""

    place: str
    cells: Sequence[str]


def read_ceval(files: Files, name: str, subject: str) -> Iterator[Item]:
    """Header `id,question,A,B,C,D`, then `answer` and `explanation` where the split has them."""
    columns, rows = _with_header(files, name, ("id", "question", *"ABCD"))
    is_test = name.endswith("_test.csv")  # published without answers; a copy may hold them
    if "answer" not in columns and not is_test:
        raise DataError(f"{files.path_of(name)} has no column answer: it has {', '.join(columns)}")
    if is_test and "answer" in columns and not any(row.cells[columns["answer"]].strip() for row in rows):
        del columns["answer"]  # as exports of the hub's copy write what they do not know
    yield from _numbered(rows, columns, subject, columns["id"])


def read_cmmlu(files: Files, name: str, subject: str) -> Iterator[Item]:
    """Header `,Question,A,B,C,D,Answer`: the first column is the row's number and has no name."""
    columns, rows = _with_header(files, name, ("Question", *"ABCD", "Answer"))
    named = {key.lower() if key in ("Question", "Answer") else key: index for key, index in columns.items()}
    yield from _numbered(rows, named, subject, named.get("", 0))


def read_mmlu(files: Files, name: str, subject: str) -> Iterator[Item]:
    """Six cells and no header: question, four options, letter.

    Exports of the hub's copy are known by their header; their answers count from 0. Where a file does not tell whether
    its answers do, it is refused.
    """
    rows = list(_rows(files, name))
    head = [cell.strip().lower() for cell in rows[0].cells] if rows else []
    has_header = any(cell in head[1:] for cell in ("answer", "target", "label"))
    if has_header:
        columns = {_OTHER_NAMES.get(cell, cell): index for index, cell in enumerate(head)}
        columns |= {letter: columns.pop(letter.lower()) for letter in "ABCD" if letter.lower() in columns}
        rows = rows[1:]
    else:
        columns = {"question": 0, "A": 1, "B": 2, "C": 3, "D": 4, "answer": 5}
    path = files.path_of(name)
    if head[:6] == ["id", "question", *"abcd"]:  # whose files of seven subjects have the very names of MMLU's
        raise DataError(f"{path} begins as files of C-Eval do: give MMLU's folder as --data")
    if not {"question", "answer"} <= set(columns) or not ("choices" in columns or set("ABCD") <= set(columns)):
        raise DataError(f"{path} needs the columns question, A, B, C, D, answer: it has {', '.join(columns)}")
    width = len(head) if has_header else 6
    for row in rows:
        if len(row.cells) != width:
            raise DataError(f"{row.place} has {len(row.cells)} cells, not {width}: is this a file of MMLU?")
    rows = [_with_letter(row, columns, rows, path) for row in rows]
    if "choices" in columns:
        rows = [_with_options(row, columns) for row in rows]
        columns |= {letter: width + index for index, letter in enumerate("ABCD")}
    for number, row in enumerate(rows):
        yield _item(row, columns, subject, str(number))


def _with_letter(row: Row, columns: Mapping[str, int], rows: Sequence[Row], path: str) -> Row:
    """The row with a letter for an answer that is a number."""
    answers = {row.cells[columns["answer"]].strip() for row in rows}
    if not answers <= {"0", "1", "2", "3", "4"}:
        return row
    if "4" in answers or "0" not in answers:
        raise DataError(
            f"{path} holds the answers {', '.join(sorted(answers))}, of which nobody can say if they count from 0: "
            "write letters"
        )
    cells = list(row.cells)
    cells[columns["answer"]] = LETTERS[int(cells[columns["answer"]])]
    return Row(row.place, cells)


def _with_options(row: Row, columns: Mapping[str, int]) -> Row:
    """The row with four more cells: the options that its cell `choices` lists."""
    text = row.cells[columns["choices"]]
    try:
        options = ast.literal_eval(text) if len(text) < 1 << 16 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        options = None
    if not isinstance(options, list) or len(options) != 4 or not all(isinstance(option, str) for option in options):
        raise DataError(f"{row.place} choices: expected a list of four texts in quotes with commas, got {text[:60]!r}")
    return Row(row.place, [*row.cells, *options])


def _with_header(files: Files, name: str, needed: Sequence[str]) -> tuple[dict[str, int], list[Row]]:
    """Where each column is, and the rows below the header."""
    rows = list(_rows(files, name))
    path = files.path_of(name)
    head = [cell.strip() for cell in rows[0].cells] if rows else []
    missing = [column for column in needed if column not in head]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}: its first line holds {', '.join(head)[:80] or '-'}"
        )
    twice = {column for column in head if head.count(column) > 1}
    if twice:
        raise DataError(f"{path} has two columns {', '.join(sorted(twice))}")
    for row in rows[1:]:
        if len(row.cells) != len(head):
            raise DataError(f"{row.place} has {len(row.cells)} cells, the header {len(head)}: is a quote missing?")
    return {column: index for index, column in enumerate(head)}, rows[1:]


def _rows(files: Files, name: str) -> Iterator[Row]:
    text = files.text(name).replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    path, line, number = files.path_of(name), 1, 0
    if "\0" in text:
        raise DataError(f"{path} line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL: is this a table?")
    try:
        for cells in reader:
            number += 1
            if cells:
                yield Row(f"{path} row {number} (line {line})", cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} row {number + 1} (line {line}): {error}: is a quote missing?") from error


def _numbered(rows: Sequence[Row], columns: Mapping[str, int], subject: str, column: int) -> Iterator[Item]:
    """Items whose numbers stand in a column."""
    seen: set[str] = set()
    for row in rows:
        number = row.cells[column].strip()
        if not number:
            raise DataError(f"{row.place} has no number: its cell {column + 1} is empty")
        if number in seen:
            raise DataError(f"{row.place}: the number {number} stands in an earlier row too")
        seen.add(number)
        yield _item(row, columns, subject, number)


def _item(row: Row, columns: Mapping[str, int], subject: str, number: str) -> Item:
    options = tuple(row.cells[columns[letter]] for letter in "ABCD")
    question = row.cells[columns["question"]]
    check_item(row.place, question, options)
    answer = answer_index(row.place, row.cells[columns["answer"]], len(options)) if "answer" in columns else None
    return Item(subject=subject, number=number, question=question, options=options, answer=answer)


def check_item(place: str, question: object, options: Sequence[object]) -> None:
    """Raises DataError unless there are a question and options, all of them texts, and more than one with a word in it.

    A single empty option is warned of: others' evaluations ask such a question too, and a score must be of all items.
    """
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{place} question: expected a text, got {question!r:.60}")
    empty = ""
    for letter, option in zip(LETTERS, options, strict=False):
        if not isinstance(option, str) or (not option.strip() and (empty or len(options) < 3)):
            raise DataError(f"{place} {letter}: expected the text of an option, got {option!r:.60}")
        empty = empty if option.strip() else letter
    if empty:
        warnings.warn(f"{place} {empty}: the option is empty; it is asked as it stands", stacklevel=2)


def answer_index(place: str, answer: object, count: int) -> int:
    """Which of `count` options a letter means, a full-width one too.

    Raises:
        DataError: it is no letter of an option; the message begins with `place`.
    """
    letter = answer.strip().translate(_FULL_WIDTH) if isinstance(answer, str) else ""
    if len(letter) != 1 or letter not in LETTERS[:count]:
        raise DataError(f"{place} answer: expected a letter from A to {LETTERS[count - 1]}, got {answer!r:.60}")
    return LETTERS.index(letter)
