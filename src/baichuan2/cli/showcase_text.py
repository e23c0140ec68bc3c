"""What `baichuan2 showcase` says to people, in Chinese and in English."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as CHINESE_WORDS
from baichuan2.cli.text import words_for

__all__ = ["ShowcaseWords", "showcase_words_for"]


@dataclass(frozen=True, kw_only=True)
class ShowcaseWords:
    """Everything said in one language; braces hold what is filled in."""

    language: Literal["zh", "en"]
    system: str
    text: str
    continuation: str
    right: str
    wrong: str
    cut: str
    unchecked: str
    summary: str
    summary_none: str
    still_greedy: str
    written: str
    stopped: str
    page_title: str
    page_model: str
    page_numbers: str
    page_questions: str
    page_sampling: str
    page_greedy: str
    page_sampled: str
    page_software: str
    page_hardware: str
    page_result: str
    page_date: str
    page_note: str
    page_partial: str
    page_user: str
    page_reply: str
    list_title: str
    kinds: dict[str, str]
    questions: dict[str, str]


CHINESE = ShowcaseWords(
    language="zh",
    system="系统：",
    text="原文：",
    continuation="续写：",
    right="[✓ 含有预期答案：{expected}]",
    wrong="[✗ 预期答案：{expected}]",
    cut="[达到长度上限而停止；可用 --max-new-tokens 调整]",
    unchecked="[没有唯一答案，请自行判断]",
    summary="{model}：可核对的 {checked} 处中，{right} 处含有预期答案；共 {tokens} 个 token，{speed:.1f} token/秒。",
    summary_none="{model}：没有可核对的回答；共 {tokens} 个 token，{speed:.1f} token/秒。",
    still_greedy="该模型的 generation_config.json 本来就不采样：--sample 没有改变任何结果。",
    written="记录已写入 {path}",
    stopped="[已停止：展示了 {total} 段中的 {shown} 段]",
    page_title="{model}：示例对话",
    page_model="模型",
    page_numbers="精度与设备",
    page_questions="题目",
    page_sampling="采样",
    page_greedy="贪心（总取最可能的 token），重复惩罚 {penalty:g}，每次最多 {tokens} 个 token",
    page_sampled=(
        "随机种子 {seed}，温度 {temperature:g}，top-k {top_k}，top-p {top_p:g}，重复惩罚 {penalty:g}，"
        "每次最多 {tokens} 个 token"
    ),
    page_software="软件",
    page_hardware="硬件",
    page_result="结果",
    page_date="日期（UTC）",
    page_note="回答由模型写出，未经修改；“✓”只表示其中含有预期的答案，不表示其余内容都正确。",
    page_partial="中途停止：{total} 段中只有前 {shown} 段。",
    page_user="用户",
    page_reply="模型",
    list_title="{questions}，{style}",
    kinds={
        "coding": "编程",
        "maths": "数学",
        "instructions": "指令遵循",
        "quiz": "小测验",
        "knowledge": "常识",
        "translation": "翻译",
        "conversation": "多轮对话",
        "poem": "诗文",
        "continuation": "续写",
        "unknown": "没学过的",
        "chat": "Chat 模型的对话",
        "base": "Base 模型的续写",
    },
    questions={"official": "官方模型的题目", "demo": "演示模型的题目（只问它学过的）"},
)
ENGLISH = ShowcaseWords(
    language="en",
    system="System: ",
    text="Text: ",
    continuation="Continuation: ",
    right="[✓ holds what was expected: {expected}]",
    wrong="[✗ expected: {expected}]",
    cut="[stopped at the length limit; --max-new-tokens changes it]",
    unchecked="[no one right answer: judge for yourself]",
    summary=(
        "{model}: {right} of {checked} answers that can be checked hold what was expected; {tokens} tokens, "
        "{speed:.1f} tokens/s"
    ),
    summary_none="{model}: no answer here can be checked; {tokens} tokens, {speed:.1f} tokens/s",
    still_greedy="generation_config.json of this model does not sample: --sample changed nothing",
    written="written: {path}",
    stopped="[stopped: {shown} of {total} examples were shown]",
    page_title="{model}: example conversations",
    page_model="model",
    page_numbers="numbers and device",
    page_questions="questions",
    page_sampling="sampling",
    page_greedy="greedy (always the likeliest token), repetition penalty {penalty:g}, at most {tokens} tokens a reply",
    page_sampled=(
        "seed {seed}, temperature {temperature:g}, top-k {top_k}, top-p {top_p:g}, repetition penalty {penalty:g}, "
        "at most {tokens} tokens a reply"
    ),
    page_software="software",
    page_hardware="hardware",
    page_result="result",
    page_date="date (UTC)",
    page_note=(
        "The replies are the model's, unchanged. ✓ only says that a reply holds the expected answer, not that all "
        "else in it is right."
    ),
    page_partial="Stopped on the way: the first {shown} of {total} examples.",
    page_user="User",
    page_reply="Model",
    list_title="{questions}, {style}",
    kinds={
        "coding": "coding",
        "maths": "maths",
        "instructions": "instruction following",
        "quiz": "quiz",
        "knowledge": "common knowledge",
        "translation": "translation",
        "conversation": "conversation",
        "poem": "poems and sayings",
        "continuation": "continuation",
        "unknown": "never learnt",
        "chat": "conversations for Chat models",
        "base": "texts for Base models",
    },
    questions={"official": "for the official models", "demo": "for the demo models (what they were taught)"},
)


def showcase_words_for(language: Literal["auto", "zh", "en"]) -> ShowcaseWords:
    """The words in `language`: zh, en, or auto for what the locale says."""
    return CHINESE if words_for(language) is CHINESE_WORDS else ENGLISH
