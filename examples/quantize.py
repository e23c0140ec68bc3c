"""The model in 4 bits, or 8, by bitsandbytes:  python examples/quantize.py [PATH_OR_ID [BITS]]"""

import sys

from baichuan2 import load_model

loaded = load_model(sys.argv[1] if len(sys.argv) > 1 else None)
before = loaded.model.get_memory_footprint()
model = loaded.model.quantize(int(sys.argv[2]) if len(sys.argv) > 2 else 4)  # on a GPU: add .cuda()

print(f"{before / 1e6:.1f} MB -> {model.get_memory_footprint() / 1e6:.1f} MB")
print(model.chat(loaded.tokenizer, [{"role": "user", "content": "你好"}], max_new_tokens=64, do_sample=False))
