"""The tree of ids beside a slow search through all of them."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from baichuan2.engine.prefix_tree import BYTES_OF_ID, Block, num_common

# few ids, some of which differ in one byte alone
IDS = st.lists(st.sampled_from([0, 1, 2, 256, 257, 65_536, 125_695]), max_size=6)


def key_of(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()


def slow_num_common(left: list[int], right: list[int]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


def tree_of(texts: list[list[int]]) -> Block:
    root = Block(b"", -1, None)
    for page, ids in enumerate(texts):
        if ids and root.find(key_of(ids)) is None:
            root.add(Block(key_of(ids), page, root))
    return root


@given(IDS, IDS)
def test_as_many_ids_are_common_as_a_slow_look_finds(left: list[int], right: list[int]) -> None:
    assert num_common(key_of(left), key_of(right)) == slow_num_common(left, right)


@given(st.lists(IDS, max_size=12), IDS)
def test_nobody_has_more_in_common_than_the_closest(texts: list[list[int]], ids: list[int]) -> None:
    root = tree_of(texts)
    most = max((slow_num_common(text, ids) for text in texts), default=0)
    found = root.closest(key_of(ids))
    assert (0 if found is None else num_common(found.key, key_of(ids))) == most
    assert (found is None) == (not any(texts))


@given(st.lists(IDS, max_size=12), IDS.filter(bool))
def test_longer_and_shorter_ones_are_found(texts: list[list[int]], ids: list[int]) -> None:
    root = tree_of(texts)
    longer = root.begins_with(key_of(ids))
    assert (longer is not None) == any(text[: len(ids)] == ids for text in texts)
    assert longer is None or longer.key.startswith(key_of(ids))
    for block in root.beginnings_of(key_of(ids)):
        assert len(block.key) < len(ids) * BYTES_OF_ID
        assert key_of(ids).startswith(block.key)
    assert (root.find(key_of(ids)) is not None) == (ids in texts)


@given(st.lists(IDS.filter(bool), min_size=1, max_size=12, unique_by=tuple), st.data())
def test_what_was_removed_is_not_found(texts: list[list[int]], data: st.DataObject) -> None:
    root = tree_of(texts)
    gone = data.draw(st.sampled_from(texts))
    block = root.find(key_of(gone))
    assert block is not None
    block.remove()
    left = [ids for ids in texts if ids != gone]
    assert root.find(key_of(gone)) is None
    for ids in texts:
        closest = root.closest(key_of(ids))
        most = max((slow_num_common(other, ids) for other in left), default=0)
        assert (0 if closest is None else num_common(closest.key, key_of(ids))) == most
