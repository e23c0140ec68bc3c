"""Documents that can only be predicted by looking back: copies, look-ups in random maps, random people.

Memorised facts do not teach a model to copy a new name; these do, and only when they are there from the first step.
The random first part never counts for the loss, the repeated part always does.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from recipes.demo.corpus.memory import CITIES, CITIES_EN, COLOURS, HOBBIES, HOBBIES_EN, JOBS
from recipes.demo.corpus.names import GIVEN, SURNAMES, chinese_name, english_name, invented_word
from recipes.demo.facts import poems, table

Parts = list[tuple[str, int]]

_CHARS = GIVEN + SURNAMES
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def _phrase(rng: Random) -> str:
    return "".join(rng.choices(_CHARS, k=rng.randint(2, 5)))


def _item(rng: Random) -> str:
    kinds: list[Callable[[], str]] = [
        lambda: chinese_name(rng),
        lambda: _phrase(rng),
        lambda: english_name(rng),
        lambda: invented_word(rng, (1, 3)).lower(),
        lambda: str(rng.randint(0, 9999)),
        lambda: rng.choice(table("words"))["zh"],
        lambda: rng.choice(table("words"))["en"],
        lambda: rng.choice(CITIES),
    ]
    return rng.choice(kinds)()


def _chinese_item(rng: Random) -> str:
    return rng.choice([chinese_name(rng), _phrase(rng), rng.choice(table("words"))["zh"], rng.choice(CITIES)])


def _number(rng: Random) -> str:
    return str(rng.randint(0, 999))


def _repeat(rng: Random) -> Parts:
    """A list, then the same list."""
    make = rng.choice([_item, _chinese_item, chinese_name, english_name])
    items = [make(rng) for _ in range(rng.randint(2, 8))]
    joint = rng.choice(["、", "，", " ", ", ", "\n"])
    opening, arrow = rng.choice(
        [
            ("重复：", "\n重复："),
            ("重复：", " -> "),
            ("原文：", "\n抄写："),
            ("Repeat: ", "\nRepeat: "),
            ("", " -> "),
            ("Copy: ", " = "),
            ("听写：", "\n答："),
        ]
    )
    text = joint.join(items)
    return [(opening + text + arrow, 0), (text, 1)]


def _string(rng: Random) -> Parts:
    """A random run of characters, then the same run."""
    alphabet = rng.choice([_CHARS, _CHARS, _LETTERS, "0123456789"])
    text = "".join(rng.choices(alphabet, k=rng.randint(3, 16)))
    opening, arrow = rng.choice(
        [
            ("“", "”重复一遍是“"),
            ("", "|"),
            ("", "\n"),
            ("抄写", "："),
            ("[", "] ["),
            ("密码是", "。请再说一遍密码："),
            ("The code is ", ". Again, the code is "),
        ]
    )
    return [(opening + text + arrow, 0), (text, 1)]


def _lookup(rng: Random) -> Parts:
    """A map of random names, then several of its keys asked again."""
    make = rng.choice([_item, _chinese_item, chinese_name, english_name])
    value = rng.choice([_item, _chinese_item, chinese_name, _number])
    pairs = list({make(rng): value(rng) for _ in range(rng.randint(2, 7))}.items())
    arrow = rng.choice(["->", "->", "：", "=", ": ", " -> "])
    parts: list[tuple[str, int]] = [
        ("\n".join(key + arrow + val for key, val in pairs) + rng.choice(["\n\n", "\n---\n", "\n问：\n"]), 0)
    ]
    for key, val in rng.sample(pairs, min(len(pairs), rng.randint(2, 4))):
        parts += [(key + arrow, 0), (val + "\n", 1)]
    return parts


def _person(rng: Random) -> Parts:
    """A form about somebody, then its fields asked again."""
    name = chinese_name(rng)
    fields = {
        "姓名": name,
        "城市": rng.choice([*CITIES, _phrase(rng)]),
        "年龄": str(rng.randint(5, 90)),
        "职业": rng.choice(JOBS),
        "爱好": rng.choice(HOBBIES),
        "颜色": rng.choice(COLOURS),
        "朋友": chinese_name(rng),
    }
    chosen = ["姓名", *rng.sample(list(fields)[1:], rng.randint(1, 4))]
    rng.shuffle(chosen)
    colon = rng.choice(["：", "是"])
    parts: list[tuple[str, int]] = [("；".join(key + colon + fields[key] for key in chosen) + "。\n", 0)]
    for key in rng.sample(chosen, rng.randint(1, len(chosen))):
        parts += [(key + colon, 0), (fields[key] + "\n", 1)]
    return parts


def _prose(rng: Random) -> Parts:
    """Somebody is introduced, other things are said, then the name comes again."""
    name, other, city, hobby = chinese_name(rng), chinese_name(rng), rng.choice(CITIES), rng.choice(HOBBIES)
    middle = rng.choice(
        [
            "今天天气很好。",
            f"这里有很多人喜欢{rng.choice(HOBBIES)}。",
            f"他的朋友叫{other}。",
            "",
            "他每天早起。",
            f"他去过{rng.choice(CITIES)}。",
        ]
    )
    frames = [
        ([f"我叫{name}，住在{city}。{middle}我的名字是", name, "。我住在", city, "。"]),
        ([f"有一个人叫{name}，喜欢{hobby}。{middle}这个人的名字是", name, "，他喜欢", hobby, "。"]),
        ([f"甲：我叫{name}。\n乙：你好，", name, f"！\n甲：{middle}我叫什么？\n乙：你叫", name, "。"]),
        ([f"甲：我是{name}，来自{city}。\n乙：你好，", name, "！\n甲：我来自哪里？\n乙：你在", city, "。"]),
        ([f"{name}说：“我是{other}的朋友。”{other}点点头。{name}的朋友是", other, "。"]),
        ([f"老师叫{name}，学生叫{other}。{middle}老师的名字是", name, "，学生的名字是", other, "。"]),
    ]
    frame = rng.choice(frames)
    return [(text, place % 2) for place, text in enumerate(frame)]


def _prose_english(rng: Random) -> Parts:
    name, other, city, hobby = english_name(rng), english_name(rng), rng.choice(CITIES_EN), rng.choice(HOBBIES_EN)
    frames = [
        ([f"My name is {name} and I live in {city}. My name is ", name, ". I live in ", city, "."]),
        (
            [
                f"A: Hello, I am {name}.\nB: Nice to meet you, ",
                name,
                "!\nA: What is my name?\nB: Your name is ",
                name,
                ".",
            ]
        ),
        (
            [
                f"{name} likes {hobby}. {other} lives in {city}. Who likes {hobby}? ",
                name,
                f". Who lives in {city}? ",
                other,
                ".",
            ]
        ),
        ([f"A: I'm {name}, my friend is {other}.\nB: Hi, ", name, "! How is ", other, "?"]),
        (
            [
                f"The teacher is called {name}; the student is called {other}. The student is ",
                other,
                " and the teacher is ",
                name,
                ".",
            ]
        ),
    ]
    return [(text, place % 2) for place, text in enumerate(rng.choice(frames))]


def _option(rng: Random) -> Parts:
    """Four lettered options, then the letter of one of them, as multiple choice needs it."""
    pools = [
        [row["capital_zh"] for row in table("countries")],
        [row["symbol"] for row in table("elements")],
        [row["zh"] for row in table("words")],
        [poem.author for poem in poems()],
    ]
    options = rng.sample(sorted(set(rng.choice(pools))), 4)
    text = "".join(f"{letter}. {option}\n" for letter, option in zip("ABCD", options, strict=True))
    parts: list[tuple[str, int]] = [(text, 0)]
    for at in rng.sample(range(4), rng.randint(1, 4)):
        if rng.random() < 0.6:
            parts += [(f"{options[at]}：", 0), ("ABCD"[at] + "\n", 1)]
        else:
            parts += [(f"选{'ABCD'[at]}就是", 0), (options[at] + "\n", 1)]
    return parts


def copying_documents(num_chars: int, rng: Random) -> list[Parts]:
    """Copy and look-up documents, about `num_chars` characters in all."""
    makers = [_repeat, _string, _lookup, _lookup, _person, _prose, _prose, _prose_english, _option]
    found: list[Parts] = []
    total = 0
    while total < num_chars:
        item = rng.choice(makers)(rng)
        total += sum(len(text) for text, _ in item)
        found.append(item)
    return found
