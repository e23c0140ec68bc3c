"""What is said to people while a model trains, in Chinese and in English; see `text.py`."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.cli.text import CHINESE as GENERAL_CHINESE
from baichuan2.cli.text import words_for

__all__ = ["TrainingWords", "training_words_for"]


@dataclass(frozen=True, kw_only=True)
class TrainingWords:
    """Everything said in one language; braces hold what is filled in."""

    title: str
    started: str
    started_stream: str
    resumed: str
    step: str
    rate: str
    speed: str
    left: str
    held_out: str
    perplexity: str
    best: str
    evaluating: str
    saved: str
    stopping: str
    stopped: str
    was_finished: str
    done: str
    done_held_out: str
    where: str
    next_chat: str
    next_generate: str
    next_adapter: str


CHINESE = TrainingWords(
    title="训练",
    started="{examples} 个样本，{steps} 步；{all} 个参数中训练 {trained} 个",
    started_stream="数据流，{steps} 步；{all} 个参数中训练 {trained} 个",
    resumed="从 {checkpoint} 继续：{steps} 步中已完成 {done} 步",
    step="第 {step}/{steps} 步",
    rate="学习率 {rate:.2e}",
    speed="{speed:,.0f} token/秒",
    left="剩余 {left}",
    held_out="评估 loss {loss:.4f}",
    perplexity="困惑度 {perplexity:.2f}",
    best="（目前最好）",
    evaluating="评估",
    saved="检查点：{folder}",
    stopping="收到 {signal}：完成这一步并保存检查点后停止；再来一次则立即停止",
    stopped="[在第 {step}/{steps} 步后停止；用同一命令可从 {checkpoint} 继续]",
    was_finished="{folder} 中的训练早已完成（{steps} 步），无事可做；--overwrite-output-dir True 可重新训练。",
    done="完成：{steps} 步，loss {loss:.4f}，{tokens:,} 个 token，用时 {time}。",
    done_held_out="评估 loss {loss:.4f}，困惑度 {perplexity:.2f}。",
    where="模型已存入 {folder} 。试一试：\n  {command}",
    next_chat="baichuan2 chat --model {folder}",
    next_generate="baichuan2 generate --model {folder}",
    next_adapter="baichuan2 chat{base} --adapter {folder}",
)
ENGLISH = TrainingWords(
    title="training",
    started="{examples} examples, {steps} steps; {trained} of {all} parameters learn",
    started_stream="a stream of examples, {steps} steps; {trained} of {all} parameters learn",
    resumed="going on from {checkpoint}: {done} of {steps} steps are done",
    step="step {step}/{steps}",
    rate="lr {rate:.2e}",
    speed="{speed:,.0f} tokens/s",
    left="{left} left",
    held_out="held-out loss {loss:.4f}",
    perplexity="perplexity {perplexity:.2f}",
    best=" (best so far)",
    evaluating="evaluating",
    saved="checkpoint: {folder}",
    stopping="{signal}: this step is finished and a checkpoint written, then the run stops; once more stops it at once",
    stopped=("[stopped after step {step} of {steps}; the same command goes on from {checkpoint}]"),
    was_finished=(
        "the run in {folder} is finished ({steps} steps), there is nothing to do; --overwrite-output-dir True trains "
        "anew."
    ),
    done="done: {steps} steps, loss {loss:.4f}, {tokens:,} tokens in {time}.",
    done_held_out="held-out loss {loss:.4f}, perplexity {perplexity:.2f}.",
    where="the model is in {folder}; try it:\n  {command}",
    next_chat="baichuan2 chat --model {folder}",
    next_generate="baichuan2 generate --model {folder}",
    next_adapter="baichuan2 chat{base} --adapter {folder}",
)


def training_words_for(language: Literal["auto", "zh", "en"]) -> TrainingWords:
    """The words of `language`; auto: by the locale."""
    return CHINESE if words_for(language) is GENERAL_CHINESE else ENGLISH
