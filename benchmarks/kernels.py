"""Products with quantised weights on the processor: our kernels beside torch's own, at the bandwidth of the memory.

    python benchmarks/kernels.py [--threads 1] [--rows 1 2 4 8 16 64 512] [--turns 3] [--shape 11008 4096]

Each way goes through different weights of more than --pool bytes together (default 1.25 GB: no cache holds them), so
one row of inputs is as fast as memory lets it be. All ways take turns, and the read bandwidth of the memory is measured
in every turn; a time is the median of the turns. `step`: as a step in C multiplies (native/rows.h), `operator`: as the
model's own passes do (`baichuan2.kernels.products`), `torch`: torch's operators. Weights are random: speed does not
depend on them. The error is that of the result of one row beside the product with the dequantised weight in float64.
The last line is one JSON object.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from ctypes import c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cpu_limits import Limits, compiler, hardware, peaks_text
from torch import Tensor, nn

from baichuan2.kernels import aten, products, steps
from baichuan2.kernels.library import opened
from baichuan2.quantization.blockwise import NONUNIFORM_CODEBOOK, Int4Tensor, dequantize_int4

CODEBOOK = list(map(int, NONUNIFORM_CODEBOOK))
GROUPS = (32, 64, 128)
CHUNK_BYTES, LEAST_CHUNK, MOST_CHUNK = 256 * 1024, 16, 256  # as step.c takes outputs
TURN_SECONDS = 1.0  # of a way, or one product where that takes longer
SCALE_POOL_SHARE = 8  # the pool of 4-bit codes needs an eighth of its bytes for scales of groups of 32
Multiply = Callable[[Tensor, int], object]


@dataclass(frozen=True)
class Way:
    """A way to multiply.

    `seconds`: of the products of rows (M, K) with so many weights from a number on. `size`: bytes that one product
    reads; `copies`: weights that there are.
    """

    seconds: Callable[[Tensor, int, int], float]
    size: int
    copies: int
    most_rows: int | None = None


class Pool:
    """Random bytes that all ways read as their codes, more than any cache holds, and random scales."""

    def __init__(self, num_bytes: int, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.bytes = torch.empty(num_bytes, dtype=torch.uint8).random_()
        self.scales = (torch.rand(num_bytes // SCALE_POOL_SHARE) * 0.01).half()

    def copies(self, size: int) -> int:
        """How many weights of `size` bytes of codes there are."""
        return max(self.bytes.numel() // size, 1)

    def codes(self, copy: int, shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
        """Those of one weight."""
        size = torch.Size(shape).numel() * dtype.itemsize
        return self.bytes[copy * size : (copy + 1) * size].view(dtype).view(shape)

    def scales_of(self, copy: int, groups: int) -> Tensor:
        """(N, groups) float16 of one weight."""
        size = self.rows * groups
        count = max(self.scales.numel() // size, 1)
        return self.scales[copy % count * size : (copy % count + 1) * size].view(self.rows, groups)


def from_python(multiply: Multiply, size: int, copies: int, most_rows: int | None = None) -> Way:
    """A way that Python calls, one product after the other."""

    def seconds(inputs: Tensor, first: int, count: int) -> float:
        start = time.perf_counter()
        for copy in range(first, first + count):
            multiply(inputs, copy % copies)
        return time.perf_counter() - start

    return Way(seconds, size, copies, most_rows)


class _Rotation(ctypes.Structure):
    """Mirror of `Rotation` in kernels_rows.c."""

    _fields_ = (
        *((name, c_void_p) for name in ("prepare", "multiply", "weights", "inputs", "prepared")),
        *((name, c_int64) for name in ("num_weights", "num_outputs", "num_inputs", "num_rows", "most_rows", "chunk")),
        ("scratch_size", c_int64),
        ("num_threads", c_int32),
    )


class StepProducts:
    """The products of a step, timed by `kernels_rows.c`."""

    def __init__(self, library: ctypes.CDLL, driver: ctypes.CDLL, threads: int) -> None:
        self.library, self.driver, self.threads = library, driver, threads
        for function in (library.rows_room, library.rows_scratch):
            function.restype = c_int64
        library.rows_room.argtypes, library.rows_scratch.argtypes = (c_void_p, c_int64), (c_void_p,)
        driver.rotate.restype, driver.rotate.argtypes = c_double, (c_void_p,)

    def way(self, weights: list[steps.StoredWeight], size: int) -> Way:
        """That of some weights of one kind."""
        outputs, width = weights[0].shape
        chunk = min(max(CHUNK_BYTES * outputs // size // LEAST_CHUNK * LEAST_CHUNK, LEAST_CHUNK), MOST_CHUNK)
        library, most_rows = self.library, steps.MOST_ROWS

        def seconds(inputs: Tensor, first: int, count: int) -> float:
            inputs = inputs.float()
            addresses = [ctypes.addressof(weight.structure) for weight in weights]
            chosen = (c_void_p * count)(*(addresses[copy % len(addresses)] for copy in range(first, first + count)))
            room = torch.empty(library.rows_room(addresses[0], min(len(inputs), most_rows)) + 64, dtype=torch.uint8)
            rotation = _Rotation(
                prepare=ctypes.cast(library.rows_prepare, c_void_p),
                multiply=ctypes.cast(library.rows_multiply, c_void_p),
                weights=ctypes.addressof(chosen),
                inputs=inputs.data_ptr(),
                prepared=-(-room.data_ptr() // 64) * 64,
                num_weights=count,
                num_outputs=outputs,
                num_inputs=width,
                num_rows=len(inputs),
                most_rows=most_rows,
                chunk=chunk,
                scratch_size=library.rows_scratch(addresses[0]),
                num_threads=self.threads,
            )
            return float(self.driver.rotate(ctypes.addressof(rotation)))

        return Way(seconds, size, len(weights))


def int4_parts(pool: Pool, group: int) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """Codes and scales of all weights, and the bytes of one."""
    shape = (pool.rows, pool.width // 2)
    groups = pool.width // group
    parts = [
        (pool.codes(copy, shape), pool.scales_of(copy, groups)) for copy in range(pool.copies(shape[0] * shape[1]))
    ]
    return parts, parts[0][0].nbytes + parts[0][1].nbytes


def int8_parts(pool: Pool, group: int) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """The same in 8 bits; `group` 0: one scale for each output."""
    shape = (pool.rows, pool.width)
    groups = pool.width // group if group else 1
    copies = range(pool.copies(shape[0] * shape[1]))
    parts = [(pool.codes(copy, shape, torch.int8), pool.scales_of(copy, groups)) for copy in copies]
    return parts, parts[0][0].nbytes + parts[0][1].nbytes


def nf4_parts(pool: Pool) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, tuple[Tensor, Tensor, Tensor]], int]:
    """Codes and 8-bit scales of all weights, what they share, and the bytes of one."""
    num_blocks = pool.rows * pool.width // 64
    size = num_blocks * 32
    parts = [(pool.codes(copy, (size,)), pool.codes(copy, (num_blocks,))) for copy in range(pool.copies(size))]
    nested = (torch.tensor(0.01), torch.rand(-(-num_blocks // 256)) * 1e-3, torch.linspace(-1, 1, 256))
    return parts, (torch.linspace(-1, 1, 16), nested), size + num_blocks


def step_ways(pool: Pool, step: StepProducts) -> dict[str, Way]:
    """All formats, as a step multiplies."""
    ways = {}
    for group in GROUPS:
        parts, size = int4_parts(pool, group)
        weights = [steps.int4_weight(*part, CODEBOOK, group, pool.width) for part in parts]
        ways[f"step int4 g{group}"] = step.way(weights, size)
    for group in (0, 64):
        parts, size = int8_parts(pool, group)
        weights = [steps.int8_weight(*part, group) for part in parts]
        ways[f"step int8 {f'g{group}' if group else 'row'}"] = step.way(weights, size)
    both, (code, nested), size = nf4_parts(pool)
    shape = (pool.rows, pool.width)
    ways["step nf4"] = step.way([steps.nf4_weight(codes, code, absmax, nested, shape) for codes, absmax in both], size)
    return ways


def operator_ways(pool: Pool) -> dict[str, Way]:
    """Our torch operators, up to the rows for which the model's own passes use them."""
    most = products.MOST_ROWS
    int4, size4 = int4_parts(pool, 64)
    int8, size8 = int8_parts(pool, 0)
    both, (code, nested), size = nf4_parts(pool)

    def nf4(inputs: Tensor, copy: int) -> Tensor:
        return products.multiply_nf4(inputs, both[copy][0], code, both[copy][1], nested, pool.rows)

    return {
        "operator int4 g64": from_python(
            lambda x, i: products.multiply_int4(x, *int4[i], CODEBOOK, 64), size4, len(int4), most
        ),
        "operator int8 row": from_python(lambda x, i: products.multiply_int8(x, *int8[i], 0), size8, len(int8), most),
        "operator nf4": from_python(nf4, size, len(both), most),
    }


def torch_ways(pool: Pool) -> dict[str, Way]:
    """torch's products with 4, 8 and 16 bits."""
    shape = (pool.rows, pool.width)
    codes = torch.randint(0, 16, shape, dtype=torch.uint8)
    first = aten.pack_int4_for_aten(codes, pool.scales_of(0, pool.width // 64), 64)
    form, kind = tuple(first.codes.shape), first.codes.dtype
    int4 = [
        aten.PackedInt4(pool.codes(copy, form, kind), first.scales, 64)
        for copy in range(pool.copies(first.codes.nbytes))
    ]
    int8, size8 = int8_parts(pool, 0)
    # random bits with an exponent near that of 0.01: no infinities, and nothing too small
    numbers = pool.bytes.clone().view(torch.int16).bitwise_and_(-0x7F81).bitwise_or_(0x3C00).view(torch.bfloat16)
    size = pool.rows * pool.width
    bfloat16 = [numbers[copy * size : (copy + 1) * size].view(shape) for copy in range(pool.copies(2 * size))]
    return {
        "torch int4 g64": from_python(
            lambda x, i: aten.multiply_int4(x, int4[i]), first.codes.nbytes + first.scales.nbytes, len(int4)
        ),
        "torch int8 row": from_python(lambda x, i: aten.multiply_int8(x, *int8[i]), size8, len(int8)),
        "torch bfloat16": from_python(lambda x, i: nn.functional.linear(x, bfloat16[i]), 2 * size, len(bfloat16)),
    }


def relative_error(rows: int, width: int, group_size: int) -> float:
    """Of the int4 product of one row of bfloat16 inputs, its rounding to bfloat16 included."""
    codes = torch.randint(0, 256, (rows, width // 2), dtype=torch.uint8)
    scales = (torch.rand(rows, width // group_size) * 0.01).half()
    weight = Int4Tensor(codes, scales, NONUNIFORM_CODEBOOK, group_size, width)
    inputs = torch.randn(1, width).bfloat16()
    exact = inputs.double() @ dequantize_int4(weight, torch.float64).T
    found = products.multiply_int4(inputs, codes, scales, CODEBOOK, group_size)
    return float((found.double() - exact).norm() / exact.norm())


def take_turns(
    ways: dict[str, Way], inputs: Tensor, turns: int, limits: Limits
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of a product of each way in each turn, and the bandwidth in each."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    bandwidths = []
    for _ in range(turns):
        bandwidths.append(limits.bandwidth() or float("nan"))
        for name, way in ways.items():
            once = way.seconds(inputs, 0, 1)  # also brings its code and threads up
            count = max(min(way.copies, int(TURN_SECONDS / once)), 1)
            found[name].append(once if count == 1 else way.seconds(inputs, 1, count) / count)
    return found, bandwidths


def compiled_driver(folder: str) -> ctypes.CDLL | None:
    """`kernels_rows.c`; None without a compiler or without our library."""
    command = compiler()
    if command is None or opened().library is None or not hasattr(opened().library, "rows_prepare"):
        return None
    target = Path(folder) / "kernels_rows.so"
    source = Path(__file__).with_name("kernels_rows.c")
    subprocess.run([*command, "-O2", "-fPIC", "-shared", "-pthread", str(source), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64, 512])
    parser.add_argument("--turns", type=int, default=3, help="of each way (default: 3)")
    parser.add_argument("--shape", type=int, nargs=2, default=[11008, 4096], metavar=("N", "K"))
    parser.add_argument("--pool", type=int, default=1_250_000_000, metavar="BYTES", help="of weights (default: 1.25e9)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="ways that have one of these words in their name")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    pool = Pool(arguments.pool, *arguments.shape)
    report: dict[str, Any] = {"hardware": hardware(), "threads": arguments.threads, "shape": arguments.shape,
                              "instructions": products.instructions(), "pool": arguments.pool}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Limits(arguments.threads) as limits:
        report["peaks"] = limits.peaks()
        print(f"{report['hardware']['processor']}, {arguments.threads} threads; {peaks_text(report['peaks'])}")
        driver = compiled_driver(folder)
        ways: dict[str, Way] = {}
        if driver is not None and (library := opened().library) is not None:
            ways |= step_ways(pool, StepProducts(library, driver, arguments.threads))
        if products.is_available():
            ways |= operator_ways(pool)
            report["relative_error_int4"] = {group: relative_error(*arguments.shape, group) for group in GROUPS}
        ways |= torch_ways(pool)
        words = arguments.only
        ways = {name: way for name, way in ways.items() if not words or any(word in name for word in words)}
        report["rows"] = {rows: measure(ways, rows, arguments, limits) for rows in arguments.rows}
    print(json.dumps(report))


def measure(ways: dict[str, Way], rows: int, arguments: argparse.Namespace, limits: Limits) -> dict[str, Any]:
    """Prints and returns the figures of one number of rows."""
    outputs, width = arguments.shape
    suited = {name: way for name, way in ways.items() if way.most_rows is None or rows <= way.most_rows}
    found, bandwidths = take_turns(suited, torch.randn(rows, width).bfloat16(), arguments.turns, limits)
    bandwidth = statistics.median(bandwidths) / 1e9
    figures: dict[str, Any] = {"bandwidth": bandwidth}
    for name, series in found.items():
        seconds = statistics.median(series)
        read, done = ways[name].size / seconds / 1e9, 2e-9 * rows * outputs * width / seconds
        print(
            f"{rows:4} rows  {name:18} {seconds * 1e6:9.0f} us  {read:6.2f} GB/s ({read / bandwidth:4.0%} of "
            f"{bandwidth:.1f})  {done:7.1f} GFLOP/s",
            flush=True,
        )
        figures[name] = {"microseconds": round(seconds * 1e6), "gigabytes": read, "gigaflops": done}
    return figures


if __name__ == "__main__":
    main()
