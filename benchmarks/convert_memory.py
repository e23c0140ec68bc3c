"""Peak memory and time of `baichuan2 convert` on a full-size checkpoint, each way in a process of its own.

    python benchmarks/convert_memory.py --directory /path/with/room to-baichuan1 to-safetensors
    python benchmarks/convert_memory.py --directory DIR --layers 4 to-llama to-gguf:f16 to-gguf:q8_0 to-gguf:q4_0

Writes a 7B of random bfloat16 weights as it was published, one `pytorch_model.bin`, and converts it; memory and time do
not depend on the values. Needs 15 GB of disk for it and as much again for a result, which is removed as soon as it is
measured; --layers makes it smaller. A way may name its type (`to-gguf:q8_0`) or its container (`to-baichuan1:bin`).
The peak is VmHWM, what the system reports for the process, mapped pages included. Prints a table; with --page NAME it
writes NAME.md and NAME.json. Linux only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan2.bench.random_weights import Randomness
from baichuan2.checkpoints.bin_file import stream_bin
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.machine import describe_hardware, describe_software
from baichuan2.checkpoints.network import empty_model
from baichuan2.checkpoints.shard_file import StoredAs
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.plain import PlainBaichuan

FIELDS: dict[str, Any] = {
    "architectures": ["BaichuanForCausalLM"],
    "model_type": "baichuan",
    "vocab_size": 125_696,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "model_max_length": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COPIED = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
ROWS = 4096
GIB = 1 << 30
PREDICTED = """\
the program itself takes about 0.5 GiB; of the weights only pieces of 64 MB are in memory, as
read and as written, so 0.5 to 0.8 GiB for ways between folders, whatever the size of the model; about 3 s a GB, most of
it digests and the disk"""
CHILD = """
import json, sys
from baichuan2 import ConvertSettings
from baichuan2.convert.ways import convert_checkpoint
result = convert_checkpoint(ConvertSettings(**json.loads(sys.argv[1])))
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps({"peak_bytes": peak, "bytes": result.num_bytes, "source_bytes": result.num_source_bytes,
                  "seconds": result.seconds}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="+", metavar="WAY[:TYPE]")
    parser.add_argument("--directory", type=Path, required=True, help="where there is room; an empty or new folder")
    parser.add_argument("--layers", type=int, default=32, help="decoder layers; 32 is the 7B")
    parser.add_argument("--tokenizer", type=Path, help="folder with the tokenizer files; not given: the demo model's")
    parser.add_argument("--page", type=Path, help="name of the page and JSON file to write, without a suffix")
    parser.add_argument("--add", action="store_true", help="keep the other ways that the page has already")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    source = arguments.directory / "source"
    rows = []
    if arguments.add:
        found = json.loads(arguments.page.with_name(arguments.page.name + ".json").read_text(encoding="utf-8"))
        rows = [row for row in found["rows"] if row["way"] not in arguments.ways]
    try:
        write_source(source, arguments.layers, arguments.tokenizer or locate("demo-chat"))
        for way in arguments.ways:
            rows.append(measured(way, source, arguments.directory / "target"))
            print(row_text(rows[-1]), flush=True)
            if arguments.page is not None:
                write_page(arguments.page, rows, arguments.layers)
    finally:
        shutil.rmtree(source, ignore_errors=True)
    return 0


def write_source(folder: Path, layers: int, tokenizer: Path) -> None:
    """A folder as the 7B was published: one .bin file, small files beside it."""
    folder.mkdir()
    fields = {**FIELDS, "num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    for name in COPIED:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / name)
    config = BaichuanConfig.from_dict(fields | {"position_embedding": "rope"})
    state = empty_model(folder / "config.json", config, PlainBaichuan, torch.bfloat16).state_dict()
    randomness = Randomness()

    def rows_of(name: str) -> Iterator[Tensor]:
        shape = state[name].shape
        if len(shape) == 1:
            yield torch.ones(shape, dtype=torch.bfloat16)
            return
        for start in range(0, shape[0], ROWS):
            count = min(ROWS, shape[0] - start)
            yield randomness.take_numbers(count * shape[1], torch.bfloat16, -0.035, 0.035).view(count, shape[1])

    started = time.perf_counter()
    stream_bin({name: StoredAs.of(tensor) for name, tensor in state.items()}, rows_of, folder / "pytorch_model.bin")
    size = (folder / "pytorch_model.bin").stat().st_size
    print(f"source: {size / 1e9:.2f} GB in one .bin file, written in {time.perf_counter() - started:.0f} s", flush=True)


def measured(way: str, source: Path, target: Path) -> dict[str, Any]:
    """One conversion: peak and time; what it wrote is removed."""
    name, _, kind = way.partition(":")
    settings = {"way": name, "source": str(source), "target": str(target)}
    if name == "to-gguf":
        settings |= {"target": f"{target}.gguf", "type": kind or "f16"}
    elif kind:
        settings["container"] = kind
    try:
        child = subprocess.run([sys.executable, "-c", CHILD, json.dumps(settings)], stdout=subprocess.PIPE, check=True)
        return {"way": way, **json.loads(child.stdout)}
    finally:
        for path in target.parent.glob(f"{target.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def row_text(row: dict[str, Any]) -> str:
    """One row of the table."""
    before, after, seconds = row["source_bytes"] / 1e9, row["bytes"] / 1e9, row["seconds"]
    peak = row["peak_bytes"] / GIB
    return f"| `{row['way']}` | {before:.2f} | {after:.2f} | {peak:.2f} | {seconds:.0f} | {seconds / before:.1f} |"


def write_page(name: Path, rows: list[dict[str, Any]], layers: int) -> None:
    """The page and the figures behind it."""
    software, hardware = describe_software(), describe_hardware()
    command = f"python benchmarks/convert_memory.py {' '.join(sys.argv[1:])}"
    result = {"command": command, "layers": layers, "software": software, "hardware": hardware, "rows": rows}
    name.with_name(name.name + ".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    memory = hardware["memory_bytes"] / GIB
    name.with_name(name.name + ".md").write_text(
        f"""# Peak memory and time of converting a 7B

{hardware["processor"]}, {hardware["cores"]} cores, {memory:.0f} GiB of memory; torch {software["torch"]}, Python \
{software["python"]}; commit {software["commit"]}; {time.strftime("%Y-%m-%d")}.

    {command}

Random bfloat16 weights in the official layout, one `pytorch_model.bin`, {layers} decoder layers at the widths of the
7B; each way in a process of its own.

Predicted before measuring: {PREDICTED}.

| way | source, GB | result, GB | peak, GiB | seconds | seconds a GB |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(map(row_text, rows))}

The peak is VmHWM: everything that was in memory of the process at one time, mapped pages of the source included.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    sys.exit(main())
