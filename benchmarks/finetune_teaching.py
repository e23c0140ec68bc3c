"""What fine-tuning teaches the demo model: held-out questions before and after, with the time that it took.

python benchmarks/finetune_teaching.py [--only full,lora] [--directory DIR]

Runs what `recipes/teaching/runs.py` lists, each by its command line, asks by `examples/finetune/score.py`, and writes a
page and its JSON beside this file after each run. Runs that were not measured this time keep their figures of the day.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from recipes.teaching.runs import FOLDER, RUNS, Run  # noqa: E402


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()


def commit() -> str:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def words(command: str) -> list[str]:
    """A command line of the guide as arguments of this Python."""
    return [sys.executable, "-m", *command.split()]


def ask(questions: str, model: str) -> float:
    """The share of right replies."""
    command = [sys.executable, "examples/finetune/score.py", f"{FOLDER}/{questions}_questions.jsonl", model, "--show=0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout.splitlines()[-1])["accuracy"][model])


def measure(name: str, run: Run, directory: Path) -> dict[str, Any]:
    output = directory / name
    start = str(directory / run.start) if run.start in RUNS else run.start
    command = f"{run.command(str(output), start)} --overwrite-output-dir True --save-strategy no --report-to none"
    began = time.perf_counter()
    outcome = subprocess.run(words(command), cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if outcome.returncode:
        raise SystemExit(f"{command}\n{outcome.stdout}{outcome.stderr}")
    after = f"{start}+{output}" if run.has_adapter else str(output)
    accuracy = {questions: [ask(questions, start), ask(questions, after)] for questions in run.questions}
    last = (output / "loss.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "command": run.command(f"out/{name}", f"out/{run.start}" if run.start in RUNS else run.start),
        "seconds": round(seconds, 1),
        "accuracy": accuracy,
        "last_log": json.loads(last[-1]) if last else {},
        "commit": commit(),
    }


def page(report: dict[str, Any]) -> str:
    lines = [
        "# What fine-tuning teaches the demo model",
        "",
        f"{report['processor']}, {report['cores']} cores; {report['versions']}; {report['date']}.",
        "",
        "    python benchmarks/finetune_teaching.py",
        "",
        "40 people who do not exist, each asked for in two wordings that no training row has (`colleagues`: 80",
        "questions; `documents`: 48 beginnings of sentences); 40 strangers of whom nothing may be invented",
        "(`honesty`: right is to say whose birthday or room one does not know; that one has not learnt it, in",
        "general words, is not counted); 60 questions that the demo model could answer before (`known`). Greedy",
        "replies, right when they hold the fact. Time: of the whole command, start and saving included.",
        "",
        "| run | starts from | questions | right before | right after | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["runs"].items():
        for number, (questions, (before, after)) in enumerate(row["accuracy"].items()):
            first = [name, RUNS[name].start] if number == 0 else ["", ""]
            seconds = f"{row['seconds']:.0f}" if number == 0 else ""
            lines.append(f"| {' | '.join(first)} | {questions} | {before:.2f} | {after:.2f} | {seconds} |")
    lines += ["", "Commands:", ""]
    lines += [f"    {row['command']}" for row in report["runs"].values()]
    if report.get("note"):
        lines += ["", report["note"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(RUNS), help="runs, with commas; dpo needs the result of full")
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "teaching")
    parser.add_argument("--report", type=Path, default=HERE, help="folder of the page")
    parser.add_argument("--hardware", default="cpu", help="a word for the name of the page")
    parser.add_argument("--note", help="a sentence for the page, such as what else the machine did")
    arguments = parser.parse_args()
    import torch
    import transformers

    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    target = arguments.report / f"finetune_teaching_{arguments.hardware}_{date}.json"
    report = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"runs": {}}
    report.update(date=date, processor=processor(), cores=os.cpu_count())
    report["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if arguments.note:
        report["note"] = arguments.note
    for name in arguments.only.split(","):
        row = measure(name, RUNS[name], arguments.directory)
        report["runs"][name] = row
        report["runs"] = {known: report["runs"][known] for known in RUNS if known in report["runs"]}
        target.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        target.with_suffix(".md").write_text(page(report), encoding="utf-8")
        print(f"{name}: {row['seconds']} s, {row['accuracy']}", flush=True)


if __name__ == "__main__":
    main()
