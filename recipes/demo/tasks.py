"""The questions of the score: held-out wordings filled with the facts that the model was taught.

A question is right when its reply mentions an accepted key and none of the rejected ones; the rules are those of
`heldout/README.md`. Everything is drawn from one seed, so two models are asked the same.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipes.demo.corpus.translation import held_out, sentence_pairs
from recipes.demo.facts import Poem, poems, table
from recipes.demo.heldout import (
    SETS,
    Wording,
    all_prompts,
    load_general,
    load_greetings,
    load_memory,
    load_readme,
    load_unknown,
    load_wordings,
    mentions,
)

Row = Mapping[str, str]
Messages = tuple[tuple[str, str], ...]

LONGEST_RECITAL = 64  # characters; longer poems were not taught as recitals
NUM_WRONG_VALUES = 3
NUM_SENTENCES = 300
ARROW_EXAMPLE = ("登鹳雀楼", "王之涣")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question and what a right reply mentions.

    Attributes:
        messages: (role, text) pairs for Chat, the last from the user; one pair with role "text" is a text that Base
            continues.
        accepted: Any of these makes the reply right.
        rejected: Any of these makes it wrong.
        is_start: The reply must start with an accepted key, not just mention it.
    """

    messages: Messages
    accepted: tuple[str, ...]
    rejected: tuple[str, ...] = ()
    exact_case: bool = False
    is_start: bool = False

    def is_right(self, reply: str) -> bool:
        """Whether `reply` counts as right."""
        if self.is_start:
            return reply.lstrip().startswith(self.accepted)
        if any(mentions(reply, key, exact_case=self.exact_case) for key in self.rejected):
            return False
        return any(mentions(reply, key, exact_case=self.exact_case) for key in self.accepted)


def relation_tables() -> dict[str, list[dict[str, str]]]:
    """Rows for each relation of the held-out wordings that the fact tables can fill."""
    countries, elements, idioms, words = table("countries"), table("elements"), table("idioms"), table("words")
    provinces = table("provinces")

    def rows(source: Sequence[Row], **columns: str) -> list[dict[str, str]]:
        return [{new: row[old] for new, old in columns.items()} for row in source]

    tables = {
        "province_capital_zh": rows(provinces, province="name", capital="capital"),
        "province_short_name_zh": rows([*provinces, *table("short_names")], province="name", short_name="short_name"),
        "element_symbol_zh": rows(elements, element="name_zh", symbol="symbol"),
        "element_symbol_en": rows(elements, element="name_en", symbol="symbol"),
        "element_number_zh": rows(elements, element="name_zh", number="number"),
        "symbol_to_element_zh": rows(elements, symbol="symbol", element="name_zh"),
        "idiom_meaning_zh": rows(idioms, idiom="idiom", meaning="meaning_zh"),
        "idiom_meaning_en": rows(idioms, idiom="idiom", meaning="meaning_en"),
        "word_zh_to_en": rows(words, word="zh", translation="en"),
        "word_en_to_zh": rows(words, word="en", translation="zh"),
        "antonym_zh": rows(table("antonyms"), word="word", antonym="opposite"),
        "currency_zh": rows(countries, country="name_zh", currency="currency_zh"),
        **poem_tables(poems()),
        **sentence_tables(),
    }
    for language in ("zh", "en"):
        name, capital = f"name_{language}", f"capital_{language}"
        tables[f"capital_{language}"] = rows(countries, country=name, capital=capital)
        tables[f"country_of_capital_{language}"] = rows(countries, capital=capital, country=name)
        tables[f"continent_{language}"] = rows(countries, country=name, continent=f"continent_{language}")
    return tables


def sentence_tables() -> dict[str, list[dict[str, str]]]:
    """Sentences of the translation grammar that no training text holds, so that sentence and wording are both new."""
    pairs = sorted({(pair[0], pair[1]) for pair in sentence_pairs() if held_out(pair)})
    chosen = random.Random(0).sample(pairs, min(NUM_SENTENCES, len(pairs)))
    return {
        "sentence_translation_zh_to_en": [{"sentence": chinese, "translation": english} for chinese, english in chosen],
        "sentence_translation_en_to_zh": [{"sentence": english, "translation": chinese} for chinese, english in chosen],
    }


def poem_tables(all_poems: Sequence[Poem]) -> dict[str, list[dict[str, str]]]:
    """Authors of titles that only one poem has, lines with the line after, and short poems in full."""
    titles = [poem.title for poem in all_poems]
    unique = [poem for poem in all_poems if titles.count(poem.title) == 1 and poem.author != "佚名"]
    short = [poem for poem in all_poems if len(poem.text) <= LONGEST_RECITAL]
    next_lines = [pair for poem in short for pair in line_pairs(poem)]
    lines = [line for line, _ in next_lines]
    return {
        "poem_author_zh": [{"title": poem.title, "author": poem.author} for poem in unique],
        "poem_next_line_zh": [
            {"line": line, "next_line": following} for line, following in next_lines if lines.count(line) == 1
        ],
        "poem_recite_zh": [{"title": poem.title, "text": poem.text} for poem in unique if poem in short],
    }


def line_pairs(poem: Poem) -> list[tuple[str, str]]:
    """(first half, second half) of each line that has exactly two halves of three characters or more."""
    halves = [[half for half in re.split(r"[，。？！；、]", line) if half] for line in poem.lines]
    return [(pair[0], pair[1]) for pair in halves if len(pair) == 2 and min(map(len, pair)) > 2]


def relation_questions(wording: Wording, rows: Sequence[Row], *, limit: int, seed: int) -> list[Question]:
    """At most `limit` questions of one relation, over rows and wordings drawn at random.

    Rows that share the question's key with another answer have no single right reply and are left out, as are filled
    questions that give the answer away.
    """
    draw = random.Random(f"{seed}/{wording.relation}")
    values = sorted({row[wording.expected_field] for row in rows})
    keys = Counter(row[wording.placeholder] for row in rows)
    candidates = []
    for row in rows:
        if keys[row[wording.placeholder]] > 1:
            continue
        candidates += [(text, row[wording.expected_field]) for text in wording.ask(row)]
    draw.shuffle(candidates)
    exact_case = wording.expected_field == "symbol"
    questions: list[Question] = []
    for text, expected in candidates:
        if len(questions) == limit:
            break
        if mentions(text, expected, exact_case=exact_case):
            continue
        wrong = [value for value in values if is_really_wrong(value, expected, text)]
        questions.append(
            Question(
                messages=(("user", text),),
                accepted=(expected,),
                rejected=tuple(draw.sample(wrong, min(NUM_WRONG_VALUES, len(wrong)))),
                exact_case=exact_case,
            )
        )
    return questions


def is_really_wrong(value: str, expected: str, question: str) -> bool:
    """Whether a reply that holds `value` must be wrong, as it is in neither answer nor question."""
    value, expected, question = value.casefold(), expected.casefold(), question.casefold()
    return value not in expected and expected not in value and value not in question


def paraphrase_tasks(*, limit: int, seed: int, folder: str = "final") -> dict[str, list[Question]]:
    """Relation -> questions of one held-out set, for every relation that the tables can fill."""
    tables = relation_tables()
    return {
        name: relation_questions(wording, tables[name], limit=limit, seed=seed)
        for name, wording in load_wordings(folder).items()
        if name in tables
    }


def conversation_tasks(folder: str = "final") -> dict[str, list[Question]]:
    """Small talk, refusals, memory and general knowledge of one held-out set, all of them."""
    memory: dict[str, list[Question]] = {"memory_name": [], "memory_other": []}
    for item in load_memory(folder):
        messages = tuple((message.role, message.content) for message in item.messages)
        task = "memory_name" if item.topic == "name" else "memory_other"
        memory[task].append(Question(messages=messages, accepted=(item.expect,)))
    general = load_general(folder)
    single = {
        "greetings": [(item.message, item.must_contain_any) for item in load_greetings(folder)],
        "refusals": [(item.message, item.must_contain_any) for item in load_unknown(folder)],
        "general_zh": [(item.message, item.must_contain_any) for item in general if item.language == "zh"],
        "general_en": [(item.message, item.must_contain_any) for item in general if item.language == "en"],
        "readme_chat": [(item.prompt, item.must_contain_any) for item in load_readme(folder) if item.kind == "chat"],
    }
    asked = {
        name: [Question(messages=(("user", text),), accepted=tuple(keys)) for text, keys in items]
        for name, items in single.items()
    }
    return {**asked, **memory}


def follow_up_questions(*, limit: int, seed: int) -> list[Question]:
    """ "And that other country?" after a capital was asked for: topics must carry over, names must not."""
    draw = random.Random(f"{seed}/follow_up")
    rows = table("countries")
    questions = []
    for number in range(limit):
        first, second = draw.sample(rows, 2)
        if number % 2:
            opening, reply, final = (
                f"What is the capital of {first['name_en']}?",
                f"The capital of {first['name_en']} is {first['capital_en']}.",
                f"And how about {second['name_en']}?",
            )
            right, wrong = second["capital_en"], first["capital_en"]
        else:
            opening, reply, final = (
                f"{first['name_zh']}的首都是哪里？",
                f"{first['name_zh']}的首都是{first['capital_zh']}。",
                f"换成{second['name_zh']}呢？",
            )
            right, wrong = second["capital_zh"], first["capital_zh"]
        messages = (("user", opening), ("assistant", reply), ("user", final))
        questions.append(Question(messages=messages, accepted=(right,), rejected=(wrong,)))
    return questions


def arithmetic_questions(*, limit: int, seed: int) -> list[Question]:
    """Sums and differences within 20 and the times table, in wordings of our own."""
    draw = random.Random(f"{seed}/arithmetic")
    questions = []
    for number in range(limit):
        if number % 3 == 0:
            left, right = draw.randint(2, 9), draw.randint(2, 9)
            text, result = f"帮我算算{left}乘{right}得多少", left * right
        elif number % 3 == 1:
            left = draw.randint(1, 19)
            right = draw.randint(1, 20 - left)
            text, result = f"{left}和{right}加起来等于几？", left + right
        else:
            left = draw.randint(2, 20)
            right = draw.randint(1, left - 1)
            text, result = f"{left}-{right}得几", left - right
        questions.append(Question(messages=(("user", text),), accepted=(str(result),)))
    return questions


def base_tasks(*, limit: int, seed: int) -> dict[str, list[Question]]:
    """What Base continues: title -> author lists after one example, and the example of the official README."""
    draw = random.Random(f"{seed}/arrow")
    title, author = ARROW_EXAMPLE
    rows = [row for row in poem_tables(poems())["poem_author_zh"] if row["title"] != title]
    draw.shuffle(rows)
    arrows = [
        Question(messages=(("text", f"{title}->{author}\n{row['title']}->"),), accepted=(row["author"],), is_start=True)
        for row in rows[:limit]
    ]
    readme = [
        Question(messages=(("text", item.prompt),), accepted=(item.must_start_with or "",), is_start=True)
        for item in load_readme()
        if item.kind == "completion"
    ]
    return {"base_arrow": arrows, "readme_base": readme}


def heldout_prompts(folders: Sequence[str] = SETS) -> frozenset[str]:
    """Every text of a user in the held-out sets (both unless named), with the wordings filled from the tables."""
    return frozenset(all_prompts(relation_tables(), folders=folders))
