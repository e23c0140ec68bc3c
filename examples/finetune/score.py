"""How many questions models answer rightly, side by side:

python examples/finetune/score.py QUESTIONS MODEL [MODEL ...]

QUESTIONS is a JSONL file of {"prompt": a question, or "text": what to continue, "expect": what a right reply holds}.
MODEL is a folder or hub id; MODEL+ADAPTER puts an adapter on it. Replies are greedy. The last line is JSON.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baichuan2 import LoadSettings, Message, SamplingSettings, chat_batch, load_model
from baichuan2.engine.generate import generate_batch
from baichuan2.engine.sampling import Sampling

GREEDY = SamplingSettings(do_sample=False, max_new_tokens=48)
CONTINUED_TOKENS = 12
BATCH_SIZE = 40


def replies(model: str, questions: Sequence[dict[str, str]]) -> list[str]:
    """The reply of `model` to each question."""
    name, _, adapter = model.partition("+")
    loaded = load_model(name, LoadSettings(adapter=adapter or None))
    found: list[str] = []
    for start in range(0, len(questions), BATCH_SIZE):
        part = questions[start : start + BATCH_SIZE]
        if "text" in part[0]:
            prompts = [loaded.tokenizer.encode_text(question["text"]) for question in part]
            sampling = Sampling(max_new_tokens=CONTINUED_TOKENS)
            outputs = generate_batch(loaded.model, prompts, sampling, stop_ids=frozenset())
            found += [loaded.tokenizer.decode(ids) for ids in outputs]
        else:
            conversations = [[Message("user", question["prompt"])] for question in part]
            found += [reply.text for reply in chat_batch(loaded, conversations, GREEDY)]
    return found


def is_right(reply: str, expected: str) -> bool:
    """Whether `reply` holds `expected`, and not as a part of a longer number or word."""
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(expected)}(?![0-9A-Za-z])", reply) is not None


def main() -> None:
    """Asks every model every question and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--show", type=int, default=2, metavar="N", help="print so many wrong replies of each model")
    arguments = parser.parse_args()
    questions = [json.loads(line) for line in arguments.questions.read_text(encoding="utf-8").splitlines()]
    result: dict[str, Any] = {"questions": str(arguments.questions), "accuracy": {}}
    for model in arguments.models:
        answered = list(zip(questions, replies(model, questions), strict=True))
        wrong = [(question, reply) for question, reply in answered if not is_right(reply, question["expect"])]
        num_right = len(answered) - len(wrong)
        print(f"{model}: {num_right} of {len(answered)} right, {num_right / len(answered):.2f}")
        for question, reply in wrong[: arguments.show]:
            asked = question.get("prompt") or question["text"]
            print(f"    {asked!r} -> {reply!r}, wanted {question['expect']!r}")
        result["accuracy"][model] = round(num_right / len(answered), 4)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
