"""How much memory loading takes: peak beyond a process that only imports, as a multiple of the weights.

    python benchmarks/loading_memory.py --gigabytes 2

writes a random checkpoint of that size once as .bin and safetensors, whole and in shards, loads each in a fresh
process through `load_model` and through `AutoModelForCausalLM`, reads every weight once (a mapped file only counts
where it was read), and prints one line per case and one JSON object at the end. The peak is VmHWM, what the system
reports for the process, file-mapped pages included; RssAnon is the part that no file backs. Linux only.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TOKENIZER = REPOSITORY / "tests" / "golden" / "text" / "small_tokenizer.model"
VARIANTS = [(kind, layout) for kind in ("bin", "safetensors") for layout in ("whole", "sharded")]
NUM_SHARDS = 3


def read_memory() -> dict[str, int]:
    """Peak and present memory of this process in bytes, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("VmHWM", "VmRSS", "RssAnon", "RssFile")))
    return {name: int(value.split()[0]) * 1024 for name, value in fields.items()}


def make_config(gigabytes: float) -> Any:
    """A 7B-like config in bfloat16 whose weights have about that size."""
    from baichuan2 import BaichuanConfig

    hidden, intermediate, vocab = 2048, 5504, 32_768
    per_layer = 4 * hidden * hidden + 3 * hidden * intermediate
    layers = max(1, round((gigabytes * 1e9 / 2 - 2 * vocab * hidden) / per_layer))
    return BaichuanConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=16,
        max_position_embeddings=4096,
        model_max_length=4096,
        architectures=["BaichuanForCausalLM"],
        dtype="bfloat16",
    )


def make_weights(config: Any) -> dict[str, Any]:
    """Random weights under the official names."""
    import torch

    from baichuan2 import BaichuanForCausalLM

    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in BaichuanForCausalLM(config).state_dict().items()}
    return {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        for name, shape in shapes.items()
    }


def write_checkpoint(folder: Path, kind: str, layout: str, config: Any, weights: dict[str, Any]) -> None:
    """An official-looking folder in one of the four forms."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    shutil.copy(TOKENIZER, folder / "tokenizer.model")
    stem, suffix = ("pytorch_model", ".bin") if kind == "bin" else ("model", ".safetensors")

    def save(part: dict[str, Any], path: Path) -> None:
        if kind == "bin":
            torch.save(part, path)
        else:
            save_file(part, path, metadata={"format": "pt"})

    if layout == "whole":
        save(weights, folder / f"{stem}{suffix}")
        return
    names = list(weights)
    weight_map = {}
    for shard in range(NUM_SHARDS):
        file_name = f"{stem}-{shard + 1:05d}-of-{NUM_SHARDS:05d}{suffix}"
        part = names[shard * len(names) // NUM_SHARDS : (shard + 1) * len(names) // NUM_SHARDS]
        save({name: weights[name] for name in part}, folder / file_name)
        weight_map.update(dict.fromkeys(part, file_name))
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def load_here(folder: Path, through: str, dtype: str) -> dict[str, Any]:
    """Loads in this process and reads every weight; "nothing" only imports. Called in a child process."""
    import torch
    from transformers import AutoModelForCausalLM

    import baichuan2
    import baichuan2.checkpoints.load

    torch.set_num_threads(1)
    start = time.perf_counter()
    result: dict[str, Any] = {"weight_bytes": 0}
    if through == "load_model":
        model = baichuan2.load_model(str(folder), baichuan2.LoadSettings(dtype=dtype, device="cpu")).model
    elif through == "auto":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    if through != "nothing":
        result["load_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        for parameter in model.parameters():
            parameter.sum()
        result["read_seconds"] = time.perf_counter() - start
        result["weight_bytes"] = sum(parameter.nbytes for parameter in model.parameters())
        if through == "load_model":
            from baichuan2.checkpoints.shards import check_values, find_weight_files

            start = time.perf_counter()
            check_values(model, find_weight_files(folder))
            result["check_seconds"] = time.perf_counter() - start
    return {**result, **read_memory()}


def in_child(folder: Path, through: str, dtype: str) -> dict[str, Any]:
    """The result of `load_here` in a fresh process."""
    command = [sys.executable, __file__, "--child", str(folder), "--through", through, "--dtype", dtype]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the checkpoint (default: 2)")
    parser.add_argument("--dtype", default="auto", help="number format to load in (default: auto, the checkpoint's)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--through", choices=("load_model", "auto", "nothing"), help="only this way of loading")
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(load_here(arguments.child, arguments.through, arguments.dtype)))
        return
    config = make_config(arguments.gigabytes)
    weights = make_weights(config)
    ways = [arguments.through] if arguments.through else ["load_model", "auto"]
    cases = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as parent:
        baseline = in_child(Path(parent), "nothing", "auto")
        for kind, layout in VARIANTS:
            folder = Path(parent) / f"{kind}-{layout}"
            write_checkpoint(folder, kind, layout, config, weights)
            for through in ways:
                case = in_child(folder, through, arguments.dtype)
                case.update(format=kind, layout=layout, through=through, dtype=arguments.dtype)
                case["peak_ratio"] = (case["VmHWM"] - baseline["VmHWM"]) / case["weight_bytes"]
                case["anonymous_bytes"] = case["RssAnon"] - baseline["RssAnon"]
                cases.append(case)
                print(
                    f"{kind:12}{layout:9}{through:11} weights {case['weight_bytes'] / 1e9:.2f} GB, peak x "
                    f"{case['peak_ratio']:.3f}, anonymous {case['anonymous_bytes'] / 1e9:.2f} GB, loaded in "
                    f"{case['load_seconds']:.2f} s",
                    flush=True,
                )
            shutil.rmtree(folder)
    print(json.dumps({"baseline": baseline, "cases": cases}))


if __name__ == "__main__":
    main()
