"""Which examples share a row of fixed length: best fit, longest first."""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack"]

BLOCK = 1 << 16  # examples whose numbers are Python objects at one time


def pack(lengths: NDArray[np.int64], row_length: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of examples, row behind row, and where each row ends in them; every example stands in one row.

    Each example, the longest first, goes into the fullest row that has room for it. Examples of one length come in an
    order that `seed` draws, and so do rows, and examples in a row. No length may exceed `row_length`.
    """
    random = np.random.default_rng(seed)
    drawn = random.permutation(len(lengths))
    order = drawn[np.argsort(-lengths[drawn], kind="stable")]
    row_of = np.empty(len(lengths), dtype=np.int64)
    num_rows = 0
    rows_with_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of rows_with_room, sorted
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        rows = []
        for length in lengths[block].tolist():
            assert length <= row_length, "an example is longer than a row"
            place = bisect_left(rooms, length)
            if place < len(rooms):
                room = rooms[place]
                row = rows_with_room[room].pop()
                if not rows_with_room[room]:
                    del rows_with_room[room], rooms[place]
            else:
                room, row = row_length, num_rows
                num_rows += 1
            rows.append(row)
            if room > length:
                if room - length not in rows_with_room:
                    rows_with_room[room - length] = []
                    insort(rooms, room - length)
                rows_with_room[room - length].append(row)
        row_of[block] = rows
    row_of = random.permutation(num_rows)[row_of] if num_rows else row_of
    mixed = np.lexsort((random.permutation(len(lengths)), row_of)).astype(np.int64)
    return mixed, np.cumsum(np.bincount(row_of, minlength=num_rows), dtype=np.int64)
