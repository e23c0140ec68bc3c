"""A conversation that remembers its earlier turns:  python examples/conversation.py [PATH_OR_ID]"""

import sys

from baichuan2 import ChatSession, SamplingSettings, load_model

loaded = load_model(sys.argv[1] if len(sys.argv) > 1 else None)
session = ChatSession(loaded, sampling=SamplingSettings(do_sample=False))

for text in ("你好", "我叫小明。", "我叫什么名字？"):
    print(f"> {text}\n{session.ask(text).text}")
print(f"[{len(session.messages)} messages in the history]")
