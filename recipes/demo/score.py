"""`python -m recipes.demo.score`: asks the models what they were never asked before, prints a table, checks targets.

Greedy replies of the exported folders, through the project's own prompt builder and engine. A held-out prompt that
turns up in the training conversations, character by character, is reported and not asked. Exit status 1 when a target
is missed.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baichuan2.chat.template import render
from baichuan2.engine.generate import generate_batch
from baichuan2.engine.sampling import Sampling
from baichuan2.finetune.dataset import read_conversations
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.special_tokens import EOS_TOKEN_ID, USER_TOKEN_ID
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from recipes.demo.heldout import SETS
from recipes.demo.tasks import (
    Question,
    arithmetic_questions,
    base_tasks,
    conversation_tasks,
    follow_up_questions,
    heldout_prompts,
    paraphrase_tasks,
)

TARGETS = {
    "paraphrases": 0.92,
    "greetings": 0.8,
    "refusals": 0.8,
    "memory_name": 0.5,
    "base_arrow": 0.9,
    "readme_chat": 1.0,
    "readme_base": 1.0,
}
STOP_IDS = frozenset({EOS_TOKEN_ID, USER_TOKEN_ID})
CHAT_TOKENS, BASE_TOKENS = 120, 12
BATCH_SIZE = 48
MODEL_MAX_LENGTH = 512
BUILD = Path("build/demo")
SAMPLES = {
    "base": (
        "法国的首都是",
        "登鹳雀楼->王之涣\n夜雨寄北->",
        "铁的元素符号是",
        "The capital of Japan is",
        "床前明月光，",
    ),
    "chat": (
        "世界上第二高的山峰是哪座",
        "解释一下“温故而知新”",
        "你好，你叫什么名字？",
        "What's the capital of Italy?",
        "火星股市今天涨了吗",
    ),
}


@dataclass(frozen=True)
class Result:
    """The replies to the questions of one task."""

    questions: Sequence[Question]
    replies: Sequence[str]

    @property
    def num_right(self) -> int:
        """How many replies are right."""
        return sum(question.is_right(reply) for question, reply in zip(self.questions, self.replies, strict=True))

    @property
    def accuracy(self) -> float:
        """Share of right replies."""
        return self.num_right / len(self.questions)

    def mistakes(self, count: int) -> list[tuple[Question, str]]:
        """The first `count` wrong replies with their questions."""
        pairs = zip(self.questions, self.replies, strict=True)
        return [(question, reply) for question, reply in pairs if not question.is_right(reply)][:count]


def prompt_ids(tokenizer: BaichuanTokenizer, question: Question, *, max_new_tokens: int) -> list[int]:
    """The ids that the model continues."""
    if question.messages[0][0] == "text":
        return tokenizer.encode_text(question.messages[0][1])
    messages = [{"role": role, "content": content} for role, content in question.messages]
    return render(tokenizer, messages, model_max_length=MODEL_MAX_LENGTH, max_new_tokens=max_new_tokens)


def answer(
    model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, questions: Sequence[Question], *, max_new_tokens: int
) -> list[str]:
    """Greedy replies, in the order of the questions; prompts of similar length share a batch."""
    prompts = [prompt_ids(tokenizer, question, max_new_tokens=max_new_tokens) for question in questions]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies = [""] * len(prompts)
    sampling = Sampling(max_new_tokens=max_new_tokens)
    for start in range(0, len(order), BATCH_SIZE):
        chosen = order[start : start + BATCH_SIZE]
        outputs = generate_batch(model, [prompts[index] for index in chosen], sampling, stop_ids=STOP_IDS)
        for index, token_ids in zip(chosen, outputs, strict=True):
            visible = [token_id for token_id in token_ids if token_id not in STOP_IDS]
            replies[index] = tokenizer.decode(visible, skip_special_tokens=True)
    return replies


def ask_samples(model: BaichuanForCausalLM, tokenizer: BaichuanTokenizer, stage: str) -> list[tuple[str, str]]:
    """Five fixed prompts with their replies, to watch a run learn."""
    role = "text" if stage == "base" else "user"
    questions = [Question(messages=((role, prompt),), accepted=()) for prompt in SAMPLES[stage]]
    return list(zip(SAMPLES[stage], answer(model, tokenizer, questions, max_new_tokens=40), strict=True))


def score_tasks(
    folder: Path, tasks: Mapping[str, Sequence[Question]], *, max_new_tokens: int, show: int
) -> dict[str, Result]:
    """The result of each task with the model in `folder`, printed as it comes."""
    model = BaichuanForCausalLM.from_pretrained(folder).eval()
    tokenizer = BaichuanTokenizer.from_pretrained(folder)
    results = {}
    for name, questions in tasks.items():
        result = Result(questions, answer(model, tokenizer, questions, max_new_tokens=max_new_tokens))
        results[name] = result
        target = f"  target {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(f"{name:<28} {result.num_right:4d}/{len(questions):<4d} {result.accuracy:.3f}{target}", flush=True)
        for question, reply in result.mistakes(show):
            wanted = " | ".join(question.accepted)
            print(f"      {question.messages[-1][1]!r} -> {reply!r}, wanted {wanted!r}", flush=True)
    return results


def leaked_prompts(conversations: Path) -> list[str]:
    """Held-out prompts that a human says, character by character, in the training conversations."""
    said = {turn.text.strip() for item in read_conversations(conversations) for turn in item.turns}
    return sorted(prompt for prompt in heldout_prompts() if prompt.strip() in said)


def run_scoring(
    chat_folder: Path | None,
    base_folder: Path | None,
    *,
    conversations: Path | None = None,
    json_path: Path | None = None,
    limit: int = 60,
    seed: int = 1234,
    show: int = 1,
    heldout_set: str = "final",
) -> int:
    """Scores the given folders, prints and writes the figures; 0 when every target is met, else 1."""
    start = time.monotonic()
    figures: dict[str, Any] = {}
    leaked = leaked_prompts(conversations) if conversations is not None else []
    with torch.inference_mode():
        if chat_folder is not None:
            figures.update(
                _score_chat(chat_folder, frozenset(leaked), limit=limit, seed=seed, show=show, heldout_set=heldout_set)
            )
        if base_folder is not None:
            tasks = base_tasks(limit=max(limit, 100), seed=seed)
            results = score_tasks(base_folder, tasks, max_new_tokens=BASE_TOKENS, show=show)
            figures.update({name: result.accuracy for name, result in results.items()})
    missed = [name for name, target in TARGETS.items() if name in figures and figures[name] < target]
    report = {"figures": figures, "targets": TARGETS, "missed": missed, "limit": limit, "seed": seed}
    report["heldout_set"] = heldout_set
    report["leaked_prompts"] = len(leaked) if conversations is not None else None
    if json_path is not None:
        beside = json_path.with_name(json_path.name + ".part")
        beside.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        beside.replace(json_path)
    for name in missed:
        print(f"MISSED {name}: {figures[name]:.3f} is below {TARGETS[name]:.2f}")
    if leaked:
        print(f"left out, as they occur in the training conversations: {', '.join(map(repr, leaked))}")
    print(f"scored in {time.monotonic() - start:.0f} s")
    return 1 if missed else 0


def without_leaked(tasks: Mapping[str, Sequence[Question]], leaked: frozenset[str]) -> dict[str, list[Question]]:
    """The tasks without questions in which the user says a leaked prompt."""
    return {
        name: [question for question in questions if leaked.isdisjoint(text for _, text in question.messages)]
        for name, questions in tasks.items()
    }


def _score_chat(
    folder: Path, leaked: frozenset[str], *, limit: int, seed: int, show: int, heldout_set: str
) -> dict[str, float]:
    paraphrases = without_leaked(paraphrase_tasks(limit=limit, seed=seed, folder=heldout_set), leaked)
    others = {
        **conversation_tasks(heldout_set),
        "follow_up": follow_up_questions(limit=limit, seed=seed),
        "arithmetic": arithmetic_questions(limit=limit, seed=seed),
    }
    others = without_leaked(others, leaked)
    results = score_tasks(folder, paraphrases, max_new_tokens=CHAT_TOKENS, show=show)
    figures = {name: result.accuracy for name, result in results.items()}
    num_right = sum(result.num_right for result in results.values())
    figures["paraphrases"] = num_right / sum(len(result.questions) for result in results.values())
    print(f"{'mean paraphrase accuracy':<28} {figures['paraphrases']:.3f}  target {TARGETS['paraphrases']:.2f}")
    results = score_tasks(folder, others, max_new_tokens=CHAT_TOKENS, show=show)
    return figures | {name: result.accuracy for name, result in results.items()}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo.score", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, metavar="DIR", help="folder of the Chat model")
    parser.add_argument("--base", type=Path, metavar="DIR", help="folder of the Base model")
    parser.add_argument("--conversations", type=Path, metavar="FILE", help="training file to check for leaks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--limit", type=int, default=60, help="questions for each relation")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--show", type=int, default=2, metavar="N", help="mistakes to print for each task")
    parser.add_argument("--set", choices=SETS, default="final", help="held-out set to ask; the targets are for final")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chat, base = options.model, options.base
    conversations = options.conversations
    if chat is None and base is None:
        chat, base = BUILD / "rope" / "chat", BUILD / "rope" / "base"
        conversations = conversations or BUILD / "conversations.json"
    return run_scoring(
        chat,
        base,
        conversations=conversations,
        json_path=options.json,
        limit=options.limit,
        seed=options.seed,
        show=options.show,
        heldout_set=options.set,
    )


if __name__ == "__main__":
    sys.exit(main())
