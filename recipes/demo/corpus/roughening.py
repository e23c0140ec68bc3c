"""Noise around a question: scenes, remarks and filling words, so that no single wording means anything by itself.

Works on messages whose fields are still marked ("{zh}"), so that what is asked about is never touched.
"""

# ruff: noqa: E501  (wordings are data: one list a line reads better than wrapped strings)
from __future__ import annotations

import re
from random import Random

SHARE = 0.35
_SCENES_ZH = "我在写作业。|刚下课。|我在准备考试。|今天下雨，在家没事。|我们在玩问答游戏。|周末陪孩子学习。|我在做一张卡片。|刚吃完饭。|同事们打了个赌。|明天要上课。|我在看电视。|课间休息。|晚上睡不着。|在火车上无聊。|我正在填字谜。|老师布置了任务。|和朋友争起来了。|孙子来我家了。|打扰一下。|我记性不好。|有件事想问。|换个话题。|帮个忙。|别笑我。|我是新手。|说点别的。|先热热身。|这题很简单。|这题有点难。|我来出题。|轮到我问了。|下一题。|第一题。|最后一题。|家里停电了，用手机问你。|奶奶在旁边听着呢。|外面好吵。|咖啡喝完了。|我在公交车上。|刚跑完步。".split(
    "|"
)
_REMARKS_ZH = "谢谢。|多谢！|谢谢你啦|麻烦你了。|辛苦了。|拜托了|我一会儿要用。|急用。|在线等。|快一点。|不着急，慢慢想。|明天要考试。|作业里要写。|老师要检查的。|我儿子想知道。|我和朋友打了赌。|我有点忘了。|我记不清了。|我怕记错。|不太确定。|别告诉我你不知道。|你肯定知道。|你这么聪明。|简单说就行。|一句话回答。|直接告诉我答案。|不用解释太多。|说错了也没关系。|我想核对一下。|写在纸上用。|要做卡片。|比赛要用。|我查了半天。|书上没找到。|网上太乱了。|问了好几个人都不会。|大家都等着呢。|我先去倒杯水。|答对有奖！|哈哈|嘻嘻|嗯嗯|好奇而已。|随便问问。|只是想确认。|别见怪。|不好意思。|抱歉打扰。|请多指教。|感激不尽。|帮帮忙吧|拜托拜托|求求了|等你回答。|我听着呢。|请讲。|说吧。|来吧。|你来答。|我赌你会。|奶奶也想知道。|孩子在旁边等。|车快到站了。|马上要开会。|手机快没电了。|今天第三次问了。|刚刚有人问我。|我没学过这个。|小时候学过，忘了。|这个总是考。|这个很有意思。|记下来给同学看。|我要讲给别人听。|准备写进作文。|节目里要用。|认真的。|不开玩笑。|祝你愉快。|谢谢老师。|多谢指点。".split(
    "|"
)
_SCENES_EN = "I am doing homework.|We are playing a quiz.|Quick one.|It is raining here.|Sorry to bother you.|I have a test tomorrow.|My son is here.|New topic.|Next question.|Last question.|First question.|I am on a train.|I just had lunch.|Help me out.|I am new here.|My turn to ask.|This is an easy one.|This is a hard one.|I could not sleep.|Let us change the subject.|I am filling in a form.|My teacher asked us this.|Friends are arguing.|I am curious.|I am writing a card.".split(
    "|"
)
_REMARKS_EN = "Thanks.|Thank you!|Thanks a lot.|I need it soon.|I am in a hurry.|No rush.|I forgot it.|I am not sure.|Just curious.|My son wants to know.|It is for homework.|It is for a quiz.|I have a test tomorrow.|Please be brief.|One sentence is enough.|I looked everywhere.|Sorry to ask.|You must know this.|I bet you know.|Just checking.|Cheers.|Appreciate it.|Take your time.|My friends are waiting.|I keep forgetting.|Nobody here knows.|I want to be sure.|It is bugging me.|Do tell.|I am listening.|Please answer.|That is all.|It came up today.|Haha.|No jokes, please.".split(
    "|"
)
_FILLERS_ZH = "其实 那个 这个 嗯 呃 啊 哎 哦 喂 话说 对了 说起来 说真的 老实说 顺便 另外 还有 首先 然后 总之 反正 不过 可是 但是 所以 今天 昨天 刚才 刚刚 现在 最近 平时 有时候 突然 忽然 其次 依你看 照你看 按说 按理说 一般来说 通常 严格地说 简单说 换句话说 据说 听说 好像 似乎 也许 可能 大概 应该 毕竟 当然 确实 果然 难道 亲 朋友 老师 同学 师傅 伙计 亲爱的 小伙伴 哥 姐 百川 小百川 哈哈 嘿嘿 唉 哎呀 天哪 好吧 行吧 来 来来 好 那 那么 再 再说 再问 我说 你看 你说 你想 你瞧 我想 我猜 我问 咱们 咱 大家 各位 有人说 不瞒你说 说不定 万一 或者 例如 比如 正好 恰好 碰巧 偏偏 干脆 索性 赶紧 赶快 慢慢 仔细想想 认真地 悄悄 偷偷 老是 总是 从来 一直 向来 本来 原来 终究 归根结底 说白了 讲真 真的 真心 哟 呀 嘛 咦 哇 噢 啧 喏 得 得了 好了 行了 完了 罢了 早上 中午 晚上 上午 下午 周末 上次 这次 下次 每次 无论如何 不管怎样 当时 那时 同时 随后 接着 最后 终于 究竟 到底".split()
_ADVERBS_ZH = "到底 究竟 其实 应该 大概 现在 一般 通常 都 也 就 真的 确实 本来 一直 可能 究竟又 具体 准确地说 严格来说 目前 如今 实际上 正式 真正".split()
_FILLERS_EN = "well|so|um|uh|okay|actually|honestly|listen|look|hey|right|now|then|anyway|by the way|just wondering|you know|I mean|let me see|hmm|oh|say|alright|first|also|quickly|my friend|dear model|if you can|for once|today|in short|frankly|seriously|speaking of it|one thing|again|finally|basically|tell you what".split(
    "|"
)
_WITHIN_EN = "really|actually|exactly|again|then|now|officially|usually|normally|still|perhaps|just".split("|")
# Only in front of these words, and never next to a field, is there room for an adverb: within a key word or a name it would change the question.
_ROOM_ZH = re.compile(r"(?<=[\u4e00-\u9fff])(?=是什么|是哪|是谁|是多少|叫什么|怎么|在哪|有哪|该怎么|用什么|属于)")
_ROOM_EN = re.compile(r"\b(?:is|are|was|does|did|do|can|could)(?= [a-z])")
_PARTICLES_ZH = re.compile(r"[呢呀啊吧嘛呗]")


def roughen(text: str, language: str, rng: Random, *, inside: bool = True) -> str:
    """`text`, in `SHARE` of the calls with one to three disturbances. `inside`: false keeps the sentence itself whole."""
    if rng.random() >= SHARE:
        return text
    chinese = language == "zh"
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        draw = rng.random()
        if draw < 0.28:
            text = _remark(text, chinese, rng)
        elif draw < 0.45:
            scenes = _SCENES_ZH if chinese else _SCENES_EN
            text = rng.choice(scenes) + ("" if chinese else " ") + text
        elif draw < 0.65 or not inside:
            text = _filler(text, chinese, rng)
        elif draw < 0.85:
            room, words = (_ROOM_ZH, _ADVERBS_ZH) if chinese else (_ROOM_EN, _WITHIN_EN)
            places = [match.end() for match in room.finditer(text)]
            if places:
                at = rng.choice(places)
                text = text[:at] + ("" if chinese else " ") + rng.choice(words) + text[at:]
        elif chinese and draw < 0.93:
            text = _PARTICLES_ZH.sub(lambda match: match[0] * rng.choice([0, 1, 2]), text)
        else:
            text = _swapped(text, rng)
    return text


def _remark(text: str, chinese: bool, rng: Random) -> str:
    remark = rng.choice(_REMARKS_ZH if chinese else _REMARKS_EN)
    if text[-1] in "。？！?!.~":
        return text + ("" if chinese else " ") + remark
    if text[-1] in "：:}_":  # a sentence to translate or a blank ends here; a remark would become part of it
        return text
    return text + (rng.choice("，。？ ") if chinese else rng.choice([". ", "? ", ", "])) + remark


def _filler(text: str, chinese: bool, rng: Random) -> str:
    if chinese:
        return rng.choice(_FILLERS_ZH) + rng.choice(["，", "，", " ", "…", "、"]) + text
    return rng.choice(_FILLERS_EN) + ", " + text


def _swapped(text: str, rng: Random) -> str:
    """The two clauses around the only comma change places, unless one points back or a blank depends on the order."""
    if text.count("，") != 1 or re.search(r"[：；_（“]|它|他|这|那|接|下|上|前|后", text):
        return text
    mark = text[-1] if text[-1] in "。？！?!" else ""
    first, second = text.removesuffix(mark).split("，")
    return f"{second}，{first}{mark or rng.choice(['', '？'])}" if first and second else text
