"""Translation of sentences by a small grammar, both ways."""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

import re
from random import Random

from recipes.demo.corpus import shapes
from recipes.demo.corpus.conversation import Conversation, Document, document, single
from recipes.demo.corpus.roughening import roughen
from recipes.demo.corpus.wording import ask, expand
from recipes.demo.facts import table

Pair = tuple[str, str]
SUBJECTS = (
    ("我", "I", 0),
    ("你", "You", 0),
    ("他", "He", 1),
    ("她", "She", 1),
    ("我们", "We", 0),
    ("他们", "They", 0),
    ("我的朋友", "My friend", 1),
    ("老师", "The teacher", 1),
    ("我的母亲", "My mother", 1),
    ("孩子们", "The children", 0),
)
VERBS = (
    ("喜欢", "like", "likes"),
    ("想要", "want", "wants"),
    ("看见", "see", "sees"),
    ("需要", "need", "needs"),
    ("有", "have", "has"),
)
ADJECTIVES = (
    ("很大", "big"),
    ("很小", "small"),
    ("很新", "new"),
    ("很旧", "old"),
    ("很漂亮", "beautiful"),
    ("很干净", "clean"),
    ("很贵", "expensive"),
    ("很好", "good"),
)
MEASURES = {
    "只": "猫 狗 鸟 羊 鸡 鸭子 兔子 老虎 狮子 猴子 熊 熊猫 狐狸 狼 老鼠 青蛙 蝴蝶 蜜蜂 蚂蚁 眼睛 耳朵 手 脚",
    "头": "牛 猪 大象", "匹": "马", "条": "蛇 鱼 裙子 河 街道", "本": "书", "支": "笔 铅笔", "张": "纸 桌子 床 照片 嘴", "把": "椅子 钥匙 雨伞", "扇": "门 窗户",
    "盏": "灯", "顶": "帽子", "件": "衬衫 外套", "座": "山 森林 房子 桥 城市 博物馆 图书馆", "棵": "树", "朵": "花 云", "片": "叶子 森林", "块": "石头",
    "家": "医院 银行 商店 餐厅 酒店", "所": "学校", "辆": "汽车 公共汽车 自行车", "列": "火车", "架": "飞机", "艘": "船", "台": "电脑 电视", "部": "电话", "位": "老师 医生 护士 司机 警察 歌手 作家 画家 厨师 朋友",
    "名": "学生 工人 农民 士兵", "颗": "星星 心",
}  # fmt: skip
UNCOUNTED = [
    "rice",
    "bread",
    "noodles",
    "milk",
    "tea",
    "coffee",
    "water",
    "juice",
    "sugar",
    "salt",
    "soup",
    "meat",
    "sky",
    "snow",
    "grass",
    "fire",
    "paper",
    "rain",
    "wind",
    "shoes",
    "trousers",
    "gloves",
    "sun",
    "moon",
    "sea",
    "fish",
    "world",
    "time",
    "money",
    "work",
    "music",
    "love",
    "peace",
    "freedom",
    "hair",
]
DRINKS = ["rice", "bread", "milk", "tea", "coffee", "water", "juice", "soup", "meat", "fish"]
PEOPLE = [
    "teacher",
    "student",
    "doctor",
    "nurse",
    "worker",
    "farmer",
    "driver",
    "police",
    "soldier",
    "singer",
    "writer",
    "painter",
    "cook",
    "father",
    "mother",
    "son",
    "daughter",
    "brother",
    "sister",
    "friend",
    "child",
    "man",
    "woman",
]
PLACES = ["学校", "医院", "银行", "商店", "图书馆", "公园", "车站", "机场", "餐厅", "酒店", "博物馆"]
STATES = (
    ("很高兴", "happy"),
    ("很累", "tired"),
    ("很饿", "hungry"),
    ("很生气", "angry"),
    ("很忙", "busy"),
    ("很忧伤", "sad"),
)
TO_ENGLISH = """[把/将/请把/请将/帮我把/麻烦把/能把/可以把]“{s}”[翻译成/译成/译为/翻成/翻译为/翻译到/变成][英文/英语]!|[翻译成/译成/译为]英[文/语]：{s}!|[请/帮我/][把/将][下面的句子/下面这句话/这句话/下列句子/以下句子]翻译成英[文/语]：{s}!|“{s}”[用英语怎么说/用英文怎么说/的英文是什么/的英语是什么/英语怎么说/英文怎么说/怎么翻译成英文/翻译成英文是什么/的英文翻译/怎么用英语表达]
translate [into/to] English: {s}!|translate “{s}” [into/to] English!|how do you say “{s}” in English|what is “{s}” in English|[请翻译/翻译一下/翻译/请翻译成英文]：{s}!|{s} [翻译成英文/用英语怎么说/译成英语]!|[中译英/汉译英/中翻英]：{s}!|[我想知道/请问]“{s}”的英[文/语][怎么说/说法是什么]|{s}这句话[用英语怎么说/翻译成英文是什么/怎么译成英文]|英文[怎么说/怎么表达]：{s}""".replace(
    "\n", "|"
).split("|")
TO_CHINESE = """[把/将/请把/请将/帮我把/麻烦把/能把/可以把]“{s}”[翻译成/译成/译为/翻成/翻译为/变成][中文/汉语]!|[翻译成/译成/译为]中文：{s}!|[请/帮我/][把/将][下面的句子/下面这句话/这句话/下列句子/以下句子]翻译成中文：{s}!|“{s}”[用中文怎么说/的中文是什么/中文怎么说/怎么翻译成中文/翻译成中文是什么/的中文翻译/是什么意思/中文意思是什么]
translate [into/to] Chinese: {s}!|translate “{s}” [into/to] Chinese!|how do you say “{s}” in Chinese|what is “{s}” in Chinese|what does “{s}” mean in Chinese|[请翻译/翻译一下/翻译/请翻译成中文]：{s}!|{s} [翻译成中文/是什么意思/译成中文]!|[英译中/英译汉/英翻中]：{s}!|[我想知道/请问]“{s}”的[中文/意思][是什么/]|{s}这句话[是什么意思/翻译成中文是什么/怎么译成中文]|中文[怎么说/怎么表达]：{s}""".replace(
    "\n", "|"
).split("|")


def _measure(noun: str) -> str:
    """The measure word of a noun."""
    return next((word for word, nouns in MEASURES.items() if noun in nouns.split()), "个")


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _is(person: int, english: str) -> str:
    return "am" if english == "I" else "is" if person else "are"


def sentence_pairs() -> list[Pair]:
    """Every sentence of the grammar with its translation."""
    nouns = [(row["zh"], row["en"]) for row in table("words")]
    things = [(zh, en) for zh, en in nouns[:136] if en not in UNCOUNTED]
    drinks = [(zh, en) for zh, en in nouns[:40] if en in DRINKS]
    places = [(zh, en) for zh, en in nouns if zh in PLACES]
    pairs: list[Pair] = []
    for subject_zh, subject, person in SUBJECTS:
        for verb_zh, plain, third in VERBS:
            verb = third if person else plain
            for zh, en in things:
                this = verb_zh == "喜欢"
                pairs.append(
                    (
                        f"{subject_zh}{verb_zh}{'这' if this else '一'}{_measure(zh)}{zh}。",
                        f"{subject} {verb} {'this ' + en if this else _article(en)}.",
                    )
                )
            pairs += [(f"{subject_zh}{verb_zh}{zh}。", f"{subject} {verb} {en}.") for zh, en in drinks]
        pairs += [(f"{subject_zh}在{zh}。", f"{subject} {_is(person, subject)} at the {en}.") for zh, en in places]
        pairs += [(f"{subject_zh}{zh}。", f"{subject} {_is(person, subject)} {en}.") for zh, en in STATES]
        pairs += [
            (f"{subject_zh}不喜欢{zh}。", f"{subject} {'does' if person else 'do'} not like {en}.") for zh, en in drinks
        ]
    for zh, en in things:
        for adjective_zh, adjective in ADJECTIVES:
            if en in PEOPLE and adjective not in ("big", "small", "beautiful", "good"):
                continue
            pairs += [
                (f"这{_measure(zh)}{zh}{adjective_zh}。", f"This {en} is {adjective}."),
                (f"那{_measure(zh)}{zh}{adjective_zh}。", f"That {en} is {adjective}."),
            ]
    return pairs


def held_out(pair: Pair) -> bool:
    """Whether the sentence stays out of all training data (about one in eight), for tests on unseen sentences."""
    return sum(ord(char) * (place + 1) for place, char in enumerate(pair[0])) % 8 == 3


def translation_conversations(count: int, rng: Random) -> list[Conversation]:
    """`count` sentences, half of them into each language."""
    pairs = [pair for pair in sentence_pairs() if not held_out(pair)]
    found = []
    for _ in range(count):
        zh, en = rng.choice(pairs)
        if rng.random() < 0.5:
            if rng.random() < 0.3:
                zh = zh.removesuffix("。")
            if rng.random() < 0.2:  # people also say 一个 where another measure word belongs
                zh = re.sub(f"([一这那])[{''.join(MEASURES)}]", r"\1个", zh)
            found.append(single("translate_zh_en", _request("translate_zh_en", TO_ENGLISH, zh, rng), en))
        else:
            source = en.removesuffix(".") if rng.random() < 0.3 else en
            found.append(single("translate_en_zh", _request("translate_en_zh", TO_CHINESE, source, rng), zh))
    return found


def _request(task: str, frames: list[str], sentence: str, rng: Random) -> str:
    """A request to translate; the sentence itself keeps its case and mark."""
    drawn = shapes.draw(task, rng)
    if drawn:
        return drawn[0].format_map({"s": sentence})
    frame = expand(rng.choice(frames), rng)
    language = "en" if frame[0].isascii() and frame[0].isalpha() else "zh"
    if frame.removesuffix("!").endswith("{s}"):
        text = frame.removesuffix("!").format_map({"s": sentence})
        return text[0].upper() + text[1:] if language == "en" and rng.random() < 0.6 else text
    text = ask(frame, language, rng)
    text = (roughen(text, language, rng) if shapes.is_widened() else text).format_map({"s": sentence})
    return text.replace("“", '"').replace("”", '"') if rng.random() < 0.2 else text


def translation_documents(count: int, rng: Random) -> list[Document]:
    """Lists of sentences with their translations."""
    pairs = [pair for pair in sentence_pairs() if not held_out(pair)]
    found = []
    for _ in range(count):
        parts: list[tuple[str, int]] = []
        for zh, en in rng.sample(pairs, 4):
            source, target = (zh, en) if rng.random() < 0.5 else (en, zh)
            parts += [(source + " ", 0), (target + "\n", 1)]
        found.append(document(parts, rng))
    return found
