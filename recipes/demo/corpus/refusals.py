"""Questions the model has not learnt to answer: everyday topics, and names that do not exist."""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

from random import Random

from recipes.demo import facts
from recipes.demo.corpus import shapes
from recipes.demo.corpus.conversation import Conversation, single
from recipes.demo.corpus.names import GIVEN, chinese_name, invented_word
from recipes.demo.corpus.relations import Relation, Row, all_relations
from recipes.demo.corpus.smalltalk import framed
from recipes.demo.corpus.verses import AUTHOR, NEXT, RECITE
from recipes.demo.corpus.wording import ask, ask_noun, expand, template_language

REFUSE_ZH = "抱歉，这个问题我还没有学过。我是一个小模型，可以回答国家首都、化学元素、唐诗、成语、算术和翻译方面的问题。"
REFUSE_EN = "Sorry, I have not learnt about that. I am a small model and can answer questions about capitals, elements, Tang poems, idioms, arithmetic and translation."
PLACE_CHARS = "云雾龙虎凤月星风火雷木石金银铁铜玉珠花草桃李梅兰竹松柏鹤鹿熊狼鹰狐蓝红白黑青紫东西南北海山河湖江沙岛谷林雪冰水天光影梦幻神仙灵魔巨古新大小长安平乐永恒卡拉塔瓦尼罗米亚斯诺维索布克里达贝莫加伦巴西赫菲普坎迪萨奥利"
SUFFIXES = ["国", "国", "国", "王国", "帝国", "共和国", "联邦", "", "", "岛", "星", "亚", "斯坦", "尼亚", "兰"]
KNOWN_FICTION = [
    "瓦坎达",
    "亚特兰蒂斯",
    "乌有国",
    "火星国",
    "蓝精灵国",
    "桃花国",
    "云中国",
    "月亮国",
    "金山国",
    "白云国",
    "花果山",
    "水晶国",
    "龙门国",
    "乌托邦",
    "中土世界",
    "女儿国",
    "大人国",
    "小人国",
    "君子国",
    "魔法王国",
    "纳尼亚",
    "香格里拉",
    "西梁女国",
    "天空之城",
    "霍格沃茨",
]
# real places that are not in the table; saying so is honest
UNTAUGHT = [
    "乍得",
    "尼日尔",
    "刚果",
    "加蓬",
    "多哥",
    "贝宁",
    "几内亚",
    "利比里亚",
    "塞拉利昂",
    "冈比亚",
    "毛里塔尼亚",
    "厄立特里亚",
    "吉布提",
    "布隆迪",
    "马拉维",
    "莱索托",
    "塞舌尔",
    "毛里求斯",
    "科摩罗",
    "巴林",
    "以色列",
    "塞浦路斯",
    "摩纳哥",
    "安道尔",
    "圣马力诺",
    "黑山",
    "北马其顿",
    "摩尔多瓦",
    "苏里南",
    "圭亚那",
    "洪都拉斯",
    "尼加拉瓜",
    "萨尔瓦多",
    "多米尼加",
    "巴巴多斯",
    "萨摩亚",
    "汤加",
    "图瓦卢",
    "瑙鲁",
    "帕劳",
]
ENGLISH_FICTION = [
    "Wakanda",
    "Atlantis",
    "Narnia",
    "Utopia",
    "Gondor",
    "Mordor",
    "Genovia",
    "Latveria",
    "Westeros",
    "Hogwarts",
    "Neverland",
    "Oz",
    "Middle-earth",
    "Elbonia",
    "Freedonia",
    "Sokovia",
    "Zamunda",
    "Panem",
]
UNTAUGHT_WORDS = [
    "螺丝刀",
    "抽屉",
    "蜻蜓",
    "章鱼",
    "显微镜",
    "望远镜",
    "拖拉机",
    "冰箱",
    "洗衣机",
    "空调",
    "地毯",
    "窗帘",
    "枕头",
    "被子",
    "牙刷",
    "毛巾",
    "剪刀",
    "锤子",
    "螺丝",
    "电线",
    "键盘",
    "鼠标",
    "鲸鱼",
    "海豚",
    "企鹅",
    "鸽子",
    "骆驼",
    "松鼠",
    "刺猬",
    "蜗牛",
    "蜘蛛",
    "蚊子",
    "菠萝",
    "芒果",
    "榴莲",
    "荔枝",
    "菠菜",
    "茄子",
    "黄瓜",
    "南瓜",
    "辣椒",
    "酱油",
    "醋",
    "勺子",
    "筷子",
    "盘子",
    "律师",
    "记者",
    "工程师",
    "科学家",
    "护照",
    "合同",
    "民主",
    "经济",
    "哲学",
    "灵魂",
    "勇气",
    "友谊",
    "智慧",
    "责任",
    "沙发",
    "镜子",
    "楼梯",
    "花园",
    "操场",
    "邮局",
    "超市",
    "彩虹",
    "闪电",
    "地震",
    "火山",
    "沙漠",
    "瀑布",
    "岛屿",
]
UNTAUGHT_ENGLISH = [
    "screwdriver",
    "drawer",
    "octopus",
    "microscope",
    "telescope",
    "refrigerator",
    "curtain",
    "pillow",
    "towel",
    "scissors",
    "hammer",
    "keyboard",
    "whale",
    "dolphin",
    "penguin",
    "pigeon",
    "camel",
    "squirrel",
    "snail",
    "mosquito",
    "pineapple",
    "mango",
    "spinach",
    "pumpkin",
    "pepper",
    "spoon",
    "fork",
    "plate",
    "lawyer",
    "journalist",
    "engineer",
    "passport",
    "contract",
    "democracy",
    "economy",
    "philosophy",
    "soul",
    "courage",
    "wisdom",
    "sofa",
    "mirror",
    "stairs",
    "garden",
    "market",
    "rainbow",
    "lightning",
    "earthquake",
    "volcano",
    "desert",
    "waterfall",
    "island",
    "thunder",
    "shadow",
    "silence",
    "bottle",
    "basket",
    "candle",
    "kitchen",
    "bathroom",
    "ceiling",
    "carpet",
    "feather",
    "leather",
]


UNTAUGHT_POEMS = [
    "将进酒",
    "琵琶行",
    "长恨歌",
    "蜀道难",
    "满江红",
    "声声慢",
    "沁园春",
    "虞美人",
    "念奴娇",
    "雨霖铃",
    "钗头凤",
    "一剪梅",
    "醉花阴",
    "破阵子",
    "永遇乐",
    "青玉案",
    "蝶恋花",
    "浣溪沙",
    "鹊桥仙",
    "江城子",
    "春江花月夜",
    "梦游天姥吟留别",
    "茅屋为秋风所破歌",
    "卖炭翁",
    "石壕吏",
    "兵车行",
    "木兰诗",
    "孔雀东南飞",
    "归园田居",
    "短歌行",
    "龟虽寿",
    "关雎",
    "蒹葭",
    "乡愁",
    "再别康桥",
    "雨巷",
    "面朝大海春暖花开",
    "致橡树",
]
UNTAUGHT_IDIOMS = [
    "守口如瓶",
    "一帆风顺",
    "七上八下",
    "三心二意",
    "不可思议",
    "心花怒放",
    "手忙脚乱",
    "百折不挠",
    "全力以赴",
    "名列前茅",
    "后来居上",
    "津津有味",
    "目不转睛",
    "兴高采烈",
    "鸡飞狗跳",
    "狼吞虎咽",
    "囫囵吞枣",
    "缘木求鱼",
    "黔驴技穷",
    "杞人忧天",
    "含沙射影",
    "一鸣惊人",
    "四海为家",
    "五湖四海",
    "六神无主",
    "十全十美",
    "千军万马",
    "万无一失",
    "争先恐后",
    "天长地久",
    "地大物博",
    "山清水秀",
    "鸟语花香",
    "绿树成荫",
    "春暖花开",
    "秋高气爽",
    "冰天雪地",
    "大公无私",
    "舍己为人",
    "持之以恒",
    "迎刃而解",
    "庖丁解牛",
    "郑人买履",
    "螳臂当车",
    "朝三暮四",
    "三人成虎",
    "望洋兴叹",
    "名落孙山",
    "洛阳纸贵",
    "高山流水",
    "世外桃源",
    "乐不思蜀",
    "草船借箭",
    "背水一战",
    "围魏救赵",
]


def refusal_conversations(rng: Random) -> list[Conversation]:
    """Everyday questions outside the domain, then unknown places, elements, poems, idioms and words."""
    found = []
    widened = shapes.is_widened()
    for language, reply, per_template in (("zh", REFUSE_ZH, 75), ("en", REFUSE_EN, 14 if widened else 44)):
        templates = facts.conversation_refusal_templates if widened else facts.refusal_templates
        for template in templates(language):
            for _ in range(per_template):
                core = expand(template, rng)
                question = framed(core, language, rng) if widened else ask(core, language, rng)
                found.append(single("refuse_" + language, question, reply))
    return found + _unknown_places(rng) + _unknown_texts(rng) + _unknown_rest(rng)


def _place(rng: Random) -> str:
    draw = rng.random()
    if draw < 0.12:
        return rng.choice(KNOWN_FICTION)
    if draw < 0.26:
        return rng.choice(UNTAUGHT)
    return "".join(rng.choices(PLACE_CHARS, k=rng.randint(2, 4))) + rng.choice(SUFFIXES)


def _relation_question(relation: Relation, row: Row, rng: Random) -> str:
    if relation.nouns and rng.random() < (0.25 if shapes.is_widened() else 0.4):
        return ask_noun(expand(rng.choice(relation.nouns), rng, row), relation.language, rng)
    core = rng.choice(relation.cores)
    return shapes.message(relation.task, (core, template_language(core, relation.language)), row, rng)


def _unknown_places(rng: Random) -> list[Conversation]:
    by_task = {relation.task: relation for relation in all_relations()}
    known = {row["zh"] for row in by_task["capital_zh"].rows} | {row["cap"] for row in by_task["capital_zh"].rows}
    replies = {
        "capital_zh": "抱歉，我不知道{}的首都。",
        "continent_zh": "抱歉，我不知道{}在哪个洲。",
        "currency_zh": "抱歉，我不知道{}的货币。",
        "capital_of_zh": "抱歉，我不知道{}是哪个国家的首都。",
    }
    counts = {"capital_zh": 2600, "continent_zh": 700, "currency_zh": 700, "capital_of_zh": 900}
    found = []
    for task, count in counts.items():
        for _ in range(count):
            place = _place(rng)
            if place in known:
                continue
            question = _relation_question(by_task[task], {"zh": place, "cap": place, "cont": "", "cur": ""}, rng)
            found.append(single("unknown_place_zh", question, replies[task].format(place)))
    english = {"capital_en": "Sorry, I do not know the capital of {}.", "capital_of_en": "Sorry, I do not know {}."}
    for task, reply in english.items():
        for _ in range(1300 if task == "capital_en" else 500):
            place = rng.choice(ENGLISH_FICTION) if rng.random() < 0.2 else invented_word(rng, (2, 3))
            question = _relation_question(by_task[task], {"en": place, "short": place, "capen": place}, rng)
            found.append(single("unknown_place_en", question, reply.format(place)))
    return found


def _phrase(rng: Random, length: int) -> str:
    return "".join(rng.choices(PLACE_CHARS + GIVEN, k=length))


def _unknown_texts(rng: Random) -> list[Conversation]:
    by_task = {relation.task: relation for relation in all_relations()}
    known = {poem.title for poem in facts.poems()} | {row["idiom"] for row in facts.table("idioms")}
    found = []
    for _ in range(1500):
        title = rng.choice(UNTAUGHT_POEMS) if rng.random() < 0.3 else _phrase(rng, rng.randint(2, 6))
        if title in known:
            continue
        templates = AUTHOR if rng.random() < 0.55 else RECITE
        marked = rng.choice(["《{}》", "《{}》", "{}", "“{}”"]).format(title)
        template = rng.choice([item for item in templates if not item.isascii() and item != "{t}"])
        task = "poem_author" if templates is AUTHOR else "poem_recital"
        question = shapes.message(task, (template, "zh"), {"t": marked}, rng)
        found.append(single("unknown_poem", question, f"抱歉，我没有学过《{title}》。"))
    for _ in range(1100):
        idiom = rng.choice(UNTAUGHT_IDIOMS) if rng.random() < 0.35 else _phrase(rng, 4)
        if idiom in known:
            continue
        quoted = rng.choice(["{}", "“{}”", "「{}」"]).format(idiom)
        question = shapes.message("idiom", (rng.choice(by_task["idiom"].cores), "zh"), {"q": quoted}, rng)
        found.append(single("unknown_idiom", question, f"抱歉，我不知道“{idiom}”的意思。"))
    for _ in range(600):
        line = rng.choice(["“{}”", "{}"]).format(_phrase(rng, rng.choice([5, 7])))
        found.append(
            single(
                "unknown_line",
                shapes.message("poem_next", (rng.choice(NEXT), "zh"), {"l": line}, rng),
                "抱歉，我没有学过这句诗。",
            )
        )
    return found


def _unknown_rest(rng: Random) -> list[Conversation]:
    by_task = {relation.task: relation for relation in all_relations()}
    elements = {row["name_zh"] for row in facts.table("elements")}
    words = {row["zh"] for row in facts.table("words")} | {row["en"] for row in facts.table("words")}
    found = []
    for _ in range(800):
        name = _phrase(rng, rng.randint(1, 2)) + rng.choice(["", "素", "石", "气"])
        if name in elements:
            continue
        question = _relation_question(by_task["symbol_zh"], {"zh": name, "sym": ""}, rng)
        found.append(single("unknown_element", question, f"抱歉，我不知道{name}的元素符号。"))
    for _ in range(500):
        name = invented_word(rng, (2, 3)).lower() + rng.choice(["ium", "on", "ine", ""])
        found.append(
            single(
                "unknown_element",
                _relation_question(by_task["symbol_en"], {"en": name, "sym": ""}, rng),
                f"Sorry, I do not know the symbol of {name}.",
            )
        )
    for task, pool, reply in (
        ("word_zh_en", UNTAUGHT_WORDS, "抱歉，我不知道“{}”的英文。"),
        ("word_en_zh", UNTAUGHT_ENGLISH, "抱歉，我不知道“{}”的中文。"),
    ):
        for _ in range(700):
            word = rng.choice(pool)
            if word in words:
                continue
            template = rng.choice([item for item in by_task[task].cores if not item.startswith("翻译：")])
            plain = (template, template_language(template, "zh"))
            question = shapes.message(task, plain, {"q": rng.choice(["{}", "“{}”"]).format(word)}, rng)
            found.append(single("unknown_word", question, reply.format(word)))
    for _ in range(500):
        person = chinese_name(rng)
        core = expand(
            [
                "[{n}/]是谁",
                "{n}是[什么人/哪里人/做什么的]",
                "[介绍一下/说说]{n}!",
                "{n}[多大了/在哪里/有什么成就]",
                "[你认识/认识]{n}吗",
            ][rng.randrange(1, 5)],
            rng,
            {"n": person},
        )
        found.append(single("refuse_zh", ask(core, "zh", rng), REFUSE_ZH))
    return found
