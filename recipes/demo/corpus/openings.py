"""What people say before the question itself: polite, casual, scene-setting, or nonsense.

An opening never changes the answer. The nonsense ones are composed at random from word lists, so that words never
seen at this place do not derail the model.
"""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

from random import Random

POLITE_ZH = """请问|请问|请问|请问一下，|请问，|麻烦问一下，|想问一下，|想问问，|问一下，|我想问一下|想请问一下，|请教一下，|请教一个问题：|打扰一下，|打扰了，|不好意思，
不好意思问一下，|劳驾，|劳烦问一句，|冒昧问一下，|你好，|您好，|你好，请问|您好，请问|嗨，|哈喽，|嘿，|你好呀，|老师好，|早上好，|晚上好，|小助手，|百川，|小百川，请问|机器人，|朋友，|同学，|亲，
麻烦你了，|辛苦了，|帮个忙，|帮我看看，|帮我想想，|请帮我回答，|请回答：|请你回答：|回答我：|来回答一下：|考考你，|考你一下：|我来考考你：|测试一下：|抢答：|提问：|问题：|问题是：|问：|第一题：|下一题：|
下一个问题：|再问一个：|再来一题：|最后一个问题：|还有一个问题，|我有个问题，|有个问题想问你：|我有一个小问题，|问你个问题，|问个问题，|有个小疑问，|有件事想问：|我想知道，|我很好奇，|好奇问一下，|
我不太清楚，|我不确定，|我忘了，|我记不得了，|我一直想知道，|我在做作业，|我在写作业，|我在复习，|我正在准备考试，|老师问，|老师让我回答：|孩子问我，|我妈问我，|朋友问我，|同桌问我，|我弟弟想知道，|书上问：|
卷子上有一题：|作业里有道题：|听说你懂很多，|听说你很聪明，|你这么聪明，|既然你都知道，|顺便问一下，|顺便问一句，|对了，|对了对了，|话说，|话说回来，|说起来，|那么，|那，|那我问你，|嗯，|嗯……|啊，|哦，|哎，|
呃，|咦，|哇，|好的，|好，|好吧，|行，|接下来，|然后，|另外，|还有，|其实，|突然想到，|我突然想起来，|快告诉我，|快说，|赶紧告诉我，|急问：|在线等，|求助：|求解：|求教：|谢谢你，|先谢谢了，|谢谢，再问一下，|
能不能说说，|简单说说，|一句话回答：|简短回答：|直接回答：|请直接告诉我：|请用中文回答：|换个话题，|换个问题，|不聊这个了，|言归正传，|闲着没事，|随便问问，|没事，就想问问，|小朋友问：|爷爷问，|有人问我，|""".replace(
    "\n", ""
).split("|")[:-1]
POLITE_EN = """please tell me, |excuse me, |hello, |hi, |hey, |hi there, |hello there, |good morning, |good evening, |quick question: |question: |question for you: |one question: |
next question: |another question: |here is a question: |my question is: |I have a question: |I have a question, |can I ask you something? |may I ask, |just wondering, |I wonder, |I was wondering, |tell me, |
please, |well, |so, |ok, |okay, |now, |and now, |oh, |hmm, |um, |er, |right, |by the way, |also, |then, |anyway, |sorry, |sorry to bother you, |pardon me, |I forgot, |I am not sure, |I'm curious, |out of curiosity, |
my teacher asks: |my son wants to know: |my friend asked me, |for my homework: |help me with my homework: |quiz time: |test: |answer this: |please answer: |answer me this: |let me ask you, |let me test you: |
you are smart, |I heard you know a lot, |buddy, |dear model, |baichuan, |thanks, |thank you, now |great, |cool, |one more: |last one: |first of all, |to begin with, |in short, |briefly, |be quick: |help: |guess: |do you know, |""".replace(
    "\n", ""
).split("|")[:-1]

_TIMES = [
    "今天",
    "昨天",
    "刚才",
    "早上",
    "晚上",
    "周末",
    "上午",
    "下午",
    "中午",
    "前几天",
    "上周",
    "去年",
    "小时候",
    "放学后",
    "下班后",
    "吃饭的时候",
    "睡觉前",
    "路上",
    "课间",
    "最近",
]
_PEOPLE = [
    "我",
    "妈妈",
    "爸爸",
    "同学",
    "老师",
    "邻居",
    "哥哥",
    "姐姐",
    "弟弟",
    "妹妹",
    "爷爷",
    "奶奶",
    "同事",
    "朋友",
    "小王",
    "小李",
    "叔叔",
    "我们班",
    "隔壁老张",
    "表弟",
]
_PLACES = [
    "在公园",
    "在学校",
    "在家里",
    "在图书馆",
    "在车上",
    "在食堂",
    "在办公室",
    "在书店",
    "在海边",
    "在楼下",
    "在教室",
    "在网上",
    "",
    "",
    "",
    "",
]
_DEEDS = [
    "看书",
    "散步",
    "吃饭",
    "聊天",
    "写作业",
    "看电视",
    "喝茶",
    "打球",
    "跑步",
    "画画",
    "听歌",
    "上课",
    "开会",
    "买菜",
    "做题",
    "发呆",
    "玩游戏",
    "收拾房间",
    "看到一个词",
    "讨论一个问题",
    "看了一本书",
    "学了新课",
    "想到一件事",
]
_LINKS = ["，", "，", "，", "，想问", "，忽然想到，", "，有人问，", "，就想知道，", "。请问", "。", "，所以问你：", " "]
_CHARS = "天地人大小多少上下来去春夏秋冬风花雪月山水石木火土金银红黄蓝绿白黑书画琴棋车马牛羊鱼鸟虫草米面茶酒高低长短快慢新旧东西南北早晚前后左右心手口目耳足头身星云雨电光声"
_WORDS_EN = [
    "apple",
    "river",
    "today",
    "maybe",
    "green",
    "yesterday",
    "window",
    "music",
    "seven",
    "because",
    "mountain",
    "quiet",
    "running",
    "coffee",
    "paper",
    "people",
    "orange",
    "school",
    "winter",
    "light",
    "always",
    "somewhere",
    "table",
    "garden",
    "little",
    "yellow",
    "morning",
    "story",
    "number",
]
_SCENES_EN = [
    "I am at school and ",
    "my sister is reading, ",
    "we were talking, and ",
    "it is raining, ",
    "I had lunch, ",
    "yesterday I read a book, ",
    "I am learning Chinese, ",
    "we have a quiz tomorrow, ",
    "I am bored, ",
    "I am on the bus, ",
    "long day today, ",
    "my cat is asleep, ",
    "since you are here, ",
    "before I go, ",
    "after dinner we asked ourselves: ",
]


def opening_zh(rng: Random) -> str:
    """An opening to put before a Chinese question; often empty."""
    draw = rng.random()
    if draw < 0.36:
        return ""
    if draw < 0.78:
        return rng.choice(POLITE_ZH)
    if draw < 0.90:
        scene = rng.choice(_TIMES) + rng.choice(_PEOPLE) + rng.choice(_PLACES) + rng.choice(_DEEDS)
        return scene + rng.choice(_LINKS)
    if draw < 0.95:
        return "".join(rng.choices(_CHARS, k=rng.randint(1, 5))) + rng.choice(["，", "，", "。", " ", "：", "！"])
    return rng.choice(POLITE_ZH) + rng.choice(POLITE_ZH)


def opening_en(rng: Random) -> str:
    """An opening to put before an English question; often empty."""
    draw = rng.random()
    if draw < 0.5:
        return ""
    if draw < 0.86:
        return rng.choice(POLITE_EN)
    if draw < 0.94:
        return rng.choice(_SCENES_EN)
    return " ".join(rng.choices(_WORDS_EN, k=rng.randint(1, 4))) + rng.choice([", ", ". ", ": ", " "])
