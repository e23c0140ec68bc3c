"""The words of the page, in Chinese and in English.

Both languages fill the same dataclass, so a missing translation is a type error. Error messages are English.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["CHINESE", "ENGLISH", "Language", "Words", "is_chinese", "words_for"]

Language = Literal["zh", "en"]


@dataclass(frozen=True, kw_only=True)
class Words:
    """Everything that the page says in one language; braces hold what is filled in."""

    greeting: str
    greeting_note: str
    demo_model: str
    demo_note: str
    suggestions: tuple[str, ...]
    demo_suggestions: tuple[str, ...]
    input_hint: str
    loading: str
    thinking: str
    new_chat: str
    system: str
    system_hint: str
    sampling: str
    save: str
    save_markdown: str
    save_json: str
    stop: str
    again: str
    edit: str
    edit_label: str
    send: str
    keep: str
    raw: str
    context: str
    speed: str
    stopped: str
    failed: str
    length_limit: str
    dropped: str
    about: str
    address: str
    open_to_all: str
    seed_hint: str
    roles: Mapping[str, str]
    controls: Mapping[str, tuple[str, str]]
    """Of each sampling setting its name and an explanation."""


CHINESE = Words(
    greeting="你好，有什么可以帮忙？",
    greeting_note="模型可能出错，重要内容请核实。",
    demo_model="内置演示模型",
    demo_note="很小的演示模型，只学过少量知识；用 `--model` 可换成官方模型。",
    suggestions=("解释一下“温故而知新”", "写一首关于秋天的诗", "用 Python 写一个快速排序"),
    demo_suggestions=("世界上第二高的山峰是哪座", "解释一下“温故而知新”", "法国的首都是哪里？"),
    input_hint="给百川发消息",
    loading="正在加载模型 ……",
    thinking="正在思考 ……",
    new_chat="新对话",
    system="系统提示",
    system_hint="写在对话之前的说明，例如：你是一位耐心的老师。",
    sampling="采样设置",
    save="保存对话",
    save_markdown="Markdown",
    save_json="JSON",
    stop="停止",
    again="重新生成",
    edit="编辑",
    edit_label="修改后从这里重新发送，之后的对话会被删除",
    send="重新发送",
    keep="取消",
    raw="原文",
    context="上下文 {used} / {size} token",
    speed="{tokens} 个 token · {speed:.1f} token/秒 · 首个 token {prefill:.2f} 秒",
    stopped="已停止，已生成的部分保留在对话中。",
    failed="生成出错，以上部分保留在对话中。",
    length_limit="达到长度上限而停止；可在左侧调大“最长回复”。",
    dropped="对话超出模型的上下文长度：最早的 {count} 条消息不再参与。",
    about="**baichuan2** {version}：在当今的库上运行百川 2。本页面不向外发送任何数据。",
    address="网页地址：{url}（按 Ctrl-C 结束）",
    open_to_all="注意：凡能访问 {host} 的人都可以使用本页面，不需要密码。",
    seed_hint="随机",
    roles={"system": "系统提示", "user": "用户", "assistant": "模型"},
    controls={
        "max_new_tokens": ("最长回复", "一次回复最多多少个 token。"),
        "temperature": ("温度", "越高越多样，越低越稳定；0 表示总取最可能的 token。"),
        "top_p": ("Top-p", "只从累计概率达到该值的最可能的 token 中选取。"),
        "top_k": ("Top-k", "只从最可能的 K 个 token 中选取；0 表示不限。"),
        "min_p": ("Min-p", "不选概率低于最可能 token 的这个比例的 token；0 表示不限。"),
        "repetition_penalty": ("重复惩罚", "大于 1 时，减少提示和回复中已出现过的 token。"),
        "presence_penalty": ("存在惩罚", "大于 0 时，减少回复中已出现过的 token。"),
        "frequency_penalty": ("频率惩罚", "大于 0 时，token 在回复中出现得越多，越少再选。"),
        "seed": ("随机种子", "填入后，同样的对话得到同样的回复。"),
    },
)

ENGLISH = Words(
    greeting="Hello, how can I help?",
    greeting_note="The model makes mistakes: check what matters.",
    demo_model="Embedded demo model",
    demo_note="A very small model that knows few things; `--model` runs an official one.",
    suggestions=("Explain “learning by doing”", "Write a poem about autumn", "Write quicksort in Python"),
    demo_suggestions=("What is the capital of France?", "Who are you?", "世界上第二高的山峰是哪座"),
    input_hint="Message Baichuan",
    loading="Loading the model ...",
    thinking="Thinking ...",
    new_chat="New chat",
    system="System prompt",
    system_hint="What stands before the conversation, such as: You are a patient teacher.",
    sampling="Sampling",
    save="Save conversation",
    save_markdown="Markdown",
    save_json="JSON",
    stop="Stop",
    again="Another reply",
    edit="Edit",
    edit_label="Change and send again from here; what came after is removed",
    send="Send again",
    keep="Cancel",
    raw="Source",
    context="Context {used} / {size} tokens",
    speed="{tokens} tokens · {speed:.1f} tokens/s · first token {prefill:.2f} s",
    stopped="Stopped; what was said stays in the conversation.",
    failed="The reply failed; what was said stays in the conversation.",
    length_limit="Stopped at the length limit; “Longest reply” on the left changes it.",
    dropped="The context is full: the model no longer sees the oldest {count} messages.",
    about="**baichuan2** {version}: Baichuan 2 on today's libraries. This page sends nothing to anybody else.",
    address="The page is at {url} (Ctrl-C ends it)",
    open_to_all="note: everybody who reaches {host} can use the page, without a password",
    seed_hint="random",
    roles={"system": "System prompt", "user": "User", "assistant": "Model"},
    controls={
        "max_new_tokens": ("Longest reply", "Tokens of one reply, at most."),
        "temperature": ("Temperature", "Higher: more varied, lower: steadier; 0 always takes the most likely token."),
        "top_p": ("Top-p", "Choose from the most likely tokens that together hold this probability."),
        "top_k": ("Top-k", "Choose from the K most likely tokens; 0: no limit."),
        "min_p": ("Min-p", "Leave out tokens less likely than this part of the most likely one; 0: none."),
        "repetition_penalty": ("Repetition penalty", "Above 1: discourage tokens that prompt or reply hold already."),
        "presence_penalty": ("Presence penalty", "Above 0: discourage tokens that the reply holds already."),
        "frequency_penalty": (
            "Frequency penalty",
            "Above 0: the same, more for tokens that it holds often.",
        ),
        "seed": ("Seed", "With one, the same conversation gets the same reply."),
    },
)


def is_chinese(locale: str | None) -> bool:
    """Whether a browser's or system's locale, such as zh-CN or zh_CN.UTF-8, is Chinese."""
    return (locale or "").lower().startswith("zh")


def words_for(language: Language) -> Words:
    """The words of `language`."""
    return CHINESE if language == "zh" else ENGLISH
