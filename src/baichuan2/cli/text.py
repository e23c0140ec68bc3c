"""The words that the program itself says to people, in Chinese and in English.

Both languages fill the same dataclass, so a missing translation is a type error. Help and error messages are English.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Words:
    """Everything said in one language; braces hold what is filled in."""

    user_label: str
    model_label: str
    loading: str
    loading_demo: str
    ready: str
    quantizing: str
    welcome: str
    demo_note: str
    help: str
    cleared: str
    stream_on: str
    stream_off: str
    interrupted: str
    leave_hint: str
    length_limit: str
    dropped: str
    speed: str
    editor_missing: str
    editor_failed: str
    editor_empty: str
    editor_needs_terminal: str
    history_unavailable: str
    plan_title: str
    plan_part: str
    plan_embedding: str
    plan_attention: str
    plan_mlp: str
    plan_norms: str
    plan_head: str
    plan_weights: str
    plan_head_copy: str
    plan_cache: str
    plan_scratch: str
    plan_runtime: str
    plan_total: str
    plan_place: str
    plan_place_unknown: str
    plan_largest: str
    plan_fits: str
    plan_tight: str
    plan_disk: str
    plan_no: str
    plan_unknown: str
    plan_note: str
    train_title: str
    train_weights: str
    train_adapters: str
    train_copies: str
    train_master: str
    train_optimizer: str
    train_gradients: str
    train_activations: str
    train_loss: str
    train_communication: str
    train_total: str
    train_host: str
    train_largest: str
    train_note: str
    merge_start: str
    merge_done: str
    bench_write: str
    bench_copy: str
    bench_turns: str
    bench_written: str
    quantize_start: str
    quantize_layers: str
    quantize_resumed: str
    quantize_interrupted: str
    quantize_done: str
    report_start: str
    report_copy: str
    report_memory: str
    report_quality: str
    report_title: str
    report_part: str
    report_files: str
    report_cache: str
    report_program: str
    report_resident: str
    report_mapped: str
    report_peak: str
    report_memory_note: str
    report_replies: str
    report_text: str
    report_file: str
    report_kl: str
    report_kl_median: str
    report_kl_99: str
    report_agreement: str
    report_accuracy: str
    report_perplexity: str
    report_factor: str
    report_measure: str
    report_quality_title: str
    report_quality_note: str
    report_no_reference: str
    report_built_in: str
    serving: str
    serving_open: str
    serving_stopping: str


CHINESE = Words(
    user_label="用户：",
    model_label="模型：",
    loading="正在加载 {model} ……",
    loading_demo="正在加载内置演示模型 ……",
    quantizing="量化中",
    ready="加载完成，用时 {seconds:.1f} 秒。",
    welcome="可以开始对话了。输入 /help 查看说明，输入 exit 退出。",
    demo_note="这是很小的内置演示模型，只学过少量知识；用 --model 路径或名称 可换成官方模型。",
    help=(
        "exit      退出（也可按 Ctrl-D）\n"
        "clear     清空对话历史和屏幕\n"
        "vim       用编辑器（$EDITOR，默认 vim）写多行内容\n"
        "stream    打开或关闭边生成边显示\n"
        "/help     显示本说明\n"
        "Ctrl-C    停止当前回复，已生成的部分保留在对话中\n"
        "多行输入：按 Alt-Enter 换行，或在行尾写一个反斜杠 \\"
    ),
    cleared="对话历史已清空。",
    stream_on="边生成边显示：开",
    stream_off="边生成边显示：关",
    interrupted="[已停止，已生成的部分保留]",
    leave_hint="输入 exit 或按 Ctrl-D 退出。",
    length_limit="[达到长度上限而停止；可用 --max-new-tokens 调整]",
    dropped="[对话超出模型的上下文长度：最早的 {count} 条消息不再参与；输入 clear 可重新开始]",
    speed="[{tokens} 个 token，{speed:.1f} token/秒；提示 {prompt_tokens} 个 token，用时 {prefill:.2f} 秒]",
    editor_missing="找不到编辑器 {editor}；可设置环境变量 EDITOR。",
    editor_failed="编辑器 {editor} 以错误码 {code} 退出，内容未发送。",
    editor_empty="内容为空，未发送。",
    editor_needs_terminal="vim 需要终端，此处忽略。",
    history_unavailable="无法写入输入历史 {path}，本次不保存。",
    plan_title="{model}：上下文 {context} 个 token，同时 {batch} 个对话",
    plan_part="占用内存",
    plan_embedding="词嵌入",
    plan_attention="注意力",
    plan_mlp="前馈层",
    plan_norms="归一化层",
    plan_head="输出层",
    plan_weights="权重合计",
    plan_head_copy="归一化的输出层副本",
    plan_cache="KV 缓存",
    plan_scratch="计算用内存",
    plan_runtime="程序本身",
    plan_total="总计",
    plan_place="{place}（共 {total}，可用 {free}）",
    plan_place_unknown="{place}（内存大小未知）",
    plan_largest="  最长上下文",
    plan_fits="放得下",
    plan_tight="勉强",
    plan_disk="读磁盘",
    plan_no="放不下",
    plan_unknown="未知",
    plan_note=(
        "1 GB = 10^9 字节。* 为该模型文件自身的精度。勉强：剩余不足二十分之一。"
        "读磁盘：每个 token 都要重新读取权重，很慢。"
    ),
    train_title="{model}：训练，每个设备每批 {batch} 行 × {context} 个 token，{devices} 个设备，ZeRO {zero}，{numbers}",
    train_weights="权重",
    train_adapters="LoRA 权重",
    train_copies="权重的 16 位副本",
    train_master="float32 主权重",
    train_optimizer="优化器状态",
    train_gradients="梯度",
    train_activations="激活值",
    train_loss="计算损失",
    train_communication="通信缓冲区",
    train_total="峰值",
    train_host="另占主内存（含读取模型时）",
    train_largest="  最大批量",
    train_note=(
        "1 GB = 10^9 字节；所有数字均为单个设备。峰值：梯度与激活值并非同时占满，因此小于各项之和。"
        "勉强：剩余不足二十分之一。"
    ),
    merge_start="正在把适配器 {adapter} 并入模型，写入 {target} ……",
    merge_done="完成：{target}，{size}，改动了 {count} 个权重，用时 {seconds:.0f} 秒。",
    bench_write="正在写入随机权重（{name}）……",
    bench_copy="正在把模型量化为 {name} 以便测量 ……",
    bench_turns="正在轮流测量，每一轮用一个新进程 ……",
    bench_written="结果已写入 {files}",
    quantize_start="正在把 {source} 量化为 {format}，写入 {target} ……",
    quantize_layers="层",
    quantize_resumed="接着上次的进度：{total} 层中已有 {count} 层完成。",
    quantize_interrupted="[已停止；再次运行同一命令会从 {target}.partial 继续]",
    quantize_done="完成：{target}，{before} → {after}，每个权重 {bits:.2f} 位，用时 {seconds:.0f} 秒。",
    report_start="报告：至少需 {seconds}（舍入计算另计），内存约 {memory}，临时磁盘（{scratch}）{disk}，用后即删。",
    report_copy="{name}：正在量化临时副本 ……",
    report_memory="{name}：正在新进程中测量内存 ……",
    report_quality="{name}：正在与原权重比较 ……",
    report_title="{model}：内存",
    report_part="字节",
    report_files="权重文件",
    report_cache="KV 缓存（{context} 个 token）",
    report_program="加载前的程序",
    report_resident="加载后驻留内存",
    report_mapped="  其中映射自文件",
    report_peak="峰值，含加载与 {tokens} 个 token",
    report_memory_note="1 GB = 10^9 字节。上半按张量计算；下半由新进程实测，含程序本身；映射自文件的部分可随时收回。",
    report_replies="对话回复",
    report_text="普通文本",
    report_file="文件 {name}",
    report_kl="KL 散度",
    report_kl_median="  中位数",
    report_kl_99="  第 99 百分位",
    report_agreement="首选 token 一致 %",
    report_accuracy="下一 token 正确 %",
    report_perplexity="困惑度",
    report_factor="  与原权重之比",
    report_measure="指标",
    report_quality_title="质量：{text}，{tokens} 个 token，{sequences} 段",
    report_quality_note="KL：相对于按 {dtype} 计算的原权重，单位 nat/token。±：按段计算的 95% 区间。{source}",
    report_no_reference="未给出 --reference，因此不测质量。",
    report_built_in="文本为内置，与校准文本同类，但句子不同。",
    serving="正在监听 {url} ，按 Ctrl-C 停止。试一试：\n  {example}",
    serving_open="警告：其他机器可以访问 {host} ，而且不需要密钥；请用 BAICHUAN2_API_KEY 设置密钥。",
    serving_stopping="正在停止：最多等待 {seconds:g} 秒，让 {count} 个请求完成；再按一次立即停止。",
)

ENGLISH = Words(
    user_label="You: ",
    model_label="Model: ",
    loading="loading {model} ...",
    loading_demo="loading the embedded demo model ...",
    quantizing="quantising",
    ready="ready after {seconds:.1f} s",
    welcome="Type a message. /help explains, exit leaves.",
    demo_note="This is the small embedded demo model, which knows few things; --model PATH_OR_ID runs an official one.",
    help=(
        "exit      leave (so does Ctrl-D)\n"
        "clear     forget the conversation and clear the screen\n"
        "vim       write a message of several lines in an editor ($EDITOR, else vim)\n"
        "stream    show replies while they are written, or only when they are complete\n"
        "/help     show this\n"
        "Ctrl-C    stop the reply; what was said so far stays in the conversation\n"
        "Several lines: Alt-Enter starts a new line, and so does a backslash \\ at the end of a line"
    ),
    cleared="The conversation is forgotten.",
    stream_on="replies are shown while they are written: on",
    stream_off="replies are shown while they are written: off",
    interrupted="[stopped; what was said stays in the conversation]",
    leave_hint="Type exit or press Ctrl-D to leave.",
    length_limit="[stopped at the length limit; --max-new-tokens changes it]",
    dropped="[the model no longer sees the oldest {count} messages: its context is full; clear starts anew]",
    speed="[{tokens} tokens, {speed:.1f} tokens/s; prompt of {prompt_tokens} tokens in {prefill:.2f} s]",
    editor_missing="there is no editor {editor}; the environment variable EDITOR names one",
    editor_failed="the editor {editor} ended with code {code}; nothing was sent",
    editor_empty="nothing was written, nothing was sent",
    editor_needs_terminal="vim needs a terminal; ignored here",
    history_unavailable="the input history {path} cannot be written; this time it is not kept",
    plan_title="{model}: context of {context} tokens, {batch} at once",
    plan_part="memory for",
    plan_embedding="embedding",
    plan_attention="attention",
    plan_mlp="MLP",
    plan_norms="norms",
    plan_head="head",
    plan_weights="all weights",
    plan_head_copy="normalised copy of head",
    plan_cache="KV cache",
    plan_scratch="while computing",
    plan_runtime="the program",
    plan_total="total",
    plan_place="{place} ({total}, free {free})",
    plan_place_unknown="{place} (size unknown)",
    plan_largest="  longest context",
    plan_fits="fits",
    plan_tight="tight",
    plan_disk="disk",
    plan_no="no",
    plan_unknown="unknown",
    plan_note=(
        "1 GB = 10^9 bytes. *: precision of the files. tight: less than a twentieth stays free. disk: weights are read "
        "again for each token, which is slow."
    ),
    train_title=(
        "{model}: training, {batch} x {context} tokens a device and pass, {devices} devices, ZeRO {zero}, {numbers}"
    ),
    train_weights="weights",
    train_adapters="adapters",
    train_copies="16-bit copies of weights",
    train_master="float32 master weights",
    train_optimizer="optimizer states",
    train_gradients="gradients",
    train_activations="activations",
    train_loss="the loss",
    train_communication="communication",
    train_total="at the fullest moment",
    train_host="in main memory, at most",
    train_largest="  largest batch",
    train_note=(
        "1 GB = 10^9 bytes; all figures are those of one device. Gradients and activations are never whole at once, so "
        "the fullest moment is less than the sum. tight: less than a twentieth stays free."
    ),
    merge_start="putting {adapter} into the weights of its model, to {target} ...",
    merge_done="done: {target}, {size}, {count} weights changed, {seconds:.0f} s",
    bench_write="writing random weights in {name} ...",
    bench_copy="quantising the model to {name} to measure it ...",
    bench_turns="measuring in turns, each in a process of its own ...",
    bench_written="written: {files}",
    quantize_start="writing {source} as {format} to {target} ...",
    quantize_layers="layers",
    quantize_resumed="going on where the last run stopped: {count} of {total} layers were finished",
    quantize_interrupted="[stopped; the same command goes on from {target}.partial]",
    quantize_done="done: {target}, {before} -> {after}, {bits:.2f} bits a weight, {seconds:.0f} s",
    report_start=(
        "report: computing takes at least {seconds} (rounding of copies comes on top), about {memory} of "
        "memory, and {disk} of disk in {scratch}, freed again"
    ),
    report_copy="{name}: quantising a copy that is removed afterwards ...",
    report_memory="{name}: measuring memory in a fresh process ...",
    report_quality="{name}: comparing with the original weights ...",
    report_title="{model}: memory",
    report_part="bytes of",
    report_files="weight files",
    report_cache="KV cache, {context} tokens",
    report_program="the program, before loading",
    report_resident="resident after loading",
    report_mapped="  of it mapped from files",
    report_peak="peak, with loading and {tokens} tokens",
    report_memory_note=(
        "1 GB = 10^9 bytes. Above: counted from the tensors. Below: measured in a fresh process on the "
        "processor, the program included; what is mapped from files the system can take back at any time."
    ),
    report_replies="replies of conversations",
    report_text="plain text",
    report_file="file {name}",
    report_kl="KL divergence",
    report_kl_median="  median",
    report_kl_99="  99th percentile",
    report_agreement="same likeliest, %",
    report_accuracy="next right, %",
    report_perplexity="perplexity",
    report_factor="  times the original's",
    report_measure="measure",
    report_quality_title="quality: {text}, {tokens} tokens in {sequences} pieces",
    report_quality_note=(
        "KL: from the original weights computed in {dtype}, nats per token. Same likeliest: both think one token "
        "the likeliest; next right: it is the one in the text. ±: 95 % interval over pieces. {source}"
    ),
    report_no_reference="no --reference was given, so quality is not measured",
    report_built_in="The text is built in: of the same kind as the calibration text, not the same sentences.",
    serving="listening on {url}, stop with Ctrl-C; try\n  {example}",
    serving_open="warning: other machines can reach {host}, and need no key: set one with BAICHUAN2_API_KEY",
    serving_stopping="stopping: {count} requests get up to {seconds:g} s to finish; once more stops at once",
)


def words_for(language: Literal["auto", "zh", "en"], environment: Mapping[str, str] = os.environ) -> Words:
    """The words of `language`; auto: Chinese where the locale starts with zh, else English."""
    if language == "auto":
        # the order in which POSIX programs look for the language of messages
        names = (environment.get(variable) for variable in ("LC_ALL", "LC_MESSAGES", "LANG"))
        locale = next((name for name in names if name), "")
        return CHINESE if locale.lower().startswith("zh") else ENGLISH
    return CHINESE if language == "zh" else ENGLISH
