"""The hand-written tables behind the demo model, as typed rows.

Every loader reads one file beside this module and returns tuples of frozen rows, in file order.
Sources, licence and how the facts were checked: README.md in this folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Poem:
    """One poem: its title, dynasty, author and lines (each ends with its mark)."""

    title: str
    dynasty: str
    author: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All lines without breaks."""
        return "".join(self.lines)

    @property
    def recital(self) -> str:
        """Title, dynasty and author, then one line of the poem a line."""
        return f"《{self.title}》\n{self.dynasty}·{self.author}\n" + "\n".join(self.lines)

    @property
    def author_sentence(self) -> str:
        """The answer to "who wrote it"."""
        if self.author == "佚名":
            return f"《{self.title}》的作者已不可考。"
        era = {"三国": "三国时期", "南北朝": "南北朝"}.get(self.dynasty, self.dynasty + "代")
        return f"《{self.title}》的作者是{era}诗人{self.author}。"


@dataclass(frozen=True)
class Statement:
    """One general fact: the sentence that answers, and the wordings that ask for it."""

    answer: str
    wordings: tuple[str, ...]


@dataclass(frozen=True)
class Intent:
    """One kind of small talk: its name, the reply, and the wordings that call for it."""

    name: str
    answer: str
    wordings: tuple[str, ...]


def _lines(name: str) -> list[str]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("# ")]


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """Rows of `name`.tsv as dictionaries; the first line, "# a<TAB>b ...", names the columns."""
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    columns = re.sub(r"\s*\(.*\)$", "", lines[0].removeprefix("# ")).split("\t")
    columns = [column.split(" ")[0] for column in columns]
    return tuple(dict(zip(columns, line.split("\t"), strict=True)) for line in lines[1:] if line)


@cache
def poems() -> tuple[Poem, ...]:
    """All poems; the best-known ones come first in the file."""
    rows = [line.split("\t") for line in _lines("poems.tsv")]
    return tuple(Poem(row[0], row[1], row[2], tuple(row[3].split("/"))) for row in rows)


@cache
def statements(language: str) -> tuple[Statement, ...]:
    """General facts of one language ("zh" or "en")."""
    rows = [line.split("|") for line in _lines(f"general_{language}.txt")]
    return tuple(Statement(row[0], tuple(row[1:])) for row in rows)


@cache
def conversation_statements(language: str) -> tuple[Statement, ...]:
    """General facts of one language for conversations: `statements` with further wordings, then further facts.

    Pre-training documents use `statements` alone, so that a trained Base stays reproducible.
    """
    merged = {statement.answer: list(statement.wordings) for statement in statements(language)}
    for line in _lines(f"general_{language}_more.txt"):
        answer, *wordings = line.split("|")
        merged.setdefault(answer, []).extend(wordings)
    return tuple(Statement(answer, tuple(wordings)) for answer, wordings in merged.items())


@cache
def intents(language: str) -> tuple[Intent, ...]:
    """Small talk of one language ("zh" or "en")."""
    return _intents_in(f"intents_{language}.txt")


@cache
def conversation_intents(language: str) -> tuple[Intent, ...]:
    """Small talk of one language for conversations: `intents` with the wordings of the "more" file, if there is one.

    Pre-training documents use `intents` alone, for the same reason as above.
    """
    name = f"intents_{language}_more.txt"
    more = {intent.name: intent.wordings for intent in _intents_in(name)} if (FOLDER / name).exists() else {}
    return tuple(
        Intent(intent.name, intent.answer, intent.wordings + more.get(intent.name, ())) for intent in intents(language)
    )


def _intents_in(file_name: str) -> tuple[Intent, ...]:
    found: list[Intent] = []
    name, answer = "", ""
    wordings: list[str] = []
    for line in [*_lines(file_name), ":"]:
        if line.startswith(":"):
            if name:
                found.append(Intent(name, answer, tuple(wordings)))
            name, wordings = line[1:], []
        elif line.startswith("= "):
            answer = line[2:].replace("\\n", "\n")
        else:
            wordings.append(line)
    return tuple(found)


@cache
def refusal_templates(language: str) -> tuple[str, ...]:
    """Wordings of questions that the model must refuse."""
    return tuple(_lines(f"refusals_{language}.txt"))


def conversation_refusal_templates(language: str) -> tuple[str, ...]:
    """Those wordings with the further ones of the "more" file, if there is one: for Chat, but not for the tokenizer."""
    name = f"refusals_{language}_more.txt"
    return refusal_templates(language) + (tuple(_lines(name)) if (FOLDER / name).exists() else ())
