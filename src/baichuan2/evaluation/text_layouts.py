"""Questions whose answer is a text, in the files in which they are published: GSM8K, MATH, BBH, Flores."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from baichuan2.errors import DataError
from baichuan2.evaluation.items import Item
from baichuan2.evaluation.json_choices import read_lines
from baichuan2.evaluation.math_answers import last_boxed
from baichuan2.evaluation.sources import Files

__all__ = ["names_of", "read_bbh", "read_flores", "read_gsm8k", "read_math"]

CANARY = "-----"  # what stands above this line in a prompt file of BBH is no part of the prompt
STEP_BY_STEP = "\nA: Let's think step by step."
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
TYPES = {
    "algebra": "Algebra",
    "counting_and_probability": "Counting & Probability",
    "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra",
    "number_theory": "Number Theory",
    "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}
LANGUAGES = {  # codes of Flores-101 and Flores-200, and OpenCompass' names
    "zh": ("zho_simpl", "zho_Hans", "Chinese (Simpl)"),
    "en": ("eng", "eng_Latn", "English"),
    "fr": ("fra", "fra_Latn", "French"),
    "es": ("spa", "spa_Latn", "Spanish"),
    "ar": ("ara", "arb_Arab", "Arabic"),
    "ru": ("rus", "rus_Cyrl", "Russian"),
    "ja": ("jpn", "jpn_Jpan", "Japanese"),
    "de": ("deu", "deu_Latn", "German"),
}


def names_of(layout: str, split: str, subject: str) -> tuple[str, ...] | None:
    """What the file of a subject may be called, a folder with `/` behind it; None: as the task file says."""
    if layout == "bbh":
        return (f"cot-prompts/{subject}.txt",) if split == "cot-prompts" else (f"bbh/{subject}.json",)
    if layout == "math":
        return f"{split}/{subject}/", f"{split}.jsonl", f"{split}.json"
    if layout == "flores":
        target = LANGUAGES[subject.partition("-")[2]]
        return tuple(f"{split}/{code}.{split}" for code in target[:2])
    return None


def read_gsm8k(files: Files, name: str, subject: str) -> Iterator[Item]:
    """A JSON object a line: `question`, and `answer`: steps with calculator marks, and `#### N`.

    `details`: `solution`, the steps without marks and last line; `answer` as the file holds it.
    """
    for number, (place, row) in enumerate(read_lines(files, name)):
        answer = _text(row, "answer", place)
        steps, mark, last = answer.rpartition("#### ")
        reference = last.strip().replace(",", "")
        if not mark or not _NUMBER.fullmatch(reference):
            raise DataError(f"{place} answer: expected a last line such as #### 72, got {answer[-40:]!r}")
        yield Item(
            subject=subject,
            number=str(number),
            question=_text(row, "question", place),
            reference=reference,
            details={"solution": _CALCULATOR.sub("", steps).strip(), "answer": answer},
        )


def read_math(files: Files, name: str, subject: str) -> Iterator[Item]:
    r"""A JSON file for each problem, or one object a line: `problem`, `level`, `type`, `solution` with a `\boxed{}`.

    `details`: `solution` and `level`. Of one file for all subjects those of this `type`.
    """
    if name.endswith("/"):
        names = sorted(files.names(name[:-1], ".json"), key=lambda one: (len(one), one))
        rows = [(files.path_of(one), _object(files, one), one.rpartition("/")[2][:-5]) for one in names]
    else:
        lines = enumerate(read_lines(files, name))
        rows = [(place, row, str(number)) for number, (place, row) in lines]
    for place, row, number in rows:
        kind = row.get("type")
        if kind not in TYPES.values():
            raise DataError(f"{place} type: expected one of {', '.join(TYPES.values())}, got {kind!r:.60}")
        if kind != TYPES[subject]:
            continue
        solution = _text(row, "solution", place)
        reference = last_boxed(solution)
        if reference is None:
            raise DataError(f"{place} solution: there is no answer in \\boxed{{}}: {solution[-40:]!r}")
        yield Item(
            subject=subject,
            number=number,
            question=_text(row, "problem", place),
            reference=reference,
            details={"solution": solution, "level": row.get("level")},
        )


def read_bbh(files: Files, name: str, subject: str) -> Iterator[Item]:
    """Of `bbh/TASK.json` the `examples`, each with `input` and `target`; of `cot-prompts/TASK.txt` those of the prompt.

    `details` of both: `description`, the prompt file's first line; of the latter also `block`, the example as it
    stands.
    """
    prompts = f"cot-prompts/{subject}.txt"
    description, blocks = _prompt_file(files, prompts) if files.has(prompts) else ("", [])
    if name == prompts:
        for number, block in enumerate(blocks):
            question = block.removeprefix("Q: ").partition(STEP_BY_STEP)[0]
            details = {"description": description, "block": block}
            yield Item(subject=subject, number=str(number), question=question, details=details)
        return
    path = files.path_of(name)
    rows = _object(files, name).get("examples")
    if not isinstance(rows, list):
        raise DataError(f"{path} has no list called examples: is this a task of BIG-Bench-Hard?")
    for number, row in enumerate(rows):
        place = f"{path} example {number}"
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object, got {row!r:.60}")
        yield Item(
            subject=subject,
            number=str(number),
            question=_text(row, "input", place),
            reference=_text(row, "target", place),
            details={"description": description},
        )


def _prompt_file(files: Files, name: str) -> tuple[str, list[str]]:
    """The description and the examples of a prompt file: without the canary, examples as they stand."""
    path = files.path_of(name)
    text = files.text(name).replace("\r\n", "\n")
    above, line, below = text.partition(f"\n{CANARY}\n")
    if line and "\nQ: " not in above:
        text = below
    description, *blocks = text.strip("\n").split("\n\nQ: ")
    for number, block in enumerate(blocks):
        if STEP_BY_STEP not in block:
            raise DataError(f"{path} example {number}: there is no line {STEP_BY_STEP.strip()!r}")
    if not blocks:
        raise DataError(f"{path} holds no example: expected blocks that begin with Q:, an empty line between them")
    return description, [f"Q: {block}" for block in blocks]


def read_flores(files: Files, name: str, subject: str) -> Iterator[Item]:
    """Two files of one sentence a line, of the languages of a pair such as `zh-en`; `name` is the target's.

    `details`: `source` and `target`, the languages' names.
    """
    source, _, target = subject.partition("-")
    split = name.partition("/")[0]
    code = LANGUAGES[source][LANGUAGES[target].index(name.partition("/")[2].removesuffix(f".{split}"))]
    other = f"{split}/{code}.{split}"
    if not files.has(other):
        raise DataError(f"{files.path_of(other)} is missing: the sentences that {files.path_of(name)} translates")
    sentences, references = _sentences(files, other), _sentences(files, name)
    if len(sentences) != len(references):
        raise DataError(
            f"{files.path_of(other)} has {len(sentences)} lines, {files.path_of(name)} {len(references)}: "
            "expected a translation for each"
        )
    names = {"source": LANGUAGES[source][2], "target": LANGUAGES[target][2]}
    for number, (sentence, reference) in enumerate(zip(sentences, references, strict=True)):
        yield Item(subject=subject, number=str(number), question=sentence, reference=reference, details=names)


def _sentences(files: Files, name: str) -> list[str]:
    """The lines of a file. Not splitlines: sentences may hold U+2028 and the like."""
    lines = files.text(name).replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(f"{files.path_of(name)} line {number} is empty: expected a sentence a line")
    return [line.strip() for line in lines]


def _object(files: Files, name: str) -> Mapping[str, Any]:
    path = files.path_of(name)
    try:
        row = json.loads(files.text(name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}: expected an object, got {row!r:.60}")
    return row


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place} {column}: expected a text, got {value!r:.60}")
    return value
