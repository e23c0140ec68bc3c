"""Where our time goes, for the rows of `benchmarks/cpu.py` that miss their target.

Where Linux' `perf` is installed and may be used, the work of the row is done again while `perf` samples all threads of
the process: shares by library and by function, our kernels in C among them. Where it is not, two views of a decode step
from inside. By layer: what the products of each kind take when they run alone, one layer after the other through all
weights, as the model's own pass does; the remainder is attention, norms, rotation, sampling and Python. By operator:
torch's profiler, which sees what runs through torch, and slows small operators down.
"""

import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

KINDS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
ROUNDS = 3
SAMPLES_A_SECOND = 499
START_SECONDS = 1.0  # until perf samples
EVENT = ("-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND))
OPERATORS = {
    "products": ("baichuan2::", "aten::mm", "aten::addmm", "aten::linear", "mkldnn", "aten::_weight_int"),
    "attention": ("attention", "aten::bmm", "softmax"),
    "norms and other elementwise": ("aten::mul", "aten::add", "aten::pow", "aten::rsqrt", "aten::mean", "aten::silu",
                                    "aten::neg", "aten::cat", "aten::to", "aten::_to_copy", "aten::copy_", "rms_norm"),
}  # fmt: skip


class PerfError(Exception):
    """There is no perf, or it may not be used, or it says nothing."""


def sampled(pid: int, action: Callable[[], object]) -> dict[str, Any]:
    """What the threads of a process do during `action`: "count", "seconds", shares of "libraries" and "functions".

    Raises:
        PerfError: perf cannot tell.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        command = [_perf(), "record", *EVENT, "-p", str(pid), "-o", str(data)]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            time.sleep(START_SECONDS)
            if recorder.poll() is not None:
                _, told = recorder.communicate()
                raise PerfError(f"perf: {' '.join(told.split()) or 'ended too early'}")
            start = time.perf_counter()
            action()
            seconds = time.perf_counter() - start
        finally:
            if recorder.poll() is None:
                recorder.send_signal(signal.SIGINT)
            recorder.communicate()
        return {"seconds": seconds, **_shares(data)}


def sampled_command(command: Sequence[str], most_seconds: float) -> dict[str, Any]:
    """The same of a whole command.

    Raises:
        PerfError: perf cannot tell, or the command takes more than `most_seconds`.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        whole = [_perf(), "record", *EVENT, "-o", str(data), "--", *command]
        start = time.perf_counter()
        try:
            done = subprocess.run(whole, capture_output=True, text=True, check=False, timeout=most_seconds)
        except subprocess.TimeoutExpired as error:
            raise PerfError(f"it took more than {most_seconds:g} s") from error
        if done.returncode != 0:
            raise PerfError(" ".join(done.stderr.strip().splitlines()[-1:]))
        return {"seconds": time.perf_counter() - start, **_shares(data)}


def _perf() -> str:
    found = shutil.which("perf")
    if found is None:
        raise PerfError("perf is not installed")
    return found


def _shares(data: Path) -> dict[str, Any]:
    command = [_perf(), "report", "-i", str(data), "--stdio", "--no-children", "-n", "-F", "sample,dso,sym", "-t", "\t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return shares_of(done.stdout)


def shares_of(report: str) -> dict[str, Any]:
    """What perf's report of samples, libraries and symbols (separated by tabs) says, greatest shares first.

    Raises:
        PerfError: it holds no samples.
    """
    entries: list[tuple[int, str, str]] = []
    for line in report.splitlines():
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) == 3 and parts[0].isdigit():
            entries.append((int(parts[0]), parts[1].strip("[]"), parts[2].partition("] ")[2] or parts[2]))
    total = sum(count for count, _library, _function in entries)
    if total == 0:
        raise PerfError("perf took no samples")
    libraries: dict[str, float] = {}
    for count, library, _function in entries:
        libraries[library] = libraries.get(library, 0.0) + count / total
    functions = [
        {"function": function, "library": library, "share": count / total}
        for count, library, function in sorted(entries, reverse=True)
    ]
    return {
        "count": total,
        "libraries": dict(sorted(libraries.items(), key=lambda item: -item[1])),
        "functions": functions[:40],
    }


def stages(model: Any, step: Callable[[], object], num_steps: int) -> dict[str, float]:
    """Seconds of a step ("step") and of its stages, in the order in which they are shown."""
    seconds = []
    for _ in range(num_steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    total = statistics.median(seconds)
    alone = products_alone(model)
    found = {"step": total, **{f"{kind}, alone": value for kind, value in alone.items()}}
    found["everything else"] = total - sum(alone.values())
    return found | {f"{name}, by torch's profiler": value for name, value in by_operator(step, num_steps).items()}


@torch.inference_mode()
def products_alone(model: Any) -> dict[str, float]:
    """Seconds in which the layers of each kind multiply one row, one after the other; the median of a few rounds."""
    layers: dict[str, list[nn.Module]] = {kind: [] for kind in KINDS}
    for name, module in model.named_modules():
        kind = name.rpartition(".")[2]
        if kind in layers and hasattr(module, "in_features"):
            layers[kind].append(module)
    rounds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, modules in layers.items():
            rounds[kind].append(sum(_seconds(module, model.dtype) for module in modules))
    return {kind: statistics.median(values) for kind, values in rounds.items()}


def _seconds(module: Any, dtype: torch.dtype) -> float:
    inputs = torch.randn(1, 1, module.in_features, dtype=dtype)
    start = time.perf_counter()
    module(inputs)
    return time.perf_counter() - start


def by_operator(step: Callable[[], object], num_steps: int) -> dict[str, float]:
    """Seconds of a step in torch's operators by their kind, and outside of all of them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        for _ in range(num_steps):
            step()
        total = time.perf_counter() - start
    found = dict.fromkeys([*OPERATORS, "other operators"], 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, marks in OPERATORS.items() if any(mark in event.key for mark in marks)), None)
        found[kind or "other operators"] += event.self_cpu_time_total / 1e6 / num_steps
    found["Python, and what torch does not see"] = total / num_steps - sum(found.values())
    return found
