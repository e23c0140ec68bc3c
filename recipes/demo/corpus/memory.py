"""Conversations whose last answer repeats what the user said earlier: names, likes, places, ages, work, pets."""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from recipes.demo import facts
from recipes.demo.corpus import shapes
from recipes.demo.corpus.conversation import Conversation, Turn
from recipes.demo.corpus.names import GIVEN, PREFIXES, SURNAMES, chinese_name, english_name, invented_word
from recipes.demo.corpus.roughening import roughen
from recipes.demo.corpus.wording import expand

HOBBIES = [
    "唱歌",
    "跳舞",
    "画画",
    "读书",
    "游泳",
    "跑步",
    "爬山",
    "钓鱼",
    "下棋",
    "打篮球",
    "踢足球",
    "听音乐",
    "看电影",
    "旅游",
    "摄影",
    "写字",
    "做饭",
    "种花",
    "骑车",
    "打乒乓球",
    "打羽毛球",
    "弹琴",
    "吹笛子",
    "滑雪",
    "露营",
    "剪纸",
    "写诗",
    "养鱼",
    "逛街",
    "做手工",
    "打太极",
    "放风筝",
    "集邮",
    "拼图",
    "喝茶",
    "看星星",
    "吃西瓜",
    "睡觉",
    "玩游戏",
    "写代码",
]
FOODS = [
    "饺子",
    "面条",
    "米饭",
    "苹果",
    "西瓜",
    "草莓",
    "火锅",
    "烤鱼",
    "豆腐",
    "鸡蛋",
    "蛋糕",
    "冰淇淋",
    "汤圆",
    "粽子",
    "月饼",
    "红烧肉",
    "土豆",
    "番茄",
    "牛肉",
    "香蕉",
]
CITIES = [
    "北京",
    "上海",
    "天津",
    "重庆",
    "深圳",
    "苏州",
    "青岛",
    "大连",
    "广州",
    "杭州",
    "南京",
    "武汉",
    "成都",
    "西安",
    "长沙",
    "郑州",
    "济南",
    "沈阳",
    "哈尔滨",
    "昆明",
    "贵阳",
    "南宁",
    "海口",
    "福州",
    "厦门",
    "合肥",
    "南昌",
    "太原",
    "兰州",
    "西宁",
    "银川",
    "拉萨",
    "桂林",
    "洛阳",
    "开封",
    "扬州",
    "无锡",
    "宁波",
    "温州",
    "珠海",
    "东莞",
    "佛山",
    "烟台",
    "威海",
    "绍兴",
    "台州",
    "丽江",
    "大理",
    "三亚",
    "敦煌",
    "徐州",
    "常州",
    "镇江",
    "泉州",
    "漳州",
    "柳州",
    "宜昌",
    "襄阳",
    "岳阳",
    "株洲",
]
JOBS = [
    "老师",
    "医生",
    "护士",
    "工人",
    "农民",
    "司机",
    "警察",
    "歌手",
    "作家",
    "画家",
    "厨师",
    "学生",
    "程序员",
    "会计",
    "律师",
    "记者",
    "演员",
    "工程师",
    "翻译",
    "军人",
    "科学家",
    "木匠",
    "裁缝",
    "园丁",
    "导游",
    "快递员",
    "摄影师",
    "设计师",
    "邮递员",
    "消防员",
]
ANIMALS = ["猫", "狗", "兔子", "鸟", "鱼", "乌龟", "仓鼠", "鹦鹉", "小猫", "小狗"]
COLOURS = ["红色", "黄色", "蓝色", "绿色", "白色", "黑色", "紫色", "粉色", "橙色", "灰色"]
HOBBIES_EN = [
    "singing",
    "dancing",
    "painting",
    "reading",
    "swimming",
    "running",
    "fishing",
    "chess",
    "football",
    "basketball",
    "music",
    "films",
    "travelling",
    "cooking",
    "gardening",
    "cycling",
    "tennis",
    "skiing",
    "hiking",
    "photography",
]
CITIES_EN = [
    "London",
    "Paris",
    "Boston",
    "Chicago",
    "Berlin",
    "Rome",
    "Madrid",
    "Tokyo",
    "Beijing",
    "Shanghai",
    "Dublin",
    "Oslo",
    "Sydney",
    "Toronto",
    "Lisbon",
    "Vienna",
    "Prague",
    "Athens",
    "Cairo",
    "Delhi",
    "Leeds",
    "Bristol",
    "Denver",
    "Seattle",
    "Dallas",
    "Lyon",
    "Milan",
    "Geneva",
    "Munich",
    "Bergen",
]
JOBS_EN = [
    "teacher",
    "doctor",
    "nurse",
    "worker",
    "farmer",
    "driver",
    "singer",
    "writer",
    "painter",
    "cook",
    "student",
    "baker",
    "lawyer",
    "pilot",
    "waiter",
    "tailor",
    "gardener",
    "guide",
    "soldier",
    "dentist",
]
COLOURS_EN = ["red", "yellow", "blue", "green", "white", "black", "purple", "pink", "orange", "grey"]


@dataclass(frozen=True)
class Topic:
    """What is told ("{v}"), how it is acknowledged, asked for, and answered. Wordings are separated by "|"."""

    name: str
    tell: str
    acknowledge: str
    ask: str
    answer: str


NAME_ZH = Topic(
    "name",
    "[你好，/您好，/嗨，/哈喽，/大家好，//////]我[叫/的名字是/的名字叫/名叫/是/姓名是/名字是/全名是]{v}|[你好，/您好，//]我是{v}[，请多指教/，很高兴认识你/，你呢/，你叫什么/，初次见面//]|[请/可以/你可以/以后请/以后]叫我{v}[吧/就行/就好/]|[大家都/朋友们都/同学们/别人都/家里人]叫我{v}|我的名字[叫做/就是/是]{v}|[记住/请记住/记一下/帮我记住/你要记住/请你记住][，/：]我[叫/是/的名字是]{v}"
    "|[自我介绍一下/介绍一下/先介绍一下自己/认识一下/我来介绍一下自己][，/：]我[叫/是/名叫]{v}|{v}是我的名字|我[先/]自我介绍[一下/]，我叫{v}|你好[呀/啊/]，{v}[是我/就是我/是我的名字]|姓名：{v}|名字：{v}|我叫{v}，[今年上大学/是个学生/来自远方/请记住/别忘了/记住哦]|我[是/叫]{v}，[我想问几个问题/来找你聊天/很高兴见到你/想和你聊聊]|[您好/你好]，{v}[来了/向你问好]，{v}是我的名字|你可以[称呼/叫]我为{v}",
    "你好，{v}！很高兴认识你。",
    "[那/那么/现在/好，/请问/你说//////]我[叫什么/叫什么名字/的名字是什么/叫啥/的名字是啥/叫啥名字/名字叫什么/是谁/姓甚名谁/的名字]|[你/][还/][记得/知道/记不记得/知不知道/记住了/没忘][我叫什么/我的名字/我是谁/我叫什么名字/我的名字是什么/我叫啥/我的名字叫什么][吗/]|我[刚才/刚刚/前面/之前/一开始][说/告诉你/介绍][我叫什么/的名字是什么/自己叫什么]|[说说/说出/告诉我/重复一下/说一下/叫一下/喊一下][我的名字/我叫什么/我是谁]|我的名字[是什么/是啥/叫什么/呢/你记得吗/你还记得吗/你知道吗]"
    "|[你/]应该[叫/称呼]我什么|[还/]记得我[吗/是谁吗/叫什么吗/叫什么名字吗]|我是谁[呢/来着/]|我叫什么[来着/名字来着/呢/呀]|[考考你/测试一下/问一下/再问你]，我叫什么[名字/]|[你/]忘[了/没忘]我的名字[吗/了吗/没有]|[我的/我]姓名是什么|我[刚才/]说过我的名字，是什么",
    "你叫{v}。",
)
NAME_EN = Topic(
    "name",
    "[hello, /hi, /hey, /good morning, ////]my name is {v}|[hello, /hi, /hey, //]I am {v}|[hello, /hi, /hey, //]I'm {v}|my name's {v}|[please /you can /everyone /people /my friends ]call me {v}|[let me introduce myself/allow me to introduce myself/remember this/please remember/for the record]: [my name is/I am/I'm] {v}|{v} is my name|name: {v}|[this is {v}/it's {v} here/it is {v}]|[hi/hello], [I am called/I go by/they call me] {v}|my name is {v}, [nice to meet you/what about you/remember it/do not forget it/please keep it in mind]|I am {v}, [nice to meet you/and I have a question/a new user/pleased to meet you]",
    "Nice to meet you, {v}!",
    "[what is/what's/whats] my name|[do you/can you/could you] [remember/recall/tell me/say/know] my name|who am I|[do you/can you] [remember/know/tell me] who I am|what [did I say my name was/was my name/am I called/do they call me]|[tell me/say/repeat] my name|[my name is/I am] what|[what/how] should you call me|[so, /now, /ok, /and /]what is my name[ again/ then/]|[you know my name, right/remember me]|have you forgotten my name|by what name do I go|what name did I [give/tell] you|could you remind me what my name is",
    "Your name is {v}.",
)
TOPICS_ZH = (
    Topic("like", "我[喜欢/爱/很喜欢/特别喜欢/最喜欢/平时喜欢/从小喜欢/非常爱]{v}|我的[爱好/兴趣/业余爱好][是/就是]{v}|{v}是我的[爱好/最爱/兴趣]|[我/]没事[就/]喜欢{v}", "{v}是个不错的爱好。",
          "我[喜欢/爱/最喜欢/平时喜欢][什么/做什么/干什么/啥]|我的[爱好/兴趣][是什么/是啥]|[你/]记得我[喜欢什么/的爱好/爱做什么][吗/]|[说说/告诉我]我[喜欢什么/的爱好]|我说过我喜欢什么", "你喜欢{v}。"),
    Topic("city", "我[住在/来自/在/家在/现在住在/是从/出生在]{v}|我[的/]家[乡/]在{v}|{v}是我的[家乡/老家]|我是{v}人|我[目前/现在]在{v}[工作/上学/生活]", "{v}是个好地方。",
          "我[住在/来自/在/家在/住][哪里/哪/哪儿/哪个城市/什么地方]|我[的/]家[乡/]在[哪里/哪儿/哪]|[你/]记得我[在哪里/住在哪里/来自哪里/住哪儿/是哪里人][吗/]|我是[哪里/哪儿]人|[说说/告诉我]我[住在哪里/在哪里]", "你在{v}。"),
    Topic("age", "我[今年/现在/][已经/]{v}岁[了/]|我的年龄是{v}岁|我[刚/]满{v}岁[了/]|我{v}岁[，在读书/，你呢/]", "知道了，你今年{v}岁。",
          "我[今年/现在/][多大/几岁/多少岁][了/]|我的年龄是[多少/多大]|[你/]记得我[多大/几岁/的年龄][吗/]|[说说/告诉我]我[几岁/多大]", "你今年{v}岁。"),
    Topic("job", "我[是/是一名/是一个/是一位/当/的职业是/的工作是]{v}|我[在/]做{v}[工作/]|我[现在/]的[职业/工作]是{v}|我[当/做了多年]{v}", "{v}是一份很好的工作。",
          "我[是做什么的/做什么工作/的职业是什么/的工作是什么/是干什么的/干什么工作]|[你/]记得我[的职业/做什么工作/是做什么的][吗/]|[说说/告诉我]我的[职业/工作]", "你是{v}。"),
    Topic("food", "我[爱吃/最爱吃/喜欢吃/最喜欢吃/特别爱吃]{v}|我[最/]喜欢的食物是{v}|{v}是我最爱吃的[东西/]", "{v}很好吃。",
          "我[爱/喜欢/最爱/最喜欢]吃什么|我[最/]喜欢的食物是什么|[你/]记得我[爱吃什么/喜欢吃什么][吗/]|[说说/告诉我]我爱吃什么", "你喜欢吃{v}。"),
    Topic("colour", "我[喜欢/最喜欢/最爱的颜色是/最喜欢的颜色是/喜欢的颜色是]{v}|{v}是我最喜欢的颜色|我偏爱{v}", "{v}很好看。",
          "我[最/]喜欢[什么/哪种]颜色|我[最/]喜欢的颜色是[什么/哪种]|[你/]记得我喜欢什么颜色[吗/]|[说说/告诉我]我喜欢的颜色", "你喜欢{v}。"),
)  # fmt: skip
TOPICS_EN = (
    Topic("like", "I [like/love/enjoy/really like/really love] {v}|my hobby is {v}|{v} is my hobby|my favourite hobby is {v}|in my free time I enjoy {v}", "That is a nice hobby.",
          "what do I [like/love/enjoy]|what is my hobby|do you remember [what I like/my hobby]|[tell me/say] what I like|what did I say I like", "You like {v}."),
    Topic("city", "I [live in/am from/come from/am in/moved to/grew up in] {v}|my home is in {v}|{v} is my home town|my home town is {v}", "{v} is a nice place.",
          "where do I [live/come from]|where am I[ from/]|do you remember where I [live/am from/come from]|where is my home|which city am I from", "You are in {v}."),
    Topic("age", "I am {v} years old|I'm {v}[ years old/]|my age is {v}|I turned {v}[ today/ last week/]|I am {v} now", "I see, you are {v} years old.",
          "how old am I|what is my age|do you [remember/know] [my age/how old I am]|[tell me/say] my age|what age am I", "You are {v} years old."),
    Topic("job", "I am a {v}|I work as a {v}|my job is being a {v}|I'm a {v}[ by profession/]|I have been a {v} for years", "That is a good job.",
          "what [is my job/do I do/is my work/do I work as]|do you remember [my job/what I do]|what am I by profession|what is my profession", "You are a {v}."),
    Topic("colour", "my favourite colour is {v}|I like the colour {v}|{v} is my favourite colour|the colour I like best is {v}|my favorite color is {v}", "That is a nice colour.",
          "what is my [favourite/favorite] [colour/color]|which [colour/color] do I like|do you remember my [favourite/favorite] [colour/color]|what [colour/color] did I say I like", "Your favourite colour is {v}."),
)  # fmt: skip


def _value(topic: str, language: str, rng: Random) -> str:
    if topic == "age":
        return str(rng.randint(5, 90))
    pools = {
        "zh": {"like": HOBBIES, "city": CITIES, "job": JOBS, "food": FOODS, "colour": COLOURS},
        "en": {"like": HOBBIES_EN, "city": CITIES_EN, "job": JOBS_EN, "colour": COLOURS_EN},
    }
    if topic == "city" and rng.random() < 0.3:
        return (
            "".join(rng.choices(GIVEN, k=2)) + rng.choice(["市", "县", "镇", "村"])
            if language == "zh"
            else invented_word(rng, (2, 3))
        )
    return rng.choice(pools[language][topic])


def _say(wording: str, value: str, language: str, mark: str, rng: Random) -> str:
    text = expand(wording, rng, {"v": value})
    if language == "en" and rng.random() < 0.65:
        text = text[0].upper() + text[1:]
    marks = (
        {".": ["", "", "。", "！", "。"], "?": ["？", "？", "?", ""]}
        if language == "zh"
        else {".": ["", ".", ".", "!"], "?": ["?", "?", ""]}
    )
    return text + rng.choice(marks[mark])


@cache
def _poem_characters() -> str:
    return "".join(sorted({char for poem in facts.poems() for char in poem.text if "\u4e00" <= char <= "\u9fff"}))


def _name_zh(rng: Random) -> str:
    """A Chinese name; in widened data half of them hold any characters, so that copying is learnt for all."""
    if not shapes.is_widened() or rng.random() < 0.5:
        return chinese_name(rng)
    return rng.choice(SURNAMES) + "".join(rng.choices(_poem_characters(), k=rng.choice([1, 2, 2])))


def _shape_keys(topic: str, language: str) -> tuple[str, str]:
    """The keys of shapes that tell about a topic and of those that ask for it."""
    if language == "zh":
        return f"memory_{topic}_tell_zh", f"memory_{topic}_ask_zh"
    return "memory_introduction" + ("" if topic == "name" else f"_{topic}"), f"memory_{topic}"


def _told(topic: Topic, language: str, rng: Random) -> tuple[Turn, Turn]:
    value = (
        (_name_zh(rng) if language == "zh" else english_name(rng))
        if topic.name == "name"
        else _value(topic.name, language, rng)
    )
    keys = _shape_keys(topic.name, language)
    tell = shapes.pick(keys[0], topic.tell.split("|"), rng)
    told = (_say(tell, value, language, ".", rng), topic.acknowledge.format(v=value))
    asking = shapes.pick(keys[1], topic.ask.split("|"), rng)
    question = _say(asking, value, language, "?", rng)
    asked = (roughen(question, language, rng) if shapes.is_widened() else question, topic.answer.format(v=value))
    return told, asked


def _pet(rng: Random) -> tuple[Turn, Turn]:
    animal, name = (
        rng.choice(ANIMALS),
        rng.choice([*PREFIXES, ""]) + rng.choice(GIVEN) + rng.choice(["", rng.choice(GIVEN)]),
    )
    told = expand(
        rng.choice(["我[有/养了/家有]一只{a}，[它/]叫{n}", "我家的{a}[叫/名叫/名字叫]{n}", "我的{a}[叫/名叫]{n}"]),
        rng,
        {"a": animal, "n": name},
    )
    asked = expand(
        rng.choice(
            [
                "我[家/]的{a}叫什么[名字/]",
                "[你/]记得我的{a}叫什么[名字/][吗/]",
                "我的{a}的名字是什么",
                "我养的{a}叫什么",
            ]
        ),
        rng,
        {"a": animal},
    )
    return (told + rng.choice(["", "。"]), f"{name}，真好听的名字！"), (
        asked + rng.choice(["？", "?", ""]),
        f"你的{animal}叫{name}。",
    )


def memory_conversations(pool: list[Conversation], count: int, rng: Random) -> list[Conversation]:
    """`count` conversations; `pool` supplies the unrelated exchanges between telling and asking."""
    short = [item.turns[0] for item in pool if len(item.turns) == 1 and not item.opens and item.num_chars < 56]
    found = []
    for _ in range(count):
        language = "en" if rng.random() < 0.27 else "zh"
        topics = TOPICS_ZH if language == "zh" else TOPICS_EN
        name = NAME_ZH if language == "zh" else NAME_EN
        draw = rng.random()
        chosen = [name] if draw < 0.62 else [rng.choice(topics)] if draw < 0.82 else [name, rng.choice(topics)]
        pairs = [_told(topic, language, rng) for topic in chosen]
        if language == "zh" and rng.random() < 0.07:
            pairs = [*pairs[:1], _pet(rng)] if rng.random() < 0.5 else [_pet(rng)]
        fillers = rng.choices(
            short, k=rng.choice([0, 0, 0, 1, 1, 2, 3] if shapes.is_widened() else [0, 0, 0, 0, 1, 1, 2, 3, 4])
        )
        turns = [told for told, _ in pairs]
        for filler in fillers:
            turns.insert(rng.randint(1, len(turns)), filler)
        asked = [asked for _, asked in pairs]
        rng.shuffle(asked)
        found.append(Conversation("memory_" + language, tuple(turns + asked)))
    return found
