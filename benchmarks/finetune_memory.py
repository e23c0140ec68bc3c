"""What `baichuan2 plan --train` says of real training runs, beside the memory that they take.

    python benchmarks/finetune_memory.py [--only NAME] [--models DIR] [--output FILE.json [--resume]]
    python benchmarks/finetune_memory.py --page FILE.json

Each case is a run of `baichuan2 finetune` on random weights in a process of its own: two steps on rows of full length.
"taken" is the highest memory of the process, less what it had before the model was read (libraries and tokenizer):
from the first step on all that is resident, while the model is read ("loading") what no file backs, as the system drops
mapped pages of weight files before it kills anyone. "planned" is the estimate without the program itself. With two
processes it is the larger of both. The last line is JSON, and `--page` writes the page of a JSON file.
"""

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_memory_page import page, row_of

ROOT = Path(__file__).resolve().parent.parent
SHAPES: dict[str, dict[str, Any]] = {
    "rope-60M": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408},
    "rope-270M": {"hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 8, "intermediate_size": 2752},
    "rope-125k-words": {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "intermediate_size": 704,
        "vocab_size": 125_696,
    },
    "alibi-60M": {
        "hidden_size": 640,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "intermediate_size": 1728,
        "position_embedding": "alibi",
    },
}
WORDS = 32_768
COMMON = {
    "--max-steps": "2",
    "--report-to": "none",
    "--save-strategy": "no",
    "--logging-steps": "1",
    "--learning-rate": "1e-5",
}


@dataclass(frozen=True)
class Case:
    """One run: its name, the shape of its model, rows of `tokens`, and further flags."""

    name: str
    shape: str
    batch: int
    tokens: int
    flags: tuple[str, ...] = ()
    processes: int = 1
    deepspeed: dict[str, Any] = field(default_factory=dict)


CHECKPOINTING = ("--gradient-checkpointing", "True")
LORA = ("--method", "lora")
ZERO = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto"}
CASES = (
    Case("full", "rope-60M", 4, 256),
    Case("full, large batch", "rope-60M", 8, 512),
    Case("LoRA", "rope-60M", 4, 256, LORA),
    Case("QLoRA", "rope-270M", 1, 256, ("--method", "qlora")),
    Case("full, checkpointing", "rope-60M", 8, 256, CHECKPOINTING),
    Case("ZeRO-2, 2 processes", "rope-60M", 2, 256, (), 2, {**ZERO, "zero_optimization": {"stage": 2}}),
    Case("ZeRO-3, 2 processes", "rope-60M", 2, 256, (), 2, {**ZERO, "zero_optimization": {"stage": 3}}),
    Case("full, ALiBi", "alibi-60M", 2, 512),
    Case("full, 270M", "rope-270M", 1, 256),
    Case("full, vocabulary 125,696", "rope-125k-words", 4, 256),
    Case("LoRA, checkpointing", "rope-270M", 4, 256, (*LORA, *CHECKPOINTING)),
    Case("full, accumulation", "rope-60M", 4, 256, ("--gradient-accumulation-steps", "2")),
    Case("packed rows", "rope-60M", 4, 256, ("--packing",)),
    Case("LoRA, official", "rope-60M", 4, 256, ("--use_lora", "True")),
    Case("LoRA, ALiBi", "alibi-60M", 2, 512, LORA),
    Case("full, AdamW of torch", "rope-60M", 2, 256, ("--optim", "adamw_torch")),
)


def write_model(shape: str, folder: Path) -> None:
    """Random float32 weights of a shape, with the demo model's tokenizer."""
    import torch

    from baichuan2.checkpoints.locate import locate
    from baichuan2.model.configuration_baichuan import BaichuanConfig
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

    torch.manual_seed(0)
    fields = {"vocab_size": WORDS, "position_embedding": "rope", **SHAPES[shape]}
    longest = {"model_max_length": 2048, "max_position_embeddings": 2048}
    config = BaichuanConfig(**fields, **longest, architectures=["BaichuanForCausalLM"])
    BaichuanForCausalLM(config).save_pretrained(folder)
    demo = locate("demo-base")
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        if (demo / name).is_file():
            shutil.copy(demo / name, folder / name)


def write_data(path: Path, rows: int) -> None:
    """Conversations that are longer than any row, so that rows are cut to their full length."""
    text = "山高水长，风轻云淡。The river runs to the sea. " * 60
    turns = [{"from": "human", "value": "?"}, {"from": "assistant", "value": text}]
    path.write_text(json.dumps([{"id": str(row), "conversations": turns} for row in range(rows)]), encoding="utf-8")


def child(folder: Path, arguments: list[str]) -> None:
    """Trains in this process; prints a line of JSON: bytes before, at the peak, and those planned."""
    import warnings

    warnings.simplefilter("ignore")
    from baichuan2.bench.memory import process_memory, reset_peak
    from baichuan2.checkpoints.load import read_config, read_tokenizer
    from baichuan2.cli.main import main
    from baichuan2.finetune import memory_check, train

    seen: dict[str, Any] = {"loading": 0}
    is_loaded = threading.Event()
    read_tokenizer(folder, read_config(folder))("一")
    for library, flags in {"peft": {"qlora", "lora", "--use_lora"}, "bitsandbytes": {"qlora"}}.items():
        if flags & set(arguments):
            importlib.import_module(library)  # the program too, though it would be read after that look
    check = memory_check.check_training_fits

    def look(*given: Any, **named: Any) -> Any:
        """The program is whole here, and the model is not read yet."""
        needed, free = check(*given, **named)
        reset_peak()
        before = process_memory()
        seen.update(before=before.resident, planned=asdict(needed), beside_program=needed.beside_program)
        threading.Thread(target=watch, args=(before.anonymous,), daemon=True).start()
        return needed, free

    def watch(before: int) -> None:
        """The system keeps no peak of what files do not back."""
        while not is_loaded.is_set():
            seen["loading"] = max(seen["loading"], process_memory().anonymous - before)
            time.sleep(0.005)

    def load(*given: Any) -> Any:
        """Weights may be mapped from files whose pages count as resident until they are dropped: a peak of its own."""
        model = starting_model(*given)
        is_loaded.set()
        reset_peak()
        return model

    starting_model = train.starting_model
    memory_check.check_training_fits, train.starting_model = look, load
    code = main(["finetune", *arguments])
    seen["peak"] = process_memory().peak
    line = json.dumps({"code": code, "rank": os.environ.get("RANK", "0"), **seen})
    Path(os.environ["RESULT_FOLDER"], f"{os.environ.get('RANK', '0')}.json").write_text(line, encoding="utf-8")


def measure(case: Case, models: Path) -> dict[str, Any]:
    """Runs a case; what was planned and taken, in bytes."""
    folder = models / case.shape
    if not folder.exists():
        write_model(case.shape, folder)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_data(scratch / "data.json", 32)
        flags = {
            "--model-name-or-path": str(folder),
            "--data-path": str(scratch / "data.json"),
            "--output-dir": str(scratch / "out"),
            "--model-max-length": str(case.tokens),
            "--per-device-train-batch-size": str(case.batch),
            **COMMON,
        }
        arguments = [word for pair in flags.items() for word in pair] + list(case.flags)
        if case.deepspeed:
            (scratch / "ds.json").write_text(json.dumps(case.deepspeed), encoding="utf-8")
            arguments += ["--deepspeed", str(scratch / "ds.json")]
        start = [sys.executable]
        if case.processes > 1:
            start += ["-m", "torch.distributed.run", "--nproc_per_node", str(case.processes), "--master_port", "29523"]
        # large pieces of memory go back to the system when they are freed, so that the peak is what was alive at once
        environment = {
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": "1000000",
            "RESULT_FOLDER": name,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
        }
        command = [*start, __file__, "--child", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=900)
        results = [json.loads(path.read_text()) for path in sorted(scratch.glob("[0-9].json"))]
        if not results or any(item["code"] for item in results):
            return {**asdict(case), "error": (done.stderr or done.stdout)[-2000:]}
    loading = max(item["loading"] for item in results)
    taken = max(loading, *(item["peak"] - item["before"] for item in results))
    planned = results[0]["beside_program"]
    return {**asdict(case), "taken": taken, "planned": planned, "loading": loading, "parts": results[0]["planned"]}


def main() -> None:
    """Measures every case and prints a table, then JSON."""
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="cases whose names hold this")
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    parser.add_argument("--models", type=Path, help="keep the random models here, for the next time")
    parser.add_argument("--resume", action="store_true", help="leave out what --output holds already")
    parser.add_argument("--page", type=Path, help="only write the page of this JSON file, beside it")
    options = parser.parse_args()
    if options.page is not None:
        text = page(json.loads(options.page.read_text(encoding="utf-8")), [case.name for case in CASES])
        options.page.with_suffix(".md").write_text(text, encoding="utf-8")
        return
    done: list[dict[str, Any]] = []
    if options.resume and options.output is not None and options.output.exists():
        done = [item for item in json.loads(options.output.read_text())["cases"] if "error" not in item]
    print("| run | shape | rows | planned | taken | error |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            if options.only is not None and options.only not in case.name:
                continue
            if case.name not in [item["name"] for item in done]:
                done.append(measure(case, options.models or Path(name)))
                if options.output is not None:
                    options.output.write_text(json.dumps(summary(done), indent=1) + "\n", encoding="utf-8")
            print(row_of(next(item for item in done if item["name"] == case.name)), flush=True)
    print(json.dumps(summary(done)))


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything that was measured, and where."""
    import torch
    import transformers

    command = ["git", "rev-parse", "--short", "HEAD"]
    return {
        "command": " ".join(["python", "benchmarks/finetune_memory.py", *sys.argv[1:]]),
        "commit": subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip(),
        "cases": results,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.processor() or platform.machine(),
    }


if __name__ == "__main__":
    main()
