"""docs/benchmarks.md and its Chinese twin: for each row of the official README its command, and how near it comes.

Facts come from the task files and published.yaml; here stand the rows' order, their commands and the Chinese words.
"""

from dataclasses import dataclass
from typing import Any

from baichuan2.evaluation.task import load_task, task_names

BASES = ("Baichuan2-7B-Base", "Baichuan2-13B-Base")


@dataclass(frozen=True)
class Row:
    """A row of the README's tables. `items`: what is asked, where it was counted over the whole data set."""

    title: str
    title_zh: str
    suite: str
    options: str = ""
    items: str = ""


ROWS = (
    Row("C-Eval (test: answers are secret, the run writes submission.json)",
        "C-Eval（test：答案保密，运行后写出 submission.json）", "ceval", "--split test", "12,342"),
    Row("C-Eval (val; the README's 4-bit table)", "C-Eval（val，即 README 的 4 比特表）", "ceval", "", "1,346"),
    Row("MMLU", "MMLU", "mmlu", "", "14,042"),
    Row("CMMLU", "CMMLU", "cmmlu", "", "11,582"),
    Row("Gaokao", "Gaokao（高考）", "gaokao", "", "1,458"),
    Row("AGIEval", "AGIEval", "agieval", "", "4,783"),
    Row("BBH", "BBH", "bbh", "", "6,511"),
    Row("JEC-QA", "JEC-QA（法律）", "jecqa", "", "1,002"),
    Row("C-Eval + MMLU + CMMLU, medical subjects", "C-Eval + MMLU + CMMLU 医学科目", "medical"),
    Row("MedQA-USMLE", "MedQA-USMLE", "medqa_usmle"),
    Row("MedQA-MCMLE", "MedQA-MCMLE", "medqa_mcmle"),
    Row("MedMCQA", "MedMCQA", "medmcqa"),
    Row("GSM8K", "GSM8K", "gsm8k", "", "1,319"),
    Row("MATH", "MATH", "math", "", "5,000"),
    Row("HumanEval", "HumanEval", "humaneval", "--generated-code sandbox", "164"),
    Row("MBPP", "MBPP", "mbpp", "--generated-code sandbox", "500"),
    Row("Flores-101, Chinese to seven languages (BLEU)", "Flores-101，中文译为七种语言（BLEU）", "flores", "", "700"),
)  # fmt: skip

ZH = {
    ("ceval", "official"): (
        "脚本对每道题重新打乱示例且没有种子，这里由 --seed 决定；"
        "公布的一行是 test，其答案保密；Chat 模型是否用了对话格式"
    ),
    ("ceval", "opencompass"): "官方各行所用的版本与长度上限",
    ("mmlu", "official"): (
        "公布的一行出自此脚本是推断：README 指的是 hendrycks/test，它比较的是前面带空格的字母（--letters spaced）"
    ),
    ("cmmlu", "official"): "Chat 模型是否用了对话格式",
    ("gaokao", "official"): (
        "随机划分、示例与提示词；用的是哪套试卷；各科如何平均。这里每卷固定取五题作示例，各科等权"
    ),
    ("agieval", "official"): (
        "随机划分、示例与提示词；四选项的集合取了哪些、如何平均。这里全部都取（含 JEC-QA）且等权，"
        "每个集合固定取五题作示例"
    ),
    ("agieval", "opencompass"): "gaokao-mathqa 中有几个正确字母的题不问；它会问，并且一律算错",
    ("bbh", "official"): "整个方法；提示词文件取自 suzgunmirac/BIG-Bench-Hard，去掉 canary",
    ("jecqa", "official"): (
        "示例、提示词、取了哪些题、如何平均。这里取 AGIEval 中只有一个答案的题，每个集合固定取五题作示例"
    ),
    ("medical", "official"): (
        "17 个科目如何平均（这里等权，旁边给出按题平均）与提示词。C-Eval 取 val，MMLU 与 CMMLU 取 test；示例取自 dev"
    ),
    ("medqa_usmle", "official"): "示例（这里取 dev 的前五题）与提示词",
    ("medqa_mcmle", "official"): "示例（这里取 dev 的前五题）与提示词",
    ("medmcqa", "official"): (
        "示例（这里取 train 中前五道单选题）与提示词；“single choice” 是否排除 choice_type 为 multi 的行，这里排除"
    ),
    ("gsm8k", "official"): (
        "是 2023 年秋的哪个 OpenCompass。它自己的四个示例未随本包发布，这里代之以 train.jsonl 的前四题（去掉计算标记，"
        "同样以 “The answer is N” 结尾）"
    ),
    ("gsm8k", "lm-eval"): "它为每道题重新抽取五个示例；这里取 train.jsonl 的前五题",
    ("gsm8k", "opencompass"): "它自己的四个示例未随本包发布；这里代之以 train.jsonl 的前四题",
    ("math", "official"): (
        "是 2023 年秋的哪个 OpenCompass。Minerva 的四个示例未随本包发布，这里代之以 train 中四个类别各自的第一题，"
        "没有 train 时取被问之外的前几题"
    ),
    ("math", "lm-eval"): "它用计算机代数比较答案，这里按 Minerva 的写法规则比较，所以 0.5 不等于 1/2；示例同官方配方",
    ("math", "opencompass"): "示例，同官方配方",
    ("humaneval", "official"): (
        "是哪个 OpenCompass，因而提示词前是否有 “Complete the following python code:”（配方 opencompass 有）、"
        "回复如何截取；这里回复止于第一个空行"
    ),
    ("humaneval", "opencompass"): "它用自己的 human-eval 分支来运行程序",
    ("mbpp", "official"): (
        "是 2023 年秋的哪个 OpenCompass。它的第一个示例在第一条测试后少一个空格；这里程序限用 5 秒处理器时间"
    ),
    ("mbpp", "opencompass"): "它的第一个示例在第一条测试后少一个空格；这里程序限用 5 秒处理器时间",
    ("flores", "official"): (
        "它的翻译方向表未公开或更旧。它的八个示例按嵌入取最近邻，这里按字符 1 至 3 元的 TF-IDF 取最近邻。"
        "100 个新词元的上限出自它的 Baichuan 2 配置"
    ),
    ("flores", "opencompass"): "它只有 eng <-> X。它的八个示例按嵌入取最近邻，这里按字符 1 至 3 元的 TF-IDF 取最近邻",
}


ZH_SOURCES = {
    "README of Baichuan 2, in the form of C-Eval": "Baichuan 2 的 README（“与 C-Eval 类似”）",
    "README of Baichuan 2, which names OpenCompass; prompt and rules of its": (
        "Baichuan 2 的 README 指明 OpenCompass；提示词与规则取自其"
    ),
    "README of Baichuan 2, which names no method; prompt and rules of": (
        "Baichuan 2 的 README 没有说明方法；提示词与规则取自"
    ),
    "README of Baichuan 2, which names OpenCompass; bare prompt and rules of its": (
        "Baichuan 2 的 README 指明 OpenCompass；提示词前不加话，规则取自其"
    ),
    ", five options": "，五个选项",
    ", turned to zh -> X": "，方向改为 zh -> X",
    ", after ": "，源自 ",
    ", whose code puts three line breaks behind an example, five behind the last": (
        "，其代码在每个示例后放三个换行，最后一个示例后放五个"
    ),
    " (its sets of questions with options; the two without are not here)": (
        "（其中有选项的集合；没有选项的两个不在此处）"
    ),
    " (its sets that are asked by loss; it lets the others be written)": "（其中按损失提问的集合；其余它让模型写答案）",
    ", whose examples are those of the prompt files": "，示例即提示词文件中的示例",
    ", for a model without a chat template": "，用于没有对话模板的模型",
    ", which asks the questions with four options": "，问的是四选项的题",
    ", strict-match; flexible-extract beside it": "，strict-match，旁边给出 flexible-extract",
    ", its second set of rules": "，它的第二套规则",
}


@dataclass(frozen=True)
class Words:
    """What one language calls things."""

    head: str
    columns: tuple[str, ...]
    exact: str
    approximation: str
    unknown_title: str
    none_unknown: str
    other_title: str
    other_head: str
    other_columns: tuple[str, ...]
    chat_title: str
    chat_head: str


EN_WORDS = Words(
    head="""\
# Benchmarks

Written by `scripts/update_docs.py` from the task files in `src/baichuan2/evaluation/tasks/`; edit these, not this page.
[中文](benchmarks_zh.md), [guide](guides/evaluate.md)

One command for each row of the official README. `DATA` is a folder that holds the benchmarks as they are published,
unpacked or not; `MODEL` a checkpoint, such as `baichuan-inc/Baichuan2-7B-Base`. *exact*: prompts, compared tokens and
averages are those of the program that is named below as the source, letter by letter. *approximation*: something that
decides the score is not published, and stands below. Values are the README's, in per cent.

## Rows of the official README
""",
    columns=("row", "command", "shots", "split", "questions", "how near"),
    exact="exact",
    approximation="approximation",
    unknown_title="## Where each row comes from, and what is unknown",
    none_unknown="Nothing is known to be missing.",
    other_title="## The same suites by other tools",
    other_head="""\
`--recipe lm-eval` and `--recipe opencompass` ask and score as these tools do. A suite that is not named here has the
official recipe alone.
""",
    other_columns=("suite", "recipe", "shots", "score", "how near", "as in", "what is unknown or different"),
    chat_title="## Chat models and 4 bits",
    chat_head="""\
5-shot, C-Eval on val. The README calls its 4-bit files `-4bits`; `--quantize 4` and folders of `baichuan2 quantize` are
other formats, whose loss `baichuan2 evaluate compare` shows beside the 16-bit model's.
""",
)
ZH_WORDS = Words(
    head="""\
# 评测集

本页由 `scripts/update_docs.py` 根据 `src/baichuan2/evaluation/tasks/` 中的任务文件写成；请改任务文件，不要改本页。
[English](benchmarks.md)，[指南](guides/evaluate_zh.md)

官方 README 的每一行对应一条命令。`DATA` 是存放评测集的文件夹，保持发布时的样子，解压与否均可；`MODEL` 是模型，例如
`baichuan-inc/Baichuan2-7B-Base`。*精确*：提示词、比较的词元与平均方式都与下文所列来源程序逐字一致。*近似*：决定分数的某些
条件没有公布，列在下文。数值取自 README，单位为百分比。

## 官方 README 的各行
""",
    columns=("行", "命令", "示例数", "划分", "题数", "接近程度"),
    exact="精确",
    approximation="近似",
    unknown_title="## 各行的来源与未知之处",
    none_unknown="没有已知的缺失。",
    other_title="## 其他工具的做法",
    other_head="""\
`--recipe lm-eval` 与 `--recipe opencompass` 按这两个工具的方式提问与计分。这里没有列出的评测集只有官方配方。
""",
    other_columns=("评测集", "配方", "示例数", "分数", "接近程度", "来源", "未知或不同之处"),
    chat_title="## Chat 模型与 4 比特",
    chat_head="""\
5 个示例，C-Eval 取 val。README 的 4 比特文件名为 `-4bits`；`--quantize 4` 与 `baichuan2 quantize` 写出的文件夹
是别的格式，其损失可用 `baichuan2 evaluate compare` 与 16 比特模型对照。
""",
)


def benchmarks_page() -> str:
    """The text of docs/benchmarks.md."""
    return _page(EN_WORDS, is_chinese=False)


def benchmarks_page_zh() -> str:
    """The text of docs/benchmarks_zh.md."""
    return _page(ZH_WORDS, is_chinese=True)


def _page(words: Words, *, is_chinese: bool) -> str:
    rows = [row for row in ROWS if row.suite in task_names()]
    parts = [words.head, _readme_table(rows, words, is_chinese), "\n", words.unknown_title, "\n\n"]
    parts += [_source(suite, words, is_chinese) for suite in dict.fromkeys(row.suite for row in rows)]
    parts += ["\n", words.other_title, "\n\n", words.other_head, "\n", _other_tools(rows, words, is_chinese)]
    parts += ["\n", words.chat_title, "\n\n", words.chat_head, "\n", _chat_table()]
    return "".join(parts)


def _readme_table(rows: list[Row], words: Words, is_chinese: bool) -> str:
    lines = [_line(*words.columns, *BASES), _line(*["---"] * (len(words.columns) + len(BASES)))]
    for row in rows:
        task = load_task(row.suite)
        recipe = task.recipe("official")
        options = f" {row.options}" if row.options else ""
        split = row.options.partition("--split ")[2] or task.split
        is_own = row.suite != "ceval" or split == "test"  # the published row of the bases is of the split test
        values = [f"{task.published[name]['value']:.2f}" if is_own else "" for name in BASES]
        lines.append(
            _line(
                row.title_zh if is_chinese else row.title,
                f"`baichuan2 evaluate {row.suite}{options} --data DATA -m MODEL`",
                str(recipe.shots),
                split,
                row.items,
                words.exact if recipe.exactness == "exact" else words.approximation,
                *values,
            )
        )
    return "\n".join(["", *lines]) + "\n"


def _source(suite: str, words: Words, is_chinese: bool) -> str:
    task = load_task(suite)
    recipe = task.recipe("official")
    stop = "。" if is_chinese else "."
    unknown = _unknown(suite, "official", recipe, is_chinese)
    unknown = f"{unknown[0].upper()}{unknown[1:]}{stop}" if unknown else words.none_unknown
    title = next(row.title_zh for row in reversed(ROWS) if row.suite == suite) if is_chinese else task.title
    title = title if suite != "ceval" else task.title
    space = "" if is_chinese else " "
    return f"- **{title}** (`{suite}`): {_source_words(recipe, is_chinese)}{stop}{space}{unknown}\n"


def _source_words(recipe: Any, is_chinese: bool) -> str:
    text = str(recipe.source).strip()
    for english, chinese in ZH_SOURCES.items() if is_chinese else ():
        text = text.replace(english, chinese)
    return text


def _other_tools(rows: list[Row], words: Words, is_chinese: bool) -> str:
    columns = words.other_columns
    lines = [_line(*columns), _line(*["---"] * len(columns))]
    for suite in dict.fromkeys(row.suite for row in rows):
        for name, recipe in load_task(suite).recipes.items():
            if name == "official":
                continue
            near = words.exact if recipe.exactness == "exact" else words.approximation
            unknown = _unknown(suite, name, recipe, is_chinese)
            lines.append(
                _line(suite, name, str(recipe.shots), recipe.average, near, _source_words(recipe, is_chinese), unknown)
            )
    return "\n".join(lines) + "\n"


def _unknown(suite: str, name: str, recipe: Any, is_chinese: bool) -> str:
    if not recipe.unknown or not is_chinese:
        return str(recipe.unknown).strip()
    return ZH.get((suite, name), str(recipe.unknown).strip())


def _chat_table() -> str:
    suites = ("ceval", "mmlu", "cmmlu")
    names = [name for name in load_task("mmlu").published if "Chat" in name]
    lines = [_line("", *(load_task(suite).title for suite in suites)), _line(*["---"] * (len(suites) + 1))]
    for name in names:
        lines.append(_line(name, *(f"{load_task(suite).published[name]['value']:.2f}" for suite in suites)))
    return "\n".join(lines) + "\n"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
