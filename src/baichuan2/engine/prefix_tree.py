"""A tree of token ids in blocks of a page each: which pages hold the keys and values of which beginnings.

Ids themselves are compared, never only hashes of them: nobody finds what he did not write himself, token for token.
A path from the root spells a beginning; the last block of a path may have fewer ids than a page has places.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

__all__ = ["BYTES_OF_ID", "Block", "num_common"]

BYTES_OF_ID = 4


class Block:
    """A page and the ids whose keys and values it holds; they follow the ids of all its parents."""

    __slots__ = ("_blocks", "_sorted", "key", "num_users", "page", "parent")

    def __init__(self, key: bytes, page: int, parent: "Block | None") -> None:
        """`key`: the ids, of BYTES_OF_ID each. The block is not found before `parent.add` has it."""
        self.key = key
        self.page = page
        self.parent = parent
        self.num_users = 0
        """Open tables that have the page."""
        self._blocks: dict[bytes, Block] = {}
        self._sorted: list[bytes] = []

    def add(self, block: "Block") -> None:
        """Another block follows; its key must be new here."""
        assert block.parent is self
        assert block.key not in self._blocks
        self._blocks[block.key] = block
        insort(self._sorted, block.key)

    def remove(self) -> None:
        """Takes the block, which none follows, out of the tree."""
        assert self.parent is not None
        assert not self._blocks
        del self.parent._blocks[self.key]
        del self.parent._sorted[bisect_left(self.parent._sorted, self.key)]

    def find(self, key: bytes) -> "Block | None":
        """The block that follows with just these ids."""
        return self._blocks.get(key)

    def closest(self, key: bytes) -> "Block | None":
        """Of the blocks that follow, one that has the most ids in common with `key`, counted from the first.

        In order, two neighbours have more in common than either has with anybody beyond: two looks are enough.
        """
        at = bisect_left(self._sorted, key)
        near = self._sorted[max(at - 1, 0) : at + 1]
        return self._blocks[max(near, key=lambda other: num_common(other, key))] if near else None

    def begins_with(self, key: bytes) -> "Block | None":
        """A block that follows with these ids and, it may be, more."""
        at = bisect_left(self._sorted, key)
        is_found = at < len(self._sorted) and self._sorted[at].startswith(key)
        return self._blocks[self._sorted[at]] if is_found else None

    def beginnings_of(self, key: bytes) -> Iterator["Block"]:
        """Blocks that follow with fewer ids than `key`, which begins with all of theirs."""
        at = bisect_left(self._sorted, key)
        for other in reversed(self._sorted[:at]):
            if not key.startswith(other):
                return  # a shorter one beyond is found when this one is gone
            yield self._blocks[other]


def num_common(left: bytes, right: bytes) -> int:
    """How many ids two keys have in common, counted from the first."""
    low, high = 0, min(len(left), len(right)) // BYTES_OF_ID
    while low < high:
        middle = (low + high + 1) // 2
        if left[low * BYTES_OF_ID : middle * BYTES_OF_ID] == right[low * BYTES_OF_ID : middle * BYTES_OF_ID]:
            low = middle
        else:
            high = middle - 1
    return low
