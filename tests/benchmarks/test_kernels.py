"""The benchmark of products: its C driver computes what it times, and its ways read different weights."""

import ctypes
import itertools
import json
import sys
from pathlib import Path

import cpu_limits
import kernels
import pytest
import torch

from baichuan2.kernels import steps
from baichuan2.kernels.library import opened
from baichuan2.quantization.blockwise import NONUNIFORM_CODEBOOK, Int4Tensor, dequantize_int4

needs_driver = pytest.mark.skipif(
    cpu_limits.compiler() is None or opened().library is None, reason="needs a C compiler and our library"
)


@needs_driver
def test_the_driver_multiplies_every_weight_with_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products are replaced by ones that note what they are given."""
    driver = kernels.compiled_driver(str(tmp_path))
    assert driver is not None
    prepare_type = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
    )
    multiply_type = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
    )
    prepared: list[tuple[int, int, int]] = []
    multiplied: list[tuple[int, int, int, int]] = []

    class Library:
        rows_prepare = prepare_type(lambda weight, _i, rows, _p, part, _n: prepared.append((weight, rows, part)))
        rows_multiply = multiply_type(
            lambda weight, _p, rows, first, last, *_: multiplied.append((weight, rows, first, last))
        )
        rows_room = rows_scratch = staticmethod(lambda *_: 64)

    monkeypatch.setattr(steps, "MOST_ROWS", 4)
    step = kernels.StepProducts.__new__(kernels.StepProducts)
    step.library, step.driver, step.threads = Library, driver, 2  # type: ignore[assignment]
    driver.rotate.restype, driver.rotate.argtypes = ctypes.c_double, (ctypes.c_void_p,)
    pool = kernels.Pool(10_000, 40, 64)
    parts, size = kernels.int4_parts(pool, 64)
    weights = [steps.int4_weight(*part, kernels.CODEBOOK, 64, 64) for part in parts[:2]]
    seconds = step.way(weights, 256 * 1024 * 40 // 16).seconds(torch.randn(6, 64), 1, 2)
    assert seconds > 0
    second, first = (ctypes.addressof(weight.structure) for weight in weights)
    calls = [(weight, rows) for weight in (first, second) for rows in (4, 2)]
    assert sorted(prepared) == sorted((*call, part) for call in calls for part in (0, 1))
    pieces = [(0, 16), (16, 32), (32, 40)]
    assert sorted(multiplied) == sorted((*call, *piece) for call in calls for piece in pieces)
    assert size == 40 * 32 + 40 * 2


def test_weights_of_a_pool_do_not_overlap() -> None:
    pool = kernels.Pool(100_000, 40, 64)
    for parts, _size in (kernels.int4_parts(pool, 32), kernels.int8_parts(pool, 0)):
        starts = [codes.data_ptr() for codes, _scales in parts]
        assert len(parts) > 1
        assert min(after - before for before, after in itertools.pairwise(starts)) == parts[0][0].nbytes
    assert len(kernels.int4_parts(pool, 32)[0]) * 40 * 32 > 95_000


@needs_driver
def test_the_whole_way_in_small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(kernels, "Limits", lambda threads: cpu_limits.Limits(threads, buffer_mib=16))
    sizes = ["--shape", "128", "256", "--pool", "200000", "--rows", "1", "5", "--turns", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["kernels.py", *sizes])
    threads = torch.get_num_threads()
    try:
        kernels.main()
    finally:
        torch.set_num_threads(threads)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    for rows in ("1", "5"):
        figures = report["rows"][rows]
        assert {"bandwidth", "step int4 g64", "step nf4", "operator int8 row", "torch bfloat16"} <= set(figures)
        assert all(figure["gigabytes"] > 0 for name, figure in figures.items() if name != "bandwidth")


def test_the_error_is_beside_the_exact_product() -> None:
    """Of the rounding of its result to bfloat16, 2^-9 at most, and little more."""
    codes = torch.zeros(1, 32, dtype=torch.uint8)
    weight = Int4Tensor(codes, torch.ones(1, 1, dtype=torch.float16), NONUNIFORM_CODEBOOK, 64, 64)
    assert dequantize_int4(weight, torch.float64).shape == (1, 64)
    torch.manual_seed(0)
    assert 0 < kernels.relative_error(32, 128, 64) < 2**-8
