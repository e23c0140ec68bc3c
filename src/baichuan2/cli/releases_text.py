"""What `baichuan2 models` and `baichuan2 download` say to people, in Chinese and in English."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as CHINESE_WORDS
from baichuan2.cli.text import words_for

__all__ = ["ReleaseWords", "release_words_for"]


@dataclass(frozen=True, kw_only=True)
class ReleaseWords:
    """Everything said in one language; braces hold what is filled in."""

    title_2: str
    title_1: str
    title_demo: str
    name: str
    hub: str
    revision: str
    modelscope: str
    files: str
    parameters: str
    vocabulary: str
    context: str
    context_value: str
    tokens: str
    tokens_short: str
    tokens_value: str
    stored: str
    here: str
    spellings: str
    files_unknown: str
    digest: str
    licence: str
    unknown: str
    yes: str
    part: str
    no: str
    embedded: str
    common: str
    note: str
    fits_title: str
    fits_none: str
    commands: str
    licence_baichuan2: str
    licence_baichuan_13b: str
    licence_baichuan_7b: str
    licence_demo: str
    asking: str
    checking: str
    fetch_bar: str
    check_bar: str
    done: str
    fetched: str
    checked: str
    unproven: str
    interrupted: str


CHINESE = ReleaseWords(
    title_2="Baichuan 2",
    title_1="Baichuan 1",
    title_demo="内置演示模型",
    name="名称",
    hub="Hugging Face",
    revision="revision",
    modelscope="ModelScope",
    files="权重文件",
    parameters="参数量",
    vocabulary="词表大小",
    context="上下文",
    context_value="{count} 个 token",
    tokens="训练 token 数",
    tokens_short="训练量",
    tokens_value="{count}B（十亿）",
    stored="存储精度",
    here="本机",
    spellings="也可写作",
    files_unknown="文件列表未知；大小由参数量算出",
    digest="sha256",
    licence="许可",
    unknown="未知",
    yes="已有",
    part="部分",
    no="-",
    embedded="内置",
    common="{title}：词表 {vocabulary}，上下文 {context} 个 token",
    note=(
        "1 GB = 10^9 字节。{places}：放得下 / 勉强 / 读磁盘（很慢）/ 放不下，按完整上下文、1 个对话计算；"
        "精度依次为 16 位、int8、int4。~：由参数量算出。"
        "本机：是否已在 Hugging Face 缓存中。"
        "下载：baichuan2 download 名称；详情：baichuan2 models 名称。"
    ),
    fits_title="{place}",
    fits_none="-",
    commands="命令",
    licence_baichuan2=(
        "Baichuan 2 模型社区许可协议：研究免费；商用须满足条件（日活用户低于 100 万、不是软件或云服务提供商、"
        "不转授权）并向 opensource@baichuan-inc.com 申请。代码：Apache 2.0。以许可协议原文为准。"
    ),
    licence_baichuan_13b=(
        "Baichuan-13B 模型社区许可协议：非商业用途免费；商用须向 opensource@baichuan-inc.com 申请书面授权。"
        "以许可协议原文为准。"
    ),
    licence_baichuan_7b="Baichuan-7B 模型许可协议（仓库中的 PDF）；条款请看原文。",
    licence_demo="Apache 2.0，随本软件包提供。",
    asking="{repo}{at}：正在询问 {hub} ……",
    checking="{repo}{at}：正在核对本机文件 ……",
    fetch_bar="下载",
    check_bar="校验",
    done="完成：{path}，{count} 个文件，{size}",
    fetched="本次下载 {size}。",
    checked="校验和：{counts}。",
    unproven="无从核对的文件（没有公布校验和）：{names}",
    interrupted="[已停止；再次运行同一命令会从中断处继续]",
)
ENGLISH = ReleaseWords(
    title_2="Baichuan 2",
    title_1="Baichuan 1",
    title_demo="embedded demo models",
    name="name",
    hub="Hugging Face",
    revision="revision",
    modelscope="ModelScope",
    files="weights",
    parameters="parameters",
    vocabulary="vocabulary",
    context="context",
    context_value="{count} tokens",
    tokens="trained on",
    tokens_short="tokens",
    tokens_value="{count}B tokens",
    stored="stored in",
    here="here",
    spellings="also called",
    files_unknown="the list of files is not known; the size follows from the parameters",
    digest="sha256",
    licence="licence",
    unknown="unknown",
    yes="yes",
    part="part",
    no="-",
    embedded="built in",
    common="{title}: vocabulary {vocabulary}, context {context} tokens",
    note=(
        "1 GB = 10^9 bytes. {places}: fits, tight, disk (weights are read again for each token, slow) or no, for the "
        "whole context and one conversation; in 16 bits, int8, int4. ~: follows from the parameters. "
        "here: in the cache of Hugging Face. baichuan2 download NAME fetches one, baichuan2 models NAME tells more."
    ),
    fits_title="{place}",
    fits_none="-",
    commands="commands",
    licence_baichuan2=(
        "Community License for Baichuan 2 Model: free for research; commercial use under conditions (fewer than a "
        "million daily users, no software or cloud provider, no re-licensing) after applying to "
        "opensource@baichuan-inc.com. Code: Apache 2.0. The text of the licence is what counts."
    ),
    licence_baichuan_13b=(
        "Community License for Baichuan-13B Model: free for other than commercial use, which needs a written "
        "authorization from opensource@baichuan-inc.com. The text of the licence is what counts."
    ),
    licence_baichuan_7b="License Agreement for Baichuan-7B Model, a PDF in its repository: read it for the terms.",
    licence_demo="Apache 2.0, part of this package.",
    asking="{repo}{at}: asking {hub} ...",
    checking="{repo}{at}: looking at the files here ...",
    fetch_bar="fetching",
    check_bar="checking",
    done="done: {path}, {count} files, {size}",
    fetched="{size} were fetched by this run",
    checked="digests: {counts}",
    unproven="files that could not be compared, as no digest of them is published: {names}",
    interrupted="[stopped; the same command goes on from there]",
)


def release_words_for(language: Literal["auto", "zh", "en"]) -> ReleaseWords:
    """The words in `language`: zh, en, or auto for what the locale says."""
    return CHINESE if words_for(language) is CHINESE_WORDS else ENGLISH
