"""How fast Baichuan 2 runs on this processor, beside llama.cpp, transformers and bitsandbytes, in one interleaved run.

To be complete it needs a peer: an interpreter with llama-cpp-python (see benchmarks/README.md for how to build it);
without one the rows of llama.cpp say that they were left out. Models with random weights are written into --directory
when they are not there (60 GB for everything), and are used again by the next run. The page and the JSON go to
--output. Needs nobody while it runs, and does not mind other work on the machine: engines take turns of seconds, and
each ratio is of neighbouring turns. A row that cannot be measured says why, and the others go on.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))

import torch  # noqa: E402
import transformers  # noqa: E402
from cpu_child import EngineError  # noqa: E402
from cpu_engines import Engines, Shape  # noqa: E402
from cpu_groups import GROUPS  # noqa: E402
from cpu_limits import Limits, available_cores, hardware  # noqa: E402
from cpu_page import MARKS, cells, page  # noqa: E402
from cpu_rows import Bench, Row  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/cpu.py --directory ~/bench-models --peer-python ~/llama/bin/python
  python benchmarks/cpu.py --directory ~/bench-models --only decode context     # two groups, no peer
  python benchmarks/cpu.py --directory ~/bench-models --only prefill --profile  # and where a step's time goes
  python benchmarks/cpu.py --directory /tmp/tiny --shape tiny --large-shape tiny --turns 1 --no-quality   # a try-out
"""
QUALITY_FORMATS = ("int8, head in int8", "int4, groups of 64, head in int8", "int4, groups of 64, head in int4",
                   "nf4 (official 4bits files)", "Q4_0", "Q4_K_M", "Q8_0")  # fmt: skip
PROFILE_STEPS = 8


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR", help="where the models are or will be")
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="interpreter that has llama-cpp-python")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--output", type=Path, default=SCRIPTS, metavar="DIR", help="for the page (default: here)")
    parser.add_argument("--threads", type=int, default=available_cores(), help="of every engine (default: all cores)")
    parser.add_argument("--turns", type=int, default=5, help="of each engine in each row (default: 5)")
    parser.add_argument("--tokens", type=int, default=12, help="decoded in a turn (default: 12)")
    parser.add_argument("--shape", choices=("7b", "tiny"), default="7b", help="sizes of the model (default: 7b)")
    parser.add_argument("--large-shape", choices=("13b", "tiny"), default="13b", help="of the larger (default: 13b)")
    parser.add_argument("--int4", default="int4-g64-head8", metavar="FORMAT", help="our 4 bits (default: %(default)s)")
    parser.add_argument("--int8", default="int8-head8", metavar="FORMAT", help="our 8 bits (default: %(default)s)")
    parser.add_argument("--contexts", type=int, nargs=2, default=(64, 2048), metavar="N", help="short and long")
    parser.add_argument("--prompts", type=int, nargs=2, default=(512, 2048), metavar="N", help="lengths for prefill")
    parser.add_argument("--batches", type=int, nargs="+", default=(4, 8, 16), metavar="N", help="sequences at once")
    parser.add_argument("--official-layers", type=int, nargs=2, default=(2, 6), metavar="N",
                        help="of transformers' model, from which the whole is extrapolated (default: 2 6)")  # fmt: skip
    parser.add_argument("--no-quality", action="store_true", help="leave out the KL on the demo model (some minutes)")
    parser.add_argument("--profile", action="store_true", help="where the time of a decode step goes, at both contexts")
    options = parser.parse_args(arguments)
    for name in ("threads", "turns", "tokens"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.official_layers[0] >= options.official_layers[1] or options.official_layers[0] < 1:
        parser.error("--official-layers must be two ascending numbers of layers")
    if options.peer_python is not None and not options.peer_python.is_file():
        parser.error(f"--peer-python {options.peer_python}: there is no such file")
    return options


def main() -> int:
    options = parse_arguments()
    options.directory.mkdir(parents=True, exist_ok=True)
    engines = Engines(options.directory, options.peer_python, options.threads, tuple(options.official_layers))
    rows: list[Row] = []
    with Limits(options.threads) as limits:
        bench = Bench(
            engines=engines, limits=limits, turns=options.turns, tokens=options.tokens,
            shape=Shape(options.shape), large_shape=Shape(options.large_shape),
            formats={"int4": options.int4, "int8": options.int8, "official4": "official4"},
            contexts=tuple(options.contexts), prompts=tuple(options.prompts), batches=tuple(options.batches),
        )  # fmt: skip
        peaks = limits.matrix_peak()
        try:
            for group in options.only or GROUPS:
                print(f"{group}: {GROUPS[group].__doc__}", flush=True)
                new = measure_group(bench, group)
                rows += new
                for row in new:
                    print("  " + " | ".join(cells(row)), flush=True)
            profile = take_profile(bench) if options.profile else {}
        finally:
            engines.keep_only()
        facts = {**gather_facts(options, engines), "limits": limit_facts(limits, peaks), "profile": profile}
    facts["quality"] = {"reason": "--no-quality"} if options.no_quality else measure_quality(options)
    target = write(options.output, rows, facts, bench.details)
    missed = [row for row in rows if row.is_met is not True]
    for row in missed:
        print(f"{MARKS[row.is_met]}: {row.what}, {row.model} against {row.against} {row.note}")
    print(f"written: {target}.md and .json")
    return 0


def measure_group(bench: Bench, group: str) -> list[Row]:
    """The rows of a group; one row that says why, where it fails as a whole."""
    try:
        return GROUPS[group](bench)
    except (EngineError, OSError) as error:
        return [Row(group=group, what=group, model="", against="", target=float("nan"), note=str(error))]


def take_profile(bench: Bench) -> dict[str, Any]:
    """Stages of a decode step of our 4-bit model at both contexts."""
    own = bench.own("int4")
    bench.engines.keep_only([own])
    found: dict[str, Any] = {}
    for context in bench.contexts:
        try:
            bench.engines.call(own, "start", name="profile", context=context, batch=1)
            stages = bench.engines.call(own, "profile", name="profile", tokens=PROFILE_STEPS)
            found[f"{own}, context {context}"] = stages
        except EngineError as error:
            print(f"  no profile at context {context}: {error}", flush=True)
    return found


def gather_facts(options: argparse.Namespace, engines: Engines) -> dict[str, Any]:
    """What ran, where, and how."""
    answers = engines.facts.values()
    return {
        "command": "python benchmarks/cpu.py " + shlex.join(sys.argv[1:]),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "hardware": hardware(),
        "threads": options.threads,
        "kernels": next((facts["instructions"] for facts in answers if "instructions" in facts), None),
        "peer": next((facts for facts in answers if "system" in facts), None),
        "engines": engines.facts,
        "bytes": {key: engines.bytes_per_token(key) for key in engines.facts if not engines.is_official(key)},
    }


def limit_facts(limits: Limits, peaks: dict[str, float]) -> dict[str, Any]:
    """Bandwidth of all turns and the peak of the matrix units."""
    seen = limits.bandwidths
    reason = limits.reason or (None if seen else "no turn was taken")
    spread = {"low": min(seen), "median": statistics.median(seen), "high": max(seen)} if seen else {}
    return {"reason": reason, "bandwidth": spread, "turns": len(seen), "matrix_peak": peaks}


def commit() -> str:
    """The commit of this repository, marked where files differ from it."""
    command = ["git", "-C", str(SCRIPTS), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def measure_quality(options: argparse.Namespace) -> dict[str, Any]:
    """KL of the same formats on the demo model, by `quantisation.py`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPTS / "quantisation.py"), "--output", folder, "--accuracy-questions", "1",
                   "--threads", str(options.threads), "--only", *QUALITY_FORMATS]  # fmt: skip
        if options.peer_python is not None:
            command += ["--peer-python", str(options.peer_python)]
        print("quality: " + shlex.join(command), flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        written = list(Path(folder).glob("*.json"))
        if done.returncode != 0 or not written:
            return {"reason": " ".join(done.stdout.strip().splitlines()[-1:])}
        report = json.loads(written[0].read_text(encoding="utf-8"))
    rows = [row for row in report["rows"] if row["way"] == "as it runs"]
    return {"command": report["command"], "rows": rows}


def write(folder: Path, rows: Sequence[Row], facts: dict[str, Any], details: dict[str, Any]) -> Path:
    """Writes the page and the JSON; their common name without an ending."""
    folder.mkdir(parents=True, exist_ok=True)
    processor = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", str(facts["hardware"]["processor"]).lower())
    name = "-".join(re.findall(r"[a-z0-9]+", processor)) or "unknown"
    target = folder / f"cpu_{name}_{facts['date']}"
    target.with_name(target.name + ".md").write_text(page(rows, facts), encoding="utf-8")
    listed = [{**dataclasses.asdict(row), "is_met": row.is_met} for row in rows]
    # what was not measured is NaN, which JSON has no word for
    known = json.loads(json.dumps({**facts, "rows": listed, "details": details}), parse_constant=lambda _: None)
    report = json.dumps(known, ensure_ascii=False, indent=1) + "\n"
    target.with_name(target.name + ".json").write_text(report, encoding="utf-8")
    return target


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
