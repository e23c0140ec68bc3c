"""The built-in text of `baichuan2 quantize --report`: of the kind of the calibration text, with no sentence of it.

`python -m recipes.calibration.apart` writes it into the package. Conversations are held-out questions of the demo model
(the development set) with its own replies, those that are right; the rest is general text that stands here only.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from baichuan2.checkpoints.load import load_model
from recipes.demo.score import CHAT_TOKENS, answer
from recipes.demo.tasks import conversation_tasks, paraphrase_tasks

__all__ = ["GENERAL", "PATH", "report_text"]

PATH = Path(__file__).parents[2] / "src" / "baichuan2" / "bench" / "report.jsonl"
SEED = 20_231_028
PER_RELATION = 5
EVERY = 6  # of the other questions

GENERAL = (
    "The old bridge is closed until May. Lorries must take the road along the river, which adds a quarter of an hour; "
    "cyclists and people on foot may still cross on the eastern side. The council expects the repair to cost two "
    "million, a third of which the region pays. In the shops on both banks opinions differ: the "
    "baker sells less bread, "
    "the man with the ferry has bought a second boat.",
    "A thermos keeps tea hot for the same reason that it keeps ice cold: between its two walls "
    "there is almost nothing, "
    "and where there is nothing, warmth can travel by radiation only. The silver layer on the glass "
    "throws most of that "
    "back. What is lost in the end goes through the stopper.",
    "Glue the two halves with the grain in the same direction and hold them with clamps overnight. Sand the edges with "
    "fine paper, wipe off the dust, and brush on two thin coats of oil, twelve hours apart. Do not "
    "use varnish on a board "
    "that will touch food.",
    "Question: A train leaves at 9:40 and arrives at 12:05. It covers 203 km. What is its average speed? Answer: The "
    "journey takes 2 hours and 25 minutes, that is 145 minutes. 203 km / 145 min = 1.4 km per minute, so 84 km/h.",
    "小镇的邮局只有一间屋子，柜台后面坐着一位戴眼镜的老人。来寄信的人不多，他便把旧邮票按年份排好，夹进厚厚的册子里。"
    "有一次，一个孩子问他最贵的是哪一张，他指着一张印着帆船的说：“这张不贵，却走得最远。”",
    "为什么冬天窗户上会起雾？室内的空气比较暖，含有较多的水汽。玻璃被外面的冷空气冷却，水汽碰到它就凝结成细小的水珠。"
    "打开窗户通风，或者降低室内湿度，雾气就会慢慢消失。",
    "番茄炒蛋的做法：先把三个鸡蛋打散，加一点盐；番茄切成小块。热锅下油，倒入蛋液，炒到凝固后盛出。再放番茄，"
    "炒软出汁，加少许糖，最后把鸡蛋倒回锅里翻匀即可。",
    "各位同事：下周三上午九点在三楼会议室召开季度总结会，请各部门负责人准备十分钟的汇报，材料请于周一下班前发到公共邮箱。"
    "会议预计十一点半结束，如不能参加，请提前说明。",
    'def word_counts(path):\n    counts = {}\n    with open(path, encoding="utf-8") as file:\n'
    "        for line in file:\n"
    "            for word in line.lower().split():\n                counts[word] = counts.get(word, 0) + 1\n"
    "    return sorted(counts.items(), key=lambda pair: -pair[1])\n",
    "SELECT city, COUNT(*) AS orders, SUM(price) AS revenue\nFROM sales\nWHERE year = 2022 AND "
    "price > 0\nGROUP BY city\n"
    "HAVING COUNT(*) >= 10\nORDER BY revenue DESC;\n",
    "| month | rain (mm) | sun (h) |\n| --- | --- | --- |\n| January | 62 | 41 |\n| April | 38 | "
    "155 |\n| July | 71 | 203 |\n"
    "| October | 66 | 98 |\n",
)


def report_text() -> str:
    """A JSON object with a text or messages on each line."""
    tasks = [*paraphrase_tasks(limit=PER_RELATION, seed=SEED, folder="development").values()]
    tasks += [questions[::EVERY] for questions in conversation_tasks("development").values()]
    questions = [question for group in tasks for question in group]
    loaded = load_model("demo-chat")
    with torch.inference_mode():
        replies = answer(loaded.model, loaded.tokenizer, questions, max_new_tokens=CHAT_TOKENS)
    entries: list[dict[str, object]] = []
    for question, reply in zip(questions, replies, strict=True):
        if question.is_right(reply):
            turns = [*question.messages, ("assistant", reply)]
            entries.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    entries += [{"text": text} for text in GENERAL]
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


if __name__ == "__main__":
    PATH.write_text(report_text(), encoding="utf-8")
    print(f"{PATH}: {PATH.stat().st_size} bytes")
