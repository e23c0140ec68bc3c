"""Kernels in forked processes, in several threads of Python at once, and held back by BAICHUAN2_KERNELS."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan2.errors import SettingsError
from baichuan2.kernels import library, products
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
dense = inputs.double() @ weight.dense.T
found = torch.zeros(4, 2, 700).share_memory_()  # what the children compute: before the first fork the parent must not
logits = torch.arange(200_000) % 1000 / 100  # large enough for torch to share it among threads
likeliest = logits.exp().argmax()

def child(place):
    signal.alarm(200)  # a hanging child ends by it
    found[place] = weight.times(inputs)
    is_same = logits.exp().argmax() == likeliest
    os._exit(0 if is_same and torch.get_num_threads() == 2 else 3)

def forks(place):
    pid = os.fork()
    if pid == 0:
        again = os.fork()  # a fork of a fork
        if again == 0:
            child(place)
        code = os.waitstatus_to_exitcode(os.waitpid(again, 0)[1])
        if code:
            os._exit(code)
        child(place + 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

forks(0)  # torch alone has used threads
wanted = weight.times(inputs)
forks(2)
assert all(torch.equal(result, wanted) for result in (*found, weight.times(inputs)))
assert torch.allclose(wanted.double(), dense, rtol=1e-4)
"""
POOL = """
import multiprocessing, torch
from baichuan2.kernels import library
from tests.kernels.weights import stored

library.PAUSE = "of no OpenMP"  # threads that cannot be ended before the fork
weights = [stored("int8 g0", 700, 192, seed=seed) for seed in range(4)]

def times(index):
    torch.randn(300, 300) @ torch.randn(300, 300)
    return weights[index].times(torch.ones(2, 192)).tolist(), library.num_threads()

torch.set_num_threads(2)
wanted = [(times(index)[0], 1) for index in range(4)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map_async(times, range(4)).get(200) == wanted
print("equal")
"""
LEVELS = """
import os, sys, torch
from baichuan2.kernels import products
from tests.kernels.weights import FORMATS, stored

def compute(path):
    results = []
    for name in FORMATS:
        for dtype in (torch.float32, torch.bfloat16):
            layer = stored(name, 64, 192).layer
            if name.startswith("nf4"):
                layer.weight_dtype = dtype
            inputs = torch.randn(3, 192, generator=torch.Generator().manual_seed(1)).to(dtype)
            with torch.no_grad():
                results.append(layer(inputs).float())
    torch.save({"used": products.instructions(), "results": torch.stack(results)}, path)

torch.set_num_threads(1)
for level in sys.argv[2:]:
    pid = os.fork()  # before the library is opened, which reads the variable: cheaper than a start of Python
    if pid == 0:
        os.environ["BAICHUAN2_KERNELS"] = level
        compute(os.path.join(sys.argv[1], level))
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, level
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
def test_a_fork_of_a_process_with_threads_does_not_hang() -> None:
    children = [python(FORK), python(POOL)]
    (forks, errors), (pool, pool_errors) = (child.communicate(timeout=HANGS_AFTER) for child in children)
    assert forks.split() == ["0", "0"], errors
    assert children[0].returncode == 0, errors
    assert pool == "equal\n", pool_errors


@pytest.mark.parametrize("name", ["AVX2", "avx2", " Avx-2 ", "1"])
def test_a_limit_may_be_a_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.LIMIT, name)
    assert library.limit.__wrapped__(4) == 1
    assert os.environ[library.LIMIT] == "1"  # which C reads


@pytest.mark.parametrize("name", ["AVX3", "-1", "on", "1.5"])
def test_a_limit_that_is_none_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.LIMIT, name)
    message = (
        rf"BAICHUAN2_KERNELS={name}: not known; it must be off, or .*: 0 \(plain C\), 1 \(AVX2\), .* 4 \(AMX BF16\)"
    )
    for ask in (lambda: library.limit.__wrapped__(4), library.opened.__wrapped__):
        with pytest.raises(SettingsError, match=message):
            ask()


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
    folder = tmp_path_factory.mktemp("levels")
    names = ("off", *map(str, range(len(products.INSTRUCTIONS))), "99")
    process = python(LEVELS, str(folder), *names)
    _, errors = process.communicate(timeout=HANGS_AFTER)
    assert process.returncode == 0, errors
    saved = {name: torch.load(folder / name) for name in names}
    return {name: (values["used"], values["results"]) for name, values in saved.items()}


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
