"""Poems: who wrote them, their text, the line after a line, and the same as documents."""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

import re
from random import Random

from recipes.demo.corpus import shapes
from recipes.demo.corpus.conversation import Conversation, Document, document, single
from recipes.demo.corpus.relations import arrow_documents
from recipes.demo.corpus.wording import template_language
from recipes.demo.facts import Poem, poems

NUM_FAMOUS = 105  # the first rows of the table
LONGEST_RECITAL = 64

AUTHOR = """{t}[的作者是谁/的作者是哪位/的作者叫什么/是谁写的/是谁作的/是谁的诗/是谁的作品/是谁创作的/作者是谁/的作者/的作者是/谁写的/出自谁手/出自谁的笔下/出自哪位诗人之手/是出自谁之手]|谁[写了/写的/是/作了/创作了]{t}[的作者/]
[哪位/哪个/什么]诗人[写了/写的/写过/创作了]{t}|{t}[是/][哪位/哪个/哪一位]诗人[写/创作/所作/的作品]的|{t}[这首诗/这首古诗/这首/一诗/这篇][的作者是谁/是谁写的/的作者是哪位诗人/是谁的作品/谁写的/是哪位诗人写的]|[诗/古诗/诗歌/唐诗/名篇]{t}[的作者是谁/是谁写的/是哪位诗人写的/的作者]
{t}[是/][哪个朝代的/哪朝的/什么朝代的][诗/作品/诗人写的][，作者是谁/]|[告诉我/说说/说出/介绍一下/讲讲]{t}的[作者/诗人]!|{t}的诗人是[谁/哪位]|写{t}的[人/诗人][是谁/叫什么/是哪位]|{t}这首诗出自[谁/哪位诗人][之手/笔下/]|{t}[的作者/作者][是哪个朝代的/是哪朝人/叫什么名字/是什么人]
你知道{t}[的作者/是谁写的/是谁的诗][吗/]|who wrote {t}|who is the author of {t}|[which/what] poet wrote {t}|{t} was written by whom""".replace(
    "\n", "|"
).split("|")
RECITE = """[背诵/背诵一下/背/背一下/背一背/背一首/默写/默写一下/朗诵/吟诵/念/念一下/念一首/读一下/写出/写一下/背出/朗读][古诗/唐诗/]{t}!|[请/请你/麻烦你/帮我/给我/给我们/为我][背诵/背/背一下/默写/朗诵/念/念一下/读/写出/写一下][一遍/][诗/古诗/]{t}[这首诗/的全文/全诗/]!
[能/会/可以/能不能/能否/会不会/可不可以][背诵/背/背一下/默写/朗诵/念一下/给我背/写出]{t}[这首诗/]吗|你[会/能/可以][背/背诵/念/默写]{t}[这首诗/][吗/]|{t}[怎么背/全诗/全文/的全文/的全诗/全诗是什么/的内容是什么/的原文/原文是什么/的诗句是什么/的诗句/怎么写的/是怎么写的/整首诗是什么/写了什么诗句/的内容]
[把/将/请把]{t}[背出来/背一遍/写出来/默写出来/念一遍/背给我听/全文写出来/完整背出来]!|[我想/我要/想/我想要]听{t}[这首诗/]!|来一[首/遍]{t}!|{t}[这首诗/这首古诗]的[全文/内容/全诗/原文]是什么|[我想看/给我看/发一下/给出]{t}[的全文/的原文/这首诗]!|{t}|[复习/学习][一下/]{t}!|recite {t}!|please recite {t}!|can you recite {t}""".replace(
    "\n", "|"
).split("|")
NEXT = """{l}的[下一句/后一句/下句/后句/下一句诗/下半句]是[什么/啥/哪句/哪一句]|{l}[，/，]下一句[是什么/是/呢/是啥]|{l}[下一句/下句/后面/后一句/后面一句/接下来][是什么/是啥/怎么接/是哪句]|[请/][接下一句/接下句/对下句/接诗/往下接/说下一句/背下一句]：{l}!|[接/请接/续/对]：{l}!
{l}后面[一句/那句/那一句/的一句/接的][是什么/是哪句/是啥]|{l}之后的[一句/诗句/那句][是什么/是哪一句]|{l}接下来[是哪一句/是什么/怎么背/怎么说]|{l}[的/]下面[一句/那句][是什么/是啥]|[写出/说出/说说/背出/给出]{l}的[下一句/下句/后一句]!|[诗句/古诗/唐诗]{l}的[下一句/下句]是什么|{l}的下一句|{l}，[接/请接下句/后面呢/然后呢/下一句呢]
[知道/你知道]{l}的[下一句/下句][吗/是什么]|什么[诗句/句子]接在{l}后面|我背到{l}，[接下来/下一句/后面]是什么""".replace(
    "\n", "|"
).split("|")
BEFORE = """{l}的[上一句/前一句/上句/前句]是[什么/哪句/哪一句]|{l}[上一句/前面/前一句][是什么/是啥/是哪句]|{l}前面[一句/那句]是什么|[说出/写出]{l}的[上一句/上句]!|{l}的[上一句/上句]|[诗句/]{l}[之前/]的上一句是什么|{l}，[上一句是什么/上句呢/前一句呢]""".replace(
    "\n", "|"
).split("|")
SOURCE = """{l}[出自哪首诗/是哪首诗里的/是哪首诗的诗句/出自哪里/是谁的诗/是谁写的/出自谁的诗/是哪首诗/的出处是什么/的出处/是谁的诗句/来自哪首诗/的作者是谁]|[哪首诗/哪首古诗][里有/中有/写过/有一句]{l}|{l}[这句诗/这句/这一句]出自[哪首诗/哪里/谁的诗]|[诗句/名句]{l}[是谁写的/出自哪首诗]""".replace(
    "\n", "|"
).split("|")
POET = """{a}[写过/写了/有][哪些诗/什么诗/哪些作品/什么作品/哪些名作]|{a}的[诗有哪些/代表作是什么/代表作有哪些/作品有哪些/名作有哪些/诗/作品]|[说说/列举/列出/介绍/说几首]{a}的[诗/作品/代表作]!|[哪些诗/什么诗]是{a}写的|{a}[最/]有名的诗[是什么/有哪些]|{a}的代表作""".replace(
    "\n", "|"
).split("|")
POET_RECITE = """[背/背诵/来/念/说/写][一首/首/一首著名的]{a}的诗!|[请/给我/帮我][背/背诵/念/来][一首/首]{a}的[诗/古诗/作品]!|[能/会/可以]背[一首/首]{a}的诗吗|[我想/想]听[一首/首]{a}的诗!|随便背一首{a}的诗!""".replace(
    "\n", "|"
).split("|")


def _title(poem: Poem, rng: Random) -> str:
    return rng.choice(["《{}》", "《{}》", "《{}》", "{}", "{}", "“{}”", "「{}」", "<{}>"]).format(poem.title)


def _about(poem: Poem, task: str, templates: list[str], rng: Random) -> str:
    """A message that names the poem."""
    template = rng.choice(templates)
    return shapes.message(task, (template, template_language(template, "zh")), {"t": _title(poem, rng)}, rng)


def _line(text: str, rng: Random) -> str:
    return rng.choice(["“{}”", "“{}”", "{}", "{}", "「{}」", "“{}，”", '"{}"', "『{}』"]).format(text)


def half_lines(poem: Poem) -> list[str]:
    """The poem cut at its marks, without them."""
    return [piece for piece in re.split(r"[，。？！；、]", poem.text) if piece]


def transitions(poem: Poem) -> list[tuple[str, str]]:
    """Pairs of a half line and the one after it; in long poems only within one line.

    Half lines that occur twice in the poem (refrains) have no single successor and are left out.
    """
    pieces = half_lines(poem)
    step = 1 if len(pieces) <= 4 else 2
    pairs = [(pieces[at], pieces[at + 1]) for at in range(0, len(pieces) - 1, step)]
    return [(a, b) for a, b in pairs if pieces.count(a) == 1 and len(a) > 2 and len(b) > 2]


def poem_conversations(rng: Random) -> list[Conversation]:
    """Authors, recitals, next and previous lines, sources and poets' works."""
    found = []
    for place, poem in enumerate(poems()):
        famous = place < NUM_FAMOUS
        for _ in range(34 if famous else 26):
            found.append(single("poem_author", _about(poem, "poem_author", AUTHOR, rng), poem.author_sentence))
        if len(poem.text) <= LONGEST_RECITAL or famous:
            for _ in range(24 if famous else 11):
                found.append(single("poem_recital", _about(poem, "poem_recital", RECITE, rng), poem.recital))
        found += _line_conversations(poem, famous, rng)
    return found + _poet_conversations(rng)


def _line_conversations(poem: Poem, famous: bool, rng: Random) -> list[Conversation]:
    if len(poem.text) > LONGEST_RECITAL:
        return []
    found = []
    for before, after in transitions(poem):
        for _ in range(14 if famous else 7):
            found.append(
                single(
                    "poem_next",
                    shapes.message("poem_next", (rng.choice(NEXT), "zh"), {"l": _line(before, rng)}, rng),
                    after + "。",
                )
            )
        for _ in range(6 if famous else 0):
            found.append(
                single(
                    "poem_before",
                    shapes.message("poem_before", (rng.choice(BEFORE), "zh"), {"l": _line(after, rng)}, rng),
                    before + "。",
                )
            )
            line = rng.choice([before, after])
            reply = (
                f"“{line}”出自{poem.author}的《{poem.title}》。"
                if poem.author != "佚名"
                else f"“{line}”出自《{poem.title}》。"
            )
            found.append(
                single(
                    "poem_source",
                    shapes.message("poem_source", (rng.choice(SOURCE), "zh"), {"l": _line(line, rng)}, rng),
                    reply,
                )
            )
    return found


def _poet_conversations(rng: Random) -> list[Conversation]:
    works: dict[str, list[Poem]] = {}
    for poem in poems():
        if poem.author != "佚名":
            works.setdefault(poem.author, []).append(poem)
    found = []
    for author, own in works.items():
        short = [poem for poem in own if len(poem.text) <= LONGEST_RECITAL]
        if len(own) >= 3:
            listing = f"{author}的诗有" + "".join(f"《{poem.title}》" for poem in own[:3]) + "等。"
            found += [
                single(
                    "poet_works", shapes.message("poet_works", (rng.choice(POET), "zh"), {"a": author}, rng), listing
                )
                for _ in range(26)
            ]
        if short:
            found += [
                single(
                    "poet_recital",
                    shapes.message("poet_recital", (rng.choice(POET_RECITE), "zh"), {"a": author}, rng),
                    short[0].recital,
                )
                for _ in range(8)
            ]
    return found


def poem_documents(rng: Random) -> list[Document]:
    """Every poem in several layouts, sentences about authors, and many lists of titles and authors."""
    found: list[Document] = []
    for place, poem in enumerate(poems()):
        found += _layouts(poem, rng) + _layouts(poem, rng)[1:5]
        found += [poem.author_sentence] * 2
        if poem.author != "佚名":
            found.append(f"{poem.author}写了《{poem.title}》。")
        if place < NUM_FAMOUS:
            found += _layouts(poem, rng)[:4]
        for before, after in transitions(poem):
            found.append(document([(f"“{before}”的下一句是", 0), (f"“{after}”。", 1)], rng))
            found.append(document([(before + "，", 0), (after + "。", 1)], rng))
    pairs = [(poem.title, poem.author) for poem in poems()]
    found += arrow_documents(pairs, len(pairs) * 6, rng)
    found += arrow_documents([(f"《{title}》", author) for title, author in pairs], len(pairs), rng)
    found += arrow_documents(pairs[:NUM_FAMOUS], NUM_FAMOUS * 6, rng)
    return found + _demonstration_lists(pairs, rng)


def _demonstration_lists(pairs: list[tuple[str, str]], rng: Random) -> list[Document]:
    """Lists that open with the example of the official Base demonstration, 登鹳雀楼->王之涣."""
    found = []
    for title, author in [*pairs, *pairs[:NUM_FAMOUS] * 2, *[pair for pair in pairs if pair[0] == "夜雨寄北"] * 20]:
        found.append(document([("登鹳雀楼->王之涣\n", 0), (f"{title}->", 0), (author, 1)], rng))
    return found


def _layouts(poem: Poem, rng: Random) -> list[Document]:
    lines = "\n".join(poem.lines)
    return [
        poem.recital,
        f"《{poem.title}》\n{poem.dynasty}·{poem.author}\n{lines}",
        f"{poem.title}\n{poem.author}\n{poem.text}",
        document(
            [(f"《{poem.title}》\n{poem.dynasty}·{poem.author}\n{poem.lines[0]}\n", 0), ("\n".join(poem.lines[1:]), 1)],
            rng,
        )
        if len(poem.lines) > 1
        else poem.recital,
        f"{poem.dynasty}·{poem.author}《{poem.title}》：{poem.text}",
        document([(f"问：背诵《{poem.title}》。\n答：", 0), (poem.recital, 1)], rng),
    ]
