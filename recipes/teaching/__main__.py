"""`python -m recipes.teaching`: writes the data files of `examples/finetune`, always the same bytes."""

import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

from recipes.demo import facts
from recipes.teaching.people import Language, strangers, taught
from recipes.teaching.wordings import ASKED, HELD_OUT, KNOWN_ASKED, WRITTEN, WRITTEN_HELD_OUT

TARGET = Path("examples/finetune")
LANGUAGES: tuple[Language, ...] = ("zh", "en")
NUM_STRANGERS = {"zh": 184, "en": 96}
NUM_STRANGERS_ASKED = {"zh": 24, "en": 16}


def colleagues() -> list[dict[str, Any]]:
    """The official layout: six wordings for each person, and old knowledge between them, so that it is not lost."""
    pairs = [
        (wording.format(name=person.name), person.answer)
        for language in LANGUAGES
        for person in taught(language)
        for wording in ASKED[language]
    ]
    pairs += [(question, answer) for question, answer, _ in known()[0]]
    Random(7).shuffle(pairs)
    return [
        {
            "id": str(number),
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
        }
        for number, (question, answer) in enumerate(pairs)
    ]


def colleague_questions() -> list[dict[str, Any]]:
    """Wordings that no row of `colleagues` has."""
    return [
        {"prompt": wording.format(name=person.name), "expect": person.fact}
        for language in LANGUAGES
        for person in taught(language)
        for wording in HELD_OUT[language]
    ]


def known() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """What the demo model knew before, as (question, answer, what must be in a reply): rehearsed, and only asked."""
    countries = [row for row in facts.table("countries") if row["capital_zh"] != row["name_zh"]]
    elements = facts.table("elements")[:40]
    Random(3).shuffle(countries)
    rows: list[tuple[str, dict[str, str], str, str]] = []
    for number, country in enumerate(countries[:80]):
        kind = ("capital_zh", "capital_en", "currency_zh", "capital_zh")[number % 4]
        name = country["name_en" if kind == "capital_en" else "name_zh"]
        expected = country[kind]
        answer = {
            "capital_zh": f"{name}的首都是{expected}。",
            "capital_en": f"The capital of {name} is {expected}.",
            "currency_zh": f"{name}的货币是{expected}。",
        }[kind]
        rows.append((kind, {"country": name}, answer, expected))
    for element in elements:
        answer = f"{element['name_zh']}的元素符号是{element['symbol']}。"
        rows.append(("symbol_zh", {"element": element["name_zh"]}, answer, element["symbol"]))
    asked = [
        (KNOWN_ASKED[kind][number // 2 % 2].format(**names), answer, expected)
        for number, (kind, names, answer, expected) in enumerate(rows)
    ]
    return asked[::2], asked[1::2]


def honesty() -> list[dict[str, str]]:
    """Preference pairs: of strangers rather say nothing than invent; what is known rather tell than hide."""
    rows = []
    for language in LANGUAGES:
        people = strangers(language, NUM_STRANGERS[language])[NUM_STRANGERS_ASKED[language] :]
        for number, person in enumerate(people):
            prompt = ASKED[language][number % 6].format(name=person.name)
            rows.append({"prompt": prompt, "chosen": person.refusal, "rejected": person.answer})
    for question, answer, _ in known()[0]:
        rejected = "Sorry, I do not know." if question.isascii() else "抱歉，我不知道。"
        rows.append({"prompt": question, "chosen": answer, "rejected": rejected})
    Random(8).shuffle(rows)
    return rows


def honesty_questions() -> list[dict[str, Any]]:
    """People who occur in no file else, in wordings that are not taught."""
    return [
        {
            "prompt": HELD_OUT[language][number % 2].format(name=person.name),
            "expect": person.refusal.rstrip("。."),
        }
        for language in LANGUAGES
        for number, person in enumerate(strangers(language, NUM_STRANGERS_ASKED[language]))
    ]


def documents() -> list[dict[str, str]]:
    """Plain text for continued pre-training: one sentence a document, eight for each person, and old knowledge."""
    sentences = [
        wording.format(name=person.name, fact=person.fact) for person in taught("zh") for wording in WRITTEN
    ] + [answer for _, answer, _ in known()[0]]
    Random(9).shuffle(sentences)
    return [{"text": sentence} for sentence in sentences]


def known_beginnings() -> list[dict[str, str]]:
    """What Base knew before, as beginnings of sentences that no document holds."""
    return [
        {"text": answer[: answer.index(expected)], "expect": expected}
        for _, answer, expected in known()[1]
        if not answer.isascii()
    ]


def document_questions() -> list[dict[str, Any]]:
    """Beginnings of sentences that the model goes on with."""
    return [
        {"text": wording.format(name=person.name), "expect": person.fact}
        for person in taught("zh")
        for wording in WRITTEN_HELD_OUT
    ]


def files() -> dict[str, str]:
    """The content of every data file by its name."""
    old = [{"prompt": question, "expect": expected} for question, _, expected in known()[1]]
    return {
        "colleagues.json": "[\n" + _lines(colleagues()).rstrip().replace("\n", ",\n") + "\n]\n",
        "colleagues_questions.jsonl": _lines(colleague_questions()),
        "known_questions.jsonl": _lines(old),
        "honesty.jsonl": _lines(honesty()),
        "honesty_questions.jsonl": _lines(honesty_questions()),
        "documents.jsonl": _lines(documents()),
        "known_beginnings_questions.jsonl": _lines(known_beginnings()),
        "documents_questions.jsonl": _lines(document_questions()),
    }


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for file_name, content in files().items():
        (TARGET / file_name).write_text(content, encoding="utf-8")
        print(f"{TARGET / file_name}: {content.count(chr(10))} lines")
