"""Run as a program where this package cannot be imported: what transformers alone makes of folders in the Llama layout.

Reads from standard input, for each folder, texts, conversations and a prompt; writes what came out as JSON, and logits
into `logits.pt` of the folder. Knows nothing about Baichuan: that is the point.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.modules["baichuan2"] = None  # type: ignore[assignment]  # any import of it fails

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def answer(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What the folder's tokenizer and, where it has weights, its model give."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found: dict[str, Any] = {
        "ids": [tokenizer(text)["input_ids"] for text in asked["texts"]],
        "decoded": [tokenizer.decode(ids) for ids in asked.get("decode", [])],
        "chats": [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            for chat in asked.get("chats", [])
        ],
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id],
        "length": tokenizer.model_max_length,
        "untouched": tokenizer(asked["role"], split_special_tokens=True)["input_ids"] if "role" in asked else [],
    }
    if "prompt" in asked:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        prompt = torch.tensor([asked["prompt"]])
        with torch.no_grad():
            torch.save(model(prompt).logits, folder / "logits.pt")
        written = model.generate(prompt, max_new_tokens=64, do_sample=False, repetition_penalty=1.0)
        found |= {"class": type(model).__name__, "written": written[0, prompt.shape[1] :].tolist()}
        found["dtype"] = str(model.dtype)
    return found


if __name__ == "__main__":
    json.dump({folder: answer(Path(folder), asked) for folder, asked in json.load(sys.stdin).items()}, sys.stdout)
