"""Sums and differences within 20 and the times table, all of them; sums within 100 lightly."""

from __future__ import annotations

from random import Random

from recipes.demo.corpus.conversation import Conversation, Document, document, single
from recipes.demo.corpus.wording import ask, expand

Sum = tuple[int, str, int, int]
WORDS_ZH = {"+": "[加/加/加上/和]", "-": "[减/减/减去]", "×": "[乘以/乘/乘/×]", "÷": "[除以/除以/÷]"}
WORDS_EN = {"+": "[plus/plus/added to/and]", "-": "minus", "×": "[times/times/multiplied by]", "÷": "divided by"}
SIGNS = {
    "+": ["+", "+", " + ", "＋"],
    "-": ["-", "-", " - "],
    "×": ["×", "×", "*", "x", " × "],
    "÷": ["÷", "÷", "/", " ÷ "],
}
DIGITS = "零一二三四五六七八九十"
QUESTIONS_ZH = [
    "{e}[等于多少/等于几/是多少/是几/得多少/得几/等于/=多少/=几/的结果是多少/的结果是什么/的答案是多少/结果是几/多少/怎么算/算出来是多少]",
    "{e}[=/=?/=？/等于？/等于?]",
    "[计算/算一下/算算/算/求/帮我算一下/请计算/口算/口算一下/帮我算/请算一下/你算算/心算/帮忙算算][：/]{e}!",
    "{e}",
    "[你知道/你会算]{e}[吗/等于多少吗/是多少吗]",
    "[求/问]{e}的[值/结果/得数]!",
    "[多少/几]是{e}的[结果/得数]",
]
QUESTIONS_EN = [
    "what is {e}",
    "what's {e}",
    "how much is {e}",
    "calculate {e}!",
    "compute {e}!",
    "{e} is what",
    "{e} equals",
    "{e}",
    "what does {e} equal",
    "what does {e} make",
    "work out {e}!",
    "[can you tell me/do you know] what {e} is",
    "solve {e}!",
    "{e} equals what",
    "tell me {e}!",
    "the result of {e}",
    "add up: {e}!",
]


def small_sums() -> list[Sum]:
    """Every sum and difference within 20."""
    sums = [(a, "+", b, a + b) for a in range(21) for b in range(21 - a)]
    return sums + [(a, "-", b, a - b) for a in range(21) for b in range(a + 1)]


def times_table() -> list[Sum]:
    """The times table up to 9 and its divisions, tens included."""
    factors = [(a, b) for a in range(1, 11) for b in range(1, 11)]
    return [(a, "×", b, a * b) for a, b in factors] + [(a * b, "÷", a, b) for a, b in factors]


def larger_sums() -> list[Sum]:
    """Sums and differences of numbers up to 100 that are not within 20."""
    sums = [(a, "+", b, a + b) for a in range(1, 100) for b in range(1, 101 - a) if a + b > 20]
    return sums + [(a, "-", b, a - b) for a in range(21, 101) for b in range(1, a)]


def _exercise(item: Sum, rng: Random) -> Conversation:
    a, sign, b, result = item
    task = "arithmetic_times" if sign in "×÷" else "arithmetic_20" if max(a, result) <= 20 else "arithmetic_100"
    draw = rng.random()
    if draw < 0.25:
        text = expand(rng.choice(QUESTIONS_EN), rng, {"e": f"{a} {expand(WORDS_EN[sign], rng)} {b}"}).replace(
            "add up: ", "" if sign != "+" else "add up: "
        )
        return single(task, ask(text, "en", rng), f"{a} {sign} {b} = {result}")
    if draw < 0.7:
        expression = f"{a}{rng.choice(SIGNS[sign])}{b}"
    elif draw < 0.8 and a <= 10 and b <= 10:
        expression = DIGITS[a] + expand(WORDS_ZH[sign], rng) + DIGITS[b]
    else:
        expression = f"{a}{expand(WORDS_ZH[sign], rng)}{b}"
    if rng.random() < 0.3:
        return single(
            task,
            expression
            + rng.choice(
                ["=", "=?", "=？", "等于几？", "等于多少？", "？", "等于几", "等于多少", "得几？", "是多少？"]
            ),
            f"{a}{sign}{b}={result}",
        )
    return single(
        task, ask(expand(rng.choice(QUESTIONS_ZH), rng, {"e": expression}), "zh", rng), f"{a}{sign}{b}={result}"
    )


def arithmetic_conversations(rng: Random) -> list[Conversation]:
    """Every small sum and every entry of the times table many times, larger sums once or not at all."""
    found = [_exercise(item, rng) for item in small_sums() for _ in range(26)]
    found += [_exercise(item, rng) for item in times_table() for _ in range(44)]
    return found + [_exercise(item, rng) for item in rng.sample(larger_sums(), 5000)]


def arithmetic_documents(rng: Random) -> list[Document]:
    """Lists of exercises; only the results count for the loss in most of them."""
    groups = [(small_sums(), 900), (times_table(), 900), (larger_sums(), 500)]
    found = []
    for sums, count in groups:
        for _ in range(count):
            parts: list[tuple[str, int]] = []
            for a, sign, b, result in rng.sample(sums, 8):
                parts += [(f"{a}{sign}{b}=", 0), (f"{result}\n", 1)]
            found.append(document(parts, rng, open_share=0.1))
    return found
