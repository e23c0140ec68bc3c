"""What a step computes besides products (native/attention.h), for every instruction set here, against plain C and
float64; and whole steps against the modules they stand for."""

import ctypes
from ctypes import CFUNCTYPE, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from baichuan2.kernels import steps
from baichuan2.kernels.library import opened
from tests.kernels.tiny_steps import INNER_SIZE, LEVELS, WEIGHTS, Steps, fewest_alike, model_of
from tests.tiny import SIZES, Size, random_ids

pytestmark = [
    pytest.mark.skipif(not steps.is_available(), reason="the library of kernels is not built here"),
    pytest.mark.usefixtures("one_thread"),
]

BFLOAT16, FLOAT16 = 1, 2
DTYPES = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}
BLOCK = 256
"""Keys that are weighed together."""
EXTRA = 16
"""Numbers behind the sums of a part: the greatest score, the sum of weights, and what fills a line."""
GUARD = -7.25
PLAIN = "step_functions_plain"
TABLES = {"avx2": "step_functions_avx2", "avx512": "step_functions_avx512"}


class Functions(ctypes.Structure):
    """Mirror of `StepFunctions` in native/attention.h."""

    _fields_ = (
        ("round", CFUNCTYPE(None, c_void_p, c_int64, c_int)),
        ("widen", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int)),
        ("norm", CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int64, c_float, c_int)),
        ("rotate", CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int64, c_int)),
        ("gate", CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_int64, c_int)),
        ("add", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int)),
        ("narrow", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int)),
        ("encode", CFUNCTYPE(c_float, c_void_p, c_void_p, c_int64)),
        ("attend", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_void_p)),
        ("merge", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int64)),
        ("finish", CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int)),
    )


class Head(ctypes.Structure):
    """Mirror of `Head` in native/attention.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "key_scales", "value_scales")),
        ("head_dim", c_int64),
        *((name, c_float) for name in ("scaling", "slope")),
        *((name, c_int32) for name in ("number", "cache_kind")),
    )


def functions(name: str) -> Any:
    library = opened().library
    assert library is not None
    return Functions.in_dll(library, name)


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> Any:
    """The functions of an instruction set that is here."""
    library = opened().library
    assert library is not None
    if library.baichuan2_instructions() < LEVELS[request.param]:
        pytest.skip(f"this processor lacks {request.param}")
    return functions(TABLES[request.param])


def random_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Float32 numbers of very different magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) * torch.exp2(torch.randint(-12, 4, shape, generator=generator))


def guarded(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """A copy (N,) that must not be written beyond, and the guards behind it."""
    whole = torch.cat((numbers, torch.full((16,), GUARD, dtype=numbers.dtype)))
    return whole[: len(numbers)], whole[len(numbers) :]


def same_bits(found: Tensor, wanted: Tensor) -> bool:
    """Whether two float32 tensors are alike, -0 apart from 0; numbers that are none may be any."""
    none = found.isnan() & wanted.isnan()
    return bool(((found.view(torch.int32) == wanted.view(torch.int32)) | none).all())


COUNTS = (1, 7, 8, 16, 23, 32, 100, 4096)


@pytest.mark.parametrize("number", DTYPES)
def test_numbers_are_rounded_as_torch_does(table: Any, number: int) -> None:
    edges = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65519.9, 65520.0, 3.4e38, 6e-8, 2.9e-8, 1e-41])
    values = torch.cat((random_numbers(4099), edges, torch.arange(4096) / 1024 * 2.0**-8 + 1))
    for count in (*COUNTS, len(values)):
        wanted = values[-count:].to(DTYPES[number])
        found, guards = guarded(values[-count:])
        table.round(found.data_ptr(), count, number)
        assert same_bits(found, wanted.float())
        bits, guards_of_bits = guarded(torch.zeros(count, dtype=DTYPES[number]))
        table.narrow(values[-count:].data_ptr(), bits.data_ptr(), count, number)
        assert same_bits(bits.float(), wanted.float())
        assert (guards == GUARD).all()
        assert (guards_of_bits == GUARD).all()


@pytest.mark.parametrize("number", DTYPES)
def test_all_numbers_are_widened(table: Any, number: int) -> None:
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    wanted = bits.view(DTYPES[number]).float()
    for count in (*COUNTS, len(bits)):
        found, guards = guarded(torch.zeros(count))
        table.widen(bits[-count:].data_ptr(), found.data_ptr(), count, number)
        assert same_bits(found, wanted[-count:])
        assert (guards == GUARD).all()


@pytest.mark.parametrize("number", DTYPES)
@pytest.mark.parametrize("count", COUNTS)
def test_norm_add_and_rotation_are_those_of_plain_c(table: Any, count: int, number: int) -> None:
    """AVX-512 sums the squares in another order: a unit of the number apart."""
    plain = functions(PLAIN)
    x, more = random_numbers(count), random_numbers(count, seed=1)
    weight = (1 + 0.2 * random_numbers(count, seed=2)).to(DTYPES[number])
    normed, summed = [], []
    for each in (plain, table):
        out, guards = guarded(torch.zeros(count))
        each.norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), count, 1e-6, number)
        total, guards_of_total = guarded(x.clone())
        each.add(total.data_ptr(), more.data_ptr(), count, number)
        assert (guards == GUARD).all()
        assert (guards_of_total == GUARD).all()
        normed.append(out)
        summed.append(total)
    if ctypes.addressof(table) == ctypes.addressof(functions(TABLES["avx2"])):
        assert same_bits(normed[1], normed[0])
    assert torch.allclose(normed[1], normed[0], rtol=torch.finfo(DTYPES[number]).eps, atol=6e-8)
    assert same_bits(summed[1], summed[0])
    if count % 16 == 0 and count <= BLOCK:
        cosine, sine, turned = more.cos(), more.sin(), []
        for each in (plain, table):
            own, guards = guarded(x.to(DTYPES[number]).float())
            each.rotate(own.data_ptr(), cosine.data_ptr(), sine.data_ptr(), count, number)
            assert (guards == GUARD).all()
            turned.append(own)
        assert same_bits(turned[1], turned[0])


@pytest.mark.parametrize("number", DTYPES)
@pytest.mark.parametrize("count", COUNTS)
def test_gate_is_that_of_float64(table: Any, count: int, number: int) -> None:
    dtype = DTYPES[number]
    gate = torch.cat((random_numbers(count), torch.linspace(-87, 87, count), torch.tensor([-1e4, 1e4, 0.0])))
    up = random_numbers(len(gate), seed=1)
    found, guards = guarded(torch.zeros(len(gate)))
    table.gate(gate.data_ptr(), up.data_ptr(), found.data_ptr(), len(gate), number)
    weight = torch.nn.functional.silu(gate.to(dtype).double()).to(dtype)
    wanted = weight * up.to(dtype)
    # where the weight is rounded the other way, the product is a unit or two apart
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps * (1 + up.abs().max())
    assert torch.allclose(found, wanted.float(), rtol=2 * torch.finfo(dtype).eps, atol=float(least))
    assert (found == wanted.float()).float().mean() > 0.98
    assert (guards == GUARD).all()


@pytest.mark.parametrize("head_dim", [16, 48, 128, 256])
def test_codes_are_those_of_plain_c(table: Any, head_dim: int) -> None:
    rows = [random_numbers(head_dim, seed=seed) for seed in range(20)]
    rows += [torch.zeros(head_dim), torch.full((head_dim,), -3.0), torch.arange(head_dim) - 127.5]
    rows += [rows[0] * 1e-38, torch.full((head_dim,), 1e-42)]  # whose factor would be infinite
    for row in rows:
        found, wanted = (torch.full((head_dim,), 99, dtype=torch.int8) for _ in range(2))
        scale = table.encode(row.data_ptr(), found.data_ptr(), head_dim)
        assert scale == functions(PLAIN).encode(row.data_ptr(), wanted.data_ptr(), head_dim)
        assert torch.equal(found, wanted)
        assert scale == scale
    for bad in (torch.nan, torch.inf, -torch.inf):
        row = rows[0].clone()
        row[head_dim - 2] = bad
        scale = table.encode(row.data_ptr(), found.data_ptr(), head_dim)
        assert scale != scale  # no number: who sees the key gets none either


@dataclass(frozen=True)
class Attention:
    """Keys and values of a head for C, and as float64 (N, D)."""

    head: Head
    keys: Tensor
    values: Tensor
    alive: list[Any] = field(default_factory=list)


KINDS = ("bfloat16", "float16", "int8")


def attention(kind: str, num_keys: int, head_dim: int, slope: float, seed: int = 0) -> Attention:
    """A head with random keys and values, nothing readable assumed behind them."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(num_keys, head_dim, generator=generator) for _ in range(2))
    head = Head(
        head_dim=head_dim, scaling=head_dim**-0.5, slope=slope, number=FLOAT16 if kind == "float16" else BFLOAT16
    )
    if kind == "int8":
        codes = [torch.randint(-127, 128, keys.shape, generator=generator).to(torch.int8) for _ in range(2)]
        scales = [torch.rand(num_keys, generator=generator) * 0.03 for _ in range(2)]
        keys, values = (code.double() * scale.double()[:, None] for code, scale in zip(codes, scales, strict=True))
        head.keys, head.values = codes[0].data_ptr(), codes[1].data_ptr()
        head.key_scales, head.value_scales, head.cache_kind = scales[0].data_ptr(), scales[1].data_ptr(), 1
        return Attention(head, keys, values, [codes, scales])
    stored = [part.to(DTYPES[head.number]) for part in (keys, values)]
    head.keys, head.values = stored[0].data_ptr(), stored[1].data_ptr()
    return Attention(head, stored[0].double(), stored[1].double(), stored)


def attended(table: Any, given: Attention, queries: Tensor, counts: list[int]) -> Tensor:
    """Mixed values (M, D) of `queries` (M, D), which see their `counts` first keys, block after block, unrounded."""
    head_dim, num_rows, head = given.head.head_dim, len(counts), ctypes.addressof(given.head)
    stride = 3 * head_dim
    strided = torch.full((num_rows, stride), torch.nan)
    strided[:, :head_dim] = queries
    sums, block = (torch.full((num_rows, head_dim + EXTRA), torch.nan) for _ in range(2))
    scores = torch.full((num_rows, BLOCK), torch.nan)
    array = (c_int64 * num_rows)(*counts)
    for start in range(0, counts[-1], BLOCK):
        target = block if start else sums
        table.attend(head, strided.data_ptr(), stride, array, num_rows, start, scores.data_ptr(), target.data_ptr())
        if start:
            table.merge(sums.data_ptr(), block.data_ptr(), num_rows, head_dim)
    return sums[:, :head_dim] / sums[:, head_dim + 1 : head_dim + 2]


def attended_exactly(given: Attention, queries: Tensor, counts: list[int]) -> Tensor:
    """The same in float64."""
    rows = []
    for query, count in zip(queries.double(), counts, strict=True):
        distance = torch.arange(count, dtype=torch.float64) - (count - 1)
        scores = given.keys[:count] @ query * given.head.scaling + given.head.slope * distance
        rows.append(scores.softmax(0) @ given.values[:count])
    return torch.stack(rows)


ROWS = {
    "one": [601],
    "first": [1],
    "last of a block": [256],
    "first of a block": [257],
    "two": [40, 41],
    "from nothing": list(range(1, 24)),
    "into the next block": list(range(230, 294)),
    "some left out": [3, 4, 9, 17, 40, 300, 301, 302, 303, 520],
    "64 late ones": list(range(530, 594)),
}


@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_dim", [16, 48, 128, 256])
def test_attention_is_that_of_float64(table: Any, head_dim: int, kind: str, slope: float) -> None:
    for seed, counts in enumerate(ROWS.values()):
        given = attention(kind, counts[-1], head_dim, slope, seed)
        queries = torch.randn(len(counts), head_dim, generator=torch.Generator().manual_seed(seed))
        wanted = attended_exactly(given, queries, counts)
        assert (
            attended(table, given, queries, counts).double() - wanted
        ).abs().max() <= 1e-5 * given.values.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head_dim", [16, 48, 128, 256])
def test_a_row_is_the_same_alone_and_among_others(table: Any, head_dim: int, kind: str) -> None:
    """Also where what the later rows see beyond it is no number."""
    for seed, counts in enumerate(ROWS.values()):
        given = attention(kind, counts[-1], head_dim, 0.1, seed)
        queries = torch.randn(len(counts), head_dim, generator=torch.Generator().manual_seed(seed))
        alone = torch.cat([attended(table, given, queries[i : i + 1], counts[i : i + 1]) for i in range(len(counts))])
        for first in range(min(4, len(counts))):
            assert torch.equal(attended(table, given, queries[first:], counts[first:]), alone[first:])
        if len(counts) > 1:
            keys, values = given.alive[1 if kind == "int8" else slice(None)]
            keys[counts[-1] - 1] = values[counts[-1] - 1] = torch.nan
            spoilt = attended(table, given, queries, counts)
            assert torch.equal(spoilt[:-1], alone[:-1])
            assert spoilt[-1].isnan().all()


# see tests/engine/test_processor.py: four units of logits up to 5
TOLERANCES = {torch.bfloat16: 2**-3, torch.float16: 2**-6}
PARTS = [64, 1, 64, 3, 64, 50, 20, 34]  # 300 tokens: the second block of keys begins within a part


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", SIZES)
def test_logits_are_those_of_the_modules(size: Size, dtype: torch.dtype) -> None:
    model, ids = model_of(size, dtype), random_ids(1, 300)
    with torch.inference_mode():
        wanted = model(input_ids=ids).logits[0].float()
    found = Steps(model, 1, 300).of_one(ids[0], PARTS)
    assert (found.float() - wanted).abs().max() <= TOLERANCES[dtype]


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_parts_and_threads_make_no_difference(size: Size, is_int8: bool) -> None:
    """With two threads or more attention is shared by blocks, as there are few heads."""
    model, ids = model_of(size), random_ids(1, 300)[0]
    wanted = Steps(model, 1, 300, is_int8).of_one(ids, [1] * 300)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(Steps(model, 1, 300, is_int8).of_one(ids, [63, 64, 64, 64, 45]), wanted)


PARTS_OF_CODES = ([2] * 42, [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9], [16, 64, 4])
"""Of 84 tokens. Kernels meet codes with 1 to 8 rows, or tiles of rows, each in its own way."""


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("weights", WEIGHTS[1:])
@pytest.mark.parametrize("size", SIZES)
def test_parts_and_threads_make_no_difference_to_codes(size: Size, weights: str) -> None:
    """Several tokens at once have the bits of each alone or, by the matrix unit, of those in threes."""
    ids, wanted = random_ids(1, 84)[0], {}
    made = Steps(model_of(size, intermediate_size=INNER_SIZE), 1, 84, weights=weights)
    for fewest in {fewest_alike(rows, weights) for rows in (1, 64)}:
        wanted[fewest] = made.of_one(ids, [fewest] * (84 // fewest))
        assert wanted[fewest].isfinite().all()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for parts in PARTS_OF_CODES[threads - 1 :]:
            assert torch.equal(made.of_one(ids, parts), wanted[fewest_alike(min(parts), weights)]), parts


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(
    ("weights", "is_int8", "threads"),
    [*((WEIGHTS[0], is_int8, threads) for is_int8 in (False, True) for threads in (1, 2))]
    + [(weights, False, 1) for weights in WEIGHTS[1:]],
)
@pytest.mark.parametrize("size", SIZES)
def test_sequences_together_are_those_alone(size: Size, weights: str, is_int8: bool, threads: int) -> None:
    """Padded on the left, in different places of their caches, with several tokens and with one; two and three."""
    model = model_of(size)
    ids = [random_ids(1, 12, seed=seed)[0] for seed in range(3)]
    firsts, places = [3, 0, 8], [14, 11, 19]
    together = Steps(model, 3, 24, is_int8, weights)
    torch.set_num_threads(threads)
    prompts = together([own[:11] for own in ids], firsts, firsts)
    alone = Steps(model, 1, 12, is_int8, weights)
    for count in (2, 3):
        torch.set_num_threads(threads)
        rest = together([own[11:] for own in ids[:count]], places[:count], firsts[:count])
        torch.set_num_threads(1)
        fewest = fewest_alike(count, weights)
        for row, own in enumerate(ids[:count]):
            found = torch.cat((prompts[row * 11 : row * 11 + 11], rest[row : row + 1]))
            assert torch.equal(found, alone.of_one(own, [12 - fewest, fewest]))


@pytest.mark.parametrize("size", SIZES)
def test_instruction_sets_agree(size: Size) -> None:
    """Codes of 8 bits and all: AVX2 sums in another order than plain C, and differs by what that rounds otherwise."""
    library = opened().library
    assert library is not None
    ids, found = random_ids(1, 280)[0], []
    try:
        for number in (LEVELS["plain"], LEVELS["avx2"]):
            library.rows_limit(number)
            found.append(Steps(model_of(size, torch.float16), 1, 280, is_int8=True).of_one(ids, [64, 64, 64, 64, 24]))
    finally:
        library.rows_limit(-1)
    assert (found[1].float() - found[0].float()).abs().max() <= 2 * TOLERANCES[torch.float16]
