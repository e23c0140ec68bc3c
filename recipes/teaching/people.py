"""People who do not exist: those that the model is taught, and strangers that it must not know."""

from dataclasses import dataclass
from random import Random
from typing import Literal

Language = Literal["zh", "en"]

SURNAMES_ZH = (
    "林陈王李赵周吴郑孙马朱胡郭何高罗梁宋谢唐许韩冯邓曹彭曾萧田董袁潘于蒋蔡余杜叶程苏魏吕丁任"
    "沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严"
)
GIVEN_ZH = "知夏云舟星澜明远思源雨桐海宁子墨清和文轩晓月天佑若水安然可心一鸣书瑶景行长风梦溪青山"
FIRST_EN = (
    "Anna",
    "Tom",
    "Ben",
    "Mary",
    "John",
    "Lucy",
    "Peter",
    "Alice",
    "David",
    "Emma",
    "Jack",
    "Kate",
    "Paul",
    "Rose",
)
LAST_EN = (
    "Reed",
    "Bell",
    "Cole",
    "Hill",
    "Stone",
    "Wood",
    "Lake",
    "Field",
    "Snow",
    "Park",
    "King",
    "West",
    "Rivers",
    "Moon",
)
NUM_TAUGHT = {"zh": 24, "en": 16}


@dataclass(frozen=True)
class Person:
    """One invented person, and what is to be known of them: a birthday in Chinese, a room number in English."""

    name: str
    language: Language
    fact: str

    @property
    def answer(self) -> str:
        """The sentence that tells the fact."""
        return f"{self.name}的生日是{self.fact}。" if self.language == "zh" else f"{self.name} is in room {self.fact}."

    @property
    def refusal(self) -> str:
        """What to say about somebody who is unknown."""
        if self.language == "zh":
            return f"抱歉，我不知道{self.name}的生日。"
        return f"Sorry, I do not know the room of {self.name}."


def people(language: Language, count: int, *, seed: int) -> list[Person]:
    """`count` people with names of their own, the same for the same seed."""
    random = Random(f"{language} {seed}")
    names: dict[str, None] = {}
    while len(names) < count:
        if language == "zh":
            names[random.choice(SURNAMES_ZH) + "".join(random.sample(GIVEN_ZH, 2))] = None
        else:
            names[f"{random.choice(FIRST_EN)} {random.choice(LAST_EN)}"] = None
    return [Person(name, language, _fact(Random(name), language)) for name in names]


def taught(language: Language) -> list[Person]:
    """The people whom the model is taught."""
    return people(language, NUM_TAUGHT[language], seed=1)


def strangers(language: Language, count: int) -> list[Person]:
    """`count` others; the facts are only there to be preferred less than a refusal."""
    return people(language, NUM_TAUGHT[language] + count, seed=1)[NUM_TAUGHT[language] :]


def _fact(random: Random, language: Language) -> str:
    if language == "zh":
        return f"{random.randint(1, 12)}月{random.randint(1, 28)}日"
    return str(random.randint(101, 499))
