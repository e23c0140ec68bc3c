"""The words of `baichuan2 finetune --preview` and of the counts of training data, in Chinese and in English."""

import os
from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as CHINESE_WORDS
from baichuan2.cli.text import words_for

__all__ = ["CHINESE", "ENGLISH", "PreviewWords", "preview_words_for"]


@dataclass(frozen=True, kw_only=True)
class PreviewWords:
    """Everything said in one language; braces hold what is filled in."""

    reading: str
    example: str
    chosen: str
    rejected: str
    packed_row: str
    cut: str
    legend: str
    legend_plain: str
    seen: str
    learnt: str
    structure: str
    ends: str
    training: str
    held_out_file: str
    layouts: str
    rows: str
    bad: str
    left_out: str
    equal: str
    examples: str
    held_out: str
    tokens: str
    longest: str
    no_end: str
    packed: str
    summary: str
    summary_held_out: str
    summary_packed: str
    first: str


CHINESE = PreviewWords(
    reading="读取数据（MB）",
    example="样本 {number}：{origin}（{tokens} 个词元，学习 {learnt} 个）",
    chosen="，优选回复",
    rejected="，劣选回复",
    packed_row="第 {number} 行（拼接）",
    cut="……此后 {count} 个词元超出 --model-max-length，已截去",
    legend="图例：",
    legend_plain="图例：│ 隔开词元；⟦ ⟧ 之间是要学习的；{{ }} 处学习的是结束符 </s>；其余只读不学",
    seen="只读",
    learnt="学习",
    structure="角色或结束符，只读",
    ends="此处学习结束符 </s>",
    training="训练数据",
    held_out_file="评估数据",
    layouts="格式",
    rows="行数",
    bad="格式错误，已略去",
    left_out="标签全被截去，已略去",
    equal="两个回复相同，已略去",
    examples="样本数",
    held_out="  其中留作评估",
    tokens="词元数；学习的占比",
    longest="最长样本；被截短的样本",
    no_end="没有教结束符的样本",
    packed="拼成的行数；填满程度",
    summary="数据：{rows} 行（{layouts}），学习 {examples} 个样本；共 {tokens} 个词元，学习其中 {learnt}",
    summary_held_out="；留作评估 {count} 个样本",
    summary_packed="；拼成 {rows} 行，填满 {full}",
    first="第一个样本（{origin}）：",
)

ENGLISH = PreviewWords(
    reading="reading data (MB)",
    example="example {number}: {origin} ({tokens} tokens, {learnt} learnt)",
    chosen=", the chosen reply",
    rejected=", the rejected reply",
    packed_row="row {number} (packed)",
    cut="... {count} more tokens are cut by --model-max-length",
    legend="legend: ",
    legend_plain=(
        "legend: │ between tokens; ⟦ ⟧ around what is learnt; {{ }} where the end token </s> is learnt; the rest is "
        "only read"
    ),
    seen="only read",
    learnt="learnt",
    structure="role or end token, only read",
    ends="the end token </s> is learnt here",
    training="training data",
    held_out_file="held-out data",
    layouts="layout",
    rows="rows",
    bad="malformed and left out",
    left_out="left out, all labels cut",
    equal="left out, equal replies",
    examples="examples",
    held_out="  of them held out",
    tokens="tokens; part that is learnt",
    longest="longest example; examples cut",
    no_end="examples that teach no end token",
    packed="rows packed; how full they are",
    summary="data: {rows} rows ({layouts}), {examples} examples to learn; {tokens} tokens, {learnt} of them learnt",
    summary_held_out="; {count} examples held out",
    summary_packed="; packed into {rows} rows, {full} full",
    first="first example, {origin}: ",
)


def preview_words_for(language: Literal["auto", "zh", "en"]) -> PreviewWords:
    """The words of `language`; auto: as everywhere, from the locale."""
    return CHINESE if words_for(language, os.environ) is CHINESE_WORDS else ENGLISH
