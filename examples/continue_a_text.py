"""A Base model continues a text, through transformers alone:  python examples/continue_a_text.py [PATH_OR_ID]"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import baichuan2  # noqa: F401  # makes the Auto classes build this package's model and tokenizer
from baichuan2.checkpoints.locate import locate

folder = locate(sys.argv[1] if len(sys.argv) > 1 else "demo-base")
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)

inputs = tokenizer("登鹳雀楼->王之涣\n夜雨寄北->", return_tensors="pt").to(model.device)
with torch.inference_mode():
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
print(tokenizer.decode(output[0], skip_special_tokens=True))
