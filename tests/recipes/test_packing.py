import json

import numpy as np
import pytest
from recipes.demo.packing import (
    DocumentEncoder,
    batch_order,
    iter_batches,
    load_rows,
    pack,
    pack_by_length,
    read_documents,
    save_rows,
)
from recipes.demo.tokenizer import train_tokenizer


def example(first: int, size: int, *, learnt_from: int = 0):
    ids = list(range(first, first + size))
    return ids, [-100] * learnt_from + ids[learnt_from:]


def test_each_example_stands_whole_in_one_segment_with_shifted_targets():
    examples = [example(1000 * number, 3 + number % 7, learnt_from=1) for number in range(1, 30)]
    rows = pack(examples, 16)
    found = {}
    for ids, targets, segments in zip(rows.input_ids, rows.targets, rows.segments, strict=True):
        for segment in range(1, segments.max() + 1):
            places = np.flatnonzero(segments == segment)
            assert (np.diff(places) == 1).all()
            found[int(ids[places[0]])] = (ids[places].tolist(), targets[places].tolist())
        assert (ids[segments == 0] == 0).all()
        assert (targets[segments == 0] == -100).all()
    assert len(found) == len(examples)
    for ids, _ in examples:
        assert found[ids[0]] == (ids[:-1], ids[1:])


def test_long_example_is_cut_and_example_without_target_dropped():
    rows = pack([example(10, 40), ([5, 6, 7], [-100, -100, -100]), ([9], [9])], 16)
    assert rows.input_ids.shape == (1, 16)
    assert rows.input_ids[0].tolist() == list(range(10, 26))
    assert rows.targets[0, -1] == 26
    assert rows.num_tokens == rows.num_targets == 16


def test_examples_go_to_the_shortest_row_that_holds_them_or_fill_a_longer_one():
    examples = [example(1, 5), example(1, 9), example(1, 10), example(1, 99)]
    groups = pack_by_length(examples, seed=0, row_lengths=(8, 16))
    assert [group.input_ids.shape for group in groups] == [(1, 8), (2, 16)]
    assert [group.num_tokens for group in groups] == [8, (9 + 4) + 16]


def test_packing_wastes_little_and_loses_nothing():
    draw = np.random.default_rng(0)
    sizes = np.concatenate([draw.integers(8, 60, 600), draw.integers(65, 128, 100)])
    groups = pack_by_length([example(1, int(size)) for size in sizes], seed=0, row_lengths=(64, 128))
    num_places = sum(group.input_ids.size for group in groups)
    assert sum(group.num_tokens for group in groups) == (sizes - 1).sum()
    assert (sizes - 1).sum() / num_places > 0.93  # the long ones alone fill 0.75 of their rows


def test_rows_survive_the_file(tmp_path):
    groups = pack_by_length([example(1, 8), example(1, 12)], seed=0, row_lengths=(8, 16))
    save_rows(groups, tmp_path / "rows.npz")
    again = load_rows(tmp_path / "rows.npz")
    assert len(again) == 2
    for group, other in zip(groups, again, strict=True):
        for name in ("input_ids", "targets", "segments"):
            assert np.array_equal(getattr(group, name), getattr(other, name))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


def test_an_epoch_shows_each_row_once_and_resuming_goes_on_where_it_stopped():
    groups = (pack([example(1, 9)] * 12, 8), pack([example(1, 17)] * 6, 16))
    order = batch_order(groups, tokens_per_step=32, seed=3, epoch=0)
    seen = sorted((group, row) for group, rows in order for row in rows)
    assert seen == [(0, row) for row in range(12)] + [(1, row) for row in range(6)]
    assert batch_order(groups, tokens_per_step=32, seed=3, epoch=1) != order
    whole = iter_batches(groups, tokens_per_step=32, seed=3, first_step=0)
    batches = [next(whole) for _ in range(20)]
    resumed = iter_batches(groups, tokens_per_step=32, seed=3, first_step=13)
    assert [next(resumed) for _ in range(7)] == batches[13:]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join(["法国的首都是巴黎 hello world"] * 50), encoding="utf-8")
    train_tokenizer(folder / "text.txt", folder / "tokenizer.model", vocab_size=480, coverage=1.0)
    return DocumentEncoder(folder / "tokenizer.model")


def test_masked_parts_have_no_loss_and_eos_has(encoder):
    ids, labels = encoder.encode([("法国的首都是", 0), ("巴黎", 1), ("🙂", 0)])
    plain, _ = encoder.encode("法国的首都是巴黎🙂")
    assert ids == plain
    assert ids[-1] == labels[-1] == 2
    learnt = [token_id for token_id in labels[:-1] if token_id != -100]
    assert learnt
    assert encoder._processor.decode(learnt) == "巴黎"


def test_whole_documents_are_learnt_whole(encoder):
    ids, labels = encoder.encode("hello world\n巴黎")
    assert ids == labels


def test_damaged_document_is_named(tmp_path):
    path = tmp_path / "pretrain.jsonl"
    path.write_text('"good"\n' + json.dumps([["part", 2]]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        list(read_documents(path))
