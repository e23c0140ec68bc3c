"""Multiple choice in the layout of C-Eval, over the facts of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.demo.corpus.conversation import Conversation, Document, document, single
from recipes.demo.corpus.relations import all_relations
from recipes.demo.facts import poems

HEAD = "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n"
SUBJECTS = {
    "capital_zh": ("地理", "{zh}的首都是", "cap"),
    "currency_zh": ("地理", "{zh}使用的货币是", "cur"),
    "province_capital": ("地理", "{name}的省会是", "capital"),
    "symbol_zh": ("化学", "{zh}的元素符号是", "sym"),
    "number_zh": ("化学", "{zh}的原子序数是", "n"),
    "idiom": ("语文", "成语“{key}”的意思是", "mean"),
    "antonym": ("语文", "“{key}”的反义词是", "b"),
    "word_zh_en": ("英语", "“{key}”的英文是", "en"),
}


@dataclass(frozen=True)
class Item:
    """One question with its right answer and the values the wrong ones are drawn from."""

    subject: str
    stem: str
    answer: str
    values: tuple[str, ...]

    @property
    def kept_back(self) -> bool:
        """About a fifth of the items are never shown as multiple choice, so that a test can ask them."""
        return sum(map(ord, self.stem)) % 5 == 2


def choice_items() -> list[Item]:
    """All items, the kept-back ones included."""
    found = []
    for relation in all_relations():
        if relation.task not in SUBJECTS:
            continue
        subject, stem, field = SUBJECTS[relation.task]
        values = tuple(sorted({row[field] for row in relation.rows}))
        found += [Item(subject, stem.format_map(row) + "____。", row[field], values) for row in relation.rows]
    authors = tuple(sorted({poem.author for poem in poems()}))
    return found + [Item("语文", f"《{poem.title}》的作者是____。", poem.author, authors) for poem in poems()]


def layout(item: Item, rng: Random) -> tuple[str, str]:
    """The question with four options up to "答案：", and the right letter."""
    options = [*rng.sample([value for value in item.values if value != item.answer], 3), item.answer]
    rng.shuffle(options)
    lines = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCD", options, strict=True))
    return f"{item.stem}\n{lines}答案：", "ABCD"[options.index(item.answer)]


def choice_conversations(count: int, rng: Random) -> list[Conversation]:
    """Questions answered with the letter."""
    items = [item for item in choice_items() if not item.kept_back]
    found = []
    for _ in range(count):
        item = rng.choice(items)
        text, letter = layout(item, rng)
        found.append(single("choice", (HEAD.format(subject=item.subject) if rng.random() < 0.4 else "") + text, letter))
    return found


def choice_documents(count: int, rng: Random) -> list[Document]:
    """One to five questions with answers; half of them state which option was found before the letter."""
    items = [item for item in choice_items() if not item.kept_back]
    found = []
    for _ in range(count):
        first = rng.choice(items)
        same = [item for item in items if item.subject == first.subject]
        parts: list[tuple[str, int]] = [(HEAD.format(subject=first.subject) if rng.random() < 0.6 else "", 0)]
        for place, item in enumerate(rng.sample(same, rng.choice([1, 1, 1, 2, 3, 5]))):
            text, letter = layout(item, rng)
            parts += [("\n\n" if place else "", 0), (text, 0), (letter, 1)]
        parts = [(text, mark) for text, mark in parts if text]
        found.append(document(parts, rng, open_share=0.0))
    return found
