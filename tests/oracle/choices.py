"""Multiple choice the slow and obvious way: each prompt written out by hand, each item in a pass of its own.

No batch, no shared beginning, no cache, no task file, no reader of the package: rows by the csv module, the model by
its plain call, softmax in float64. What `baichuan2 evaluate` scores must agree with this.
"""

import csv
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Row = Mapping[str, str]


def table(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file; `columns`: their names, where the file has no header."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, fieldnames=columns or None))


def ceval_prompt(title: str, examples: Sequence[Row], row: Row) -> str:
    """As Baichuan-7B's script writes it: a blank line after the header, none between the examples."""
    prompt = "以下是中国关于" + title + "考试的单项选择题，请选出其中的正确答案。\n"
    for example in examples:
        prompt += "\n" + example["question"] + "\nA. " + example["A"] + "\nB. " + example["B"]
        prompt += "\nC. " + example["C"] + "\nD. " + example["D"] + "\n答案：" + example["answer"]
    prompt += "\n" + row["question"] + "\nA. " + row["A"] + "\nB. " + row["B"]
    return prompt + "\nC. " + row["C"] + "\nD. " + row["D"] + "\n答案："


def mmlu_prompt(subject: str, examples: Sequence[Row], row: Row) -> str:
    """As the script of the test's authors writes it: two spaces before the subject, a blank line after each answer."""
    prompt = "The following are multiple choice questions (with answers) about"
    for word in subject.split("_"):
        prompt += " " + word if prompt.endswith(" ") or not prompt.endswith("about") else "  " + word
    prompt += ".\n\n"
    for example in examples:
        prompt += example["question"] + "\nA. " + example["A"] + "\nB. " + example["B"]
        prompt += "\nC. " + example["C"] + "\nD. " + example["D"] + "\nAnswer: " + example["answer"] + "\n\n"
    prompt += row["question"] + "\nA. " + row["A"] + "\nB. " + row["B"]
    return prompt + "\nC. " + row["C"] + "\nD. " + row["D"] + "\nAnswer:"


def cmmlu_prompt(title: str, examples: Sequence[Row], row: Row) -> str:
    """As the script of the test's authors writes it: 题目 before a question, 答案是 before its answer."""
    prompt = "以下是关于" + title + "的单项选择题，请直接给出正确答案的选项。\n\n"
    for example in examples:
        prompt += "题目：" + example["Question"] + "\nA. " + example["A"] + "\nB. " + example["B"]
        prompt += "\nC. " + example["C"] + "\nD. " + example["D"] + "\n答案是：" + example["Answer"] + "\n\n"
    prompt += "题目：" + row["Question"] + "\nA. " + row["A"] + "\nB. " + row["B"]
    return prompt + "\nC. " + row["C"] + "\nD. " + row["D"] + "\n答案是："


def shuffled(examples: Sequence[Row], subject: str, number: str, seed: int) -> list[Row]:
    """The order that an item of C-Eval gets: Python's own shuffle, seeded by the run's seed, subject and number."""
    order = list(examples)
    random.Random(f"{seed} {subject} {number}").shuffle(order)
    return order


@torch.inference_mode()
def letter_logits(model: Any, tokenizer: Any, prompt: str, letters: str = "ABCD") -> list[float]:
    """Of each bare letter, at the last place of the prompt."""
    logits = model(torch.tensor([tokenizer.encode(prompt)])).logits[0, -1].double()
    return [float(logits[tokenizer.encode(letter)[-1]]) for letter in letters]


@torch.inference_mode()
def continuation_logprob(model: Any, tokenizer: Any, prompt: str, continuation: str) -> float:
    """The natural logarithm of the probability of the ids that `continuation` adds to those of `prompt`."""
    whole, start = tokenizer.encode(prompt + continuation), len(tokenizer.encode(prompt))
    table = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
    return sum(float(table[place - 1, whole[place]]) for place in range(start, len(whole)))


def first_best(scores: Sequence[float]) -> int:
    """The place of the highest score, the first one of a tie."""
    best = 0
    for place, value in enumerate(scores):
        if value > scores[best]:
            best = place
    return best
