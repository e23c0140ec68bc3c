"""What `baichuan2 convert` says to people, in Chinese and in English."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as CHINESE_WORDS
from baichuan2.cli.text import words_for

__all__ = ["ConversionWords", "conversion_words_for"]


@dataclass(frozen=True, kw_only=True)
class ConversionWords:
    """Everything said in one language; braces hold what is filled in."""

    start: str
    files: str
    tensors: str
    resumed: str
    interrupted: str
    done: str


CHINESE = ConversionWords(
    start="{way}：正在读 {source}，写入 {target} ……",
    files="权重文件",
    tensors="张量",
    resumed="接着上次的进度：{count} 个{unit}此前已完成。",
    interrupted="[已停止；再次运行同一命令会从 {target}.partial 继续]",
    done="完成：{target}，{before} -> {after}，{count} 个张量，用时 {seconds:.0f} 秒。",
)
ENGLISH = ConversionWords(
    start="{way}: reading {source}, writing {target} ...",
    files="files of weights",
    tensors="tensors",
    resumed="going on where the last run stopped: {count} {unit} were finished",
    interrupted="[stopped; the same command goes on from {target}.partial]",
    done="done: {target}, {before} -> {after}, {count} tensors, {seconds:.0f} s",
)


def conversion_words_for(language: Literal["auto", "zh", "en"]) -> ConversionWords:
    """The words in `language`: zh, en, or auto for what the locale says."""
    return CHINESE if words_for(language) is CHINESE_WORDS else ENGLISH
