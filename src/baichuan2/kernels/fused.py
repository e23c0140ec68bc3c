"""What lies between the products of a decode step, as few kernels for a GPU, written in Triton.

Torch alone starts some 45 kernels for each decoder layer, of which four matter. These take the place of the others: a
sum with a norm, the rotation with the write to the cache, attention over as many keys as there are, and the gate. Where
keys and values lie is read from a table on the device, so that one recorded CUDA graph serves caches of any length.
Importing this imports Triton, which comes with torch for NVIDIA and AMD.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["add_norm", "attend", "gated", "rotate_and_store", "row_gated", "row_times", "times_int4", "times_int8"]

KEYS = 64  # that a program looks at at once
MOST_SPLITS = 16
PROGRAMS = 512  # about four for each multiprocessor of a large GPU
ROWS_OF_WEIGHT = 4  # that a program multiplies with one row of inputs
INPUTS = 1024  # that it takes at once
WARPS = 4  # of it
COLUMNS = 32  # of a product with several rows


@triton.jit
def _add_norm(
    hidden, delta, weight, summed, normed, width, epsilon, has_delta: tl.constexpr, block: tl.constexpr
):  # budget: a kernel's operands
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    kind = hidden.dtype.element_ty
    values = tl.load(hidden + row * width + at, mask=inside, other=0.0)
    if has_delta:
        values = (values.to(tl.float32) + tl.load(delta + row * width + at, mask=inside, other=0.0).to(tl.float32)).to(
            kind
        )
        tl.store(summed + row * width + at, values, mask=inside)
    wide = values.to(tl.float32)
    mean = tl.sum(wide * wide, 0) / width
    wide = (wide * tl.rsqrt(mean + epsilon)).to(kind).to(tl.float32)  # rounded before the weight, as the module does
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + row * width + at, (wide * scale).to(kind), mask=inside)


def add_norm(hidden: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """`hidden` + `delta`, (M, C), and its root-mean-square norm times `weight` (C,), in their dtype."""
    rows, width = hidden.shape
    summed = hidden if delta is None else torch.empty_like(hidden)
    normed = torch.empty_like(hidden)
    block = triton.next_power_of_2(width)
    _add_norm[(rows,)](
        hidden, hidden if delta is None else delta, weight, summed, normed, width, epsilon,
        has_delta=delta is not None, block=block, num_warps=8 if block >= 2048 else 4,
    )  # fmt: skip
    return summed, normed


@triton.jit
def _rotate_and_store(  # budget: a kernel's operands
    packed, cosine, sine, query, addresses, held, capacity, num_new, num_heads, size,
    is_turned: tl.constexpr, half: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    kind = packed.dtype.element_ty
    at = tl.arange(0, block)
    inside = at < half
    start = packed + (row * 3 * num_heads + head) * size
    step = num_heads * size
    batch = row // num_new
    place = tl.load(held) + row % num_new
    target = ((batch * num_heads + head) * tl.load(capacity) + place) * size
    keys = tl.load(addresses).to(tl.pointer_type(kind)) + target
    values = tl.load(addresses + 1).to(tl.pointer_type(kind)) + target
    first_query = tl.load(start + at, mask=inside)
    second_query = tl.load(start + half + at, mask=inside)
    first_key = tl.load(start + step + at, mask=inside)
    second_key = tl.load(start + step + half + at, mask=inside)
    if is_turned:
        cos = tl.load(cosine + row * size + at, mask=inside)
        sin = tl.load(sine + row * size + at, mask=inside)
        first, second = first_query.to(tl.float32), second_query.to(tl.float32)
        first_query, second_query = (first * cos - second * sin).to(kind), (second * cos + first * sin).to(kind)
        first, second = first_key.to(tl.float32), second_key.to(tl.float32)
        first_key, second_key = (first * cos - second * sin).to(kind), (second * cos + first * sin).to(kind)
    turned = query + (row * num_heads + head) * size
    tl.store(turned + at, first_query, mask=inside)
    tl.store(turned + half + at, second_query, mask=inside)
    tl.store(keys + at, first_key, mask=inside)
    tl.store(keys + half + at, second_key, mask=inside)
    tl.store(values + at, tl.load(start + 2 * step + at, mask=inside), mask=inside)
    tl.store(values + half + at, tl.load(start + 2 * step + half + at, mask=inside), mask=inside)


def rotate_and_store(
    packed: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
    addresses: Tensor,
    held: Tensor,
    capacity: Tensor,
    num_new: int,
) -> Tensor:
    """Queries (M, H, D), turned; keys, turned, and values go to their places in the cache.

    `packed` (M, 3, H, D) of M = B * `num_new` tokens; `rotation`: cosines and sines, (M, D) float32 each, both halves
    alike. `addresses` (2,) int64: where keys and values of this layer lie, (B, H, `capacity`, D) each, in the dtype of
    `packed`; `held` and `capacity` (1,) int64: tokens that stand there, and that there is room for.
    """
    rows, _, num_heads, size = packed.shape
    query = torch.empty(rows, num_heads, size, dtype=packed.dtype, device=packed.device)
    cosine, sine = (packed, packed) if rotation is None else rotation
    _rotate_and_store[(rows, num_heads)](
        packed, cosine, sine, query, addresses, held, capacity, num_new, num_heads, size,
        is_turned=rotation is not None, half=size // 2, block=triton.next_power_of_2(size // 2), num_warps=1,
    )  # fmt: skip
    return query


@triton.jit
def _attend_part(  # budget: a kernel's operands
    query, addresses, held, capacity, firsts, slopes, mixed, most_of, total_of, num_new, num_heads, scaling,
    size: tl.constexpr, splits: tl.constexpr, keys: tl.constexpr, has_bias: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    kind = query.dtype.element_ty
    at = tl.arange(0, block)
    inside = at < size
    batch = row // num_new
    place = tl.load(held) + row % num_new
    start = tl.load(firsts + batch)
    share = tl.cdiv(tl.cdiv(place + 1 - start, splits), keys) * keys  # of each program; the last ones may have none
    begin = start + split * share
    end = tl.minimum(begin + share, place + 1)
    offset = (batch * num_heads + head) * tl.load(capacity) * size
    # rows of keys start at multiples of 16 bytes; Triton, which cannot know, would load number by number
    key_start = tl.multiple_of(tl.load(addresses).to(tl.pointer_type(kind)) + offset, 16)
    value_start = tl.multiple_of(tl.load(addresses + 1).to(tl.pointer_type(kind)) + offset, 16)
    asked = tl.load(query + (row * num_heads + head) * size + at, mask=inside, other=0.0).to(tl.float32) * scaling
    slope = 0.0
    if has_bias:
        slope = tl.load(slopes + head)
    most = -float("inf")
    total = 0.0
    summed = tl.zeros([block], dtype=tl.float32)
    for first in range(begin, end, keys):
        key = first + tl.arange(0, keys)
        is_there = key < end
        wanted = is_there[:, None]
        if size != block:
            wanted = wanted & inside[None, :]
        places = key[:, None] * size + at[None, :]
        scores = tl.sum(tl.load(key_start + places, mask=wanted, other=0.0).to(tl.float32) * asked[None, :], 1)
        if has_bias:
            scores += slope * (key - place).to(tl.float32)
        scores = tl.where(is_there, scores, -float("inf"))
        higher = tl.maximum(most, tl.max(scores, 0))
        weights = tl.exp(scores - higher)
        factor = tl.exp(most - higher)
        value = tl.load(value_start + places, mask=wanted, other=0.0).to(tl.float32)
        summed = summed * factor + tl.sum(weights[:, None] * value, 0)
        total = total * factor + tl.sum(weights, 0)
        most = higher
    where = (row * num_heads + head) * splits + split
    if splits == 1:
        tl.store(mixed + where * size + at, (summed / total).to(mixed.dtype.element_ty), mask=inside)
    else:
        tl.store(mixed + where * size + at, summed, mask=inside)
        tl.store(most_of + where, most)
        tl.store(total_of + where, total)


@triton.jit
def _join_parts(parts, most_of, total_of, mixed, size: tl.constexpr, splits: tl.constexpr, block: tl.constexpr):
    place = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, splits)
    at = tl.arange(0, block)
    inside = at < size
    most = tl.load(most_of + place * splits + split)
    factor = tl.exp(most - tl.max(most, 0))
    total = tl.sum(tl.load(total_of + place * splits + split) * factor, 0)
    values = tl.load(
        parts + (place * splits + split[:, None]) * size + at[None, :],
        mask=inside[None, :] & (split[:, None] >= 0),
        other=0.0,
    )
    joined = tl.sum(values * factor[:, None], 0) / total
    tl.store(mixed + place * size + at, joined.to(mixed.dtype.element_ty), mask=inside)


def attend(
    query: Tensor,
    addresses: Tensor,
    held: Tensor,
    capacity: Tensor,
    firsts: Tensor,
    slopes: Tensor | None,
    num_new: int,
    scaling: float,
) -> Tensor:
    """Mixed values (M, H * D) of queries (M, H, D), each over the keys from its input's first to its own.

    `firsts` (B,) int64: the first place that each input sees. `slopes` (H,) float32: of the bias by distance. The
    others are those of `rotate_and_store`, which has written the new tokens' keys before. Sums are float32.
    """
    rows, num_heads, size = query.shape
    splits = min(triton.next_power_of_2(max(PROGRAMS // (rows * num_heads), 1)), MOST_SPLITS)
    mixed = torch.empty(rows, num_heads * size, dtype=query.dtype, device=query.device)
    parts, most, total = mixed, mixed, mixed
    if splits > 1:
        parts = torch.empty(rows, num_heads, splits, size, dtype=torch.float32, device=query.device)
        most = torch.empty(rows, num_heads, splits, dtype=torch.float32, device=query.device)
        total = torch.empty_like(most)
    block = triton.next_power_of_2(size)
    _attend_part[(rows, num_heads, splits)](
        query, addresses, held, capacity, firsts, query if slopes is None else slopes, parts, most, total,
        num_new, num_heads, scaling, size=size, splits=splits, keys=KEYS, has_bias=slopes is not None, block=block,
        num_warps=4,
    )  # fmt: skip
    if splits > 1:
        _join_parts[(rows * num_heads,)](parts, most, total, mixed, size=size, splits=splits, block=block, num_warps=2)
    return mixed


@triton.jit
def _gated(gate, up, product, count, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    kind = gate.dtype.element_ty
    wide = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    opened = (wide / (1.0 + tl.exp(-wide))).to(kind).to(tl.float32)
    tl.store(product + at, (opened * tl.load(up + at, mask=inside, other=0.0).to(tl.float32)).to(kind), mask=inside)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(`gate`) * `up`, both (M, I) and contiguous."""
    product = torch.empty_like(gate)
    block = 1024
    _gated[(triton.cdiv(gate.numel(), block),)](gate, up, product, gate.numel(), block=block, num_warps=4)
    return product


@triton.jit
def _row_times(  # budget: a kernel's operands
    inputs, weight, scales, output, width, count, factor,
    has_scales: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = row < count
    start = weight + row.to(tl.int64)[:, None] * width
    summed = tl.zeros([rows, block], dtype=tl.float32)
    for first in range(0, width, block):
        at = first + tl.arange(0, block)
        inside = at < width
        number = tl.load(inputs + at, mask=inside, other=0.0).to(tl.float32)
        part = tl.load(start + at[None, :], mask=is_row[:, None] & inside[None, :], other=0)
        summed += part.to(tl.float32) * number[None, :]
    product = tl.sum(summed, 1)
    if has_scales:
        product *= tl.load(scales + row, mask=is_row, other=0.0).to(tl.float32) * factor
    tl.store(output + row, product.to(output.dtype.element_ty), mask=is_row)


@triton.jit
def _row_gated(inputs, gate, up, output, width, count, rows: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = row < count
    kind = output.dtype.element_ty
    start = row.to(tl.int64)[:, None] * width
    opened = tl.zeros([rows, block], dtype=tl.float32)
    summed = tl.zeros([rows, block], dtype=tl.float32)
    for first in range(0, width, block):
        at = first + tl.arange(0, block)
        inside = at < width
        wanted = is_row[:, None] & inside[None, :]
        number = tl.load(inputs + at, mask=inside, other=0.0).to(tl.float32)[None, :]
        opened += tl.load(gate + start + at[None, :], mask=wanted, other=0.0).to(tl.float32) * number
        summed += tl.load(up + start + at[None, :], mask=wanted, other=0.0).to(tl.float32) * number
    wide = tl.sum(opened, 1).to(kind).to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(kind).to(tl.float32)
    tl.store(output + row, (silu * tl.sum(summed, 1).to(kind).to(tl.float32)).to(kind), mask=is_row)


def row_times(inputs: Tensor, weight: Tensor, scales: Tensor | None = None, factor: float = 1.0) -> Tensor:
    """One row `inputs` (1, K) times `weight` (N, K), in its dtype or int8: (1, N), summed in float32.

    `scales` (N,), times `factor`: what the rows of codes are multiplied by.
    """
    count, width = weight.shape
    output = torch.empty(1, count, dtype=inputs.dtype, device=inputs.device)
    _row_times[(triton.cdiv(count, ROWS_OF_WEIGHT),)](
        inputs, weight, inputs if scales is None else scales, output, width, count, factor,
        has_scales=scales is not None, rows=ROWS_OF_WEIGHT, block=INPUTS * (2 if weight.dtype == torch.int8 else 1),
        num_warps=WARPS,
    )  # fmt: skip
    return output


def row_gated(inputs: Tensor, gate: Tensor, up: Tensor) -> Tensor:
    """silu(`inputs` `gate`^T) * (`inputs` `up`^T) of one row (1, K) and two weights (N, K): (1, N)."""
    count, width = gate.shape
    output = torch.empty(1, count, dtype=inputs.dtype, device=inputs.device)
    rows = ROWS_OF_WEIGHT // 2
    _row_gated[(triton.cdiv(count, rows),)](
        inputs, gate, up, output, width, count, rows=rows, block=INPUTS, num_warps=WARPS
    )  # fmt: skip
    return output


@triton.jit
def _times_int8(  # budget: a kernel's operands
    inputs, codes, scales, output, num_rows, width, count, factor, group: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    is_column = column < count
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    is_row = row < num_rows
    kind = inputs.dtype.element_ty
    groups = 1 if group == 0 else tl.cdiv(width, group)
    summed = tl.zeros([rows, columns], dtype=tl.float32)
    for first in range(0, width, block):
        at = first + tl.arange(0, block)
        inside = at < width
        number = tl.load(inputs + row[:, None] * width + at[None, :], mask=is_row[:, None] & inside[None, :], other=0.0)
        wanted = inside[:, None] & is_column[None, :]
        part = tl.load(codes + column.to(tl.int64)[None, :] * width + at[:, None], mask=wanted, other=0).to(tl.float32)
        if group != 0:
            part *= tl.load(scales + column[None, :] * groups + (at // group)[:, None], mask=wanted, other=0.0).to(
                tl.float32
            )
        summed = tl.dot(number, part.to(kind), summed, input_precision="ieee")
    if group == 0:
        summed *= tl.load(scales + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    summed *= factor
    place = output + row.to(tl.int64)[:, None] * count + column[None, :]
    tl.store(place, summed.to(kind), mask=is_row[:, None] & is_column[None, :])


def times_int8(inputs: Tensor, codes: Tensor, scales: Tensor, group_size: int, factor: float) -> Tensor:
    """`inputs` (M, K) times a weight in 8 bits: `codes` int8 (N, K), times `scales` (N, groups) and `factor`: (M, N).

    `group_size`: inputs that share a scale; 0: each row of codes has one.
    """
    num_rows, width = inputs.shape
    if num_rows == 1 and group_size == 0:
        return row_times(inputs, codes, scales, factor)
    count = codes.shape[0]
    output = torch.empty(num_rows, count, dtype=inputs.dtype, device=inputs.device)
    rows = 16 if num_rows <= 16 else 32
    grid = (triton.cdiv(count, COLUMNS), triton.cdiv(num_rows, rows))
    _times_int8[grid](
        inputs, codes, scales, output, num_rows, width, count, factor, group=group_size, rows=rows, columns=COLUMNS,
        block=128, num_warps=4,
    )  # fmt: skip
    return output


@triton.jit
def _times_int4(  # budget: a kernel's operands
    inputs, codes, scales, levels, output, num_rows, width, count, num_bytes, groups, group: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    is_column = column < count
    row = tl.program_id(1) * rows + tl.arange(0, rows)
    is_row = row < num_rows
    kind = inputs.dtype.element_ty
    summed = tl.zeros([rows, columns], dtype=tl.float32)
    for first in range(0, num_bytes, block):
        byte = first + tl.arange(0, block)
        wanted = (byte < num_bytes)[:, None] & is_column[None, :]
        packed = tl.load(codes + column.to(tl.int64)[None, :] * num_bytes + byte[:, None], mask=wanted, other=0)
        low = byte // 32 * 64 + byte % 32  # the input of its low half; that of the high half is 32 further
        for half in tl.static_range(2):
            at = low + 32 * half
            inside = at < width
            number = tl.load(
                inputs + row[:, None] * width + at[None, :], mask=is_row[:, None] & inside[None, :], other=0.0
            )
            part = tl.load(levels + ((packed >> (4 * half)) & 15).to(tl.int32))
            scale = tl.load(scales + column[None, :] * groups + (at // group)[:, None],
                            mask=inside[:, None] & is_column[None, :], other=0.0)  # fmt: skip
            summed = tl.dot(number, (part * scale.to(tl.float32)).to(kind), summed, input_precision="ieee")
    place = output + row.to(tl.int64)[:, None] * count + column[None, :]
    tl.store(place, summed.to(kind), mask=is_row[:, None] & is_column[None, :])


@triton.jit
def _row_times_int4(  # budget: a kernel's operands
    inputs, codes, scales, levels, output, width, count, num_bytes, groups, group: tl.constexpr,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    is_row = row < count
    start = codes + row.to(tl.int64)[:, None] * num_bytes
    summed = tl.zeros([rows, block], dtype=tl.float32)
    for first in range(0, num_bytes, block):
        byte = first + tl.arange(0, block)
        packed = tl.load(start + byte[None, :], mask=is_row[:, None] & (byte < num_bytes)[None, :], other=0)
        low = byte // 32 * 64 + byte % 32
        for half in tl.static_range(2):
            at = low + 32 * half
            inside = at < width
            number = tl.load(inputs + at, mask=inside, other=0.0).to(tl.float32)[None, :]
            part = tl.load(levels + ((packed >> (4 * half)) & 15).to(tl.int32))
            scale = tl.load(scales + row[:, None] * groups + (at // group)[None, :],
                            mask=is_row[:, None] & inside[None, :], other=0.0)  # fmt: skip
            summed += part * scale.to(tl.float32) * number
    tl.store(output + row, tl.sum(summed, 1).to(output.dtype.element_ty), mask=is_row)


def times_int4(inputs: Tensor, codes: Tensor, scales: Tensor, levels: Tensor, group_size: int) -> Tensor:
    """`inputs` (M, K) times a weight in 4 bits: (M, N).

    `codes` uint8 (N, ceil(K / 64) * 32), packed as `blockwise.pack_int4` says; `scales` (N, ceil(K / `group_size`));
    `levels` float32 (16,): what the codes stand for.
    """
    num_rows, width = inputs.shape
    count, num_bytes = codes.shape
    output = torch.empty(num_rows, count, dtype=inputs.dtype, device=inputs.device)
    if num_rows == 1:
        _row_times_int4[(triton.cdiv(count, ROWS_OF_WEIGHT),)](
            inputs, codes, scales, levels, output, width, count, num_bytes, scales.shape[1], group=group_size,
            rows=ROWS_OF_WEIGHT, block=INPUTS // 2, num_warps=WARPS,
        )  # fmt: skip
        return output
    rows = 16 if num_rows <= 16 else 32
    grid = (triton.cdiv(count, COLUMNS), triton.cdiv(num_rows, rows))
    _times_int4[grid](
        inputs, codes, scales, levels, output, num_rows, width, count, num_bytes, scales.shape[1], group=group_size,
        rows=rows, columns=COLUMNS, block=64, num_warps=4,
    )  # fmt: skip
    return output
