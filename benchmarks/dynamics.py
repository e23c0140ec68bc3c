"""How the demo model's scores went while it was trained: its own checkpoints, by `baichuan2 evaluate --revisions`.

    python -m recipes.demo --stages corpus,tokenizer,pack,base --checkpoints 11 --out build/dynamics
    python benchmarks/dynamics.py --training build/dynamics

writes a page with the figures and the losses, and the picture that the guide shows. What is evaluated already is not
evaluated again; a stopped run goes on.
"""

import argparse
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, required=True, metavar="DIR", help="--out of the recipe")
    parser.add_argument("--suite", default="demo", metavar="NAMES", help="what is evaluated (default: %(default)s)")
    parser.add_argument("--subjects", metavar="NAMES", help="only these, as of baichuan2 evaluate")
    parser.add_argument("--data", type=Path, metavar="DIR", help="of suites that need some")
    parser.add_argument("--tokens-per-step", type=int, default=2048, metavar="N", help="of the recipe (%(default)s)")
    parser.add_argument("--training-command", metavar="TEXT", help="for the page, where it was another one")
    parser.add_argument("--note", default="", metavar="TEXT", help="for the page: what else is to be known of this run")
    parser.add_argument("--output", type=Path, default=SCRIPTS, metavar="DIR", help="for the page (default: here)")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "images" / "demo-dynamics.png", metavar="PATH",
                        help="where the picture goes (default: %(default)s)")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    """Evaluates, then writes page, JSON and picture."""
    options = parse_arguments()
    checkpoints = options.training / "rope" / "base-checkpoints"
    results = options.training / "results"
    command = ["baichuan2", "evaluate", options.suite, "--revisions", str(checkpoints), "--output-dir", str(results)]
    if options.subjects is not None:
        command += ["--subjects", options.subjects]
    if options.data is not None:
        command += ["--data", str(options.data)]
    environment = {**os.environ, "BAICHUAN2_LANGUAGE": "en"}
    done = subprocess.run([sys.executable, "-m", *command], check=False, env=environment, cwd=Path.cwd())
    if done.returncode != 0:
        return done.returncode
    dynamics = json.loads((results / "dynamics.json").read_text(encoding="utf-8"))
    noted = options.training / "losses-rope.json"  # written at the end of a stage
    losses = json.loads(noted.read_text(encoding="utf-8"))["base"] if noted.exists() else []
    result = json.loads(next(results.glob("checkpoint-*/*/result.json")).read_text(encoding="utf-8"))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    facts = {
        "date": date,
        "training": options.training_command
        or f"python -m recipes.demo --stages corpus,tokenizer,pack,base --checkpoints 11 --out {options.training}",
        "command": shlex.join(command),
        "note": options.note,
        "tokens_per_step": options.tokens_per_step,
        "software": result["software"],
        "hardware": result["hardware"],
        "dynamics": dynamics,
        "losses": losses,
    }
    shutil.copyfile(results / "dynamics.png", options.picture)
    picture = os.path.relpath(options.picture, options.output)
    page = options.output / f"dynamics_{date}.md"
    page.write_text(page_text(facts, (results / "dynamics.md").read_text(encoding="utf-8"), picture), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {page}, {page.with_suffix('.json').name}, {options.picture}")
    return 0


def page_text(facts: dict[str, Any], table: str, picture: str) -> str:
    """The page of one run."""
    software, hardware = facts["software"], facts["hardware"]
    rows = [
        f"| {step:,} | {step * facts['tokens_per_step']:,} | {loss:.3f} |"
        for step, loss in losses_at(facts["dynamics"]["points"], facts["losses"])
    ]
    parts = [
        f"# How the demo model's scores went while it was trained ({facts['date']})",
        f"    {facts['training']}\n    {facts['command']}",
        *([facts["note"]] if facts["note"] else []),
        f"![scores over the training steps]({picture})",
        table.strip(),
        *(["\n".join(["| steps | places | training loss |", "| ---: | ---: | ---: |", *rows])] if rows else []),
        *(["The loss is the mean of up to 50 steps before, nats per token that has a target."] if rows else []),
        f"Evaluated on {hardware['processor']}, baichuan2 {software['baichuan2']}, commit {software['commit']}, torch "
        f"{software['torch']}.",
    ]
    return "\n\n".join(parts) + "\n"


def losses_at(points: list[dict[str, Any]], losses: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The last loss that was noted at each checkpoint or before it."""
    found = []
    for step in dict.fromkeys(point["at"] for point in points):
        before = [loss for at, loss in losses if at <= step]
        if before:
            found.append((step, before[-1]))
    return found


if __name__ == "__main__":
    sys.exit(main())
