"""Pages of many sequences: cases one by one, and random lives of a pool beside a slow record of what was written."""

import random
import resource
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from baichuan2.engine.pages import PagePool, PageShape, PageTable
from baichuan2.errors import ContextLengthError, SettingsError
from baichuan2.kernels.steps import PAGE_TOKENS

SHAPE = PageShape(num_layers=2, num_heads=2, head_dim=16, dtype=torch.float32)
INT8 = PageShape(num_layers=2, num_heads=2, head_dim=16, dtype=torch.bfloat16, is_int8=True)
CONTEXT = 3 * PAGE_TOKENS - 20


def pool_of(num_pages: int, shape: PageShape = SHAPE) -> PagePool:
    """A pool of so many pages, nothing in which can be taken for what somebody wrote."""
    pool = PagePool(shape, cache_bytes=num_pages * shape.page_bytes, max_length=CONTEXT)
    for part in parts_of(pool):
        part.fill_(99 if part.dtype == torch.int8 else torch.nan)
    return pool


def parts_of(pool: PagePool) -> list[Tensor]:
    """The tensors of all layers' keys and values."""
    return [part for layer in pool.caches for parts in layer for part in parts]


def states_of(ids: Sequence[int], part: Tensor, number: int) -> Tensor:
    """What tokens have in part `number` of a cache, (H, T, ...): as keys do, it tells of all tokens up to there."""
    width = part.shape[1] * part.shape[3]
    factors = np.cumprod(np.full(len(ids), 0x9E3779B97F4A7C15 + 2 * number, dtype=np.uint64))
    so_far = np.cumsum((np.asarray(ids, dtype=np.uint64) + np.uint64(1)) * factors)  # modulo 2^64
    digits = so_far[:, None] * np.arange(1, 2 * width, 2, dtype=np.uint64) >> np.uint64(58)  # 0 to 63
    states = torch.from_numpy(digits.astype(np.int64)).view(len(ids), *part.shape[1::2])
    return states.transpose(0, 1).to(part.dtype)


def write(pool: PagePool, table: PageTable, ids: Sequence[int]) -> None:
    """Puts the states of `ids` behind the tokens of a table, whose room is reserved, as a step does."""
    start, whole = table.num_tokens, [*table.token_ids, *ids]
    for number, part in enumerate(parts_of(pool)):
        states = states_of(whole, part, number)
        at = start
        while at < len(whole):
            page, end = at // PAGE_TOKENS, min((at // PAGE_TOKENS + 1) * PAGE_TOKENS, len(whole))
            part[table.pages[page], :, at % PAGE_TOKENS : end - page * PAGE_TOKENS] = states[:, at:end]
            at = end
    table.advance(ids)


def is_held(pool: PagePool, table: PageTable, ids: Sequence[int]) -> bool:
    """Whether the table has the states of just these tokens."""
    if list(table.token_ids) != list(ids) or table.num_tokens != len(ids):
        return False
    for number, part in enumerate(parts_of(pool)):
        found = torch.cat([part[page] for page in table.pages] or [part[0, :, :0]], dim=1)[:, : len(ids)]
        if not torch.equal(found, states_of(ids, part, number)):
            return False
    return True


def opened(pool: PagePool, ids: Sequence[int]) -> PageTable:
    """A table that holds these tokens."""
    table, num_reused = pool.match(ids)
    assert table.reserve(len(ids) - num_reused)
    write(pool, table, ids[num_reused:])
    return table


def text(seed: int, length: int) -> list[int]:
    """Random ids."""
    return random.Random(seed).choices(range(125_696), k=length)


@pytest.mark.parametrize("shape", [SHAPE, INT8])
def test_the_next_turn_finds_the_last_one(shape: PageShape) -> None:
    pool, first = pool_of(4, shape), text(0, 300)
    opened(pool, first).free()
    table, num_reused = pool.match([*first, 1, 2, 3])
    assert num_reused == 300
    assert is_held(pool, table, first)
    assert pool.statistics().total_copied_tokens == 0  # nobody else wants that page


@pytest.mark.parametrize("shape", [SHAPE, INT8])
@pytest.mark.parametrize("is_ended", [False, True])
def test_a_system_text_is_shared(shape: PageShape, is_ended: bool) -> None:
    """Its full page by both, of the other page each has its own."""
    pool, system = pool_of(6, shape), text(0, 300)
    first = opened(pool, [*system, *text(1, 50)])
    if is_ended:
        first.free()
    second, num_reused = pool.match([*system, *text(2, 50)])
    assert num_reused == 300
    assert pool.statistics().total_copied_tokens == 44
    third, num_reused = pool.match([*system, *text(3, 50)])
    assert num_reused == 300
    assert second.pages[0] == third.pages[0]
    assert second.pages[1] != third.pages[1]
    for number, table in enumerate((second, third)):
        assert table.reserve(200)
        write(pool, table, text(4 + number, 200))
    assert is_held(pool, second, [*system, *text(4, 200)])
    assert is_held(pool, third, [*system, *text(5, 200)])
    assert is_ended or is_held(pool, first, [*system, *text(1, 50)])


@pytest.mark.parametrize(
    ("held", "asked", "reused"),
    [
        (10, 10, 9),
        (256, 256, 255),
        (257, 257, 256),
        (300, 256, 255),
        (300, 257, 256),
        (512, 512, 511),
        (5, 1, 0),
        (5, 0, 0),
    ],
)
@pytest.mark.parametrize("is_ended", [False, True])
def test_the_last_token_is_always_computed(held: int, asked: int, reused: int, is_ended: bool) -> None:
    """Else there were no logits to choose the first token of the reply by."""
    pool, ids = pool_of(6), text(0, held)
    first = opened(pool, ids)
    if is_ended:
        first.free()
    table, num_reused = pool.match(ids[:asked])
    assert num_reused == reused
    assert is_held(pool, table, ids[:reused])


def test_the_longest_beginning_is_found_among_many() -> None:
    pool, system = pool_of(40), text(0, 200)
    tables = [opened(pool, [*system[: 190 - 7 * number], *text(number + 1, 20)]) for number in range(20)]
    for table in tables[::2]:
        table.free()
    for number in range(20):
        table, num_reused = pool.match([*system[: 190 - 7 * number], *text(number + 1, 20), 5])
        assert num_reused == 210 - 7 * number
        table.free()
    table, num_reused = pool.match([*system[:188], 5, 6])
    assert num_reused == 188
    assert is_held(pool, table, system[:188])


def test_what_was_unused_the_longest_goes_first_and_ends_before_beginnings() -> None:
    pool = pool_of(6)
    for seed in (1, 2):
        opened(pool, text(seed, 500)).free()
    pool.match([*text(1, 500), 1])[0].free()  # now the second is the older one
    wanted = opened(pool, text(3, 700))
    assert pool.match([*text(2, 500), 1])[1] == 256  # its end is gone, its beginning is not
    assert pool.match([*text(1, 500), 1])[1] == 500
    assert is_held(pool, wanted, text(3, 700))
    assert pool.statistics().total_evicted_pages == 1


def test_what_is_copied_from_counts_as_used() -> None:
    pool = pool_of(5)
    for seed in (1, 2):
        opened(pool, text(seed, 200)).free()
    table, num_reused = pool.match([*text(1, 100), 1])
    assert num_reused == 100
    opened(pool, text(3, 600))  # two pages are free, for the third somebody must go
    assert pool.statistics().total_evicted_pages == 1
    assert pool.match([*text(1, 200), 1])[1] == 200
    assert pool.match([*text(2, 200), 1])[1] == 0
    assert is_held(pool, table, text(1, 100))


def test_who_ends_within_a_kept_text_leaves_that_one_as_used() -> None:
    pool, shorter = pool_of(4), text(1, 200)[:100]
    table = opened(pool, shorter)
    for seed in (1, 2):
        opened(pool, text(seed, 200)).free()
    table.free()
    opened(pool, text(3, 600))  # two pages are free
    assert pool.match([*text(1, 200), 1])[1] == 200
    assert pool.match([*text(2, 200), 1])[1] == 0


def test_equal_tokens_computed_twice_are_held_once() -> None:
    pool, ids = pool_of(8), text(0, 600)
    tables = [pool.match(ids)[0] for _ in range(2)]  # both before either has written
    for table in tables:
        assert table.reserve(600)
        write(pool, table, ids)
    for table in tables:
        assert table.reserve(0)
    assert tables[0].pages[:2] == tables[1].pages[:2]
    assert pool.num_free_tokens == 4 * PAGE_TOKENS
    assert pool.num_used_tokens == 600 + 600 - 512
    for table in tables:
        assert is_held(pool, table, ids)
        table.free()
    assert pool.statistics().num_kept_pages == 3
    assert pool.num_used_tokens == 0


def test_rejected_guesses_are_not_found() -> None:
    pool, ids = pool_of(6), text(0, 250)
    table = opened(pool, ids)
    assert table.reserve(10)
    write(pool, table, text(1, 10))  # into the next page
    table.crop(252)
    assert table.reserve(6)
    write(pool, table, text(2, 6))
    wanted = [*ids, *text(1, 2), *text(2, 6)]
    assert is_held(pool, table, wanted)
    assert pool.match([*ids, *text(1, 10), 3])[1] == 252
    assert pool.match([*wanted, 3])[1] == 258
    with pytest.raises(ValueError, match="of 258 tokens not 255 can be kept: full pages may be shared"):
        table.crop(255)
    with pytest.raises(ValueError, match="of 258 tokens not 259 can be kept"):
        table.crop(259)
    table.crop(256)
    assert is_held(pool, table, wanted[:256])


def test_where_nothing_is_free_nothing_is_taken() -> None:
    pool = pool_of(3)
    first = opened(pool, text(0, 300))
    second = opened(pool, text(1, 256))
    assert pool.num_free_tokens == 0
    assert not first.reserve(300)
    assert not second.reserve(1)
    assert len(first.pages) == 2
    assert first.reserve(212)
    third, num_reused = pool.match([*text(0, 290), 1])
    assert num_reused == 256  # there is no page for a copy of the rest
    assert not third.reserve(35)
    second.free()
    assert third.reserve(35)
    assert is_held(pool, first, text(0, 300))
    assert is_held(pool, third, text(0, 256))


def test_the_only_page_left_is_taken_and_not_copied() -> None:
    pool = pool_of(3)
    kept = opened(pool, text(0, 100))
    full = opened(pool, text(1, 512))
    kept.free()
    table, num_reused = pool.match([*text(0, 60), 1])
    assert num_reused == 60
    assert is_held(pool, table, text(0, 60))
    assert pool.num_free_tokens == 0
    assert is_held(pool, full, text(1, 512))


def test_wrong_calls_are_refused() -> None:
    pool = pool_of(4)
    table = opened(pool, text(0, 100))
    with pytest.raises(ContextLengthError, match="749 tokens are more than the model's context of 748"):
        table.reserve(649)
    assert table.reserve(648)
    with pytest.raises(ValueError, match="room is reserved for"):
        table.reserve(-1)
    with pytest.raises(ValueError, match="no room is reserved for 669 tokens after 100"):
        table.advance(range(669))
    table.free()
    table.free()
    for refused in (lambda: table.reserve(1), lambda: table.advance([1])):
        with pytest.raises(ValueError, match="room is reserved"):
            refused()
    assert pool.num_free_tokens == 4 * PAGE_TOKENS


@pytest.mark.parametrize(("shape", "of_page"), [(SHAPE, 2 * 2 * 2 * 256 * 16 * 4), (INT8, 2 * 2 * 2 * 256 * (16 + 4))])
def test_the_pages_fit_into_the_bytes_given(shape: PageShape, of_page: int) -> None:
    pool = PagePool(shape, cache_bytes=7 * of_page - 1, max_length=CONTEXT)
    assert shape.page_bytes == of_page
    assert pool.num_pages == 6
    assert sum(part.numel() * part.element_size() for part in parts_of(pool)) == 6 * of_page
    assert shape.bytes_of(CONTEXT) == shape.bytes_of(513) == 3 * of_page
    PagePool(shape, cache_bytes=3 * of_page, max_length=CONTEXT)


@pytest.mark.parametrize("cache_bytes", [3 * 2**17 - 1, 1, 0, -5])
def test_less_than_a_context_is_refused(cache_bytes: int) -> None:
    with pytest.raises(SettingsError, match=r"a context of 748 tokens takes 0\.4 MB, so give at least that"):
        PagePool(SHAPE, cache_bytes=cache_bytes, max_length=CONTEXT)


def test_more_than_the_system_has_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"the system refuses .* for keys and values: give fewer"):
        PagePool(SHAPE, cache_bytes=2**60, max_length=CONTEXT)


def test_pages_take_no_memory_before_they_are_written() -> None:
    """As a budget is given for the busiest hour."""
    shape = PageShape(num_layers=2, num_heads=32, head_dim=128, dtype=torch.bfloat16)
    before = resident_bytes()
    pool = PagePool(shape, cache_bytes=2**31, max_length=4096)
    table, _ = pool.match([1])
    assert table.reserve(4096)
    assert resident_bytes() - before < 2**25
    assert pool.num_pages == 256


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


class Life:
    """A pool, the tables that are open with their texts, and every text that was ever held."""

    def __init__(self, seed: int, num_pages: int, shape: PageShape) -> None:
        self.random = random.Random(seed)
        self.pool = pool_of(num_pages, shape)
        self.open: list[tuple[PageTable, list[int]]] = []
        self.num_full: dict[PageTable, int] = {}  # pages known to be full
        self.ended: list[list[int]] = []
        self.num_refused = 0

    def new_text(self) -> list[int]:
        """Mostly some text that was there already, up to somewhere, and on in another way."""
        texts = [*self.ended, *(ids for _, ids in self.open)]
        start: list[int] = []
        if texts and self.random.random() < 0.9:
            start = self.random.choice(texts)
            cut = self.random.choice([len(start), 255, 256, 257, 511, 512, 513, self.random.randrange(CONTEXT)])
            start = start[:cut]
        end = self.random.choices(range(3), k=self.random.choice([0, 1, 2, 40, 256, 300]))
        return [*start, *end][:CONTEXT]

    def join(self) -> None:
        ids = self.new_text()
        found_at_least = self.surely_found(ids)
        longest = max([common(ids[:-1], other) for other in self.ended + [ids for _, ids in self.open]], default=0)
        was_full = self.pool.num_free_tokens == 0
        has_room = self.pool.has_room(ids)
        table, num_reused = self.pool.match(ids)
        self.num_full = {table: len(held) // PAGE_TOKENS for table, held in self.open}
        assert num_reused <= longest
        assert num_reused >= (found_at_least // PAGE_TOKENS * PAGE_TOKENS if was_full else found_at_least)
        assert is_held(self.pool, table, ids[:num_reused])
        assert table.reserve(len(ids) - num_reused) == has_room
        if has_room:
            write(self.pool, table, ids[num_reused:])
            self.open.append((table, ids))
            self.num_full[table] = num_reused // PAGE_TOKENS
        else:
            self.num_refused += 1
            table.free()

    def surely_found(self, ids: list[int]) -> int:
        """As much as an open table has; or one that has ended, while nothing was evicted."""
        texts = [ids for _, ids in self.open]
        if self.pool.statistics().total_evicted_pages == 0:
            texts += self.ended
        return max((common(ids[:-1], other) for other in texts), default=0)

    def go_on(self) -> None:
        """Some tokens more, of which perhaps not all are taken."""
        table, ids = self.random.choice(self.open)
        count = self.random.choice([1, 1, 2, 7, 64])
        before = len(ids)
        if before + count > CONTEXT:
            return
        self.num_full[table] = before // PAGE_TOKENS
        if not table.reserve(count):
            self.num_refused += 1
            return
        new = self.random.choices(range(3), k=count)
        write(self.pool, table, new)
        taken = self.random.randint(1, count)
        table.crop(before + taken)
        ids += new[:taken]

    def leave(self) -> None:
        table, ids = self.open.pop(self.random.randrange(len(self.open)))
        assert is_held(self.pool, table, ids)
        table.free()
        self.ended.append(ids)

    def check(self) -> None:
        """Every open table has what it wrote; every page is in one place, or shared with good reason."""
        pool = self.pool
        owned = Counter(page for table, _ in self.open for page in table.pages[self.num_full[table] :])
        shared = {page for table, _ in self.open for page in table.pages[: self.num_full[table]]}
        assert set(owned.values()) <= {1}
        assert not owned.keys() & shared
        assert pool.num_free_tokens == (pool.num_pages - len(owned) - len(shared)) * PAGE_TOKENS
        assert all(0 <= page < pool.num_pages for page in owned.keys() | shared)
        statistics = pool.statistics()
        assert statistics.num_free_pages + statistics.num_kept_pages == pool.num_free_tokens // PAGE_TOKENS
        assert statistics.num_tables == len(self.open)
        for table, ids in self.open:
            assert is_held(pool, table, ids)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two texts have in common, counted from the first."""
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


@pytest.mark.parametrize(("num_pages", "shape"), [(4, SHAPE), (9, SHAPE), (9, INT8), (200, SHAPE)])
@pytest.mark.parametrize("seed", range(2))
def test_a_random_life_holds_what_was_written(seed: int, num_pages: int, shape: PageShape) -> None:
    life = Life(seed, num_pages, shape)
    for _ in range(100):
        action = life.random.choice([life.join, life.go_on, life.go_on, life.leave])
        if not life.open:
            action = life.join
        action()
        life.check()
    statistics = life.pool.statistics()
    assert statistics.total_matched_tokens > 1000
    assert statistics.total_copied_tokens > 100
    assert (life.num_refused > 0, statistics.total_evicted_pages > 0) == (num_pages < 200, num_pages < 200)
    while life.open:
        life.leave()
    life.check()
    life.pool.forget()
    assert life.pool.statistics().num_free_pages == num_pages
    assert life.pool.match([*life.ended[0], 1])[1] == 0
