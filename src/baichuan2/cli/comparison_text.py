"""What `baichuan2 compare` says to people, in Chinese and in English."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as CHINESE_WORDS
from baichuan2.cli.text import words_for

__all__ = ["ComparisonWords", "comparison_words_for"]


@dataclass(frozen=True, kw_only=True)
class ComparisonWords:
    """Everything said in one language; braces hold what is filled in."""

    load: str
    reply: str
    read: str
    weights_step: str
    side: str
    few_bits: str
    ids_same: str
    ids_counted: str
    ids_unknown: str
    ids_different: str
    ids_counts: str
    chat_same: str
    chat_counted: str
    chat_none: str
    chat_different: str
    hint_begin: str
    hint_space: str
    hint_other: str
    measure: str
    value: str
    places: str
    maximum: str
    centred: str
    relative: str
    kl: str
    agreement: str
    perplexity: str
    logprobs: str
    not_available: str
    replies_same: str
    replies_part: str
    parting: str
    probabilities: str
    near_tie: str
    no_tie: str
    more_partings: str
    sampling: str
    weights_equal: str
    weights_different: str
    weights_cast: str
    weights_shape: str
    weights_only: str
    weights_more: str
    verdict: str
    level_identical: str
    level_rounding: str
    level_close: str
    level_different: str
    level_same_text: str
    level_near_ties: str
    cause_head_a: str
    cause_head_b: str
    cause_head: str
    cause_scale: str
    cause_attention: str
    cause_positions_grow: str
    cause_few_bits: str
    cause_weights: str
    cause_decoding: str
    cause_served: str
    cause_tokenizer: str
    cause_template: str
    above: str


ENGLISH = ComparisonWords(
    load="{name}: loading ...",
    reply="{name}: going on from each prompt ...",
    read="{name}: logits of prompts and replies ...",
    weights_step="weights, tensor by tensor ...",
    side="{letter}  {name}: {program}, {format}",
    few_bits="{format} (weights {bits})",
    ids_same="tokenizer: the same ids for all {count} prompts",
    ids_counted="tokenizer: the same number of tokens for all {count} plain prompts",
    ids_unknown="tokenizer: not compared, as there is no number of tokens of a plain prompt",
    ids_different="tokenizer: other ids for {count} of {total} prompts; in prompt {prompt}, from token {position} on:",
    ids_counts="another number of tokens for {count} of {total} prompts; prompt {prompt} has {a} for A, {b} for B",
    chat_same="chat format: the same ids for all {count} conversations",
    chat_counted="chat format: the same number of tokens for all {count} conversations",
    chat_none="chat format: not compared: no prompt is a conversation, or one side has no format for one",
    chat_different="chat format: other ids for {count} of {total} conversations; prompt {prompt}, token {position} on:",
    hint_begin="all that differs is one token in front, such as a begin token that one side adds",
    hint_space="all that differs is a space in front, which one tokenizer adds to every text (add_dummy_prefix)",
    hint_other="the text is cut into other tokens",
    measure="measure",
    value="B beside A",
    places="places compared",
    maximum="logits, largest / mean absolute difference",
    centred="the same, mean of each row taken out",
    relative="relative to A's logits (root mean square)",
    kl="KL(A || B), mean / median / 99th percentile, nats",
    agreement="same likeliest token, %",
    perplexity="perplexity of A / of B",
    logprobs="log-probability of the text, mean absolute difference",
    not_available="n/a",
    replies_same="greedy replies: the same in all {count} prompts, {tokens} tokens",
    replies_part="greedy replies: they part in {count} of {total} prompts",
    parting="prompt {prompt}, token {position}: ... {before} -> A {a} | B {b}",
    probabilities="A gives {aa} and {ab}, B gives {ba} and {bb}; A's margin {margin} nats: {tie}",
    near_tie="a near-tie, which rounding decides",
    no_tie="no near-tie",
    more_partings="{count} more; --json lists all",
    sampling="sampling values of the folders differ, which matters wherever choices are not greedy: {fields}",
    weights_equal="weights: all {count} tensors of the same name are equal",
    weights_different="weights: {count} of {total} tensors differ",
    weights_cast="{count} of them are the same numbers in another number format",
    weights_shape="other shape",
    weights_only="only {letter} has {count}: {names}",
    weights_more="{count} more",
    verdict="verdict: {text}",
    level_identical="identical to the bit, on the same tokens",
    level_rounding="equal up to the rounding of {format}",
    level_close="close, but not the same",
    level_different="different",
    level_same_text="the server says the same in all prompts",
    level_near_ties="the same but for near-ties, which the rounding of {format} decides",
    cause_head_a="A's logits look as if its head was not normalised: each token's logits are B's times the length of "
    "its row of the head",
    cause_head_b="B's logits look as if its head was not normalised: each token's logits are A's times the length of "
    "its row of the head. Convert with baichuan2 convert, which normalises the head once",
    cause_head="the logits of each token are multiplied by a factor of its own: one of the heads looks not normalised",
    cause_scale="B's logits are those of A times {factor:.4g}: greedy replies are the same, a temperature is not",
    cause_attention="the first token of each text has the same logits, later ones do not: attention differs. Likely "
    "causes: rows of queries and keys in another order (rotary embeddings come in two layouts), or another position "
    "scheme",
    cause_positions_grow="the differences grow with the position: positions differ, such as another base of rotary "
    "embeddings, other ALiBi slopes, or a bias rounded to 16 bits",
    cause_few_bits="weights in few bits ({formats})",
    cause_weights="other weights: neither the head nor positions explain it. --weights tells which tensors differ, "
    "where both are folders of one layout",
    cause_decoding="the logits of whole texts agree, but replies part where it was no near-tie: one of the programs "
    "goes on from its cache differently than it reads",
    cause_served="the server runs other weights or numbers (few bits?), or chooses by penalties of its own; its files, "
    "compared with A, tell which",
    cause_tokenizer="the same text becomes other tokens, which alone gives other replies: all figures above are on A's "
    "tokens",
    cause_template="a conversation is written differently for the two, which alone gives other replies: all figures "
    "above are on A's tokens",
    above="mean KL {kl:.3g} is above --fail-above {limit:g}",
)
CHINESE = ComparisonWords(
    load="{name}：正在载入 ……",
    reply="{name}：正在续写各条提示 ……",
    read="{name}：正在计算提示与续写的 logits ……",
    weights_step="正在逐个比较权重张量 ……",
    side="{letter}  {name}：{program}，{format}",
    few_bits="{format}（权重 {bits}）",
    ids_same="分词器：全部 {count} 条提示的 id 相同",
    ids_counted="分词器：全部 {count} 条纯文本提示的 token 数相同",
    ids_unknown="分词器：未比较，没有纯文本提示的 token 数",
    ids_different="分词器：{total} 条提示中有 {count} 条 id 不同；提示 {prompt} 从第 {position} 个 token 起：",
    ids_counts="分词器：{total} 条提示中有 {count} 条 token 数不同；提示 {prompt}：A 为 {a}，B 为 {b}",
    chat_same="对话格式：全部 {count} 段对话的 id 相同",
    chat_counted="对话格式：全部 {count} 段对话的 token 数相同",
    chat_none="对话格式：未比较：提示中没有对话，或其中一方没有对话格式",
    chat_different="对话格式：{total} 段对话中有 {count} 段 id 不同；提示 {prompt} 从第 {position} 个 token 起：",
    hint_begin="只差开头的一个 token，例如某一方自动加上的起始符",
    hint_space="只差开头的一个空格，某一方的分词器会给每段文本加上它（add_dummy_prefix）",
    hint_other="文本被切成了不同的 token",
    measure="指标",
    value="B 相对 A",
    places="比较的位置数",
    maximum="logits 绝对差：最大 / 平均",
    centred="同上，先减去每行的均值",
    relative="相对 A 的 logits（均方根）",
    kl="KL(A || B)：平均 / 中位数 / 第 99 百分位，nat",
    agreement="首选 token 相同，%",
    perplexity="困惑度：A / B",
    logprobs="文本对数概率的平均绝对差",
    not_available="无",
    replies_same="贪心续写：{count} 条提示全部相同，共 {tokens} 个 token",
    replies_part="贪心续写：{total} 条提示中有 {count} 条出现分歧",
    parting="提示 {prompt}，第 {position} 个 token：…… {before} -> A {a} | B {b}",
    probabilities="A 给出 {aa} 与 {ab}，B 给出 {ba} 与 {bb}；A 的差距为 {margin} nat：{tie}",
    near_tie="几乎并列，由舍入决定",
    no_tie="并非并列",
    more_partings="还有 {count} 条；--json 列出全部",
    sampling="两个文件夹的采样参数不同，非贪心解码时会有影响：{fields}",
    weights_equal="权重：同名的 {count} 个张量全部相等",
    weights_different="权重：{total} 个张量中有 {count} 个不同",
    weights_cast="其中 {count} 个只是换了数字格式，数值相同",
    weights_shape="形状不同",
    weights_only="只有 {letter} 有的 {count} 个：{names}",
    weights_more="还有 {count} 个",
    verdict="结论：{text}",
    level_identical="在相同的 token 上逐位相同",
    level_rounding="除 {format} 的舍入外相同",
    level_close="接近，但不相同",
    level_different="不同",
    level_same_text="服务器对全部提示给出相同的文本",
    level_near_ties="除几乎并列处由 {format} 的舍入决定外相同",
    cause_head_a="A 的 logits 看起来像是输出头没有归一化：每个 token 的 logit 等于 B 的乘以该行的长度",
    cause_head_b="B 的 logits 看起来像是输出头没有归一化：每个 token 的 logit 等于 A 的乘以该行的长度。"
    "请用 baichuan2 convert 转换，它会一次性归一化输出头",
    cause_head="每个 token 的 logit 各乘了一个固定的系数：其中一方的输出头看起来没有归一化",
    cause_scale="B 的 logits 等于 A 的乘以 {factor:.4g}：贪心续写不变，但温度采样会变",
    cause_attention="每段文本的第一个 token 的 logits 相同，之后不同：注意力不同。可能的原因：q 和 k 的行顺序不同"
    "（旋转位置编码有两种排列），或位置编码方式不同",
    cause_positions_grow="差异随位置增大：位置编码不同，例如旋转编码的底数、ALiBi 斜率不同，或偏置被舍入到 16 位",
    cause_few_bits="权重为低比特（{formats}）",
    cause_weights="权重不同：输出头和位置编码都无法解释。若两者是同一布局的文件夹，--weights 会指出哪些张量不同",
    cause_decoding="整段文本的 logits 一致，但在并非并列处续写出现分歧：其中一个程序用缓存续写的结果与整段计算的不同",
    cause_served="服务器的权重或数字格式不同（低比特？），或使用了自己的惩罚参数；把它的文件与 A 比较即可知道",
    cause_tokenizer="同一文本被切成不同的 token，仅此就会得到不同的回复；以上数字都以 A 的 token 为准",
    cause_template="同一段对话的写法不同，仅此就会得到不同的回复；以上数字都以 A 的 token 为准",
    above="平均 KL {kl:.3g} 高于 --fail-above {limit:g}",
)


def comparison_words_for(language: Literal["auto", "zh", "en"]) -> ComparisonWords:
    """The words in `language`: zh, en, or auto for what the locale says."""
    return CHINESE if words_for(language) is CHINESE_WORDS else ENGLISH
