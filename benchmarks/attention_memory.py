"""Peak memory of the 13B's attention at full length, beside the size of the bias that is never built.

    python benchmarks/attention_memory.py [--tokens 4096] [--heads 40] [--head-size 128] [--dtype bfloat16]

One decoder layer of the 13B's shape on a CPU, each case in a process of its own: a forward pass without gradients, and
a training step, with and without a padded batch, and once with the bias made whole for comparison. "peak" is the
highest resident memory while the case ran, less what was resident before it (weights and libraries). The last line is
JSON.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

CASES = ("forward", "forward padded", "training step", "training step padded", "forward, whole bias")


def measure(case: str, tokens: int, heads: int, head_size: int, dtype_name: str) -> dict[str, object]:
    """Runs one case in this process: the bytes it took at most, and those of the weights."""
    import torch

    from baichuan2.model import alibi
    from baichuan2.model.configuration_baichuan import BaichuanConfig
    from baichuan2.model.modeling_baichuan import BaichuanModel

    torch.manual_seed(0)
    width = heads * head_size
    config = BaichuanConfig(
        vocab_size=1024,
        hidden_size=width,
        intermediate_size=width * 13696 // 5120,
        num_hidden_layers=1,
        num_attention_heads=heads,
        model_max_length=tokens,
        position_embedding="alibi",
        use_cache=False,
    )
    model = BaichuanModel(config).to(getattr(torch, dtype_name))
    ids = torch.randint(3, 1024, (1, tokens))
    mask = None
    if "padded" in case:
        mask = torch.ones_like(ids)
        mask[:, : tokens // 8] = 0
    if "whole" in case:
        alibi.BLOCK_BYTES = 2**62
    before = resident_bytes()
    if case.startswith("training"):
        model.train()
        model(ids, attention_mask=mask).last_hidden_state.float().square().mean().backward()
    else:
        with torch.no_grad():
            model.eval()(ids, attention_mask=mask)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return {"case": case, "peak_bytes": peak, "weight_bytes": weights}


def resident_bytes() -> int:
    """Resident memory of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def commit() -> str:
    """The commit that is checked out, short."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    ).stdout.strip()


def main() -> None:
    """Measures every case and prints a table, then JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--case", choices=CASES, help="measure this one, in this process")
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.tokens, options.heads, options.head_size, options.dtype)))
        return
    import torch
    import transformers

    full_bias = options.heads * options.tokens**2 * 4
    print(f"a float32 bias of {options.heads} x {options.tokens} x {options.tokens} takes {full_bias / 1e9:.2f} GB")
    results = []
    for case in CASES:
        command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
        # large pieces of memory go back to the system when they are freed, so that the peak is what was alive at once
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        peak = results[-1]["peak_bytes"]
        print(f"{case:22}  peak {peak / 1e9:5.2f} GB = {peak / full_bias:4.2f} biases")
    summary = {
        "command": " ".join(["python", "benchmarks/attention_memory.py", *sys.argv[1:]]),
        "commit": commit(),
        "tokens": options.tokens,
        "heads": options.heads,
        "dtype": options.dtype,
        "full_bias_bytes": full_bias,
        "cases": results,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
