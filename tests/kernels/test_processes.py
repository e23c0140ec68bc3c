"""Kernels in forked processes, in several threads of Python at once, and held back by BAICHUAN2_KERNELS."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan2.kernels import products
from tests.kernels.weights import FORMATS, stored

pytestmark = pytest.mark.skipif(not products.is_available(), reason="the library of kernels is not built here")

ROOT = Path(__file__).parents[2]
HANGS_AFTER = 280
FORK = """
import os, signal, sys, torch
from tests.kernels.weights import stored
sys.stdout.flush()
torch.set_num_threads(2)
weight, inputs = stored("int4 g64", 700, 192), torch.ones(2, 192)
logits = torch.arange(200_000) % 1000 / 100  # large enough for torch to share it among threads
wanted, likeliest = weight.times(inputs), logits.exp().argmax()

def child():
    signal.alarm(200)  # a hanging child ends by it
    is_same = torch.equal(weight.times(inputs), wanted) and logits.exp().argmax() == likeliest
    os._exit(0 if is_same else 3)

for _ in range(2):
    pid = os.fork()
    if pid == 0:
        again = os.fork()  # a fork of a fork
        if again == 0:
            child()
        code = os.waitstatus_to_exitcode(os.waitpid(again, 0)[1])
        if code:
            os._exit(code)
        child()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
assert torch.equal(weight.times(inputs), wanted)
"""
POOL = """
import multiprocessing, torch
from tests.kernels.weights import stored

weights = [stored("int8 g0", 700, 192, seed=seed) for seed in range(4)]

def times(index):
    return weights[index].times(torch.ones(2, 192)).tolist()

torch.set_num_threads(2)
wanted = [times(index) for index in range(4)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(times, range(4)).get(200) == wanted
print("equal")
"""
LEVEL = """
import sys, torch
from baichuan2.kernels import products
from tests.kernels.weights import FORMATS, stored
torch.set_num_threads(1)
results = []
for name in FORMATS:
    for dtype in (torch.float32, torch.bfloat16):
        layer = stored(name, 64, 192).layer
        if name.startswith("nf4"):
            layer.weight_dtype = dtype
        inputs = torch.randn(3, 192, generator=torch.Generator().manual_seed(1)).to(dtype)
        with torch.no_grad():
            results.append(layer(inputs).float())
torch.save({"used": products.instructions(), "results": torch.stack(results)}, sys.argv[1])
"""


def python(script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_of_a_process_that_used_kernels_does_not_hang() -> None:
    children = [python(FORK), python(POOL)]
    (forks, errors), (pool, pool_errors) = (child.communicate(timeout=HANGS_AFTER) for child in children)
    assert forks.split() == ["0", "0"], errors
    assert pool == "equal\n", pool_errors


def test_threads_of_python_at_once() -> None:
    """Each with weights of its own and all with one, on two threads of the kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    weights = [stored(name, 96, 192, seed=index) for index, name in enumerate(FORMATS)]
    inputs = [torch.randn(rows, 192, generator=torch.Generator().manual_seed(rows)).bfloat16() for rows in (1, 3, 20)]
    wanted = [[weight.times(rows) for rows in inputs] for weight in weights]

    def work(thread: int) -> list[bool]:
        order = weights[thread:] + weights[:thread]
        expected = wanted[thread:] + wanted[:thread]
        return [
            torch.equal(weight.times(rows), result)
            for _ in range(20)
            for weight, results in zip(order, expected, strict=True)
            for rows, result in zip(inputs, results, strict=True)
        ]

    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(all(found) for found in pool.map(work, range(4)))
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def by_level(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, Tensor]]:
    """Value of BAICHUAN2_KERNELS -> the instruction set used, and what layers of each format computed."""
    folder, found = tmp_path_factory.mktemp("levels"), {}
    names = ("off", *map(str, range(len(products.INSTRUCTIONS))), "99")
    running = {name: python(LEVEL, str(folder / name), BAICHUAN2_KERNELS=name) for name in names}
    for name, process in running.items():
        _, errors = process.communicate(timeout=HANGS_AFTER)
        assert process.returncode == 0, errors
        saved = torch.load(folder / name)
        found[name] = (saved["used"], saved["results"])
    return found


def test_a_level_beyond_the_processor_is_its_best(by_level: dict[str, tuple[str | None, Tensor]]) -> None:
    best = by_level["99"][0]
    assert best is not None
    number = products.INSTRUCTIONS.index(best)
    assert by_level["off"][0] is None
    for level, name in enumerate(products.INSTRUCTIONS):
        assert by_level[str(level)][0] == (name if level <= number else best)


def test_every_level_computes_the_same(by_level: dict[str, tuple[str | None, Tensor]]) -> None:
    """float32 up to the order of sums; bfloat16 up to its rounding, with torch that of the weight as well."""
    plain = by_level["off"][1]  # (formats and dtypes, M, N)
    size = plain.flatten(1).norm(dim=1)
    for used, results in by_level.values():
        errors = (results - plain).flatten(1).norm(dim=1) / size
        assert (errors[0::2] < 1e-6).all(), used
        assert (errors[1::2] < 2**-8).all(), used
        assert results.shape == plain.shape
