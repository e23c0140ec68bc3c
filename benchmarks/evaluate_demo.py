"""What the demo models know by suite `demo`, in 16, 8 and 4 bits, beside a model that was never trained.

    python benchmarks/evaluate_demo.py [--limit N] [--write NAME]

Quantises demo-base and demo-chat by `baichuan2 quantize`, scores each by `baichuan2 evaluate`, compares with 16 bits
by `baichuan2 evaluate compare`, and prints the page; with `--write NAME` it writes NAME.md and NAME.json beside this
file. The control has the demo's shape and weights as training begins with them. One process, a few minutes.
"""

import argparse
import contextlib
import io
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from baichuan2.checkpoints.locate import DEMO_DIR
from baichuan2.cli.main import main as baichuan2
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

HERE = Path(__file__).parent
MODELS = ("demo-base", "demo-chat")
FORMATS = ("int8", "int4", "nf4")
CONTROL = "never trained"


def command(*words: str) -> None:
    """Runs a command of the package; its words go to stderr when it fails."""
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = baichuan2([*words])
    if code:
        sys.exit(f"baichuan2 {' '.join(words)}: exit code {code}\n{heard.getvalue()}")


def write_control(folder: Path) -> None:
    """A model of the demo's shape whose weights are those that training begins with."""
    torch.manual_seed(0)
    config = BaichuanConfig.from_pretrained(DEMO_DIR / "base")
    with contextlib.redirect_stderr(io.StringIO()):
        BaichuanForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in (DEMO_DIR / "base").iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "generation_config")):
            shutil.copy(file, folder)


def evaluated(model: str, suite: str, out: Path, limit: int | None) -> dict[str, Any]:
    """The result of a model, with what the page tells of its items."""
    more = [] if limit is None else ["--limit", str(limit)]
    command("evaluate", suite, "-m", model, "--device", "cpu", "--output-dir", str(out), *more)
    result: dict[str, Any] = json.loads((out / suite / "result.json").read_text(encoding="utf-8"))
    items = [json.loads(line) for line in (out / suite / "items.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = ("suite", "items", "score", "interval", "macro", "micro", "chance", "subjects", "model", "task_digest")
    return {
        **{name: result[name] for name in kept},
        "surprise": sum(map(surprise, items)) / len(items),
        "normalised": _normalised(items),
        "facts": {name: result[name] for name in ("software", "hardware", "finished")},
    }


def surprise(item: Mapping[str, Any]) -> float:
    """How little probability the right one of the four options gets, in nats: 0 is certain, log 4 is a guess."""
    values = item["scores"]
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values)) - float(values["ABCD".index(item["answer"])])


def _normalised(items: Sequence[Mapping[str, Any]]) -> float | None:
    found = [item["details"].get("is_right_normalised") for item in items]
    return None if None in found else sum(map(bool, found)) / len(found)


def rows_of(folder: Path, limit: int | None) -> list[dict[str, Any]]:
    """A row for each model and format, the control last."""
    rows = []
    for model in MODELS:
        for weights in ("bfloat16", *FORMATS):
            name = model if weights == "bfloat16" else str(folder / f"{model}-{weights}")
            if weights != "bfloat16":
                command("quantize", str(DEMO_DIR / model.removeprefix("demo-")), name, "--format", weights)
            place = folder / "results" / f"{model}-{weights}"
            row = {"weights": weights, "of": model, **evaluated(name, "demo", place, limit)}
            if weights != "bfloat16":
                row["changed"] = changes(folder / "results" / f"{model}-bfloat16", place, folder / "compared")
            rows.append(row)
            print(model, weights, f"{100 * row['score']:.2f}", file=sys.stderr, flush=True)
            if weights == "bfloat16":
                place = folder / "results" / f"{model}-letters"
                rows.append({"weights": weights, "of": model, **evaluated(name, "demo_letters", place, limit)})
    write_control(folder / "control")
    for suite in ("demo", "demo_letters"):
        found = evaluated(str(folder / "control"), suite, folder / "results" / f"control-{suite}", limit)
        rows.append({"weights": "bfloat16", "of": CONTROL, **found})
    return rows


def changes(first: Path, second: Path, out: Path) -> dict[str, Any]:
    """What `evaluate compare` says of suite `demo`."""
    command("evaluate", "compare", str(first), str(second), "--output-dir", str(out))
    (found,) = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    return {
        "difference": found["difference"],
        "interval": found["interval"],
        "p_value": found["p_value"],
        "lost": len(found["lost"]),
        "won": len(found["won"]),
    }


def page(report: Mapping[str, Any]) -> str:
    """The page: by texts, by letters, and by relation."""
    facts, rows = report["facts"], report["rows"]
    hardware = ", ".join(f"{name}: {value}" for name, value in facts["hardware"].items())
    software = ", ".join(f"{name} {value}" for name, value in facts["software"].items())
    parts = [
        "# What the demo models know, in 16, 8 and 4 bits",
        f"{facts['time']}:",
        f"    {report['command']}",
        f"{software}; {hardware}.",
        f"{rows[0]['items']} questions on the facts of the model's own tables; its corpus shows none of them as "
        "multiple choice (`recipes/demo/choices.py`). `demo` compares the four options as texts behind the beginning "
        "of a sentence; `demo_letters` asks for the letter in C-Eval's layout, which these models never learnt. "
        "Score: per cent of all items, with its 95 % interval; chance is 25. By relation: the plain mean of the eleven "
        "relations. Normalised: options compared by their log-probability for each character. Surprise: of the right "
        "option among the four, in nats: 0 is certain, 1.39 a guess; it moves before scores do. Lost, won: items that "
        "only 16 bits, and only fewer bits, got right; p: McNemar's exact test. "
        "Never trained: the same shape, with the weights that training begins with.",
    ]
    for title, suite in (("Options as texts", "demo"), ("Letters", "demo_letters")):
        parts += [f"## {title}", table([row for row in rows if row["suite"] == suite])]
    parts += ["## Right answers by relation, options as texts", by_relation(rows)]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each model."""
    lines = [
        "| model | weights | score | 95 % | by relation | normalised | surprise | lost | won | p |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = (100 * end for end in row["interval"])
        changed = row.get("changed")
        flips = [str(changed["lost"]), str(changed["won"]), f"{changed['p_value']:.2g}"] if changed else ["", "", ""]
        normalised = "" if row["normalised"] is None else f"{100 * row['normalised']:.2f}"
        cells = [row["of"], row["weights"], f"{100 * row['micro']:.2f}", f"{low:.2f} to {high:.2f}"]
        cells += [f"{100 * row['macro']:.2f}", normalised, f"{row['surprise']:.3f}", *flips]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_relation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Right answers of each relation, for both models in 16 and 4 bits and for the control."""
    shown = ("bfloat16", "int4", "nf4")
    chosen = [row for row in rows if row["suite"] == "demo" and row["weights"] in shown]
    head = ["relation", "items", *(f"{row['of']}, {row['weights']}" for row in chosen)]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for subject, first in chosen[0]["subjects"].items():
        rights = [str(row["subjects"][subject]["right"]) for row in chosen]
        lines.append("| " + " | ".join([subject, str(first["items"]), *rights]) + " |")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--limit", type=int, metavar="N", help="questions of each relation; the page says how many")
    parser.add_argument("--write", metavar="NAME", help="write NAME.md and NAME.json beside this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), options.limit)
    facts = rows[0].pop("facts")
    for row in rows:
        row.pop("facts", None)
        row["model"] = {name: row["model"][name] for name in ("digest", "dtype", "quantization")}
    report = {
        "command": "python benchmarks/evaluate_demo.py" + (f" --limit {options.limit}" if options.limit else ""),
        "facts": {**facts, "time": datetime.now(UTC).isoformat(timespec="minutes")},
        "rows": rows,
    }
    print(page(report))
    if options.write:
        (HERE / f"{options.write}.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        (HERE / f"{options.write}.md").write_text(page(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
