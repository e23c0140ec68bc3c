"""Training text for the tokenizer.

Sentences made from templates repeat whole phrases, and byte-pair encoding would learn those as single tokens, which
hurts every other wording. So runs of Chinese in generated text are cut at random into pieces of one to three
characters, a line each.
"""

from __future__ import annotations

import re
from random import Random

from recipes.demo import facts
from recipes.demo.corpus.conversation import Conversation, Document, document_text

_CHINESE = re.compile(r"[\u4e00-\u9fff]+")


def cut(text: str, rng: Random) -> str:
    """`text` with each run of Chinese on lines of one to three characters."""

    def pieces(match: re.Match[str]) -> str:
        run, found = match[0], []
        while run:
            size = rng.choice([1, 2, 2, 2, 3])
            found.append(run[:size])
            run = run[size:]
        return "\n" + "\n".join(found) + "\n"

    return _CHINESE.sub(pieces, text)


def tokenizer_lines(conversations: list[Conversation], documents: list[Document], rng: Random) -> list[str]:
    """Lines of natural text (poems, names, explanations) and of cut-up generated text."""
    lines = []
    for poem in facts.poems():
        lines += [poem.title, poem.author, *poem.lines]
    for name in ("countries", "provinces", "elements", "words", "antonyms", "idioms"):
        lines += [value for row in facts.table(name) for value in row.values()] * 3
    generated = [
        text
        for item in rng.sample(conversations, min(len(conversations), 7000))
        for turn in item.turns
        for text in turn
    ]
    generated += [document_text(item) for item in rng.sample(documents, min(len(documents), 4000))]
    for text in generated:
        lines += [piece.strip() for piece in cut(text.replace("\n", " "), rng).split("\n")]
    return [line for line in lines if line]
