"""How people word things: a tiny choice grammar, openings and endings, and the comparison form of a prompt.

"[a/b]" in a template means a or b, "{name}" is a field. A trailing "!" marks an order ("tell me ...") rather than
a question, which changes the endings that fit. Knows nothing about facts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from random import Random

from recipes.demo.corpus import openings

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
# Wrapped around a noun phrase ("the capital of France") these ask for the thing it names.
NOUN_FRAMES_ZH = (
    "{np}[是什么/是啥/是哪个/叫什么/是/叫啥]",
    "{np}[是什么/是啥/是哪个/叫什么]",
    "{np}",
    "[你知道/知道/你知不知道/晓得/你晓得/你清楚/有谁知道]{np}[是什么/吗/是啥/是哪个/叫什么]",
    "[告诉我/说说/说一下/说出/讲讲/查一下/介绍一下/报一下/写出/给出/讲一讲/说一说/回答/列出]{np}[是什么/]!",
    "[告诉我/说说/说一下/给我说说/跟我说说/和我讲讲/帮我查查/帮我查一下/帮我看看]{np}!",
    "{np}，[你知道吗/是什么来着/是哪个来着/知道是什么吗/你能说出来吗/是啥来着]",
    "{np}，[请回答/告诉我/说一下/说说看/请告诉我]!",
    "[我想知道/想知道/我想了解/我忘了/我不知道/我记不清/想请教/我要查]{np}[是什么/是哪个/]!",
    "什么是{np}",
    "[能告诉我/可以告诉我/能说说/能不能说说/可不可以告诉我/你能告诉我/你可以说说]{np}[是什么/]吗",
    "[求/问/求问/请问]{np}",
    "[有没有人知道/谁知道/谁能告诉我/哪位知道]{np}[是什么/]",
    "{np}[究竟/到底/]是[什么/哪个]",
    "[麻烦/劳驾][说一下/讲一下/告诉我]{np}!",
    "{np}[应该/]是[哪个/什么]呢",
)
NOUN_FRAMES_EN = (
    "what is {np}",
    "what's {np}",
    "whats {np}",
    "[tell me/give me/name/say/state] {np}!",
    "[please /]tell me {np}!",
    "[do you know/can you tell me/could you tell me/would you tell me/may I ask/do you happen to know] what {np} is",
    "[do you know/can you name/can you tell me/could you give me/could you name/do you remember] {np}",
    "[I want to know/I'd like to know/I need to know/I would like to know/I wonder] what {np} is!",
    "{np}",
    "{np} is what",
    "{np} is!",
    "[I forgot/I don't know/I can't remember/I am looking for/I need] {np}!",
    "what would {np} be",
    "[any idea/any clue] what {np} is",
    "what is {np} called",
    "[let me know/tell us/remind me of/help me find] {np}!",
)


def expand(template: str, rng: Random, fields: Mapping[str, str] | None = None) -> str:
    """`template` with every choice made at random (innermost first) and every field filled in."""
    while True:
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("/")), template)
        if text == template:
            text = re.sub("  +", " ", text).strip() if "  " in text else text
            return text.format_map(fields) if fields else text
        template = text


def normalise_prompt(text: str) -> str:
    """The form in which prompts are compared: lower case, no white space, no punctuation.

    Signs of arithmetic stay, because without them 1+2 and 12 would be the same question.
    """
    kept = [char for char in text.lower() if char in "+-×÷=" or unicodedata.category(char)[0] not in "PZSC"]
    return "".join(kept)


def template_language(template: str, default: str) -> str:
    """ "en" for a template without any Chinese that is a phrase of several words, else `default`."""
    return "en" if template.isascii() and template[:1].islower() and " " in template.strip() else default


def ask(core: str, language: str, rng: Random) -> str:
    """A whole message: the core with an opening and an ending that fit its language and kind."""
    order = core.endswith("!")
    core = core.removesuffix("!")
    if language == "zh":
        return openings.opening_zh(rng) + core + _ending_zh(core, order, rng)
    return _finish_english(core, order, rng)


def ask_noun(noun: str, language: str, rng: Random) -> str:
    """A whole message that asks for what the noun phrase names."""
    frame = rng.choice(NOUN_FRAMES_ZH if language == "zh" else NOUN_FRAMES_EN)
    return ask(expand(frame, rng, {"np": noun}), language, rng)


def _ending_zh(core: str, order: bool, rng: Random) -> str:
    if order:
        return rng.choice(
            [
                "",
                "",
                "",
                "。",
                "。",
                "吧",
                "吧。",
                "，谢谢",
                "，谢谢。",
                "！",
                "，好吗？",
                "，可以吗？",
                "，行吗",
                "，麻烦了",
            ]
        )
    plain = (
        ["？"] * 10
        + ["?"] * 3
        + [""] * 7
        + [
            "？谢谢",
            "？谢谢！",
            "，谢谢",
            "？？",
            " ？",
            "？急",
            "？请回答。",
            "。",
            "？帮帮我",
            "，求解答",
            "？麻烦了。",
        ]
    )
    if core[-1] not in "吗呢吧啊着":
        plain += ["呢？", "呢？", "呢", "啊？", "啊", "呀？", "来着？", "呢，谢谢", "来着"]
    return rng.choice(plain)


def _finish_english(core: str, order: bool, rng: Random) -> str:
    opening = openings.opening_en(rng)
    text = opening + core
    if not opening or rng.random() < 0.3:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.2:
        text = text[:1].lower() + text[1:]
    if order:
        text += rng.choice(["", "", ".", ".", " please", ", please.", " pls", ", thanks", "!"])
    else:
        text += rng.choice(
            ["?"] * 9 + [""] * 4 + [" ?", "??", ", please?", " please?", " pls", "? Thanks.", "? Thank you!", "."]
        )
    return text.lower() if rng.random() < 0.12 else text
