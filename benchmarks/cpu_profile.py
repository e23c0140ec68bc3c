"""Where a decode step of ours spends its time: for the rows of `benchmarks/cpu.py` that miss their target.

Two views. By layer: what the products of each kind take when they run alone, one layer after the other through all
weights, as a step does; the remainder is attention, norms, rotation, sampling and Python. By operator: torch's
profiler, which sees what runs through torch, and slows small operators down.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

KINDS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
ROUNDS = 3
OPERATORS = {
    "products": ("baichuan2::", "aten::mm", "aten::addmm", "aten::linear", "mkldnn", "aten::_weight_int"),
    "attention": ("attention", "aten::bmm", "softmax"),
    "norms and other elementwise": ("aten::mul", "aten::add", "aten::pow", "aten::rsqrt", "aten::mean", "aten::silu",
                                    "aten::neg", "aten::cat", "aten::to", "aten::_to_copy", "aten::copy_", "rms_norm"),
}  # fmt: skip


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
