"""The held-out questions of the demo model, as typed values.

Two sets with the same files: `development`, which was looked at while the training data was improved, and `final`,
which was not and gives the figures that count. One loader per JSON file, each with the name of the set's folder;
`all_prompts` with every text a user says in either set (so that a corpus can be checked for leaks), and `mentions`,
the one rule by which a reply is said to hold a key.
Nothing here may import the corpus or its generator: these questions stay independent of the training.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args

__all__ = [
    "SETS",
    "ConversationMessage",
    "GeneralQuestion",
    "Greeting",
    "Intent",
    "Language",
    "MemoryConversation",
    "ReadmeExample",
    "Topic",
    "UnknownQuestion",
    "Wording",
    "all_prompts",
    "load_general",
    "load_greetings",
    "load_memory",
    "load_readme",
    "load_unknown",
    "load_wordings",
    "mentions",
]

Language = Literal["zh", "en"]
Intent = Literal["greet", "identity", "abilities", "thanks", "bye", "human", "size", "maker", "feeling"]
Topic = Literal["name", "city", "hobby", "age"]

SETS = ("development", "final")

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Wording:
    """The ways of asking for one relation, and the column that answers them.

    Attributes:
        relation: Name of the relation, such as `capital_zh`; also its key in a table mapping.
        placeholder: The one column put into a question, such as `country`.
        expected_field: The column whose value a right reply mentions, such as `capital`.
        questions: 8 to 12 texts, each with `{placeholder}` in it exactly once.
    """

    relation: str
    placeholder: str
    expected_field: str
    questions: tuple[str, ...]

    def ask(self, row: Mapping[str, str]) -> tuple[str, ...]:
        """Every question of the relation about one row.

        Raises:
            ValueError: The row lacks the placeholder's column.
        """
        if self.placeholder not in row:
            raise ValueError(f"a row of {self.relation!r} needs the column {self.placeholder!r}; it has {sorted(row)}")
        # Not str.format: a sentence or poem in the table may itself hold braces.
        slot = "{" + self.placeholder + "}"
        return tuple(question.replace(slot, row[self.placeholder]) for question in self.questions)


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """One line of small talk; a right reply mentions any of the keys."""

    message: str
    intent: Intent
    must_contain_any: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnknownQuestion:
    """A question outside the domain; a right reply refuses, that is, mentions any of the keys."""

    message: str
    language: Language
    must_contain_any: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConversationMessage:
    """One turn of a conversation, as a chat template takes it."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class MemoryConversation:
    """A conversation that ends by asking for something said in its first turn.

    Attributes:
        topic: What was said: the user's name, or a city, hobby or age.
        language: Language of the user's turns.
        messages: User and assistant in turn; first and last are the user's. Three messages, or
            two more for each of up to three unrelated exchanges.
        expect: What a right reply mentions; in the first message, never in the last.
    """

    topic: Topic
    language: Language
    messages: tuple[ConversationMessage, ...]
    expect: str


@dataclass(frozen=True, kw_only=True)
class GeneralQuestion:
    """A question a primary-school pupil can answer; a right reply mentions any of the keys."""

    message: str
    language: Language
    must_contain_any: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ReadmeExample:
    """One example of the official README.

    Attributes:
        kind: `chat` is one user message for the Chat model, `completion` plain text for Base.
        prompt: The message or text.
        must_contain_any: A right reply mentions any of these; empty for `completion`.
        must_start_with: A right continuation starts with this; None for `chat`.
    """

    kind: Literal["chat", "completion"]
    prompt: str
    must_contain_any: tuple[str, ...]
    must_start_with: str | None


class _Expect(TypedDict):
    field: str


class _WordingRow(TypedDict):
    placeholder: str
    expect: _Expect
    questions: list[str]


class _GreetingRow(TypedDict):
    message: str
    intent: Intent
    must_contain_any: list[str]


class _QuestionRow(TypedDict):
    message: str
    language: Language
    must_contain_any: list[str]


class _MessageRow(TypedDict):
    role: Literal["user", "assistant"]
    content: str


class _MemoryRow(TypedDict):
    topic: Topic
    language: Language
    messages: list[_MessageRow]
    expect: str


class _ReadmeRow(TypedDict):
    kind: Literal["chat", "completion"]
    prompt: str
    must_contain_any: list[str]
    must_start_with: str | None


def load_wordings(folder: str = "final") -> dict[str, Wording]:
    """The wordings of every relation, by the relation's name.

    Raises:
        ValueError: No such set.
    """
    rows: dict[str, _WordingRow] = json.loads(_text_of(folder, "wordings.json"))
    return {
        relation: Wording(
            relation=relation,
            placeholder=row["placeholder"],
            expected_field=row["expect"]["field"],
            questions=tuple(row["questions"]),
        )
        for relation, row in rows.items()
    }


def load_greetings(folder: str = "final") -> tuple[Greeting, ...]:
    """The 60 lines of small talk.

    Raises:
        ValueError: No such set, or the file holds an intent that `Intent` does not name.
    """
    rows: list[_GreetingRow] = json.loads(_text_of(folder, "greetings.json"))
    for row in rows:
        _require_one_of(row["intent"], get_args(Intent), f"{folder}/greetings.json: intent")
    return tuple(
        Greeting(
            message=row["message"],
            intent=row["intent"],
            must_contain_any=tuple(row["must_contain_any"]),
        )
        for row in rows
    )


def load_unknown(folder: str = "final") -> tuple[UnknownQuestion, ...]:
    """The 60 Chinese and 25 English questions to refuse.

    Raises:
        ValueError: No such set.
    """
    rows: list[_QuestionRow] = json.loads(_text_of(folder, "unknown.json"))
    return tuple(
        UnknownQuestion(
            message=row["message"],
            language=row["language"],
            must_contain_any=tuple(row["must_contain_any"]),
        )
        for row in rows
    )


def load_memory(folder: str = "final") -> tuple[MemoryConversation, ...]:
    """The 120 conversations about a name, then the 20 about a city, hobby or age.

    Raises:
        ValueError: No such set, or the file holds a topic that `Topic` does not name.
    """
    rows: list[_MemoryRow] = json.loads(_text_of(folder, "memory.json"))
    for row in rows:
        _require_one_of(row["topic"], get_args(Topic), f"{folder}/memory.json: topic")
    return tuple(
        MemoryConversation(
            topic=row["topic"],
            language=row["language"],
            messages=tuple(ConversationMessage(role=turn["role"], content=turn["content"]) for turn in row["messages"]),
            expect=row["expect"],
        )
        for row in rows
    )


def load_general(folder: str = "final") -> tuple[GeneralQuestion, ...]:
    """The questions of general knowledge: 80 Chinese and 40 English for `development`, 60 and 30 for `final`.

    Raises:
        ValueError: No such set.
    """
    rows: list[_QuestionRow] = json.loads(_text_of(folder, "general.json"))
    return tuple(
        GeneralQuestion(
            message=row["message"],
            language=row["language"],
            must_contain_any=tuple(row["must_contain_any"]),
        )
        for row in rows
    )


def load_readme(folder: str = "final") -> tuple[ReadmeExample, ...]:
    """The three examples of the official README, the same in both sets: two chats and one completion.

    Raises:
        ValueError: No such set.
    """
    rows: list[_ReadmeRow] = json.loads(_text_of(folder, "readme.json"))
    return tuple(
        ReadmeExample(
            kind=row["kind"],
            prompt=row["prompt"],
            must_contain_any=tuple(row["must_contain_any"]),
            must_start_with=row["must_start_with"],
        )
        for row in rows
    )


def all_prompts(tables: Mapping[str, Sequence[Mapping[str, str]]], *, folders: Sequence[str] = SETS) -> Iterator[str]:
    """Every text a user says in any file of the sets `folders`, wordings filled from the tables; repeats possible.

    Args:
        tables: Rows by name of relation; each row has at least the relation's placeholder column.
            A relation without a table adds no prompt.
        folders: Names of sets; both unless given.

    Raises:
        ValueError: A table is for a relation that has no wordings, or a row lacks its placeholder.
    """
    for folder in folders:
        yield from _prompts_of(folder, tables)


def mentions(reply: str, key: str, *, exact_case: bool = False) -> bool:
    """Whether a reply holds a key, whatever its punctuation and line breaks.

    Latin letters and digits count as whole words only: "17" does not mention "7", nor "Helium" "He";
    a Chinese character beside them is no obstacle ("铁的符号是Fe。" mentions "Fe").

    Args:
        reply: What the model said.
        key: What to look for.
        exact_case: Whether upper and lower case differ; needed for symbols, as Co is not CO.

    Raises:
        ValueError: The key has no letter or digit, so that every reply would mention it.
    """
    wanted = _words_only(key, exact_case=exact_case)
    if not wanted:
        raise ValueError(f"a key needs a letter or digit; got {key!r}")
    # \b would not do: Python counts Chinese characters as part of a word.
    before = "(?<![A-Za-z0-9])" if wanted[0].isascii() else ""
    after = "(?![A-Za-z0-9])" if wanted[-1].isascii() else ""
    found = re.search(before + re.escape(wanted) + after, _words_only(reply, exact_case=exact_case))
    return found is not None


def _words_only(text: str, *, exact_case: bool) -> str:
    """The text with each run of spaces and punctuation made one space."""
    spaced = "".join(character if character.isalnum() else " " for character in text)
    joined = " ".join(spaced.split())
    return joined if exact_case else joined.casefold()


def _prompts_of(folder: str, tables: Mapping[str, Sequence[Mapping[str, str]]]) -> Iterator[str]:
    """The part of `all_prompts` that one set gives."""
    wordings = load_wordings(folder)
    unknown_relations = sorted(set(tables) - set(wordings))
    if unknown_relations:
        raise ValueError(f"no wordings for {unknown_relations}; the relations are {sorted(wordings)}")
    for relation, rows in tables.items():
        for row in rows:
            yield from wordings[relation].ask(row)
    yield from (greeting.message for greeting in load_greetings(folder))
    yield from (question.message for question in load_unknown(folder))
    yield from (question.message for question in load_general(folder))
    for conversation in load_memory(folder):
        yield from (turn.content for turn in conversation.messages if turn.role == "user")
    for example in load_readme(folder):
        yield example.prompt


def _require_one_of(value: str, allowed: Sequence[str], where: str) -> None:
    """Raise ValueError unless the value is allowed."""
    if value not in allowed:
        raise ValueError(f"{where} must be one of {', '.join(allowed)}; got {value!r}")


def _text_of(folder: str, file_name: str) -> str:
    """The content of one file of a set."""
    _require_one_of(folder, SETS, "the held-out set")
    return (_FOLDER / folder / file_name).read_text(encoding="utf-8")
