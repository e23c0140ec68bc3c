"""Keys and values of many sequences in the pages of one pool: a fixed number of bytes, shared where texts begin alike.

A page holds 256 tokens of all layers. A full one never changes any more: any number of sequences share it. The page
that a sequence is still writing is its own; who goes on from within a page gets a copy. What a sequence has left is
kept for prompts that begin with it, until its pages are wanted: then those unused the longest go first, the end of a
text before its beginning. Steps in C read and write the pages where they lie (`kernels.steps`). One thread uses a pool.
"""

from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan2.engine.prefix_tree import BYTES_OF_ID, Block, num_common
from baichuan2.errors import ContextLengthError, SettingsError
from baichuan2.kernels.steps import PAGE_TOKENS

__all__ = ["PagePool", "PageShape", "PageTable", "PoolStatistics"]

BYTES_OF_SCALE = 4


@dataclass(frozen=True, kw_only=True)
class PageShape:
    """What the keys and values of a token are: (H, D) each in every layer, as numbers of `dtype` or in 8 bits."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    is_int8: bool = False
    """As codes, int8 (H, D), with scales, float32 (H, 1)."""

    @property
    def page_bytes(self) -> int:
        """Bytes of a page in all layers."""
        of_head = self.head_dim + BYTES_OF_SCALE if self.is_int8 else self.head_dim * self.dtype.itemsize
        return 2 * self.num_layers * self.num_heads * PAGE_TOKENS * of_head

    def bytes_of(self, num_tokens: int) -> int:
        """Bytes of the pages that so many tokens of one sequence take."""
        return _num_pages(num_tokens) * self.page_bytes

    def empty_pages(self, num_pages: int) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """For each layer the parts of keys and those of values, (num_pages, H, PAGE_TOKENS, ...) each, unwritten."""
        shape = (num_pages, self.num_heads, PAGE_TOKENS)
        parts = [((*shape, self.head_dim), torch.int8), ((*shape, 1), torch.float32)]
        if not self.is_int8:
            parts = [((*shape, self.head_dim), self.dtype)]

        def of_layer() -> tuple[Tensor, ...]:
            return tuple(torch.empty(size, dtype=dtype) for size, dtype in parts)

        return [(of_layer(), of_layer()) for _ in range(self.num_layers)]


@dataclass(frozen=True, kw_only=True)
class PoolStatistics:
    """How full a pool is, and what it has done since its start."""

    num_pages: int
    num_free_pages: int
    """Nothing is kept in them."""
    num_kept_pages: int
    """Kept for prompts to come alone: free as soon as somebody wants them."""
    num_tables: int
    """Sequences that are open."""
    total_matched_tokens: int
    """Tokens of prompts that were there already."""
    total_copied_tokens: int
    """Of these, tokens copied to a page of the sequence's own."""
    total_evicted_pages: int


class PageTable:
    """The pages of one sequence: made by `PagePool.match`, given back by `free`."""

    def __init__(self, pool: "PagePool", root: Block) -> None:
        self.pages: list[int] = []
        """Ids of the pages, in order, for `kernels.steps.Rows` in the next step: `reserve` and `match` may change them.

        No other sequence writes to them."""
        self._pool, self._root = pool, root
        self._ids = array("i")
        self._blocks: list[Block] = []  # of the full pages, which others may have too; the other pages are its own
        self._is_open = True

    @property
    def num_tokens(self) -> int:
        """How many tokens have their keys and values here."""
        return len(self._ids)

    @property
    def token_ids(self) -> Sequence[int]:
        """Those tokens."""
        return self._ids[:]

    def reserve(self, num_new: int) -> bool:
        """Takes pages for `num_new` tokens beyond those held; False, and nothing taken, where too few are free.

        Raises ContextLengthError where the sequence would be longer than the model's context.
        """
        return self._pool._reserve(self, num_new)

    def advance(self, token_ids: Iterable[int]) -> None:
        """Tells that the keys and values of these next tokens are written, for which room was reserved."""
        new = array("i", token_ids)
        if not self._is_open or self.num_tokens + len(new) > len(self.pages) * PAGE_TOKENS:
            raise ValueError(f"no room is reserved for {len(new)} tokens after {self.num_tokens}")
        self._ids.extend(new)

    def crop(self, num_tokens: int) -> None:
        """Keeps the first `num_tokens` tokens: takes back those told since the last `reserve` or `match`, or some.

        Later, the pages that they filled may be others' too.
        """
        if not len(self._blocks) * PAGE_TOKENS <= num_tokens <= self.num_tokens:
            raise ValueError(f"of {self.num_tokens} tokens not {num_tokens} can be kept: full pages may be shared")
        del self._ids[num_tokens:]

    def free(self) -> None:
        """Ends the sequence; its tokens are kept for prompts that begin alike, as long as nobody wants the pages."""
        if self._is_open:
            self._is_open = False
            self._pool._close(self)

    def _key(self, start: int, end: int) -> bytes:
        return self._ids[start:end].tobytes()

    def _rest(self) -> bytes:
        """The ids behind the full pages, those of one page at most."""
        start = len(self._blocks) * PAGE_TOKENS
        return self._key(start, start + PAGE_TOKENS)


class PagePool:
    """All pages, and what is in them."""

    def __init__(self, shape: PageShape, *, cache_bytes: int, max_length: int) -> None:
        """`cache_bytes`: what all pages may take, as memory fills up; `max_length`: of a sequence, the model's context.

        Raises SettingsError where not even one context fits, or where the system refuses so much memory.
        """
        least = shape.bytes_of(max_length)
        if cache_bytes < least:
            raise SettingsError(
                f"{_megabytes(cache_bytes)} for keys and values are too few: a context of {max_length:,} tokens takes "
                f"{_megabytes(least)}, so give at least that"
            )
        self.num_pages = cache_bytes // shape.page_bytes
        self.max_length = max_length
        try:
            self.caches = shape.empty_pages(self.num_pages)
        except RuntimeError as error:  # what is not written yet takes no memory, but there are limits to asking
            raise SettingsError(
                f"the system refuses {_megabytes(cache_bytes)} for keys and values: give fewer, at least "
                f"{_megabytes(least)}"
            ) from error
        self._free = list(reversed(range(self.num_pages)))  # the last one given back is taken first
        self._roots: defaultdict[int, Block] = defaultdict(lambda: Block(b"", -1, None))  # by owner
        # Blocks that no open table has, those unused the longest first. A block stands before its parent: who had both
        # gave this one back first, who has the parent alone takes that away from here. Nothing follows the first one.
        self._kept: OrderedDict[Block, None] = OrderedDict()
        self._tables: dict[Block, set[PageTable]] = {}  # open ones, by their last full page
        self._num_used_blocks = 0
        self._matched = self._copied = self._evicted = 0

    @property
    def num_free_tokens(self) -> int:
        """Places that can be had, at the cost of what is only kept."""
        return self._num_available * PAGE_TOKENS

    @property
    def num_used_tokens(self) -> int:
        """Tokens of the open tables; one that several of them share counts once."""
        own = sum(table.num_tokens - len(table._blocks) * PAGE_TOKENS for table in self._open_tables())
        return self._num_used_blocks * PAGE_TOKENS + own

    def statistics(self) -> PoolStatistics:
        """What became of the pages."""
        return PoolStatistics(
            num_pages=self.num_pages,
            num_free_pages=len(self._free),
            num_kept_pages=len(self._kept),
            num_tables=len(self._open_tables()),
            total_matched_tokens=self._matched,
            total_copied_tokens=self._copied,
            total_evicted_pages=self._evicted,
        )

    def has_room(self, prompt_ids: Sequence[int], owner: int = 0) -> bool:
        """Whether pages can be had for all of a prompt, beside those that `match` would find."""
        found = self._beginning(array("i", prompt_ids[:-1]), self._roots[owner])
        num_kept = sum(block.num_users == 0 for block in found)
        return _num_pages(len(prompt_ids)) - len(found) <= self._num_available - num_kept

    def match(self, prompt_ids: Sequence[int], owner: int = 0) -> tuple[PageTable, int]:
        """A table for a prompt, and how many of its first tokens the table holds already, never the last.

        It is the longest beginning that an open sequence holds or an ended one has left, token for token, of the same
        `owner`: other weights give other keys and values.
        """
        table = PageTable(self, self._roots[owner])
        ids = array("i", prompt_ids[:-1])
        for found in self._beginning(ids, table._root):
            self._use(found)
            table._blocks.append(found)
            table.pages.append(found.page)
        block, start = self._last_block(table), len(table._blocks) * PAGE_TOKENS
        self._tables.setdefault(block, set()).add(table)
        num_reused = start + self._copy_beginning(table, block, ids[start : start + PAGE_TOKENS].tobytes())
        table._ids = ids[:num_reused]
        self._matched += num_reused
        return table, num_reused

    def forget(self) -> None:
        """Keeps nothing of ended sequences any more."""
        while self._kept:
            self._free.append(self._evict())

    @property
    def _num_available(self) -> int:
        return len(self._free) + len(self._kept)

    def _beginning(self, ids: "array[int]", root: Block) -> list[Block]:
        """The full pages of the longest beginning of these ids that there is behind `root`."""
        for other in self._open_tables():
            self._index(other)
        blocks: list[Block] = []
        block = root.find(ids[:PAGE_TOKENS].tobytes()) if len(ids) >= PAGE_TOKENS else None
        while block is not None:
            blocks.append(block)
            start = len(blocks) * PAGE_TOKENS
            is_full = start + PAGE_TOKENS <= len(ids)
            block = block.find(ids[start : start + PAGE_TOKENS].tobytes()) if is_full else None
        return blocks

    def _open_tables(self) -> list[PageTable]:
        return [table for tables in self._tables.values() for table in tables]

    def _reserve(self, table: PageTable, num_new: int) -> bool:
        total = table.num_tokens + num_new
        if not table._is_open or num_new < 0:
            raise ValueError("room is reserved for a sequence that is open, and for none or more tokens")
        if total > self.max_length:
            raise ContextLengthError(f"{total:,} tokens are more than the model's context of {self.max_length:,}")
        self._index(table)
        missing = max(0, _num_pages(total) - len(table.pages))
        if missing > self._num_available:
            return False
        table.pages += [self._take() for _ in range(missing)]
        return True

    def _close(self, table: PageTable) -> None:
        self._index(table)
        parent, own = self._last_block(table), table.pages[len(table._blocks) :]
        self._leave(table, parent)
        key = table._rest()
        if key:
            longer = parent.begins_with(key)
            if longer is None:
                self._add(Block(key, own.pop(0), parent))
            elif longer in self._kept:
                self._kept.move_to_end(longer)
        self._free += reversed(own)
        for block in reversed(table._blocks):
            self._release(block)
        table.pages, table._blocks, table._ids = [], [], array("i")

    def _index(self, table: PageTable) -> None:
        """Lets others have the pages that are full by now; of two pages with the same tokens, one is enough."""
        parent = before = self._last_block(table)
        while table.num_tokens >= (len(table._blocks) + 1) * PAGE_TOKENS:
            number, key = len(table._blocks), table._rest()
            block = parent.find(key)
            if block is None:
                block = Block(key, table.pages[number], parent)
                self._add(block)
            else:
                self._free.append(table.pages[number])
                table.pages[number] = block.page
            self._use(block)
            table._blocks.append(block)
            parent = block
        if parent is not before:
            self._leave(table, before)
            self._tables.setdefault(parent, set()).add(table)

    def _last_block(self, table: PageTable) -> Block:
        return table._blocks[-1] if table._blocks else table._root

    def _leave(self, table: PageTable, block: Block) -> None:
        self._tables[block].remove(table)
        if not self._tables[block]:
            del self._tables[block]

    def _add(self, block: Block) -> None:
        """Puts a new block into the tree; those that hold nothing but its beginning go."""
        assert block.parent is not None
        for shorter in block.parent.beginnings_of(block.key):
            self._drop(shorter)
            self._free.append(shorter.page)
        block.parent.add(block)
        self._kept[block] = None

    def _use(self, block: Block) -> None:
        """One table more has the block's page."""
        if block.num_users == 0:
            del self._kept[block]
            self._num_used_blocks += 1
        block.num_users += 1

    def _release(self, block: Block) -> None:
        block.num_users -= 1
        if block.num_users == 0:
            self._kept[block] = None
            self._num_used_blocks -= 1

    def _take(self) -> int:
        """A page to write to; there must be one."""
        return self._free.pop() if self._free else self._evict()

    def _evict(self) -> int:
        block = next(iter(self._kept))
        self._drop(block)
        self._evicted += 1
        return block.page

    def _drop(self, block: Block) -> None:
        del self._kept[block]
        block.remove()

    def _copy_beginning(self, table: PageTable, parent: Block, key: bytes) -> int:
        """Gives a table a page of its own that begins with ids of `key`; how many. Its last full page is `parent`."""
        block = parent.closest(key)
        page, num_tokens = (-1, 0) if block is None else (block.page, num_common(block.key, key))
        for other in self._tables[parent]:
            common = num_common(other._rest(), key)
            if common > num_tokens:
                block, page, num_tokens = None, other.pages[len(other._blocks)], common
        if num_tokens == 0:
            return 0
        if block is not None and block in self._kept:
            is_whole = len(block.key) == num_tokens * BYTES_OF_ID < PAGE_TOKENS * BYTES_OF_ID
            if is_whole or self._num_available == 1:  # who takes it holds all of it; or no other page is to be had
                self._drop(block)
                self._evicted += not is_whole
                table.pages.append(page)
                return num_tokens
            self._kept.move_to_end(block)  # not to be evicted for its own copy
        if self._num_available == 0:
            return 0
        table.pages.append(self._take())
        self._copy(page, table.pages[-1], num_tokens)
        return num_tokens

    def _copy(self, source: int, target: int, num_tokens: int) -> None:
        for layer in self.caches:
            for parts in layer:
                for part in parts:
                    part[target, :, :num_tokens] = part[source, :, :num_tokens]
        self._copied += num_tokens


def _num_pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_TOKENS)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
