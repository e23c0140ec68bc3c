"""How `baichuan2 serve` does under load, beside llama.cpp's server and a loop of one reply after the other.

1, 4 and 16 clients stream replies at the same time from the demo model and from a part of a 7B in 4 bits (the same
width and heads, two of its layers, and a vocabulary in proportion): throughput, time to the first token, time per
token. Beside it: what a long prompt does to replies that are being written, with and without cutting it into pieces;
what a beginning saves that is in the cache already; and whether memory stays flat over 2,000 requests. Servers take
turns in one run, on free ports of 127.0.0.1; nothing is reachable from outside. The page and the JSON go to --output
after each part; a later run of the same day replaces the parts that it measures. All of it takes about 15 minutes on
two cores, and 1 GB in --directory. Without --peer-server (llama.cpp's `llama-server`, see benchmarks/README.md) its
rows are left out.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS))

import torch  # noqa: E402
from cpu import commit, report_path  # noqa: E402
from cpu_limits import available_cores, hardware  # noqa: E402
from serve_models import ModelPair, prepare  # noqa: E402
from serve_page import MARKS, page  # noqa: E402
from serve_scenarios import SCENARIOS, Bench, ClientsError, Plan  # noqa: E402
from serve_servers import ServerError, end_servers_on_signals, peer_version  # noqa: E402
from serve_targets import verdicts  # noqa: E402
from serve_workload import Sizes  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/serve.py --directory ~/bench-models --peer-server ~/llama/build/bin/llama-server
  python benchmarks/serve.py --directory ~/bench-models --only load --models slice4     # one part, no peer
  python benchmarks/serve.py --directory /tmp/tiny --models tiny --quick --output /tmp  # a try-out of half a minute
"""
MOST_CLIENTS = 64
PARTS = {"load": ("demo", "slice"), "intruder": ("slice",), "prefix": ("slice",), "memory": ("demo",)}
"""Which of the models each scenario is run on: the demo's context is too short for long prompts."""
QUICK = Plan(
    levels=((1, 2), (2, 4)),
    turns=1,
    sizes=Sizes(shortest=8, longest=48, system=16, reply=8),
    turn_seconds=60,
    residents=2,
    intruder_prompt=400,
    prefix_tokens=300,
    prefix_requests=3,
    memory_requests=40,
    memory_block=10,
    memory_clients=2,
    memory_settled=20,
    memory_sizes=Sizes(shortest=8, longest=16, system=8, reply=4),
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR", help="where the models are or will be")
    parser.add_argument("--peer-server", type=Path, metavar="PATH", help="llama.cpp's llama-server")
    parser.add_argument(
        "--only", nargs="+", choices=tuple(SCENARIOS), metavar="PART", help=f"of {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--models", nargs="+", default=("demo", "slice2"), metavar="NAME",
                        help="demo, and a shape of cpu_models.py (default: demo slice2)")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N",
                        help="of every server (default: what ours choose, all cores for llama.cpp)")  # fmt: skip
    parser.add_argument("--clients", nargs="+", type=int, metavar="N", help="numbers of clients (default: 1 4 16)")
    parser.add_argument("--turns", type=int, metavar="N", help="of ours and the peer under load (default: 2)")
    parser.add_argument(
        "--quick", action="store_true", help="few and short requests: to try the script, not to measure"
    )
    parser.add_argument("--server-options", default="", metavar="TEXT", help="more options for baichuan2 serve")
    parser.add_argument("--output", type=Path, default=SCRIPTS, metavar="DIR", help="for the page (default: here)")
    parser.add_argument("--page", type=Path, metavar="PATH",
                        help="JSON of the page to go on with (default: of this processor and day)")  # fmt: skip
    parser.add_argument("--predict", type=Path, metavar="FILE",
                        help="put this text on a page without figures, as what is expected, and stop")  # fmt: skip
    parser.add_argument("--commit", metavar="TEXT", help="of these sources, where git cannot tell (default: ask git)")
    parser.add_argument("--note", default="", metavar="TEXT", help="for the page: what else is to be known of this run")
    options = parser.parse_args(arguments)
    for name in ("threads", "turns"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.clients and not all(1 <= count <= MOST_CLIENTS for count in options.clients):
        parser.error(f"--clients must lie in [1, {MOST_CLIENTS}], got {options.clients}")
    for name in ("peer_server", "predict"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name.replace('_', '-')} {path}: there is no such file")
    return options


def main() -> int:
    options = parse_arguments()
    path = options.page or options.output / report_path(options.output).name.replace("cpu_", "serve_", 1)
    try:
        report = read_report(path)
        if options.predict is not None:
            predict(report, options.predict.read_text(encoding="utf-8"), options.commit or commit())
            write_report(path, report)
            return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    end_servers_on_signals()
    failed = measure(options, path, report)
    found = verdicts(report["parts"])
    for verdict in found:
        if verdict.is_met is not True:
            print(f"{MARKS[verdict.is_met]}: {verdict.what}: {verdict.value}, target {verdict.better} {verdict.target}")
    print(f"written: {path} and {path.with_suffix('.md').name}")
    return 1 if failed else 0


def measure(options: argparse.Namespace, path: Path, report: dict[str, Any]) -> list[str]:
    """Measures what is asked for and writes the page after each part; the parts that failed."""
    plan = plan_of(options)
    bench = Bench(
        plan=plan,
        threads=options.threads,
        peer_program=options.peer_server,
        tell=lambda line: print(line, flush=True),
        our_options=tuple(shlex.split(options.server_options)),
    )
    run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    facts = run_facts(options)
    failed = []
    for scenario, kinds in PARTS.items():
        for name in options.models:
            if (options.only and scenario not in options.only) or ("demo" if name == "demo" else "slice") not in kinds:
                continue
            key = f"{scenario}/{name}"
            try:
                pair = prepare(options.directory, name, with_peer=options.peer_server is not None)
                part = SCENARIOS[scenario](bench, pair)
            except (ServerError, ClientsError, OSError) as error:
                print(f"{key} failed: {error}", file=sys.stderr, flush=True)
                failed.append(key)
                continue
            report["parts"][key] = {**part, "run": run, "what": pair.what, "lengths": lengths(scenario, plan, pair)}
            report["runs"][run] = facts
            write_report(path, report)
    return failed


def plan_of(options: argparse.Namespace) -> Plan:
    """How much is measured; of a number of clients that the plan does not know, two requests each."""
    plan = QUICK if options.quick else Plan()
    known = dict(plan.levels)
    if options.clients:
        plan = replace(plan, levels=tuple((count, known.get(count, 2 * count)) for count in options.clients))
    return plan if options.turns is None else replace(plan, turns=options.turns)


def lengths(scenario: str, plan: Plan, pair: ModelPair) -> str:
    """What was asked, for the page."""
    sizes = plan.sizes
    if scenario == "load":
        return (
            f"Prompts of {sizes.shortest} to {sizes.longest} tokens, a system text of {sizes.system} in half of them; "
            f"replies of {sizes.reply}."
        )
    if scenario == "intruder":
        return (
            f"{plan.residents} clients get replies of {4 * sizes.reply} tokens; when each has {sizes.reply // 2}, one "
            f"more comes with a prompt of {plan.intruder_prompt:,}."
        )
    if scenario == "prefix":
        return (
            f"{plan.prefix_requests} requests, one after the other: the same {plan.prefix_tokens:,} tokens, then "
            f"{sizes.shortest} of their own."
        )
    sizes = plan.memory_sizes
    return (
        f"{plan.memory_clients} clients, prompts of {sizes.shortest} to {sizes.longest} tokens, replies of "
        f"{sizes.reply}; sampled every {plan.memory_block} requests, growth from {plan.memory_settled:,} on. "
        f"{pair.what}."
    )


def run_facts(options: argparse.Namespace) -> dict[str, Any]:
    """What ran, where, and how."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("fastapi", "uvicorn"))
    return {
        "command": "python benchmarks/serve.py " + shlex.join(sys.argv[1:]),
        "commit": options.commit or commit(),
        "note": options.note,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": packages,
        "hardware": hardware(),
        "threads": options.threads or f"as they choose ({available_cores()} for llama.cpp)",
        "peer": None if options.peer_server is None else peer_version(options.peer_server),
    }


def read_report(path: Path) -> dict[str, Any]:
    """The report in a JSON file, an empty one where there is none.

    Raises ValueError for a file that is no such report.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    if not path.is_file():
        return {"date": today, "prediction": None, "runs": {}, "parts": {}}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(report[name], dict) for name in ("runs", "parts")):
            raise TypeError("runs and parts must be objects")
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no report of this script ({error}); move it away or give --page") from error
    return dict(report)


def predict(report: dict[str, Any], text: str, at_commit: str) -> None:
    """Puts the prediction into the report; raises ValueError where there are figures already."""
    if report["parts"]:
        raise ValueError("this page has figures already: a prediction comes before them")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    report["prediction"] = {"text": text, "date": now, "commit": at_commit}


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Writes the JSON to `path` and the page beside it; a file is there whole or as it was."""
    used = {part["run"] for part in report["parts"].values()}
    report["runs"] = {run: facts for run, facts in sorted(report["runs"].items()) if run in used}
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in (
        (path, json.dumps(report, ensure_ascii=False, indent=1) + "\n"),
        (path.with_suffix(".md"), page(report)),
    ):
        unfinished = target.with_name(target.name + ".partial")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(target)


if __name__ == "__main__":
    sys.exit(main())
