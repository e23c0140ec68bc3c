"""The snippets of the official README with only `import baichuan2` added, on folders in the official layout.

Run in a child process each, as a reader would; the same snippets with the imports the other way round are in
test_hostile_folder.py and tests/model/test_registration.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints.folders import set_traps, write_folder
from tests.tiny import SIZES, Size

CHAT = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.utils import GenerationConfig
import baichuan2
tokenizer = AutoTokenizer.from_pretrained("FOLDER", use_fast=False, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(
    "FOLDER", device_map="auto", torch_dtype=torch.bfloat16, trust_remote_code=True
)
model.generation_config = GenerationConfig.from_pretrained("FOLDER")
messages = []
messages.append({"role": "user", "content": "解释一下“温故而知新”"})
response = model.chat(tokenizer, messages)
print(repr(response))
assert isinstance(response, str)
streamed = list(model.chat(tokenizer, messages, stream=True))
assert all(isinstance(text, str) for text in streamed)
with_revision = AutoModelForCausalLM.from_pretrained(
    "FOLDER", revision="v2.0", torch_dtype=torch.bfloat16, trust_remote_code=True
)
assert model.dtype == torch.bfloat16
assert (model.generation_config.user_token_id, model.generation_config.assistant_token_id) == (195, 196)
"""
BASE = """
import baichuan2
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("FOLDER", device_map="auto", trust_remote_code=True)
inputs = tokenizer('登鹳雀楼->王之涣\\n夜雨寄北->', return_tensors='pt')
inputs = inputs.to('cpu')
pred = model.generate(**inputs, max_new_tokens=64, repetition_penalty=1.1)
print(tokenizer.decode(pred.cpu()[0], skip_special_tokens=True))
assert tokenizer.decode(pred[0], skip_special_tokens=True).startswith('登鹳雀楼->王之涣\\n夜雨寄北->')
"""


@pytest.mark.parametrize(("snippet", "size"), [(CHAT, "13b"), (BASE, "7b")], ids=["chat on 13b", "base on 7b"])
def test_snippet_runs(tmp_path: Path, snippet: str, size: Size) -> None:
    assert size in SIZES
    folder = write_folder(tmp_path / "model", size, "bin", "sharded" if size == "13b" else "whole")
    mark = set_traps(folder)
    command = [sys.executable, "-c", snippet.replace("FOLDER", str(folder))]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not mark.exists()
