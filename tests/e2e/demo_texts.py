"""Greedy replies of the demo Chat model in each format, as ids; run as a program, it prints those of all formats."""

import json
import sys

from baichuan2.checkpoints.load import load_model
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.model.quantizer import quantize_model
from baichuan2.quantization.apply import CODEBOOKS
from baichuan2.quantization.scheme import QuantizationSpec
from baichuan2.settings import LoadSettings

# Replies that the model knows well: nowhere is the runner-up within 9 units of bfloat16 of the likeliest token
# (measured for bfloat16, float16 and int4), where two ways to compute differ by 4 at most. Others may part at a
# rounding.
PROMPTS = (
    "你好，请介绍一下你自己。",
    "What is the capital of France?",
    "静夜思",
)
NUM_TOKENS = 20
UNEVEN = tuple(map(int, CODEBOOKS["nonuniform"]))
FORMATS: dict[str, tuple[str, dict[str, object] | None]] = {
    "bfloat16": ("bfloat16", None),
    "float16": ("float16", None),
    "int4 in groups of 128": ("bfloat16", {"format": "int4", "group_size": 128, "codebook": UNEVEN}),
    "int4 in groups of 32, head and embedding too": (
        "bfloat16",
        {"format": "int4", "group_size": 32, "codebook": UNEVEN, "head": "int4", "embedding": "int8"},
    ),
    "int8 in groups of 64, head too": ("bfloat16", {"format": "int8", "group_size": 64, "head": "int8"}),
    "NF4": ("bfloat16", {"format": "nf4", "group_size": 64, "weight_dtype": "bfloat16"}),
    "NF4, scales in 32 bits": (
        "bfloat16",
        {"format": "nf4", "group_size": 64, "weight_dtype": "bfloat16", "compressed_statistics": False},
    ),
}


def replies(name: str, kv_cache: str = "same") -> list[list[int]]:
    """The new ids after each prompt, with the weights in the format of that name."""
    dtype, spec = FORMATS[name]
    loaded = load_model("demo-chat", LoadSettings(dtype=dtype, threads=1))
    if spec is not None:
        quantize_model(loaded.model, QuantizationSpec(**spec))
    sampling = Sampling(max_new_tokens=NUM_TOKENS, kv_cache=kv_cache)
    prompts = [[195, *loaded.tokenizer.encode_text(text), 196] for text in PROMPTS]
    return [
        [step.token_id for step in generate_tokens(loaded.model, prompt, sampling, stop_ids=frozenset({2}))]
        for prompt in prompts
    ]


if __name__ == "__main__":
    json.dump({name: replies(name) for name in sys.argv[1:] or FORMATS}, sys.stdout)
