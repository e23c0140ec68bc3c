"""What `benchmarks/serve.py` measures: load, a long prompt amid replies, prefixes that are there already, memory.

Each scenario starts the servers that it needs, lets them take turns, and gives back plain data for JSON. Servers that
wait for their turn hold memory but should compute nothing; how much they did is told.
"""

import contextlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import serve_servers
from cpu_limits import available_cores
from serve_figures import Figures, during, first_token_seconds, flat, growth, turn
from serve_models import ModelPair
from serve_servers import Server, ServerError
from serve_workload import PATH, SERVED_NAME, Body, Sizes, body, random_ids, streams

SCRIPTS = Path(__file__).resolve().parent
OURS, PEER, NAIVE, WHOLE = "ours", "llama.cpp", "naive loop", "ours, whole prompts"
GRACE_SECONDS = 30.0  # for the clients' own start and end
WARM_UP_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured. `levels`: numbers of clients, each with its number of requests in a turn."""

    levels: tuple[tuple[int, int], ...] = ((1, 6), (4, 12), (16, 32))
    turns: int = 2
    naive_turns: int = 1
    sizes: Sizes = field(default_factory=Sizes)
    turn_seconds: float = 180.0
    seed: int = 2023
    residents: int = 4
    intruder_prompt: int = 2000
    prefix_tokens: int = 1000
    prefix_requests: int = 6
    memory_requests: int = 2000
    memory_block: int = 100
    memory_clients: int = 16
    memory_settled: int = 500
    memory_sizes: Sizes = field(default_factory=lambda: Sizes(shortest=16, longest=128, system=48, reply=16))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all scenarios share. `tell` is given a line for whoever looks on."""

    plan: Plan
    threads: int | None
    """Of every server; None: ours choose for themselves."""
    peer_program: Path | None
    tell: Callable[[str], None]
    our_options: tuple[str, ...] = ()
    """For `baichuan2 serve`, beside what is needed for it to be found."""


class ClientsError(Exception):
    """The process of the clients failed; no figures."""


def ask(server: Server, requests: Sequence[Sequence[Body]], seconds: float, *, late: Any = None) -> Figures:
    """What the clients saw of one plan.

    Raises ClientsError when they fail themselves, ServerError when the server is gone afterwards.
    """
    plan = {"port": server.port, "path": PATH, "streams": requests, "seconds": seconds, "late": late}
    command = [sys.executable, str(SCRIPTS / "serve_clients.py")]
    try:
        done = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, check=False,
                              timeout=seconds + GRACE_SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ClientsError(f"the clients took more than {error.timeout:g} s") from error
    server.check()
    if done.returncode != 0:
        raise ClientsError(" ".join(done.stderr.strip().splitlines()[-1:]) or f"status {done.returncode}")
    found: Figures = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def running(bench: Bench, pair: ModelPair, names: Sequence[str]) -> Iterator[list[Server]]:
    """Servers of one model, started one after the other, warm, and ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="serve-") as folder, contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(make(bench, pair, name, Path(folder) / f"{place}.log"))
            for place, name in enumerate(names)
        ]
        for server in servers:
            warm_up(bench, server, pair)
        yield servers


def make(bench: Bench, pair: ModelPair, name: str, log: Path) -> Server:
    """One server, not started yet."""
    options = ("--served-model-name", SERVED_NAME, *bench.our_options)
    if name == OURS:
        return serve_servers.ours(pair.folder, log, bench.threads, options=options)
    if name == WHOLE:
        return serve_servers.whole_prompts(pair.folder, log, bench.threads, options=options)
    if name == NAIVE:
        return serve_servers.naive(pair.folder, log, bench.threads)
    assert bench.peer_program is not None
    assert pair.gguf is not None
    slots = max(clients for clients, _ in bench.plan.levels)
    context = min(pair.context, peer_context(bench.plan))
    threads = bench.threads or available_cores()
    return serve_servers.peer(bench.peer_program, pair.gguf, log, threads, slots=slots, context=context)


def peer_context(plan: Plan) -> int:
    """Tokens that each place of llama.cpp's server holds: the longest prompt and its reply, in whole pieces."""
    most = max(plan.intruder_prompt, plan.prefix_tokens, plan.sizes.longest) + 2 * plan.sizes.reply + 64
    return -(-most // 256) * 256


def warm_up(bench: Bench, server: Server, pair: ModelPair) -> None:
    """One request, which nobody measures; raises ServerError if it is not answered as it should be."""
    generator = random.Random(-1)
    request = body(random_ids(generator, bench.plan.sizes.shortest, pair.vocab_size), WARM_UP_TOKENS)
    result = flat(ask(server, [[request]], bench.plan.turn_seconds))[0]
    if result["error"] is not None:
        raise ServerError(f"{server.name} does not answer: {result['error']}")


def load(bench: Bench, pair: ModelPair) -> Figures:
    """Turns of all servers at each number of clients: {"levels": {clients: {server: [turn]}}, "idle_cores": ...}."""
    plan = bench.plan
    names = [OURS, *([PEER] if bench.peer_program else []), NAIVE]
    levels: dict[str, dict[str, list[Figures]]] = {str(count): {name: [] for name in names} for count, _ in plan.levels}
    idle = 0.0
    with running(bench, pair, names) as servers:
        for number in range(plan.turns):
            for clients, requests in plan.levels:
                # every turn has prompts of its own: none of them is known from an earlier one
                asked = streams(clients, requests, plan.sizes, pair.vocab_size, plan.seed + 1000 * number + clients)
                for server in servers[number % 2 :] + servers[: number % 2]:
                    if server.name == NAIVE and number >= plan.naive_turns:
                        continue
                    before = {other.name: other.cpu_seconds() for other in servers}
                    found = turn(ask(server, asked, plan.turn_seconds))
                    spent = {other.name: other.cpu_seconds() - before[other.name] for other in servers}
                    found["cpu_seconds"] = spent.pop(server.name)
                    idle = max(idle, sum(spent.values()) / (found["seconds"] or plan.turn_seconds))
                    levels[str(clients)][server.name].append(found)
                    bench.tell(f"{pair.name}, {clients} clients, turn {number + 1}, {server.name}: {told(found)}")
    return {"levels": levels, "idle_cores": idle}


def told(found: Figures) -> str:
    """One turn in a line."""
    if not found["tokens_per_second"]:
        return f"failed: {found['errors']}"
    failed = f", {found['failed']} failed: {found['errors'][0]}" if found["failed"] else ""
    return f"{found['tokens_per_second']:.1f} tokens/s in {found['seconds']:.1f} s{failed}"


def intruder(bench: Bench, pair: ModelPair) -> Figures:
    """What a long prompt does to replies that are being written: {server: figures}."""
    plan = bench.plan
    names = [OURS, WHOLE, *([PEER] if bench.peer_program else [])]
    found: Figures = {}
    for name in names:
        generator = random.Random(plan.seed)
        reply_tokens = 4 * plan.sizes.reply
        residents = [
            [body(random_ids(generator, plan.sizes.shortest, pair.vocab_size), reply_tokens)]
            for _ in range(plan.residents)
        ]
        late = {
            "body": body(random_ids(generator, plan.intruder_prompt, pair.vocab_size), WARM_UP_TOKENS),
            "after_chunks": plan.sizes.reply // 2,
        }
        with running(bench, pair, [name]) as servers:
            found[name] = during(ask(servers[0], residents, plan.turn_seconds, late=late))
        gap, wait = found[name]["gap"], found[name]["wait"]
        bench.tell(f"{pair.name}, long prompt, {name}: its first token after {wait} s, the others' gaps {gap}")
    return found


def prefix(bench: Bench, pair: ModelPair) -> Figures:
    """Time to the first token of requests that begin alike, one after the other: {server: {"first", "later", ...}}."""
    plan = bench.plan
    names = [OURS, *([PEER] if bench.peer_program else []), NAIVE]
    generator = random.Random(plan.seed)
    system = random_ids(generator, plan.prefix_tokens, pair.vocab_size)
    requests = [
        body([*system, *random_ids(generator, plan.sizes.shortest, pair.vocab_size)], WARM_UP_TOKENS)
        for _ in range(plan.prefix_requests)
    ]
    found: Figures = {}
    with running(bench, pair, names) as servers:
        for server in servers:
            results = flat(ask(server, [requests], plan.turn_seconds))
            seconds = [first_token_seconds(result) for result in results]
            errors = [result["error"] for result in results if result["error"] is not None]
            cached = [result["cached_tokens"] for result in results]
            found[server.name] = {"first": seconds[0], "later": seconds[1:], "cached": cached, "errors": errors}
            bench.tell(f"{pair.name}, same beginning, {server.name}: {found[server.name]}")
    return found


def memory(bench: Bench, pair: ModelPair) -> Figures:
    """Memory over many requests, sampled between blocks of them, while nothing runs: {server: {"samples", ...}}."""
    plan = bench.plan
    names = [OURS, *([PEER] if bench.peer_program else [])]
    samples: dict[str, list[Figures]] = {name: [] for name in names}
    failed: dict[str, int] = dict.fromkeys(names, 0)
    with running(bench, pair, names) as servers:
        for server in servers:
            samples[server.name].append({"requests": 0, **server.memory()})
        for start in range(0, plan.memory_requests, plan.memory_block):
            count = min(plan.memory_block, plan.memory_requests - start)
            asked = streams(plan.memory_clients, count, plan.memory_sizes, pair.vocab_size, plan.seed + start)
            for server in servers:
                block = turn(ask(server, asked, plan.turn_seconds))
                failed[server.name] += block["failed"]
                samples[server.name].append(
                    {"requests": start + count, **server.memory(), "tokens_per_second": block["tokens_per_second"]}
                )
    found = {
        name: {"samples": samples[name], "failed": failed[name], "growth": growth(samples[name], plan.memory_settled)}
        for name in names
    }
    for name in names:
        last = samples[name][-1]
        bench.tell(f"{pair.name}, memory, {name}: {last} growth {found[name]['growth']}, {failed[name]} failed")
    return found


SCENARIOS: dict[str, Callable[[Bench, ModelPair], Figures]] = {
    "load": load,
    "intruder": intruder,
    "prefix": prefix,
    "memory": memory,
}
