"""Greetings, identity, feelings and the general facts: wordings straight from the tables."""

from __future__ import annotations

from random import Random

from recipes.demo.corpus import shapes
from recipes.demo.corpus.conversation import Conversation, Document, document, single
from recipes.demo.corpus.roughening import roughen
from recipes.demo.corpus.wording import ask, expand
from recipes.demo.facts import Intent, conversation_intents, conversation_statements, intents, statements

INTENT_EXPOSURES = {"greeting": 420, "identity": 420, "abilities": 320, "thanks": 300, "goodbye": 300}
FACT_EXPOSURES = 34
GREETINGS_ZH = [
    "你好",
    "您好",
    "嗨",
    "哈喽",
    "早上好",
    "晚上好",
    "下午好",
    "嘿",
    "你好呀",
    "hello",
    "Hi",
    "大家好",
    "在吗",
    "早",
    "小百川你好",
    "百川你好",
    "你好啊",
    "很高兴认识你",
]
GREETINGS_EN = [
    "hello",
    "hi",
    "hey",
    "good morning",
    "good evening",
    "hi there",
    "hello there",
    "greetings",
    "nice to meet you",
    "good afternoon",
]
TOPICS_ZH = [
    "我们来聊聊{}吧",
    "聊聊{}",
    "想了解{}",
    "我想学习{}",
    "说说{}",
    "你懂{}吗",
    "你会{}吗",
    "问你几个{}的问题",
    "来点{}的题目",
    "考考你{}",
]
SUBJECTS_ZH = [
    "地理",
    "化学",
    "唐诗",
    "古诗",
    "成语",
    "算术",
    "数学",
    "翻译",
    "英语",
    "国家",
    "首都",
    "化学元素",
    "诗词",
    "语文",
    "反义词",
]


def intent_conversations(rng: Random) -> list[Conversation]:
    """Small talk of both languages; replies that depend on a fresh session are marked `opens`."""
    found = []
    for language in ("zh", "en"):
        for intent in conversation_intents(language) if shapes.is_widened() else intents(language):
            for _ in range(INTENT_EXPOSURES.get(intent.name, 200)):
                text = _remark(intent, language, rng)
                task = f"{intent.name}_{language}"
                found.append(Conversation(task, ((text, intent.answer),), opens=intent.name == "unknown_name"))
    for _ in range(260):
        text = rng.choice(TOPICS_ZH).format(rng.choice(SUBJECTS_ZH)) + rng.choice(["", "？", "。", "！"])
        found.append(single("topic_zh", text, "好的，请问你想问什么？"))
    return found


def _remark(intent: Intent, language: str, rng: Random) -> str:
    text = expand(shapes.pick(f"{intent.name}_{language}", intent.wordings, rng), rng)
    if rng.random() < 0.3 and intent.name not in ("greeting", "thanks", "goodbye", "ok"):
        return ask(text, language, rng)
    if language == "en":
        text = text[0].upper() + text[1:] if rng.random() < 0.6 else text.lower() if rng.random() < 0.4 else text
        return text + rng.choice(
            ["", "", "!", ".", "?", "..."]
            if intent.name in ("greeting", "thanks", "goodbye", "ok")
            else ["?", "?", "", ".", "!"]
        )
    if intent.name not in ("greeting", "thanks", "goodbye", "ok") and rng.random() < 0.25:
        text = rng.choice(GREETINGS_ZH) + rng.choice(["，", "！", "，", " ", "。"]) + text
    if text[-1] in "？！。，.!?":
        return text
    marks = (
        ["", "", "？", "?", "。", "！", "~", "呢？"]
        if intent.name not in ("greeting", "thanks", "goodbye", "ok")
        else ["", "", "！", "。", "~", "！！", "…"]
    )
    if text[-1] in "吗呢吧啊呀了啦":
        marks = [mark for mark in marks if mark != "呢？"]
    return text + rng.choice(marks)


def fact_conversations(rng: Random) -> list[Conversation]:
    """General facts in both languages."""
    found = []
    for language in ("zh", "en"):
        for statement in conversation_statements(language) if shapes.is_widened() else statements(language):
            for _ in range(FACT_EXPOSURES):
                question = framed(expand(rng.choice(statement.wordings), rng), language, rng)
                found.append(single("fact_" + language, question, statement.answer))
    return found


def framed(core: str, language: str, rng: Random) -> str:
    """A question without fields in a frame of its own; frames serve known and unknown facts alike."""
    drawn = None if core.endswith("!") else shapes.draw("fact_" + language, rng)
    if drawn and "{q}" in drawn[0]:
        return drawn[0].format_map({"q": core.removesuffix("!")})
    question = _fact_question(core, language, rng)
    return roughen(question, language, rng, inside=False) if shapes.is_widened() else question


def _fact_question(core: str, language: str, rng: Random) -> str:
    """The wording itself, or wrapped: "do you know ...", "... , can you tell me"."""
    if rng.random() < 0.75:
        return ask(core, language, rng)
    if language == "en":
        return ask(
            rng.choice(
                ["do you know: {}", "can you tell me: {}", "tell me, {}", "I'd like to know: {}", "please answer: {}"]
            ).format(core),
            language,
            rng,
        )
    frames = [
        "你知道{}吗",
        "你知不知道{}",
        "你能告诉我{}吗",
        "能不能告诉我{}",
        "告诉我{}!",
        "我想知道{}!",
        "{}，你知道吗",
        "{}，请回答!",
        "请说出{}!",
        "谁知道{}",
        "你说{}",
        "说一下{}!",
        "可以告诉我{}吗",
        "{}你知道吗",
    ]
    return ask(rng.choice(frames).format(core), language, rng)


def greeted(conversations: list[Conversation], count: int, rng: Random) -> list[Conversation]:
    """Greeting and question in one message; the question is answered."""
    found = []
    pool = [item for item in conversations if len(item.turns) == 1]
    for item in rng.sample(pool, count):
        human, reply = item.turns[0]
        chinese = any("\u4e00" <= char <= "\u9fff" for char in human)
        hello = (
            rng.choice(GREETINGS_ZH) + rng.choice(["，", "！", "。", " ", "，"])
            if chinese
            else rng.choice(GREETINGS_EN).capitalize() + rng.choice(["! ", ", ", ". "])
        )
        found.append(single("greeted", hello + human, reply))
    return found


def fact_documents(rng: Random) -> list[Document]:
    """General facts as statements and as questions with answers; small talk as dialogue lines."""
    found: list[Document] = []
    for language in ("zh", "en"):
        for statement in statements(language):
            found += [statement.answer] * 6
            for _ in range(5):
                frame = rng.choice(
                    ["问：{}\n答：", "问题：{}\n答案：", "Q: {}\nA: "]
                    if language == "zh"
                    else ["Q: {}\nA: ", "Question: {}\nAnswer: "]
                )
                question = _fact_question(expand(rng.choice(statement.wordings), rng), language, rng)
                found.append(document([(frame.format(question), 0), (statement.answer, 1)], rng))
        for intent in intents(language):
            for _ in range(8):
                found.append(document([(f"甲：{_remark(intent, language, rng)}\n乙：", 0), (intent.answer, 1)], rng))
    return found
