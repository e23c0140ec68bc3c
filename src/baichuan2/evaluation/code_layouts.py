"""Questions whose answer is a program, in the files in which they are published: HumanEval and MBPP."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.sources import Files

__all__ = ["HUMANEVAL_FILES", "MBPP_FILES", "read_humaneval", "read_mbpp"]

HUMANEVAL_FILES = ("HumanEval.jsonl.gz", "HumanEval.jsonl", "human-eval-v2-20210705.jsonl")
MBPP_FILES = ("mbpp.jsonl", "mbpp.jsonl.gz")
MAX_BYTES = 1 << 28  # of a file when unpacked; HumanEval has 0.2 MB
GZIP = b"\x1f\x8b"


def read_humaneval(files: Files, name: str, subject: str) -> Iterator[Item]:
    """A JSON object a line: `task_id`, `prompt`, `entry_point`, `canonical_solution`, `test`.

    The question is the prompt, the reference the body of the function. `details`: `tests`, statements that call it.
    """
    for place, row in _lines(files, name):
        entry = _text(row, "entry_point", place)
        if not entry.isidentifier():
            raise DataError(f"{place} entry_point: expected the name of a function, got {entry!r:.60}")
        prompt = _text(row, "prompt", place)
        if f"def {entry}" not in prompt:
            raise DataError(f"{place} prompt: it does not define {entry}, which its tests call")
        yield Item(
            subject=subject,
            number=_text(row, "task_id", place),
            question=prompt,
            reference=_text(row, "canonical_solution", place),
            details={"tests": f"{_text(row, 'test', place)}\ncheck({entry})", "entry_point": entry},
        )


def read_mbpp(files: Files, name: str, subject: str) -> Iterator[Item]:
    r"""A JSON object a line: `text`, `code`, `task_id`, `test_list`.

    The reference is the code with its own ends of lines, which are `\r\n`. `details`: `tests`, one a line; the same in
    `spaced_tests`, each between spaces; `code` without the spaces at its ends.
    """
    for place, row in _lines(files, name):
        number = row.get("task_id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise DataError(f"{place} task_id: expected a whole number, got {number!r:.60}")
        tests = row.get("test_list")
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise DataError(f"{place} test_list: expected a list of statements, got {tests!r:.60}")
        code = _text(row, "code", place)
        yield Item(
            subject=subject,
            number=str(number),
            question=_text(row, "text", place),
            reference=code,
            details={
                "tests": "\n".join(tests),
                "spaced_tests": "\n".join(f" {test.strip()} " for test in tests),
                "code": code.strip(),
            },
        )


def _lines(files: Files, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON Lines file, packed or not, each with its place; empty lines are passed over."""
    path = files.path_of(name)
    content = files.read(name)
    if content.startswith(GZIP):
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} cannot be unpacked: {error}: download it again") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES >> 20} MiB: is it the benchmark's file?")
    seen: set[object] = set()
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object, got {row!r:.60}")
        task = str(row.get("task_id"))
        if task in seen:
            raise DataError(f"{place} task_id: {task} stands in an earlier line")
        seen.add(task)
        yield place, row


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place} {column}: expected a text, got {value!r:.60}")
    return value
