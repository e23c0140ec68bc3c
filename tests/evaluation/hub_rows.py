"""The samples of `evaldata` in the columns of the hub's data sets, which lm-evaluation-harness reads.

Read by nothing of the package: csv and json alone, so that a mistake of our readers shows as a difference.
"""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[2].parent / "shared" / "evaldata"

Row = dict[str, Any]


def ceval(subject: str, split: str) -> list[Row]:
    """Question, A to D and answer, as the files have them."""
    return _table(DATA / "ceval" / split / f"{subject}_{split}.csv")


def cmmlu(subject: str, split: str) -> list[Row]:
    """Question, A to D and Answer, with capitals."""
    return _table(DATA / "cmmlu" / split / f"{subject}.csv")


def mmlu(subject: str, split: str) -> list[Row]:
    """The options in a list, the answer as its index."""
    path = DATA / "mmlu" / split / f"{subject}_{split}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {"question": row[0], "subject": subject, "choices": row[1:5], "answer": "ABCD".index(row[5])}
            for row in csv.reader(file)
        ]


def agieval(subject: str, folder: str = "agieval") -> list[Row]:
    """The whole prompt, the options and the indices of the right ones, as the benchmark's own loader writes them."""
    rows = []
    for line in _lines(DATA / folder / "data" / "v1" / f"{subject}.jsonl"):
        passage, options, label = line["passage"] or "", line["options"], line["label"]
        if options is None:
            continue
        last = "ABCDEFG"[len(options) - 1]
        if subject.startswith(("gaokao", "jec", "logiqa-zh")) and subject != "gaokao-english":
            query = f"{passage}问题：{line['question']} 选项：{' '.join(options)}\n答案：从A到{last}, 我们应选择"
        else:
            query = (
                f"{passage}Q: {line['question']} Answer Choices: {' '.join(options)}\n"
                f"A: Among A through {last}, the answer is"
            )
        labels = label if isinstance(label, list) else [label]
        rows.append({"query": query, "choices": options, "gold": ["ABCDEFG".index(one) for one in labels]})
    return rows


def medmcqa() -> list[Row]:
    """As in the file, but that the hub counts the right option from 0."""
    return [{**line, "cop": line["cop"] - 1} for line in _lines(DATA / "medmcqa" / "dev.json")]


def medqa() -> list[Row]:
    """Four of the five options, the right one among them, in the columns of the four-option set."""
    rows = []
    for line in _lines(DATA / "medqa" / "questions" / "US" / "test.jsonl"):
        options = line["options"]
        letters = sorted({line["answer_idx"], *[letter for letter in "ABCDE" if letter != line["answer_idx"]][:3]})
        endings = {f"ending{number}": options[letter] for number, letter in enumerate(letters)}
        rows.append({"sent1": line["question"], "sent2": "", **endings, "label": letters.index(line["answer_idx"])})
    return rows


def bbh(subject: str) -> list[Row]:
    """Input and target."""
    return json.loads((DATA / "bbh" / "bbh" / f"{subject}.json").read_text(encoding="utf-8"))["examples"]


def gsm8k(split: str) -> list[Row]:
    """Question and answer."""
    return _lines(DATA / "gsm8k" / f"{split}.jsonl")


def math(kind: str) -> list[Row]:
    """The problems of one kind, as the file calls it."""
    return [row for row in _lines(DATA / "math" / "test.jsonl") if row["type"] == kind]


def humaneval() -> list[Row]:
    """All columns of the file."""
    with gzip.open(DATA / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mbpp() -> list[Row]:
    """Those that are asked: task_id 11 and on."""
    return [row for row in _lines(DATA / "mbpp" / "mbpp.jsonl") if row["task_id"] >= 11]


def _table(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
