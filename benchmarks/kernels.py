"""Products with quantised weights on the processor: our kernels beside torch's own and the 16-bit product.

    python benchmarks/kernels.py [--threads 1] [--rows 1 4 16 64] [--repeats 8] [--shape 11008 4096]

All ways take turns, so a busy machine disturbs them alike; a time is the least of all turns. Each way rotates through
several weights, more than a cache holds. The last line is one JSON object. Weights are random: speed does not depend on
them. The error is that of the result beside the product with the dequantised weight in float64.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from baichuan2.kernels import aten, products
from baichuan2.quantization.blockwise import NONUNIFORM_CODEBOOK, Int4Tensor, dequantize_int4

Way = tuple[Callable[[Tensor, int], Tensor], float]
"""The product of rows with one of the weights, and the bytes that it reads."""
COPIES = 4
CODEBOOK = list(map(int, NONUNIFORM_CODEBOOK))


def random_scales(rows: int, groups: int) -> Tensor:
    return (torch.rand(rows, groups) * 0.01).half()


def int4_way(rows: int, width: int, group_size: int) -> Way:
    codes = [torch.randint(0, 256, (rows, width // 2), dtype=torch.uint8) for _ in range(COPIES)]
    scales = [random_scales(rows, width // group_size) for _ in range(COPIES)]
    size = codes[0].nbytes + scales[0].nbytes
    return lambda x, i: products.multiply_int4(x, codes[i], scales[i], CODEBOOK, group_size), size


def int8_way(rows: int, width: int, group_size: int) -> Way:
    codes = [torch.randint(-127, 128, (rows, width), dtype=torch.int8) for _ in range(COPIES)]
    scales = random_scales(rows, width // group_size if group_size else 1)
    return lambda x, i: products.multiply_int8(x, codes[i], scales, group_size), codes[0].nbytes + scales.nbytes


def nf4_way(rows: int, width: int) -> Way:
    num_blocks = rows * width // 64
    codes = [torch.randint(0, 256, (rows * width // 2,), dtype=torch.uint8) for _ in range(COPIES)]
    scales = torch.randint(0, 256, (num_blocks,), dtype=torch.uint8)
    nested = (torch.tensor(0.01), torch.rand(-(-num_blocks // 256)) * 1e-3, torch.linspace(-1, 1, 256))
    code = torch.linspace(-1, 1, 16)
    size = codes[0].nbytes + num_blocks
    return lambda x, i: products.multiply_nf4(x, codes[i], code, scales, nested, rows), size


def aten_int4_way(rows: int, width: int, group_size: int) -> Way:
    codes = torch.randint(0, 16, (rows, width), dtype=torch.uint8)
    first = aten.pack_int4_for_aten(codes, random_scales(rows, width // group_size), group_size)
    weights = [first] + [aten.PackedInt4(first.codes.clone(), first.scales, group_size) for _ in range(COPIES - 1)]
    return lambda x, i: aten.multiply_int4(x, weights[i]), first.codes.nbytes + first.scales.nbytes


def aten_int8_way(rows: int, width: int) -> Way:
    codes = [aten.aligned(torch.randint(-127, 128, (rows, width), dtype=torch.int8)) for _ in range(COPIES)]
    scales = random_scales(rows, 1)
    return lambda x, i: aten.multiply_int8(x, codes[i], scales), codes[0].nbytes


def bfloat16_way(rows: int, width: int) -> Way:
    weights = [torch.randn(rows, width).bfloat16() for _ in range(COPIES)]
    return lambda x, i: nn.functional.linear(x, weights[i]), weights[0].nbytes


def relative_error(rows: int, width: int, group_size: int) -> float:
    """Of the int4 product of one row of bfloat16 inputs, its rounding to bfloat16 included."""
    codes = torch.randint(0, 256, (rows, width // 2), dtype=torch.uint8)
    weight = Int4Tensor(codes, random_scales(rows, width // group_size), NONUNIFORM_CODEBOOK, group_size, width)
    inputs = torch.randn(1, width).bfloat16()
    exact = inputs.double() @ dequantize_int4(weight, torch.float64).T
    found = products.multiply_int4(inputs, codes, weight.scales, CODEBOOK, group_size)
    return float((found.double() - exact).norm() / exact.norm())


def least_times(ways: dict[str, Way], inputs: Tensor, repeats: int) -> dict[str, float]:
    """Seconds of each way; all take turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, (multiply, _size) in ways.items():
            for copy in range(COPIES):
                start = time.perf_counter()
                multiply(inputs, copy)
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--shape", type=int, nargs=2, default=[11008, 4096], metavar=("N", "K"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = tuple(arguments.shape)
    ways = {f"int4 g{group}": int4_way(*size, group) for group in (32, 64, 128)}
    ways |= {"int8 row": int8_way(*size, 0), "int8 g64": int8_way(*size, 64), "nf4": nf4_way(*size)}
    ways |= {"torch int4 g64": aten_int4_way(*size, 64), "torch int8 row": aten_int8_way(*size)}
    ways["bfloat16"] = bfloat16_way(*size)
    report = {"instructions": products.instructions(), "threads": arguments.threads, "shape": size, "microseconds": {}}
    report["relative_error_int4"] = {group: relative_error(*size, group) for group in (32, 64, 128)}
    for rows in arguments.rows:
        times = least_times(ways, torch.randn(rows, size[1]).bfloat16(), arguments.repeats)
        for name, seconds in times.items():
            print(f"{rows:4} rows  {name:16} {seconds * 1e6:8.0f} us  {ways[name][1] / seconds / 1e9:5.1f} GB/s")
        report["microseconds"][rows] = {name: round(seconds * 1e6) for name, seconds in times.items()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
