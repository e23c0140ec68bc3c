"""Relations between named things: which country has which capital, which element which symbol, and so on.

A relation is a set of rows and the ways to ask about them. It yields conversations, follow-ups ("那德国呢？") and
pre-training documents.
"""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.demo import facts
from recipes.demo.corpus import shapes
from recipes.demo.corpus.conversation import Conversation, Document, document, single
from recipes.demo.corpus.wording import ask, ask_noun, expand, template_language

Row = dict[str, str]


@dataclass(frozen=True)
class Relation:
    """Rows, and wordings about them.

    `nouns` name the thing asked for ("the capital of {en}") and go into generic frames; `cores` are whole questions
    or orders. `follow` is the row's own name in a follow-up; empty: no follow-ups.
    """

    task: str
    language: str
    rows: tuple[Row, ...]
    answer: str
    cores: tuple[str, ...]
    nouns: tuple[str, ...] = ()
    prose: tuple[str, ...] = ()
    follow: str = ""
    arrow: tuple[str, str] = ("", "")
    exposures: int = 30

    def question(self, row: Row, rng: Random) -> str:
        """One message that asks about `row`."""
        if self.nouns and rng.random() < (0.25 if shapes.is_widened() else 0.4):
            return ask_noun(expand(rng.choice(self.nouns), rng, row), self.language, rng)
        core = rng.choice(self.cores)
        return shapes.message(self.task, (core, template_language(core, self.language)), row, rng)

    def reply(self, row: Row) -> str:
        """The answer about `row`."""
        return self.answer.format_map(row)


COUNTRY_CORES = {
    "capital_zh": "{zh}的首都[是/在][哪里/哪儿/哪/哪座城市/哪个城市/什么地方]|{zh}的首都叫[什么/什么名字/啥]|{zh}首都是[哪/哪里/什么/哪个]|[哪座城市/哪个城市/什么城市/哪里/哪儿]是{zh}的首都|{zh}[把首都定/定都/建都]在[哪里/哪座城市/什么地方]|"
    "{zh}[这个国家/这国家/]的首都[是/叫]什么|{zh}以[哪座城市/哪个城市/哪里]为首都|作为{zh}首都的[城市/]是[哪个/哪座]|{zh}的首都位于[哪座城市/哪个城市/哪里]|在{zh}，[哪座城市/哪个城市]是首都|[关于/对于]{zh}，它的首都是[哪里/什么]|{zh}的政府所在[地/城市]，也就是首都，是哪里|{zh} 首都|首都：{zh}",
    "capital_of_zh": "{cap}是[哪个国家/哪国/谁/什么国家/哪一个国家]的首都|[哪个国家/哪国/什么国家]的首都是{cap}|首都是{cap}的国家是[哪个/什么/哪一个]|以{cap}为首都的[国家/]是[哪个/哪国/哪个国家]|[哪个国家/哪国]以{cap}为首都|[哪个国家/哪国]定都{cap}|{cap}[这座城市/这个城市]是[哪国/哪个国家]的首都|{cap}作为首都，属于[哪个国家/哪国]|{cap}是首都吗，是哪国的|[说说/告诉我/说出]{cap}是哪个国家的首都!",
    "continent_zh": "{zh}[在/位于/属于][哪个洲/哪个大洲/什么洲/哪一洲/哪一个大洲/哪个洲里]|{zh}是[哪个洲/什么洲/哪个大洲]的[国家/]|{zh}[地处/坐落在/坐落于][哪个洲/哪个大洲/什么洲]|[哪个洲/哪个大洲/什么洲]有{zh}|{zh}[这个国家/]在[哪个/什么]洲|{zh}是[亚洲/欧洲/非洲/美洲/哪里的]国家[吗，在哪个洲/还是别的洲的国家]|在地图上{zh}[属于/位于]哪个洲",
    "currency_zh": "{zh}[用/使用/流通/花][什么货币/什么钱/哪种货币/哪种钱/什么币/啥钱]|{zh}的[货币/钱/法定货币][是什么/叫什么/是啥/叫啥/是哪种/是]|在{zh}[用/花/买东西用/消费用][什么钱/什么货币/哪种货币]|{zh}人[用/花/使用][什么钱/什么货币/哪种货币]|[去/到]{zh}[旅游/旅行/买东西]要[换/带]什么[钱/货币]|{zh}的钱叫[什么/什么名字/啥]|[什么/哪种]货币在{zh}[流通/使用]|{zh}[发行/通行][什么/哪种]货币",
    "capital_en": "which city is the capital of {en}|what city is the capital of {en}|where is the capital of {en}|what is the name of the capital of {en}|what is {en}'s capital|what's {en}'s capital[ city/]|{en} has which capital|the capital of {en} is which city|which city serves as the capital of {en}|what do we call the capital of {en}|what city does {en} have as its capital|{en}: what is its capital|{short} capital|which is the capital of {en}",
    "capital_of_en": "{capen} is the capital of [which/what] country|[which/what] country has {capen} as its capital|what country is {capen} the capital of|whose capital is {capen}|[which/what] country's capital is {capen}|the capital of [which/what] country is {capen}|{capen} is the capital of where|in which country is {capen} the capital|{capen} is [which/what] country's capital|[tell me/name] the country whose capital is {capen}!|which nation has its capital in {capen}",
    "continent_en": "[which/what] continent is {en} [in/on/part of]|[on/in] [which/what] continent is {en}[ located/ found/]|[which/what] continent does {en} belong to|{en} is in [which/what] continent|{en} belongs to [which/what] continent|[which/what] continent has {en}|where is {en}, [on/in] which continent|{en} is part of [which/what] continent|is {en} in [Asia/Europe/Africa] or [another continent/somewhere else]|what's the continent of {en}",
}
OTHER_CORES = {
    "province_capital": "{name}[省/]的省会[是/在][哪里/哪儿/哪/哪座城市/哪个城市]|{name}的省会叫[什么/什么名字/啥]|{name}省会是[哪/哪里/什么]|[哪座城市/哪个城市/哪里]是{name}的省会|{name}的[首府/省会或首府]是[哪里/哪个城市/什么]|{name}以[哪座城市/哪里]为省会|{name}的省会[城市/]是[什么/哪个]|{name}的行政中心[在/是]哪[里/个城市]|作为{name}省会的[城市/]是哪个|{name} 省会",
    "province_of": "{capital}是[哪个省/哪个省区/哪里/什么省]的省会|[哪个省/哪个省区]的省会是{capital}|省会是{capital}的[省/省区]是[哪个/什么]|以{capital}为省会的是[哪个省/哪里]|{capital}在[哪个省/哪个省区/什么省]|{capital}属于[哪个省/哪个省区/什么省]|{capital}[这座城市/这个城市]是哪个省的省会",
    "short_name": "{name}的简称[是什么/叫什么/是啥/是哪个字/是/怎么写]|{name}简称[什么/啥/是什么]|{name}[用/以]哪个字[做/作]简称|哪个字是{name}的简称|{name}[车牌/]的[简称/那个简称字]是[什么/哪个]|{name}[可以/]简称为[什么/哪个字]|{name}的一字简称是[什么/哪个]|[缩写/简称]：{name}",
    "short_name_of": "[“{short}”/{short}/简称{short}的]是[哪个地方/哪里/哪个省/哪个省市][的简称/]|[“{short}”/{short}]是[哪个省/哪个省区/哪里/什么地方]的简称|简称[“{short}”/{short}/为{short}]的[地方/省/省区/]是[哪里/哪个]|[哪个省/哪里/什么地方]的简称是[“{short}”/{short}]|[“{short}”/{short}]代表[哪个省/哪里/什么地方]|[哪个省/哪里]简称[“{short}”/{short}]",
    "symbol_zh": "{zh}的[元素符号/化学符号/符号/元素记号][是什么/是啥/怎么写/是/写作什么/是哪个]|{zh}元素的[符号/化学符号]是[什么/啥]|[化学元素/元素]{zh}的符号是[什么/啥]|{zh}用[什么/哪个]符号[表示/代表/来表示]|[什么/哪个]符号[表示/代表]{zh}[元素/]|{zh}[元素/]怎么[用符号表示/表示/写成符号]|{zh}在[元素周期表/周期表][里/中/上]的符号是[什么/啥]|化学[里/中/上]{zh}[写作/写成/用]什么[符号/]|{zh}对应的[元素/化学]符号是[什么/哪个]",
    "number_zh": "{zh}的[原子序数/序数/原子序号/序号]是[多少/几/什么]|{zh}[是/排/排在]第几[号/位/个]元素|{zh}元素的原子序数是[多少/几]|{zh}[在/]元素周期表[里/中/上/][排/是/排在]第几[号/位/个]|{zh}是[几号/多少号]元素|{zh}的原子核[里/]有[多少/几]个质子|{zh}的质子数是[多少/几]|第几号元素是{zh}|{zh}的原子序数等于[多少/几]",
    "symbol_of_zh": "{sym}是[什么/哪个/哪种/啥]元素|[元素符号/化学符号/符号]{sym}[代表/表示/是]什么[元素/]|{sym}[代表/表示/对应/指][什么/哪个/哪种]元素|{sym}是[哪种/什么/哪个]元素的[符号/元素符号]|{sym}这个[符号/元素][是什么/代表什么元素/叫什么]|[什么/哪种/哪个]元素的[符号/元素符号]是{sym}|元素周期表[里/上/中]{sym}是[什么/哪个元素]|{sym}的中文[名/名称][是什么/叫什么]|{sym}对应[哪个/什么]元素",
    "symbol_en": "what is the [chemical /element /]symbol [of/for] {en}|what's the [chemical /]symbol [of/for] {en}|which symbol [stands for/represents/is used for] {en}|{en} has [what/which] [chemical /]symbol|how is {en} written as a symbol|what symbol does {en} have|the symbol [of/for] {en} is what|how do you write {en} in chemistry|what letters stand for {en}|what is {en}'s [chemical /]symbol|{en} symbol",
    "number_of_zh": "[原子序数/序数]是{n}的[元素/]是[什么/哪个/哪种]|第{n}号元素是[什么/哪个]|{n}号元素[是什么/叫什么/是哪个]|[哪个/什么]元素的原子序数是{n}|[元素周期表/周期表][里/中/上/]第{n}[号/个/位]元素是[什么/哪个]|排第{n}的元素是[什么/哪个]",
    "idiom": "[{q}/成语{q}/{q}这个成语/{q}这个词/{q}四个字][是什么意思/什么意思/的意思是什么/的含义是什么/是啥意思/怎么解释/怎么理解/该怎么理解/表示什么/指的是什么/是指什么/有什么含义/说的是什么/的意思是/讲的是什么/想表达什么]|[解释/解释一下/说明/说说/讲讲/讲解一下/介绍一下/解读/说一说][成语/][{q}/{q}的意思/{q}的含义/{q}这个成语]!|{q}[比喻/形容/用来形容/一般指/用来比喻]什么|[怎么/如何/怎样]理解[成语/]{q}|[什么是/啥是/啥叫/什么叫]{q}|[请/]解释[一下/]{q}[的意思/的含义/这个成语/]!|{q}到底是什么意思|成语解释：{q}|{q}|[说某人/别人说/有人说]{q}是什么意思|{q}用在什么[意思上/情况下]，是什么意思",
    "idiom_en": "what does [{q}/the idiom {q}/the Chinese idiom {q}/the phrase {q}/the saying {q}] mean|what is the [English /]meaning of [the idiom /the Chinese idiom /]{q}|what's the meaning of {q}|what is {q} in English|how do you [explain/translate/say] {q} in English|[explain/translate] [the idiom /the Chinese idiom /]{q} [in English/into English/]!|{q} means what|tell me [the meaning of {q}/what {q} means]!|what do people mean by {q}|{q}用英语怎么[解释/说]",
    "word_zh_en": "[{q}/{q}这个词/单词{q}/中文{q}][用英语怎么说/用英文怎么说/英语怎么说/英文怎么说/英文怎么讲/用英语怎么讲/的英文是什么/的英语是什么/的英文怎么说/的英语怎么说/英文是啥/用英语怎么写/的英文单词是什么/的英语单词是什么/翻译成英文是什么/译成英语是什么/英语怎么拼/英文叫什么/用英文怎么表达]|[把/将/请把/请将/帮我把][{q}/{q}这个词][翻译成/译成/译为/翻成/翻译为][英文/英语]!|[翻译成/译成][英文/英语]：{q}!|翻译：{q}!|{q}[的英文/的英语/英文/英语]|{q}翻译成[英文/英语]|[英文/英语][里/中]{q}[怎么说/是什么/怎么讲]|how do you say {q} in English|what is {q} in English|translate {q} [into/to] English!|what is the English [word /]for {q}|[哪个/什么]英[文/语]单词[表示/是]{q}的意思",
    "word_en_zh": "[{q}/单词{q}/英文单词{q}/英语单词{q}/英文{q}/{q}这个单词/{q}这个词][是什么意思/什么意思/的中文是什么/的中文意思是什么/用中文怎么说/中文怎么说/翻译成中文是什么/的汉语意思是什么/怎么翻译/的意思是什么/是啥意思/译成中文是什么/的中文怎么说/中文叫什么]|[把/将/请把/请将/帮我把]{q}[翻译成/译成/译为/翻成][中文/汉语]!|[翻译成/译成][中文/汉语]：{q}!|翻译：{q}!|{q}[的中文/中文/的意思]|{q}翻译成[中文/汉语]|how do you say {q} in Chinese|what is {q} in Chinese|translate {q} [into/to] Chinese!|what does {q} mean in Chinese|what is the Chinese [word /]for {q}|what's {q} in Chinese",
    "antonym": "{q}的反义词[是什么/是啥/是哪个/是/叫什么/有什么/]|[与/跟/和/同]{q}[相反/意思相反/反义/意义相反/相对]的[词/词语/]是[什么/哪个/啥]|[哪个词/什么词/哪个][与/跟/和]{q}[相反/意思相反/意义相反/的意思相反]|[说出/写出/说说/给出/告诉我]{q}的反义词!|{q}的[对立面/相反词/反面][是什么/是哪个词/是]|{q}反过来[是/说是]什么|{q}反义词|反义词：{q}|[什么/哪个词]是{q}的反义词|{q}和什么[是反义词/意思相反]|{q}的反义词[怎么说/叫啥/是哪个词]",
}


def _cores(name: str) -> tuple[str, ...]:
    return tuple((COUNTRY_CORES.get(name) or OTHER_CORES[name]).split("|"))


def _countries() -> list[Relation]:
    rows = tuple(
        {
            "zh": row["name_zh"], "en": row["name_en"], "short": row["name_en"].removeprefix("the "), "cap": row["capital_zh"],
            "capen": row["capital_en"], "cont": row["continent_zh"], "conten": row["continent_en"], "cur": row["currency_zh"],
        }
        for row in facts.table("countries")
    )  # fmt: skip
    return [
        Relation("capital_zh", "zh", rows, "{zh}的首都是{cap}。", _cores("capital_zh"), ("{zh}的首都", "{zh}首都", "{zh}的[国都/首都城市/京城]", "{zh}这个国家的首都"),
                 ("{zh}的首都是{cap}。", "{cap}是{zh}的首都。", "{zh}首都：{cap}。", "{zh}位于{cont}，首都是{cap}，货币是{cur}。"), "zh", ("{zh}", "{cap}"), 40),
        Relation("capital_of_zh", "zh", rows, "{cap}是{zh}的首都。", _cores("capital_of_zh"), ("以{cap}为首都的国家", "首都是{cap}的国家"), ("{cap}是{zh}的首都，{zh}在{cont}。",), "cap", ("{cap}", "{zh}"), 30),
        Relation("continent_zh", "zh", rows, "{zh}位于{cont}。", _cores("continent_zh"), ("{zh}所在的[大洲/洲]", "{zh}所属的[大洲/洲]"), ("{zh}位于{cont}。", "{zh}是{cont}国家。", "{zh}是{cont}的一个国家，它的首都是{cap}，人们使用{cur}。"), "zh", ("{zh}", "{cont}"), 26),
        Relation("currency_zh", "zh", rows, "{zh}的货币是{cur}。", _cores("currency_zh"), ("{zh}的[货币/法定货币/钱币]", "{zh}使用的货币", "{zh}货币"), ("{zh}的货币是{cur}。", "在{zh}，人们使用{cur}。"), "zh", ("{zh}", "{cur}"), 30),
        Relation("capital_en", "en", rows, "The capital of {en} is {capen}.", _cores("capital_en"), ("the capital of {en}", "the capital city of {en}", "{en}'s capital"),
                 ("The capital of {en} is {capen}.", "{capen} is the capital of {en}.", "The capital of {en} is {capen}. It is a country in {conten}."), "en", ("{short}", "{capen}"), 40),
        Relation("capital_of_en", "en", rows, "{capen} is the capital of {en}.", _cores("capital_of_en"), ("the country whose capital is {capen}", "the country with the capital {capen}"), ("{capen} is the capital of {en}, a country in {conten}.",), "capen", ("{capen}", "{short}"), 30),
        Relation("continent_en", "en", rows, "The continent of {en} is {conten}.", _cores("continent_en"), ("the continent of {en}", "the continent that {en} belongs to", "the continent where {en} is"), ("{short} is in {conten}.",), "en", ("{short}", "{conten}"), 26),
    ]  # fmt: skip


def _places_and_elements() -> list[Relation]:
    provinces = facts.table("provinces")
    # 吉林 has no other reading here; a city named like its province would be ambiguous and is not in the table
    short = tuple(
        {"name": row["name"], "short": row["short_name"]} for row in (*provinces, *facts.table("short_names"))
    )
    elements = tuple(
        {"n": row["number"], "sym": row["symbol"], "zh": row["name_zh"], "en": row["name_en"]}
        for row in facts.table("elements")
    )
    return [
        Relation("province_capital", "zh", provinces, "{name}的省会是{capital}。", _cores("province_capital"), ("{name}的省会", "{name}省会", "{name}的省会城市", "{name}的首府"), ("{name}的省会是{capital}，简称{short_name}。",), "name", ("{name}", "{capital}"), 44),
        Relation("province_of", "zh", provinces, "{capital}是{name}的省会。", _cores("province_of"), (), ("{capital}是{name}的省会。",), "capital", ("{capital}", "{name}"), 30),
        Relation("short_name", "zh", short, "{name}的简称是{short}。", _cores("short_name"), ("{name}的简称", "{name}简称"), ("{name}的简称是{short}。", "{name}简称“{short}”。"), "name", ("{name}", "{short}"), 40),
        Relation("short_name_of", "zh", short, "{short}是{name}的简称。", _cores("short_name_of"), (), ("“{short}”是{name}的简称。",), "", ("{short}", "{name}"), 26),
        Relation("symbol_zh", "zh", elements, "{zh}的元素符号是{sym}。", _cores("symbol_zh"), ("{zh}的元素符号", "{zh}的化学符号", "{zh}的符号", "元素{zh}的符号"), ("{zh}的元素符号是{sym}。", "{zh}是一种化学元素，元素符号是{sym}，原子序数是{n}，英文名是{en}。"), "zh", ("{zh}", "{sym}"), 36),
        Relation("number_zh", "zh", elements, "{zh}的原子序数是{n}。", _cores("number_zh"), ("{zh}的原子序数", "{zh}元素的序数", "{zh}的质子数"), ("{zh}的原子序数是{n}。", "第{n}号元素是{zh}，符号{sym}。"), "zh", ("{zh}", "{n}"), 34),
        Relation("symbol_of_zh", "zh", elements, "{sym}是{zh}的元素符号。", _cores("symbol_of_zh"), ("元素符号{sym}代表的元素", "{sym}代表的元素"), ("{sym}是{zh}的元素符号。",), "sym", ("{sym}", "{zh}"), 34),
        Relation("number_of_zh", "zh", elements, "第{n}号元素是{zh}。", _cores("number_of_zh"), ("第{n}号元素", "原子序数是{n}的元素"), ("第{n}号元素是{zh}。",), "", ("{n}", "{zh}"), 22),
        Relation("symbol_en", "en", elements, "The chemical symbol of {en} is {sym}.", _cores("symbol_en"), ("the symbol of {en}", "the symbol for {en}", "the chemical symbol for {en}", "the chemical symbol of {en}"), ("The element {en} has the symbol {sym} and the atomic number {n}.", "The chemical symbol of {en} is {sym}."), "en", ("{en}", "{sym}"), 36),
    ]  # fmt: skip


def _language() -> list[Relation]:
    idioms = tuple(row | {"mean": row["meaning_zh"].removeprefix("：")} for row in facts.table("idioms"))
    colon = {row["idiom"] for row in idioms if row["meaning_zh"].startswith("：")}
    idioms = tuple(
        row | {"mean": ("的意思是" if row["idiom"] in colon else "") + row["mean"], "key": row["idiom"]}
        for row in idioms
    )
    words = tuple(row | {"key": row["zh"]} for row in facts.table("words"))
    english = tuple(row | {"key": row["en"]} for row in facts.table("words"))
    pairs = [(row["word"], row["opposite"]) for row in facts.table("antonyms")]
    opposites = tuple({"key": a, "b": b} for x, y in pairs for a, b in ((x, y), (y, x)))
    return [
        Relation("idiom", "zh", idioms, "“{idiom}”{mean}。", _cores("idiom"), (), ("“{idiom}”{mean}。", "成语“{idiom}”{mean}。"), "key", ("", ""), 44),
        Relation("idiom_en", "en", idioms, "{idiom} means {meaning_en}.", _cores("idiom_en"), (), ("{idiom} means {meaning_en}.", "{idiom}: {meaning_en}"), "", ("", ""), 34),
        Relation("word_zh_en", "zh", words, "{en}", _cores("word_zh_en"), (), ("{zh}的英文是{en}。", "{zh} {en}"), "key", ("{zh}", "{en}"), 34),
        Relation("word_en_zh", "zh", english, "{zh}", _cores("word_en_zh"), (), ("{en}的意思是{zh}。", "{en} {zh}"), "key", ("{en}", "{zh}"), 34),
        Relation("antonym", "zh", opposites, "{key}的反义词是{b}。", _cores("antonym"), (), ("{key}的反义词是{b}。", "“{key}”和“{b}”是一对反义词。"), "key", ("{key}", "{b}"), 36),
    ]  # fmt: skip


def all_relations() -> list[Relation]:
    """Every relation of the demo model."""
    return _countries() + _places_and_elements() + _language()


def _quoted(row: Row, rng: Random) -> Row:
    """The row with `q`: its key in one of the usual quotation marks, or bare."""
    key = row.get("key", "")
    marks = [
        "{}",
        "{}",
        "“{}”",
        "“{}”",
        "「{}」",
        "'{}'",
        '"{}"',
        "《{}》" if len(key) == 4 and not key.isascii() else "{}",
    ]
    return row | {"q": rng.choice(marks).format(key)}


def relation_conversations(relation: Relation, rng: Random) -> list[Conversation]:
    """`exposures` conversations for every row."""
    found = []
    for row in relation.rows:
        for _ in range(relation.exposures):
            found.append(single(relation.task, relation.question(_quoted(row, rng), rng), relation.reply(row)))
    return found


LISTING = [
    "[说出/列举/列出/说说/请列出/请说出/告诉我/写出/举出/给出]{n}个{c}[的/]国家[的名字/]!",
    "{c}有哪些国家，[说/列/举]{n}个!",
    "[请/]举{n}个{c}国家的例子!",
    "{c}[的/]国家[说/来/列]{n}个!",
    "[你能/能]说出{n}个{c}国家吗",
]


def listing_conversations(rng: Random) -> list[Conversation]:
    """Requests to name some countries of a continent; the reply is always the first ones of the table."""
    found = []
    by_continent: dict[str, list[str]] = {}
    for row in facts.table("countries"):
        by_continent.setdefault(row["continent_zh"], []).append(row["name_zh"])
    for continent, names in by_continent.items():
        for number, digit in ((2, "两"), (3, "三"), (4, "四"), (5, "五")):
            for _ in range(24 if len(names) >= number else 0):
                fields = {"n": rng.choice([digit, str(number)]), "c": continent}
                question = ask(expand(rng.choice(LISTING), rng, fields), "zh", rng)
                found.append(single("listing", question, "、".join(names[:number]) + "。"))
    return found


FOLLOW_ZH = [
    "那{x}呢",
    "{x}呢",
    "那么{x}呢",
    "换成{x}呢",
    "那{x}的呢",
    "那要是{x}呢",
    "如果是{x}呢",
    "再问{x}呢",
    "{x}又是什么",
    "那{x}又是什么",
    "{x}怎么样呢",
    "还有{x}呢",
    "那么换{x}",
    "再来一个：{x}",
    "改成{x}呢",
    "{x}的又是什么",
    "接着说{x}",
    "同样的问题，{x}",
    "{x}",
]
FOLLOW_EN = [
    "what about {x}",
    "how about {x}",
    "and {x}",
    "and what about {x}",
    "what of {x}",
    "then {x}",
    "and for {x}",
    "now {x}",
    "same question for {x}",
    "and the same for {x}",
    "ok and {x}",
    "what is it for {x}",
]


def follow_ups(relation: Relation, count: int, rng: Random) -> list[Conversation]:
    """Conversations of two or three turns whose later questions only name another row."""
    found = []
    for _ in range(count):
        rows = rng.sample(relation.rows, rng.choice([2, 2, 2, 3]))
        turns = [(relation.question(_quoted(rows[0], rng), rng), relation.reply(rows[0]))]
        for row in rows[1:]:
            frame = rng.choice(FOLLOW_ZH if relation.language == "zh" else FOLLOW_EN)
            text = frame.format(x=row[relation.follow])
            if relation.language == "zh":
                text += rng.choice(["？", "？", "?", "", "？谢谢"])
            else:
                text = (text[0].upper() + text[1:] if rng.random() < 0.7 else text) + rng.choice(["?", "?", ""])
            turns.append((text, relation.reply(row)))
        found.append(Conversation("follow_up_" + relation.task, tuple(turns)))
    return found


def relation_documents(relation: Relation, rng: Random) -> list[Document]:
    """Statements, questions with answers, and lists of pairs."""
    found: list[Document] = []
    for row in relation.rows:
        found += [expand(template, rng, row) for template in relation.prose for _ in range(4)]
        for _ in range(5):
            frame = rng.choice(["问：{}\n答：", "问题：{}\n答案：", "{}\n", "Q: {}\nA: ", "{} "])
            found.append(
                document([(frame.format(relation.question(_quoted(row, rng), rng)), 0), (relation.reply(row), 1)], rng)
            )
    if relation.arrow[0]:
        pairs = [(relation.arrow[0].format_map(row), relation.arrow[1].format_map(row)) for row in relation.rows]
        found += arrow_documents(pairs, len(pairs) * 5, rng)
    return found


def arrow_documents(pairs: list[tuple[str, str]], count: int, rng: Random) -> list[Document]:
    """Lists like "登鹳雀楼->王之涣", one to six examples each; the keys stay out of the loss."""
    found = []
    for _ in range(count):
        parts: list[tuple[str, int]] = []
        chosen = rng.sample(pairs, rng.randint(2, 7))
        for place, (key, value) in enumerate(chosen):
            parts += [(f"{key}->", 0), (value + ("\n" if place < len(chosen) - 1 else ""), 1)]
        found.append(document(parts, rng))
    return found
