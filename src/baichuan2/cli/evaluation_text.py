"""What is said to people around an evaluation, in Chinese and in English; see `text.py`."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as GENERAL_CHINESE
from baichuan2.cli.text import words_for

__all__ = ["EvaluationWords", "evaluation_words_for"]


@dataclass(frozen=True, kw_only=True)
class EvaluationWords:
    """Everything said in one language; braces hold what is filled in."""

    started: str
    resumed: str
    share: str
    was_finished: str
    shortened: str
    not_judged: str
    weaker_sandbox: str
    submission: str
    written: str
    stopped: str
    note: str
    revision: str
    curves: str
    table_title: str
    suite: str
    recipe: str
    shots: str
    items: str
    score: str
    interval: str
    macro: str
    micro: str
    chance: str
    published: str
    difference: str
    partial: str
    unknown_score: str
    table_note: str
    published_note: str
    same_shape: str
    partial_note: str
    list_title: str
    list_exact: str
    list_approximation: str
    list_recipes: str
    list_note: str
    compare_title: str
    compare_flipped: str
    compare_p: str
    compare_note: str
    compare_forced: str
    compare_lost: str
    compare_won: str
    compare_more: str


CHINESE = EvaluationWords(
    started="{title}：{items} 题，{shots} 个示例，配方 {recipe}，结果写入 {folder}",
    resumed="{title}：接着上次的进度，{items} 题中已有 {answered} 题完成",
    share="{processes} 个进程分担；进度条只显示第一个进程的部分",
    was_finished="{title}：{folder} 中的评测早已完成，直接给出结果；--overwrite 可重新评测。",
    shortened="{title}：{count} 个提示过长，已缩短",
    not_judged="{title}：{count} 个程序未能评判（沙箱两次失败），不计入得分",
    weaker_sandbox="{title}：生成的程序在较弱的沙箱中运行，缺少：{layers}",
    submission="{title}：没有公开答案，请把 {path} 提交到排行榜。",
    written="报告：{path}",
    stopped="[已停止；再次运行同一命令会从 {folder} 继续]",
    note="注意：{text}",
    revision="检查点 {name}（第 {number} 个，共 {count} 个）",
    curves="曲线和数字写入 {folder}：dynamics.png、dynamics.md、dynamics.json",
    table_title="{model}，{dtype}，量化：{quantization}",
    suite="评测集",
    recipe="配方",
    shots="示例",
    items="题数",
    score="得分",
    interval="95% 区间",
    macro="按科目平均",
    micro="按题平均",
    chance="随机",
    published="公布值",
    difference="差",
    partial="（部分）",
    unknown_score="无答案",
    table_note="得分为该配方自己的平均方式，单位 %。区间说明换一批同类题目会怎样。",
    published_note="公布值：{rows}。",
    same_shape="（形状相同）",
    partial_note="部分：没有问完全部题目，不能当作该评测集的得分。",
    list_title="{count} 个评测集；每个都可直接用作 baichuan2 evaluate 的参数",
    list_exact="精确",
    list_approximation="近似",
    list_recipes="其他配方",
    list_note="精确：与来源逐字相同；近似：来源有未公布之处，见 docs/benchmarks.md。",
    compare_title="A：{first}\nB：{second}",
    compare_flipped="只有 A 对 / 只有 B 对",
    compare_p="p 值",
    compare_note="单位 %。区间与 p 值（McNemar 精确检验；BLEU 用重抽样）只说明换一批同类题会怎样，不说明换提示。",
    compare_forced="两个结果的做法不同（{reasons}）：只比较两边都有的 {items} 题",
    compare_lost="{suite}：A 对而 B 错",
    compare_won="{suite}：A 错而 B 对",
    compare_more="另有 {count} 题；--json 或 --output-dir DIR 给出全部",
)

ENGLISH = EvaluationWords(
    started="{title}: {items} items, {shots} examples each, recipe {recipe}, results go to {folder}",
    resumed="{title}: going on where the last run stopped, {answered} of {items} items were answered",
    share="{processes} processes share the work; the bar shows the part of the first",
    was_finished="{title}: the evaluation in {folder} was finished before, this is its result; --overwrite repeats it",
    shortened="{title}: {count} prompts were too long and have been shortened",
    not_judged="{title}: {count} programs could not be judged (the sandbox failed twice) and are left out of the score",
    weaker_sandbox="{title}: generated programs ran in a weaker sandbox, without: {layers}",
    submission="{title}: no answers are public, hand {path} in at the leaderboard.",
    written="report: {path}",
    stopped="[stopped; the same command goes on from {folder}]",
    note="note: {text}",
    revision="checkpoint {name}, {number} of {count}",
    curves="written to {folder}: dynamics.png, dynamics.md, dynamics.json",
    table_title="{model}, {dtype}, quantisation: {quantization}",
    suite="suite",
    recipe="recipe",
    shots="shots",
    items="items",
    score="score",
    interval="95 %",
    macro="by subject",
    micro="by item",
    chance="chance",
    published="published",
    difference="diff.",
    partial=" (partial)",
    unknown_score="no answers",
    table_note=(
        "The score is the average that the recipe names, in per cent; 95 %: with other items of the same kind."
    ),
    published_note="Published: {rows}.",
    same_shape=" (same shape)",
    partial_note="Partial: not all items were asked, so that is no score of the benchmark.",
    list_title="{count} suites, each a word for baichuan2 evaluate",
    list_exact="exact",
    list_approximation="approximation",
    list_recipes="further recipes",
    list_note="exact: as the source, letter by letter; approximation: not all is published, see docs/benchmarks.md.",
    compare_title="A: {first}\nB: {second}",
    compare_flipped="only A / only B right",
    compare_p="p",
    compare_note=(
        "In per cent. Intervals and p (McNemar's exact test; for BLEU resampled sentences) tell how it would be with "
        "other items of the same kind, not with other prompts."
    ),
    compare_forced="the results were made in different ways ({reasons}): compared by the {items} items that both hold",
    compare_lost="{suite}: A right, B wrong",
    compare_won="{suite}: A wrong, B right",
    compare_more="{count} more; --json or --output-dir DIR gives all",
)


def evaluation_words_for(language: Literal["auto", "zh", "en"]) -> EvaluationWords:
    """The words of `language`; auto: as `words_for` chooses."""
    return CHINESE if words_for(language) is GENERAL_CHINESE else ENGLISH
