"""Items/s of `baichuan2 evaluate` beside lm-evaluation-harness: the same model, files, prompts and processor.

    python benchmarks/evaluate.py --data DIR --tokenizer FILE [--turns 2] [--limit 8] [--write NAME]

Five-shot multiple choice by the recipe lm-eval, from the files in DIR (ceval, mmlu, cmmlu), float32, on two models: the
demo model, and a random one 512 wide with 8 layers, the whole vocabulary of 125,696 and FILE, the real tokenizer.model.
Each measurement is a process of its own that loads the model, is warmed up by one item and times one suite; loading is
not counted. The ways take turns, so that what else the machine does meets both. The harness gets its best batch size of
`--batches`, found beforehand on a few items of each model. All answers are compared: log-probabilities and choices.
`--around "COMMAND"` is put before each child's command.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import cpu_limits
import evaluate_page
from evaluate_ways import SUITES, WAYS, load, subjects_of, write_model

HERE = Path(__file__).resolve().parent
MODELS = ("demo-base", "wide")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One way on one suite, in this process."""
    import torch

    way, suite = options.child
    loaded, seconds = load(Path(options.model))
    subjects = subjects_of(suite, options.data, options.subjects)
    run = WAYS[way]
    run(loaded, suite, subjects[:1], options.data, 1, options.batch)
    found = run(loaded, suite, subjects, options.data, options.limit, options.batch)
    return {"way": way, "suite": suite, "load_seconds": seconds, "threads": torch.get_num_threads(), **found}


def child(way: str, suite: str, model: Path, batch: str, limit: int, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own; with `error` where it failed, such as for want of memory."""
    own = [sys.executable, __file__, "--child", way, suite, "--model", str(model), "--batch", batch]
    own += ["--data", str(options.data), "--limit", str(limit), "--subjects", str(options.subjects)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [*shlex.split(options.around), *own]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        return {"way": way, "suite": suite, "batch": batch, "error": f"exit code {done.returncode}: {last}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "batch": batch}


def best_batch(model: Path, options: argparse.Namespace) -> tuple[str, list[dict[str, Any]]]:
    """The batch size with which the harness is fastest on a few items of the first suite, and all that were tried."""
    tried = []
    for batch in options.batches:
        run = child("harness", options.suites[0], model, batch, options.probe, options)
        run.pop("scores", None)
        tried.append(run)
        print(f"{model.name}  harness, batch {batch}: {_speed(run)}", flush=True)
    working = [run for run in tried if "error" not in run]
    if not working:
        raise SystemExit(f"error: the harness failed with every batch size: {tried[-1]['error']}")
    return min(working, key=lambda run: run["seconds"])["batch"], tried


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each model and suite: items/s of both ways (medians), their ratio in each turn, and how answers differ."""
    rows = []
    for model, suite in dict.fromkeys((run["model"], run["suite"]) for run in runs):
        of_way = {
            way: [run for run in runs if (run["model"], run["suite"], run["way"]) == (model, suite, way)]
            for way in WAYS
        }
        pairs = list(zip(of_way["ours"], of_way["harness"], strict=True))
        first = of_way["ours"][0]
        rows.append(
            {
                "model": model,
                "suite": suite,
                "items": first["items"],
                "tokens_per_item": first["tokens"] / first["items"],
                **{way: median(run["items"] / run["seconds"] for run in of_way[way]) for way in WAYS},
                "ratios": sorted(other["seconds"] / own["seconds"] for own, other in pairs),
                **differences(*pairs[0]),
            }
        )
    return rows


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The largest difference of a log-probability, and how many items are answered alike."""
    largest, alike = 0.0, 0
    for subject, rows in one["scores"].items():
        for left, right in zip(rows, other["scores"][subject], strict=True):
            largest = max(largest, *(abs(a - b) for a, b in zip(left, right, strict=True)))
            alike += left.index(max(left)) == right.index(max(right))
    return {"largest_difference": largest, "alike": alike}


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what a run was made."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return {
        "command": shlex.join(["python", "benchmarks/evaluate.py", *sys.argv[1:]]),
        "commit": subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE).stdout.strip(),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "lm_eval": version("lm_eval"),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "hardware": cpu_limits.hardware(),
        "turns": options.turns,
    }


def main() -> None:
    """Measures both ways by turns; prints each, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with ceval, mmlu and cmmlu")
    parser.add_argument("--tokenizer", type=Path, help="the real tokenizer.model, for the wide model")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--limit", type=int, default=8, help="items of each subject")
    parser.add_argument("--probe", type=int, default=4, help="items of each subject when batch sizes are tried")
    parser.add_argument("--subjects", type=int, default=2, help="subjects of each suite")
    parser.add_argument("--suites", nargs="+", choices=list(SUITES), default=list(SUITES))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batches", nargs="+", default=["1", "2", "4", "8"], help="batch sizes of the harness")
    parser.add_argument("--around", default="", help="a command that runs each child, such as nice")
    parser.add_argument("--predict", type=Path, help="a text for the page: what was expected before there were figures")
    parser.add_argument("--remark", default="", help="a sentence for the page on this run")
    parser.add_argument("--write", metavar="NAME", help="write evaluate_NAME.md and .json beside this script")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "SUITE"), help="measure this one, in this process")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--batch", default="auto", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.path.remove(str(HERE))  # this file has the name of a library that the harness imports
        print(json.dumps(measure(options)))
        return
    if "wide" in options.models and options.tokenizer is None:
        parser.error("the wide model needs --tokenizer FILE, the real tokenizer.model (or: --models demo-base)")
    report: dict[str, Any] = {"facts": facts(options), "remark": options.remark, "batches": {}, "runs": []}
    if options.predict:
        report["prediction"] = options.predict.read_text("utf-8").strip()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = write_model(name, Path(folder), options.tokenizer)
            batch, report["batches"][name] = best_batch(model, options)
            for turn in range(options.turns):
                for suite in options.suites:
                    for way in WAYS:
                        run = child(way, suite, model, batch if way == "harness" else "auto", options.limit, options)
                        if "error" in run:
                            raise SystemExit(f"error: {way} failed on {suite}: {run['error']}")
                        report["runs"].append({"model": name, "turn": turn, **run})
                        print(f"turn {turn}  {name}  {suite:6} {way:8} {_speed(run)}", flush=True)
    report["rows"] = summary(report["runs"])
    print(evaluate_page.table(report["rows"]))
    if options.write:
        for run in report["runs"]:
            del run["scores"]
        (HERE / f"evaluate_{options.write}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        (HERE / f"evaluate_{options.write}.md").write_text(evaluate_page.page(report), "utf-8")


def _speed(run: Mapping[str, Any]) -> str:
    return str(run["error"]) if "error" in run else f"{run['items'] / run['seconds']:.2f} items/s"


if __name__ == "__main__":
    main()
