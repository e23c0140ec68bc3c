"""vLLM's side of `benchmarks/gpu.py`, in a process of its own: FOLDER PROMPT TOKENS TURNS BATCH [BATCH ...].

The folder holds only a config.json; weights are random. Prints one line of JSON last. vLLM gives no time of a step, so
decoding is the time of all tokens less the time of the first.
"""

import json
import random
import statistics
import sys
import time
from pathlib import Path

from vllm import LLM, SamplingParams


def main() -> None:
    folder, (prompt, tokens, turns, *batches) = sys.argv[1], map(int, sys.argv[2:])
    vocabulary = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    engine = LLM(
        model=folder, load_format="dummy", skip_tokenizer_init=True, max_model_len=4096, enable_prefix_caching=False
    )

    def seconds(batch: int, new: int) -> float:
        prompts = [{"prompt_token_ids": random.choices(range(300, vocabulary), k=prompt)} for _ in range(batch)]
        asked = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        engine.generate(prompts, asked, use_tqdm=False)
        return time.perf_counter() - start

    figures = []
    for batch in batches:
        seconds(batch, 2)
        first = statistics.median(seconds(batch, 1) for _ in range(turns))
        whole = statistics.median(seconds(batch, tokens + 1) for _ in range(turns))
        speeds = {"prefill": batch * prompt / first, "decode": batch * tokens / max(whole - first, 1e-9)}
        figures.append({"batch": batch, **speeds})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
