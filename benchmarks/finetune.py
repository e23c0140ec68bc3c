"""Speed and peak memory of training: ours beside the framework's Llama and the official way of computing.

    python benchmarks/finetune.py [--turns 3] [--steps 2] [--share 1.0 0.5] [--ways ours llama official] [--write DAY]

A network 512 wide with 8 layers and the whole vocabulary of 125,696, batches of 8 x 512 random ids, float32, AdamW,
gradients clipped; see `finetune_ways.py`. Each measurement is a process of its own: one step to warm up, then `--steps`
that are timed; peak memory is the most that the system saw resident (VmHWM), libraries included. The ways take turns,
so that what else the machine does meets all of them. `--share` 1.0: every token is learnt; 0.5: the second half of each
row, as in a conversation, where the user's words are not. `--around "COMMAND"` is put before each child's command.
`--write 2026-11-26` writes the page and its JSON beside this script.
"""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import cpu_limits
import finetune_page
from finetune_ways import BATCH, LENGTH, WAYS, new_batch, new_model, step

HERE = Path(__file__).parent


def measure(way: str, share: float, steps: int, threads: int | None) -> dict[str, Any]:
    """One way in this process: seconds of each timed step, losses of all, and peak bytes."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    model, optimizer = new_model(way)
    batches = [new_batch(share, seed) for seed in range(steps + 1)]
    losses, seconds = [], []
    for batch in batches:
        start = time.perf_counter()
        losses.append(step(model, optimizer, batch))
        seconds.append(time.perf_counter() - start)
    return {
        "way": way,
        "share": share,
        "seconds": seconds[1:],
        "losses": losses,
        "peak_bytes": peak_bytes(),
        "threads": torch.get_num_threads(),
    }


def peak_bytes() -> int:
    """The most memory that was ever resident in this process (Linux)."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system tells no peak memory: /proc/self/status has no VmHWM")


def summary(runs: Sequence[Mapping[str, Any]], ways: Sequence[str], shares: Sequence[float]) -> list[dict[str, Any]]:
    """For each share and way: tokens/s (the median of all timed steps), peak memory, and both beside ours.

    A ratio of speeds is taken within each turn, of steps that lie minutes apart; `ratios` has one for each turn.
    """
    rows = []
    for share in shares:
        of_way = {way: [run for run in runs if run["way"] == way and run["share"] == share] for way in ways}
        for way in ways:
            times = [second for run in of_way[way] for second in run["seconds"]]
            pairs = zip(of_way[way], of_way.get("ours", []), strict=False)
            rows.append(
                {
                    "share": share,
                    "way": way,
                    "tokens_per_second": BATCH * LENGTH / median(times),
                    "seconds": sorted(times),
                    "peak_bytes": max(run["peak_bytes"] for run in of_way[way]),
                    "ratios": [median(run["seconds"]) / median(ours["seconds"]) for run, ours in pairs],
                    "memory_ratio": _memory_ratio(of_way[way], of_way.get("ours", [])),
                }
            )
    return rows


def _memory_ratio(runs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> float | None:
    if not ours:
        return None
    return float(max(run["peak_bytes"] for run in ours) / max(run["peak_bytes"] for run in runs))


def child(way: str, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own."""
    own = [sys.executable, __file__, "--child", way, "--share", str(share), "--steps", str(options.steps)]
    if options.threads is not None:
        own += ["--threads", str(options.threads)]
    done = subprocess.run([*shlex.split(options.around), *own], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {way} failed: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def facts(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what a run was made."""
    import torch
    import transformers

    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return {
        "command": shlex.join(["python", "benchmarks/finetune.py", *sys.argv[1:]]),
        "commit": subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE).stdout.strip(),
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "hardware": cpu_limits.hardware(),
        "turns": options.turns,
        "steps": options.steps,
    }


def main() -> None:
    """Measures the ways by turns; prints each, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of each process")
    parser.add_argument("--share", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--around", default="", help="a command that runs each child, such as nice")
    parser.add_argument("--predict", type=Path, help="a text for the page: what was expected before there were figures")
    parser.add_argument("--remark", default="", help="a sentence for the page on this run")
    parser.add_argument("--write", metavar="NAME", help="write finetune_NAME.md and .json beside this script")
    parser.add_argument("--child", choices=WAYS, help="measure this one, in this process")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.share[0], options.steps, options.threads)))
        return
    report: dict[str, Any] = {"facts": facts(options), "remark": options.remark, "runs": []}
    if options.predict:
        report["prediction"] = options.predict.read_text("utf-8").strip()
    for turn in range(options.turns):
        for share in options.share:
            for way in options.ways:
                run = {"turn": turn, **child(way, share, options)}
                report["runs"].append(run)
                speed, peak = BATCH * LENGTH / median(run["seconds"]), run["peak_bytes"] / 1e9
                print(f"turn {turn}  share {share}  {way:9} {speed:7.1f} tokens/s  {peak:5.2f} GB", flush=True)
    report["rows"] = summary(report["runs"], options.ways, options.share)
    print(finetune_page.table(report["rows"]))
    if options.write:
        (HERE / f"finetune_{options.write}.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        (HERE / f"finetune_{options.write}.md").write_text(finetune_page.page(report), "utf-8")


if __name__ == "__main__":
    main()
