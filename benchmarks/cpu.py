"""How fast Baichuan 2 runs on this processor, beside llama.cpp, transformers and bitsandbytes, in interleaved turns.

To be complete it needs a peer: an interpreter with llama-cpp-python (see benchmarks/README.md for how to build it);
without one the rows of llama.cpp say that they were left out. Models with random weights are written into --directory
when they are not there (50 GB for everything), and are used again by the next run. The page and the JSON go to
--output after each row; a later run of the same day adds its groups to them, so a run that was cut off goes on with
--resume. Runs on cores of their own (by taskset) may write one page at the same time; say so with --note. Needs
nobody while it runs, and does not mind other work on the machine: engines take turns of seconds, and each ratio is of
neighbouring turns. A row that cannot be measured says why, and the others go on.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))

import torch  # noqa: E402
import transformers  # noqa: E402
from cpu_child import EngineError  # noqa: E402
from cpu_engines import Engines, Shape  # noqa: E402
from cpu_groups import GROUPS, first_token_command  # noqa: E402
from cpu_limits import Limits, available_cores, hardware  # noqa: E402
from cpu_models import PEER_FORMATS  # noqa: E402
from cpu_page import MARKS, cells  # noqa: E402
from cpu_profile import PerfError, sampled, sampled_command  # noqa: E402
from cpu_report import Report, updated  # noqa: E402
from cpu_rows import Bench, Row, Work, decode_action  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/cpu.py --directory ~/bench-models --peer-python ~/llama/bin/python
  python benchmarks/cpu.py --directory ~/bench-models --only decode context     # two groups, no peer
  python benchmarks/cpu.py --directory ~/bench-models --resume --profile        # what is missing, and why rows missed
  python benchmarks/cpu.py --directory /tmp/tiny --shape tiny --large-shape tiny --turns 1 --no-quality   # a try-out
"""
QUALITY_FORMATS = (
    "int8, head in int8",
    "int4, groups of 64, head in int8",
    "nf4 (official 4bits files)",
    *PEER_FORMATS,
)
PROFILE_STEPS = 16
QUALITY = "quality"
CHOICES = (*GROUPS, QUALITY)
QUALITY_SECONDS = 1800
MOST_TOKENS = 120  # that a session of any engine has room for


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR", help="where the models are or will be")
    parser.add_argument("--peer-python", type=Path, metavar="PATH", help="interpreter that has llama-cpp-python")
    parser.add_argument("--only", nargs="+", choices=CHOICES, metavar="GROUP", help=f"of {', '.join(CHOICES)}")
    parser.add_argument("--resume", action="store_true", help="leave out the groups that the page has already")
    parser.add_argument("--output", type=Path, default=SCRIPTS, metavar="DIR", help="for the page (default: here)")
    parser.add_argument("--page", type=Path, metavar="PATH",
                        help="JSON of the page to go on with (default: of this processor and day)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=available_cores(), help="of every engine (default: all cores)")
    parser.add_argument("--turns", type=int, default=5, help="of each engine in each row, at most (default: 5)")
    parser.add_argument("--row-seconds", type=float, default=30, metavar="S",
                        help="no further turn of a row where it would end later (default: 30)")  # fmt: skip
    parser.add_argument("--call-seconds", type=float, default=400, metavar="S",
                        help="an engine that takes longer for one command is ended (default: 400)")  # fmt: skip
    parser.add_argument("--tokens", type=int, default=12, help="decoded in a turn (default: 12)")
    parser.add_argument("--shape", choices=("7b", "tiny"), default="7b", help="sizes of the model (default: 7b)")
    parser.add_argument("--large-shape", choices=("13b", "tiny"), default="13b", help="of the larger (default: 13b)")
    parser.add_argument("--int4", default="int4-g64-head8", metavar="FORMAT", help="our 4 bits (default: %(default)s)")
    parser.add_argument("--int8", default="int8-head8", metavar="FORMAT", help="our 8 bits (default: %(default)s)")
    parser.add_argument("--contexts", type=int, nargs=2, default=(64, 2048), metavar="N", help="short and long")
    parser.add_argument("--batch-context", type=int, default=32, metavar="N", help="of each of several sequences")
    parser.add_argument("--large-context", type=int, default=512, metavar="N",
                        help="long one of the larger model (default: 512, as reading takes long)")  # fmt: skip
    parser.add_argument("--lookup-tokens", type=int, default=64, metavar="N",
                        help="new ones in a turn of look-up (default: 64)")  # fmt: skip
    parser.add_argument("--prompts", type=int, nargs=2, default=(512, 2048), metavar="N", help="lengths for prefill")
    parser.add_argument("--batches", type=int, nargs="+", default=(4, 8, 16), metavar="N", help="sequences at once")
    parser.add_argument("--official-layers", type=int, nargs=2, default=(2, 6), metavar="N",
                        help="of transformers' model, from which the whole is extrapolated (default: 2 6)")  # fmt: skip
    parser.add_argument("--official-prefill-layers", type=int, nargs=2, default=(1, 2), metavar="N",
                        help="the same for prompts, which take far longer (default: 1 2)")  # fmt: skip
    parser.add_argument("--no-quality", action="store_true", help="leave out the KL on the demo model")
    parser.add_argument("--quality-anew", action="store_true",
                        help="measure all of it, not only what the page of quantisation.py lacks")  # fmt: skip
    parser.add_argument("--commit", metavar="TEXT", help="of these sources, where git cannot tell (default: ask git)")
    parser.add_argument("--note", default="", metavar="TEXT", help="for the page: what else is to be known of this run")
    parser.add_argument("--profile", action="store_true", help="where our time goes in the rows that miss their target")
    options = parser.parse_args(arguments)
    for name, least in (*dict.fromkeys(("threads", "turns", "tokens", "row_seconds", "call_seconds"), 1).items(),
                        ("lookup_tokens", 2)):  # fmt: skip
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(options, name)}")
    if options.turns * options.tokens > MOST_TOKENS:
        parser.error(f"--turns times --tokens must be at most {MOST_TOKENS}, got {options.turns * options.tokens}")
    for name in ("official_layers", "official_prefill_layers"):
        few, more = getattr(options, name)
        if not 1 <= few < more <= max(options.official_layers):
            parser.error(f"--{name.replace('_', '-')} must be two ascending numbers of layers that are loaded")
    if options.peer_python is not None and not options.peer_python.is_file():
        parser.error(f"--peer-python {options.peer_python}: there is no such file")
    return options


def main() -> int:
    options = parse_arguments()
    path = options.page or report_path(options.output)
    try:
        report = Report.read(path)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options.directory.mkdir(parents=True, exist_ok=True)
    run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    missing: list[str] = []
    if wants_quality(options, report):
        known, missing = known_formats(options, path)
        with updated(path) as report:
            if not (missing and report.quality.get("rows")):
                report.quality = {"rows": known, **({"reason": f"not yet {', '.join(missing)}"} if missing else {})}
    facts = measure_groups(options, report.groups() if options.resume else set(), path, run)
    if missing:
        found = measure_quality(options, known, missing)
        with updated(path) as report:
            report.quality = {"run": run, **found}
            report.runs[run] = facts
    report = Report.read(path)
    for row in (measured.row for measured in report.rows if measured.row.is_met is not True):
        print(f"{MARKS[row.is_met]}: {row.what}, {row.model} against {row.against} {row.note}")
    print(f"written: {path} and {path.with_suffix('.md').name}")
    return 0


def report_path(folder: Path) -> Path:
    """The JSON of this processor and day."""
    processor = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", str(hardware()["processor"]).lower())
    name = "-".join(re.findall(r"[a-z0-9]+", processor)) or "unknown"
    return folder / f"cpu_{name}_{datetime.datetime.now(datetime.UTC).date().isoformat()}.json"


def measure_groups(options: argparse.Namespace, done: set[str], path: Path, run: str) -> dict[str, Any]:
    """Measures the groups asked for that are not `done`, and writes each row to the report; the facts of this run."""
    groups = [group for group in options.only or CHOICES if group in GROUPS and group not in done]
    engines = Engines(
        options.directory, options.peer_python, options.threads, tuple(options.official_layers),
        tuple(options.official_prefill_layers), options.call_seconds,
    )  # fmt: skip
    with Limits(options.threads) as limits:
        bench = make_bench(options, engines, limits)
        peaks = limits.peaks()
        facts = run_facts(options) | {"limits": limit_facts(limits, peaks)}

        def keep(group: str, rows: Sequence[Row], *, is_whole: bool) -> None:
            facts.update(engine_facts(engines), limits=limit_facts(limits, peaks), group=None if is_whole else group)
            with updated(path) as report:
                report.put(group, rows, run, CHOICES)
                report.runs[run] = facts
                report.details |= bench.details

        try:
            for group in groups:
                print(f"{group}: {GROUPS[group].__doc__}", flush=True)
                rows: list[Row] = []
                for row in measure_group(bench, group):
                    print("  " + " | ".join(cells(row)), flush=True)
                    rows.append(row)
                    keep(group, rows, is_whole=False)
                keep(group, rows, is_whole=True)
            if options.profile:
                take_profiles(bench, path, options.only or list(GROUPS), run, facts)
        finally:
            engines.keep_only()
    return facts


def make_bench(options: argparse.Namespace, engines: Engines, limits: Limits) -> Bench:
    """What the groups share."""
    return Bench(
        engines=engines, limits=limits, turns=options.turns, row_seconds=options.row_seconds, tokens=options.tokens,
        shape=Shape(options.shape), large_shape=Shape(options.large_shape),
        formats={"int4": options.int4, "int8": options.int8, "official4": "official4"},
        contexts=tuple(options.contexts), prompts=tuple(options.prompts), batches=tuple(options.batches),
        batch_context=options.batch_context, large_context=options.large_context, lookup_tokens=options.lookup_tokens,
    )  # fmt: skip


def measure_group(bench: Bench, group: str) -> Iterator[Row]:
    """The rows of a group, as they are measured; one row that says why, where it fails as a whole."""
    try:
        yield from GROUPS[group](bench)
    except (EngineError, OSError) as error:
        yield Row(group=group, what=group, model="", against="", target=float("nan"), note=str(error))


def take_profiles(bench: Bench, path: Path, groups: Sequence[str], run: str, facts: dict[str, Any]) -> None:
    """Where our time goes in each row of these groups that misses its target; work that rows share is done once."""
    report = Report.read(path)
    for measured in report.rows:
        row = measured.row
        if row.is_met is not False or row.group not in groups or row.work is None:
            continue
        title = f"{row.model}, {row.work.what}"
        if report.profiles.get(title, {}).get("run") == run:
            continue
        print(f"profile: {title}", flush=True)
        try:
            found = profile(bench, row.model, row.work)
        except (PerfError, EngineError, OSError) as error:
            print(f"  none: {error}", flush=True)
            continue
        with updated(path) as report:
            report.profiles[title] = {"run": run, "group": row.group, **found}
            report.runs[run] = facts | engine_facts(bench.engines)


def profile(bench: Bench, key: str, work: Work) -> dict[str, Any]:
    """Shares by perf ("samples"), or where there is none, stages of a decode step ("stages").

    Raises:
        PerfError: perf cannot tell, and the work is no decode step.
        EngineError: the engine failed.
    """
    engines = bench.engines
    engines.keep_only([key])
    if work.kind == "load":
        return {"samples": sampled_command(first_token_command(engines.path(key)), engines.call_seconds)}
    if work.kind == "decode":
        decode_action(bench, key, work.length, work.batch)  # starts its session
        name = f"{work.length}x{work.batch}"
        try:
            action = lambda: engines.call(key, "decode", name=name, tokens=PROFILE_STEPS)  # noqa: E731
            return {"samples": sampled(engines.pid(key), action)}
        except PerfError as error:
            if work.batch > 1:
                raise
            print(f"  {error}; stages by torch instead", flush=True)
            return {"stages": engines.call(key, "profile", name=name, tokens=PROFILE_STEPS)}
        finally:
            engines.stop(key, name)
    if work.kind == "lookup":
        tokens = bench.lookup_tokens
        ids = engines.call(key, "copy_prompt", tokens=tokens)
        arguments: dict[str, Any] = {"do": "reply", "ids": ids, "tokens": tokens, "with_lookup": True}
    else:
        engines.call(key, "start", name="profile", context=4, batch=1)  # loads it
        arguments = {"do": "start", "name": "profile", "context": work.length, "batch": 1}
    return {"samples": sampled(engines.pid(key), lambda: engines.call(key, **arguments))}


def run_facts(options: argparse.Namespace) -> dict[str, Any]:
    """What ran, where, and how."""
    return {
        "command": "python benchmarks/cpu.py " + shlex.join(sys.argv[1:]),
        "commit": options.commit or commit(),
        "note": options.note,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bitsandbytes": version_of("bitsandbytes"),
        "hardware": hardware(),
        "threads": options.threads,
        "kernels": None,
        "peer": None,
        "engines": {},
        "bytes": {},
    }


def version_of(package: str) -> str | None:
    """Its version, or None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def engine_facts(engines: Engines) -> dict[str, Any]:
    """What the engines said of themselves when they were loaded, and the bytes that a token reads of each."""
    answers = engines.facts.values()
    return {
        "kernels": next((facts["instructions"] for facts in answers if "instructions" in facts), None),
        "peer": next((facts for facts in answers if "system" in facts), None),
        "engines": dict(engines.facts),
        "bytes": {key: engines.bytes_per_token(key) for key in engines.facts if not engines.is_official(key)},
    }


def limit_facts(limits: Limits, peaks: dict[str, float]) -> dict[str, Any]:
    """Bandwidth of all turns and the peaks of the units."""
    seen = limits.bandwidths
    reason = limits.reason or (None if seen else "no turn was taken")
    spread = {"low": min(seen), "median": statistics.median(seen), "high": max(seen)} if seen else {}
    return {"reason": reason, "bandwidth": spread, "turns": len(seen), "peaks": peaks}


def commit() -> str:
    """The commit of this repository, marked where files differ from it."""
    command = ["git", "-C", str(SCRIPTS), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def wants_quality(options: argparse.Namespace, report: Report) -> bool:
    """Whether the formats' quality is to be measured now."""
    is_chosen = not options.only or QUALITY in options.only
    is_there = bool(report.quality.get("rows")) and "reason" not in report.quality
    return is_chosen and not options.no_quality and not (options.resume and is_there)


def known_formats(options: argparse.Namespace, path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """KL of the same formats on the demo model as far as it is known, for the report `path`; which are to be measured.

    From the latest page of `quantisation.py` and from those of other processors; each row has its "source".
    """
    known = {} if options.quality_anew else {**quality_elsewhere(SCRIPTS, path), **known_quality(SCRIPTS)}
    wanted = [name for name in QUALITY_FORMATS if name not in known]
    if options.peer_python is None:
        wanted = [name for name in wanted if name not in PEER_FORMATS]
    return [known[name] for name in QUALITY_FORMATS if name in known], wanted


def measure_quality(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], wanted: Sequence[str]
) -> dict[str, Any]:
    """KL of the formats `wanted`, by `quantisation.py`, after the `rows` that are known.

    "rows", each with its "source"; "reason" why some are missing, if any are.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(SCRIPTS / "quantisation.py"), "--output", folder, "--accuracy-questions", "1",
                   "--threads", str(options.threads), "--only", *wanted]  # fmt: skip
        if options.peer_python is not None:
            command += ["--peer-python", str(options.peer_python)]
        print("quality: " + shlex.join(command), flush=True)
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                                  timeout=QUALITY_SECONDS)  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"rows": list(rows), "reason": f"the others took more than {QUALITY_SECONDS} s"}
        if done.returncode != 0:
            return {"rows": list(rows), "reason": " ".join(done.stdout.strip().splitlines()[-1:])}
        new = known_quality(Path(folder))
    return {"rows": [*rows, *({**row, "source": "this run"} for name, row in new.items() if name in wanted)]}


def known_quality(folder: Path) -> dict[str, dict[str, Any]]:
    """What the latest report of `quantisation.py` in a folder says of each format as it runs, by its name."""
    reports = sorted(folder.glob("quantisation_cpu_*.json"))
    if not reports:
        return {}
    report = json.loads(reports[-1].read_text(encoding="utf-8"))
    source = f"{reports[-1].name}, commit {report['commit']}"
    return {row["name"]: {**row, "source": source} for row in report["rows"] if row["way"] == "as it runs"}


def quality_elsewhere(folder: Path, path: Path) -> dict[str, dict[str, Any]]:
    """What runs on other processors have measured of each format, by its name, from their pages in a folder."""
    found: dict[str, dict[str, Any]] = {}
    for other in sorted(folder.glob("cpu_*.json")):
        report = Report.read(other)
        if other.resolve() == path.resolve() or "run" not in report.quality:
            continue
        facts = report.runs[report.quality["run"]]
        source = f"{other.name}, commit {facts['commit']}, on {facts['hardware']['processor']}"
        found |= {
            row["name"]: {**row, "source": source} for row in report.quality["rows"] if row["source"] == "this run"
        }
    return found


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
