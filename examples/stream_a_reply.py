"""One question, the reply shown while it is written:  python examples/stream_a_reply.py [QUESTION] [PATH_OR_ID]"""

import sys

from baichuan2 import load_model, stream_reply

question = sys.argv[1] if len(sys.argv) > 1 else "世界上第二高的山峰是哪座"
loaded = load_model(sys.argv[2] if len(sys.argv) > 2 else None)

for chunk in stream_reply(loaded, [{"role": "user", "content": question}]):
    print(chunk.text, end="", flush=True)
    if chunk.usage is not None:  # on the last chunk
        print(f"\n[{chunk.finish_reason}, {chunk.usage.completion_tokens} tokens]")
