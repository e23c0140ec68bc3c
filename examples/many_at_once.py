"""Several questions answered in one batch:  python examples/many_at_once.py [PATH_OR_ID]"""

import sys

from baichuan2 import Message, SamplingSettings, chat_batch, load_model

QUESTIONS = ("法国的首都是哪里", "金的元素符号是什么", "What is the capital of Japan?")

loaded = load_model(sys.argv[1] if len(sys.argv) > 1 else None)
replies = chat_batch(
    loaded,
    [[Message("user", question)] for question in QUESTIONS],
    SamplingSettings(do_sample=False, max_new_tokens=64),
)
for question, reply in zip(QUESTIONS, replies, strict=True):
    print(f"> {question}\n{reply.text}")
