"""Very small stories: a little connected prose in both languages."""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

from random import Random

from recipes.demo.corpus.conversation import Conversation, single
from recipes.demo.corpus.wording import ask, expand

ANIMALS = (
    ("小猫", "cat"),
    ("小狗", "dog"),
    ("小兔", "rabbit"),
    ("小熊", "bear"),
    ("小鸟", "bird"),
    ("小猴", "monkey"),
    ("小马", "horse"),
    ("小羊", "sheep"),
)
PLACES = (
    ("森林里", "forest"),
    ("河边", "river"),
    ("山上", "mountain"),
    ("公园里", "park"),
    ("学校旁边", "school"),
    ("花园里", "garden"),
)
THINGS = (("苹果", "apple"), ("帽子", "hat"), ("书", "book"), ("钥匙", "key"), ("雨伞", "umbrella"), ("花", "flower"))
FEELINGS = (("很着急", "worried"), ("很难过", "sad"), ("很累", "tired"), ("很害怕", "scared"))
ASK_ZH = [
    "[给我/跟我/为我/请/请给我/][讲/说/写/来/编][个/一个/一个小/个小/一则]故事[吧/听听/]!",
    "[能/可以/会/能不能]讲[个/一个]故事吗",
    "[我想/我要/想]听故事!",
    "[睡前/来个/来一个]故事!",
    "故事[时间/来一个]!",
    "[编/写][一个/个][童话/小故事/小动物的故事]!",
]
ASK_EN = [
    "tell [me/us] a [story/short story/little story]!",
    "write [me /]a [short /]story!",
    "[can/could] you tell [me/us] a story",
    "I want [to hear /]a story!",
    "a story, please!",
    "[give me/let me hear] a [short /]story!",
]


def story_zh(rng: Random) -> str:
    """Two animals and a lost thing, in Chinese."""
    (one, _), (two, _) = rng.sample(ANIMALS, 2)
    place, thing, feeling = rng.choice(PLACES)[0], rng.choice(THINGS)[0], rng.choice(FEELINGS)[0]
    return "".join((
        f"从前，有一只{one}住在{place}。",
        rng.choice([f"一天，{one}出门找{thing}。", f"这天早上，{one}丢了{thing}。", f"有一天，{one}的{thing}不见了。"]),
        f"{rng.choice(['它', one])}{feeling}。路上，它遇见了{two}。",
        rng.choice([f"{two}说：“别担心，我来帮你。”", f"{two}问：“你怎么了？”", f"{two}说：“我们一起去找吧。”"]),
        rng.choice([f"于是它们一起找到了{thing}。", f"它们走了很久，终于看见了{thing}。", f"原来{thing}就在大树下面。"]),
        rng.choice([f"从此，{one}和{two}成了好朋友。", f"{one}和{two}高高兴兴地回家了。"]),
    ))  # fmt: skip


def story_en(rng: Random) -> str:
    """The same kind of story in English."""
    (_, one), (_, two) = rng.sample(ANIMALS, 2)
    place, thing, feeling = rng.choice(PLACES)[1], rng.choice(THINGS)[1], rng.choice(FEELINGS)[1]
    return " ".join((
        f"Once upon a time, a little {one} lived near the {place}.",
        rng.choice([f"One day, the {one} lost its {thing}.", f"One morning, the {one} could not find its {thing}."]),
        f"It felt very {feeling}. On the way it met a {two}.",
        rng.choice([f"\"Do not worry, I will help you,\" said the {two}.", f"\"What is wrong?\" asked the {two}."]),
        rng.choice([f"Together they found the {thing} under a tree.", f"They looked for a long time and found the {thing}."]),
        rng.choice([f"The {one} and the {two} became good friends.", f"The {one} and the {two} went home happily."]),
    ))  # fmt: skip


def story_conversations(count: int, rng: Random) -> list[Conversation]:
    """Requests for a story, each with a story of its own."""
    found = []
    for _ in range(count):
        chinese = rng.random() < 0.6
        question = ask(expand(rng.choice(ASK_ZH if chinese else ASK_EN), rng), "zh" if chinese else "en", rng)
        found.append(single("story", question, story_zh(rng) if chinese else story_en(rng)))
    return found
