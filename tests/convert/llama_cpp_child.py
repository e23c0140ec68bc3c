"""llama.cpp in a process of its own, for tests: what it makes of a GGUF file, as JSON.

    python llama_cpp_child.py MODEL.gguf < questions.json > answers.json

Questions: "texts" and "forged" to tokenize, the latter also with special tokens parsed; "prompts" of token ids, each
gone on with for "length" greedy tokens; "chats" of messages, as the template writes them and as the server answers.
"""

import json
import os
import sys
import urllib.request
from typing import Any

import xllamacpp


def main() -> None:
    questions = json.load(sys.stdin)
    server = xllamacpp.Server(_parameters(sys.argv[1]))

    def ask(path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def ids(text: str, parse_special: bool) -> list[int]:
        return list(ask("/tokenize", {"content": text, "add_special": True, "parse_special": parse_special})["tokens"])

    def go_on(prompt: Any, length: int) -> Any:
        body = {"prompt": prompt, "n_predict": length, "temperature": 0, "repeat_penalty": 1.0, "return_tokens": True}
        return ask("/completion", {**body, "ignore_eos": False, "cache_prompt": False})

    length = questions.get("length", 32)
    answers = {
        "ids": [ids(text, False) for text in questions.get("texts", ())],
        "forged": [[ids(text, special) for special in (False, True)] for text in questions.get("forged", ())],
        "replies": [go_on(prompt, length)["tokens"] for prompt in questions.get("prompts", ())],
        "chats": [],
        "defaults": ask("/props")["default_generation_settings"]["params"],
    }
    for messages in questions.get("chats", ()):
        prompt = ask("/apply-template", {"messages": messages})["prompt"]
        reply = ask("/v1/chat/completions", {"messages": messages, "max_tokens": length, "temperature": 0})
        answers["chats"].append(
            {
                "prompt": ids(prompt, True),
                "text": reply["choices"][0]["message"]["content"],
                "finish_reason": reply["choices"][0]["finish_reason"],
                "num_prompt_tokens": reply["usage"]["prompt_tokens"],
            }
        )
    sys.stdout.write("\n" + json.dumps(answers) + "\n")
    sys.stdout.flush()
    os._exit(0)  # what the server's threads still do is of no interest


def _parameters(path: str) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 256
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    # keys and values in float32, or the rounding of sixteen bits picks other tokens after some dozen
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.port = 0
    parameters.warmup = False
    parameters.fit_params = False
    return parameters


if __name__ == "__main__":
    main()
