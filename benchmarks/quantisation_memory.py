"""Memory of full-size models at each precision: after loading and at its peak, in a process of its own.

    python benchmarks/quantisation_memory.py --size 7B --directory /path/with/room
    python benchmarks/quantisation_memory.py --size 13B --directory /path/with/room --precisions int8 int4

Weights are random: memory does not depend on their values. The checkpoint is written shard by shard, quantised by
`baichuan2 quantize` (whose own peak is measured too), loaded by `load_model`, and a few tokens are generated. Needs 15
(7B) or 28 GB (13B) of disk for the 16-bit checkpoint and about as much again for the quantised ones; what was made is
deleted as soon as it is measured, unless --keep is given. Prints a table and, last, one line of JSON.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from baichuan2.bench.memory import LoadMemory, measure_load
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.settings import LoadSettings

SHAPES: dict[str, dict[str, Any]] = {
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "max_position_embeddings": 4096},
    "13B": {"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40,
            "model_max_length": 4096},
}  # fmt: skip
VOCABULARY = 125_696
# the official README's figures: GB of a GPU, of which the 16-bit ones equal the bytes of the weights in GiB
OFFICIAL_GIB = {"7B": {"bf16": 14.0, "int8": 8.0, "int4": 5.1}, "13B": {"bf16": 25.9, "int8": 14.2, "int4": 8.6}}
SHARD_BYTES = 2 << 30
NUM_TOKENS = 4
GIB = 1 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SHAPES, default="7B")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "int8", "int4"), default=["bf16", "int8", "int4"])
    parser.add_argument("--quantize-arguments", default="--method nearest", help="passed to baichuan2 quantize")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints on disk")
    arguments = parser.parse_args()
    source = arguments.directory / f"random-{arguments.size}"
    if not (source / "config.json").is_file():
        write_checkpoint(source, SHAPES[arguments.size])
    rows = []
    for precision in arguments.precisions:
        folder, conversion = source, None
        if precision != "bf16":
            folder = arguments.directory / f"random-{arguments.size}-{precision}"
            conversion = quantize(source, folder, precision, arguments.quantize_arguments.split())
        memory = measure_load(folder, LoadSettings(device="cpu"), max_new_tokens=NUM_TOKENS)
        rows.append(row_of(arguments.size, precision, memory, conversion))
        print(describe(rows[-1]), flush=True)
        if folder != source and not arguments.keep:
            shutil.rmtree(folder)
    if not arguments.keep:
        shutil.rmtree(source)
    print(json.dumps({"command": sys.argv, "torch": torch.__version__, "rows": rows}))
    return 0


def write_checkpoint(folder: Path, shape: dict[str, Any]) -> None:
    """A checkpoint of that shape in bfloat16, in shards, with random values; one shard in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = BaichuanConfig(
        vocab_size=VOCABULARY, dtype="bfloat16", torch_dtype="bfloat16", architectures=["BaichuanForCausalLM"], **shape
    )
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in BaichuanForCausalLM(config).state_dict().items()}
    noise = (torch.randn(1 << 26, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
    shards: list[dict[str, torch.Size]] = [{}]
    for name, size in shapes.items():
        if sum(2 * held.numel() for held in shards[-1].values()) + 2 * size.numel() > SHARD_BYTES and shards[-1]:
            shards.append({})
        shards[-1][name] = size
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: noise.repeat(-(-size.numel() // len(noise)))[: size.numel()].view(size).clone() for name, size in shard.items()}  # fmt: skip  # noqa: E501
        save_file(tensors, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    demo = Path(sys.modules["baichuan2"].__file__ or "").parent / "demo" / "chat"
    shutil.copy(demo / "tokenizer.model", folder)
    config.save_pretrained(folder)


def quantize(source: Path, target: Path, precision: str, extra: list[str]) -> dict[str, float]:
    """Seconds and peak bytes of `baichuan2 quantize`."""
    command = [sys.executable, "-m", "baichuan2", "quantize", str(source), str(target), "--format", precision, *extra]
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"error: {' '.join(command)} failed")
    return {"seconds": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * 1024}


def row_of(size: str, precision: str, memory: LoadMemory, conversion: dict[str, float] | None) -> dict[str, Any]:
    """The figures of one line of the table."""
    return {
        "size": size,
        "precision": precision,
        "official_gib": OFFICIAL_GIB[size][precision],
        "memory": memory.to_dict(),
        "quantize": conversion,
    }


def describe(row: dict[str, Any]) -> str:
    """One line for people, in GiB."""
    loaded, generated = row["memory"]["loaded"], row["memory"]["generated"]
    line = (
        f"{row['size']:>3} {row['precision']:<5} after loading {loaded['resident'] / GIB:6.2f} GiB "
        f"(anonymous {loaded['anonymous'] / GIB:5.2f}), after {NUM_TOKENS} tokens {generated['resident'] / GIB:6.2f}, "
        f"peak {generated['peak'] / GIB:6.2f}, official {row['official_gib']:5.1f}"
    )
    if row["quantize"]:
        line += f"; quantised in {row['quantize']['seconds']:.0f} s, peak {row['quantize']['peak_bytes'] / GIB:.2f} GiB"
    return line


if __name__ == "__main__":
    sys.exit(main())
