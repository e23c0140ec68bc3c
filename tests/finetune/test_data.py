"""Files become token ids on disk once: right ones, counted, split and packed, with bad rows left out or refused."""

import json
import multiprocessing
import os
import pickle
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baichuan2.errors import DataError, SettingsError, TrainingError
from baichuan2.finetune import preparation
from baichuan2.finetune.data import TrainingData, collate, prepare_data
from baichuan2.finetune.dataset import Conversation, Turn, encode_conversation
from baichuan2.finetune.packing import pack
from baichuan2.finetune.store import StoreWriter
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.settings import FinetuneSettings
from tests.tokenizer_files import GOLDEN_TEXT, golden, tokenizer

TEXTS = ["你好", "再见", "今天天气很好。", "The quick brown fox", "x" * 30, "你好，世界！" * 4, "1 + 1 = 2"]


def talk(index: int) -> dict[str, Any]:
    said = {"from": "gpt", "value": TEXTS[index % 7] * (1 + index % 3)}
    return {"conversations": [{"from": "human", "value": f"{index} {TEXTS[-1 - index % 7]}"}, said]}


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def prepare(folder: Path, rows: list[Any] | str, *, seed: int = 1, **settings: Any) -> TrainingData:
    path = rows if isinstance(rows, str) else write_rows(folder / "data.jsonl", rows)
    return prepare_data(FinetuneSettings(data_path=path, **settings), tokenizer("small"), folder / "store", seed=seed)


def ids_of(item: Any, name: str = "input_ids") -> list[int]:
    return [int(token_id) for token_id in item[name]]


@pytest.mark.filterwarnings("ignore:.*teach no end token")
def test_items_equal_the_official_examples(tmp_path: Path) -> None:
    cases = [case for case in golden(GOLDEN_TEXT / "labels.json") if case["tokenizer"] == "small"]
    checked = 0
    for case in cases:
        if not any(label != IGNORED_LABEL for label in case["labels"][1:]):
            continue
        if not any(turn["from"] != "human" and turn["value"] for turn in case["conversations"]):
            continue
        length = case["model_max_length"]
        settings = {"data_format": "conversations", "protect_roles": False, "model_max_length": max(8, length)}
        data = prepare(tmp_path, [case], **settings)
        num_tokens = sum(case["attention_mask"])
        if length >= 8:
            item = data.train[0]
            shown = case["input_ids"][:num_tokens]
            assert ids_of(item)[: len(shown)] == shown
            assert ids_of(item, "labels") == case["labels"][: len(item["labels"])]
            batch = collate([item], pad_to=length)
            assert batch["input_ids"].tolist() == [case["input_ids"]]
            assert batch["labels"].tolist() == [case["labels"]]
            checked += 1
    assert checked >= 8


def test_text_in_data_cannot_spell_roles(tmp_path: Path) -> None:
    row = {"instruction": "</s><reserved_107>", "output": "a<reserved_106>"}
    assert sum(token_id in (1, 2, 195, 196) for token_id in ids_of(prepare(tmp_path, [row]).train[0])) == 3
    assert sum(ids_of(prepare(tmp_path, [row], protect_roles=False).train[0]).count(i) for i in (2, 195, 196)) == 6


def test_rows_are_counted_and_cut(tmp_path: Path) -> None:
    rows = [talk(index) for index in range(20)] + [{"instruction": "x " * 200, "output": "y"}]
    with pytest.warns(UserWarning, match=r"1 of 21 rows of .* are left out, as all their labels are cut: raise"):
        data = prepare(
            tmp_path,
            [*rows[:20], {"conversations": [{"from": "human", "value": "你" * 200}, {"from": "gpt", "value": "y"}]}],
            model_max_length=64,
        )
    report = data.report
    lengths = [len(data.train[index]["input_ids"]) for index in range(len(data.train))]
    assert (report.num_rows, report.num_examples, report.num_unlearnable) == (21, 20, 1)
    assert report.num_tokens == sum(lengths)
    assert report.num_cut == sum(data.train.store.num_cut(index) > 0 for index in range(20))
    assert report.longest > 200
    assert max(lengths) <= 64
    learnt = sum(label != IGNORED_LABEL for item in data.train for label in item["labels"][1:])
    assert report.num_learnt == learnt


def test_ends_that_are_cut_off_are_warned_of(tmp_path: Path) -> None:
    rows = [{"instruction": "a", "output": "好" * 50}] * 2 + [{"instruction": "a", "output": "b"}]
    with pytest.warns(UserWarning, match=r"2 of 3 examples of .* teach no end token, as they are cut, so the model"):
        prepare(tmp_path, rows, model_max_length=16)


def test_all_labels_cut_stops_the_run(tmp_path: Path) -> None:
    rows = [{"instruction": "你" * 100, "output": "b"}]
    with pytest.raises(DataError, match=r"all labels of all 1 examples are cut: raise --model-max-length 16"):
        prepare(tmp_path, rows, model_max_length=16)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_bad_rows_stop_the_run_or_are_left_out(tmp_path: Path) -> None:
    rows = [talk(0), "{\n", talk(1), {"conversations": 3}, talk(2)]
    with pytest.raises(DataError, match=r"data\.jsonl, line 2: is not JSON: .* \(--max-bad-rows N goes on without"):
        prepare(tmp_path, rows)
    with pytest.raises(DataError, match=r"more than 1 rows are malformed \(--max-bad-rows 1\); the first: .* line 2: "):
        prepare(tmp_path, rows, max_bad_rows=1)
    with pytest.warns(UserWarning, match=r"2 of 5 rows of .* malformed and left out: .* line 2: .*; .* line 4: "):
        data = prepare(tmp_path, rows, max_bad_rows=2)
    assert [data.train.origins(index)[0][-6:] for index in range(3)] == ["line 1", "line 3", "line 5"]
    assert len(data.train) == 3
    with pytest.warns(UserWarning, match="2 of 5 rows"):  # again, when the store is taken as it is
        prepare(tmp_path, rows, max_bad_rows=2)
    with pytest.raises(DataError, match="no example is left to learn from: 1 rows were read, 1 of them malformed"):
        prepare(tmp_path, [{"conversations": 3}], max_bad_rows=5, data_format="sharegpt")


@pytest.mark.parametrize(
    ("row", "objective", "error"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "sft", "holds preference pairs: --objective dpo learns"),
        ({"text": "a"}, "sft", "holds plain text: --objective pretrain learns"),
        (
            {"instruction": "a", "output": "b"},
            "dpo",
            r"needs preference pairs .* holds conversations \(layout alpaca\)",
        ),
        ({"instruction": "a", "output": "b"}, "pretrain", "--objective pretrain needs text, but"),
    ],
)
def test_data_of_another_objective_are_refused(tmp_path: Path, row: Any, objective: Any, error: str) -> None:
    with pytest.raises(DataError, match=error):
        prepare(tmp_path, [row], objective=objective, max_bad_rows=9)


def test_packed_rows_hold_every_example_once(tmp_path: Path) -> None:
    rows = [talk(index) for index in range(50)]
    alone = prepare(tmp_path, rows, model_max_length=64)
    packed = prepare(tmp_path, rows, model_max_length=64, packing=True)
    assert len(packed.train) < 50
    found = []
    for index in range(len(packed.train)):
        item = packed.train[index]
        assert len(item["input_ids"]) <= 64
        examples = packed.train.examples(index)
        assert item["segment_ids"].max() == len(examples)
        for number, example in enumerate(examples, 1):
            chosen = item["segment_ids"] == number
            single = alone.train[int(example)]
            assert item["input_ids"][chosen].tolist() == single["input_ids"].tolist()
            assert item["labels"][chosen].tolist() == [IGNORED_LABEL, *single["labels"][1:].tolist()]
            found.append(int(example))
    assert sorted(found) == list(range(50))
    assert packed.report.utilization == packed.report.num_tokens / (64 * len(packed.train))
    again = prepare(
        tmp_path / "again" if (tmp_path / "again").mkdir() is None else tmp_path,
        rows,
        model_max_length=64,
        packing=True,
    )
    assert again.train.order.tolist() == packed.train.order.tolist()
    assert (
        prepare(tmp_path, rows, model_max_length=64, packing=True, seed=2).train.order.tolist()
        != again.train.order.tolist()
    )


def test_packing_is_tight_and_holds_its_bounds() -> None:
    lengths = np.random.default_rng(0).integers(1, 513, 3000)
    order, ends = pack(lengths, 512, seed=3)
    assert sorted(order.tolist()) == list(range(3000))
    rows = np.split(order, ends[:-1])
    filled = np.array([lengths[row].sum() for row in rows])
    assert filled.max() <= 512
    assert filled.mean() / 512 > 0.97
    assert (filled == 512).mean() > 0.7
    order, ends = pack(np.array([], dtype=np.int64), 512, seed=3)
    assert (order.tolist(), ends.tolist()) == ([], [])


def test_documents_are_a_stream_cut_into_full_rows(tmp_path: Path) -> None:
    texts = ["你好" * (3 + 7 * index) for index in range(6)]
    data = prepare(tmp_path, [{"text": text} for text in texts], objective="pretrain", model_max_length=32)
    small = tokenizer("small")
    stream = [token_id for text in texts for token_id in [*small.encode_text(text), 2]]
    items = [data.train[index] for index in range(len(data.train))]
    found = [token_id for item in items for token_id in ids_of(item)]
    assert found == stream[: len(found)]
    assert len(stream) - len(found) == (len(stream) % 32 == 1)  # one token alone has nothing to learn
    assert {len(item["input_ids"]) for item in items[:-1]} == {32}
    for item in items:
        starts = np.flatnonzero(np.diff(item["segment_ids"], prepend=0))
        expected = item["input_ids"].copy()
        expected[starts] = IGNORED_LABEL
        assert item["labels"].tolist() == expected.tolist()
        assert all(item["input_ids"][start - 1] == 2 for start in starts[1:])
    assert (
        data.train.origins(0)
        == [f"{tmp_path}/data.jsonl, line {line}" for line in (1, 2, 3)][: len(data.train.origins(0))]
    )


def test_a_token_alone_in_the_last_row_is_no_item(tmp_path: Path) -> None:
    size = len(tokenizer("small").encode_text("你好" * 20))  # and an end token
    data = prepare(tmp_path, [{"text": "你好" * 20}], objective="pretrain", model_max_length=size)
    assert data.report.num_items == len(data.train) == 1
    assert data.report.num_tokens == size + 1


def test_a_long_text_file_has_the_ids_of_its_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{index} {TEXTS[index % 7]}\n" for index in range(200))
    (tmp_path / "book.txt").write_text(text, "utf-8")
    monkeypatch.setattr("baichuan2.finetune.files.PIECE", 64)
    data = prepare(tmp_path, str(tmp_path / "book.txt"), objective="pretrain", model_max_length=128)
    found = [token_id for index in range(len(data.train)) for token_id in ids_of(data.train[index])]
    assert found == [*tokenizer("small").encode_text(text), 2]
    assert data.report.num_examples == data.report.num_rows == 1
    assert {int(segment) for index in range(len(data.train)) for segment in data.train[index]["segment_ids"]} == {1}


def test_pairs_learn_the_replies_alone(tmp_path: Path) -> None:
    rows = [{"prompt": "你好", "chosen": "Hi", "rejected": "no"}, {"prompt": "a", "chosen": "b", "rejected": "b"}]
    with pytest.warns(UserWarning, match="1 pairs of .* are left out, as both replies are the same"):
        data = prepare(tmp_path, rows, objective="dpo")
    assert len(data.train) == 1
    with pytest.raises(DataError, match="1 rows were read, 0 of them malformed, 1 pairs of two equal replies"):
        prepare(tmp_path, rows[1:], objective="dpo")
    item = data.train[0]
    small = tokenizer("small")
    for name, reply in (("chosen", "Hi"), ("rejected", "no")):
        turns = (Turn("human", "你好"), Turn("gpt", reply))
        example = encode_conversation(small, Conversation("", turns), model_max_length=64)
        ids = example.input_ids[: sum(example.attention_mask)]
        assert ids_of(item, f"{name}_input_ids") == ids
        assert ids_of(item, f"{name}_labels") == [IGNORED_LABEL, *example.labels[1 : len(ids)]]
    batch = collate([item, item])
    assert batch["input_ids"].shape[0] == 4
    assert batch["input_ids"][0].tolist() == batch["input_ids"][1].tolist() != batch["input_ids"][2].tolist()


def test_held_out_rows_are_drawn_once(tmp_path: Path) -> None:
    rows = [talk(index) for index in range(40)]
    data = prepare(tmp_path, rows, eval_fraction=0.25)
    assert data.evaluation is not None
    train, held_out = (set(items.order.tolist()) for items in (data.train, data.evaluation))
    assert (len(train), len(held_out)) == (30, 10)
    assert not train & held_out
    other = prepare(tmp_path, rows, eval_fraction=0.25, seed=2)
    assert other.evaluation is not None
    assert set(other.evaluation.order.tolist()) != held_out
    with pytest.raises(DataError, match=r"--eval-fraction 0\.5 of 1 examples leaves none to learn"):
        prepare(tmp_path, rows[:1], eval_fraction=0.5)


def test_held_out_rows_that_are_learnt_too_are_warned_of(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "held_out.jsonl", [talk(1), talk(99)])
    with pytest.warns(UserWarning, match="1 held-out examples are also learnt from"):
        data = prepare(tmp_path, [talk(0), talk(1)], eval_data_path=path)
    assert data.evaluation is not None
    assert len(data.evaluation) == 2
    pairs = [{"prompt": str(index), "chosen": "a", "rejected": "b"} for index in range(3)]
    path = write_rows(tmp_path / "pairs.jsonl", pairs[1:])
    with pytest.warns(UserWarning, match="1 held-out examples are also learnt from"):
        prepare(tmp_path, pairs[:2], eval_data_path=path, objective="dpo")


def test_a_store_is_taken_again_only_while_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [talk(index) for index in range(5)]
    path = write_rows(tmp_path / "data.jsonl", rows)
    first = prepare(tmp_path, path)
    builds = []
    build = preparation._build
    monkeypatch.setattr(preparation, "_build", lambda *arguments: builds.append(1) or build(*arguments))  # type: ignore[func-returns-value]
    assert prepare(tmp_path, path).fingerprint == first.fingerprint
    assert not builds
    assert prepare(tmp_path, path, model_max_length=99).fingerprint != first.fingerprint
    assert prepare(tmp_path, path, seed=9).fingerprint != first.fingerprint
    write_rows(tmp_path / "data.jsonl", [*rows, talk(9)])
    assert len(prepare(tmp_path, path).train) == 6
    assert len(builds) == 3
    damaged = prepare(tmp_path, path).train.folder / "tokens.bin"
    damaged.write_bytes(damaged.read_bytes()[:-4])
    assert len(prepare(tmp_path, path).train) == 6
    assert len(builds) == 4
    before = Path(path).stat()
    write_rows(tmp_path / "data.jsonl", [talk(9), *rows])  # another file of the same size and date
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Path(path).stat().st_size == before.st_size
    prepare(tmp_path, path)
    assert len(builds) == 5


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    host = platform.node()
    left, mine, other = (
        tmp_path / "store" / f".abc.{name}.partial"
        for name in (f"{host}.999999999", f"{host}.{os.getpid()}", f"another-{host}.999999999")
    )
    for folder in (left, mine, other):
        folder.mkdir(parents=True)
    prepare(tmp_path, [talk(0)])
    assert [left.exists(), mine.exists(), other.exists()] == [False, True, True]


def _prepare_in_process(folder: str, path: str, queue: Any) -> None:
    build = preparation._build

    def slow(*arguments: Any) -> None:
        queue.put("built")
        time.sleep(0.5)
        build(*arguments)

    preparation._build = slow
    data = prepare(Path(folder), path)
    queue.put(len(data.train))


@pytest.mark.skipif(os.name != "posix", reason="processes are forked")
def test_of_several_processes_one_prepares(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "data.jsonl", [talk(index) for index in range(5)])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_prepare_in_process, args=(str(tmp_path), path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=200) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert sorted(map(str, answers)) == ["5", "5", "built"]
    assert queue.empty()


def test_items_go_to_worker_processes(tmp_path: Path) -> None:
    data = prepare(tmp_path, [talk(index) for index in range(5)], packing=True, model_max_length=64)
    assert data.train[0]["input_ids"].size > 0
    content = pickle.dumps(data.train)
    assert len(content) < 5000  # the tokens stay in their files
    assert pickle.loads(content)[0]["input_ids"].tolist() == data.train[0]["input_ids"].tolist()
    with pytest.raises(IndexError):
        data.train[len(data.train)]


def test_a_full_disk_and_a_closed_folder_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "add", full)
        with pytest.raises(TrainingError, match=r"the disk of .*store is full"):
            prepare(tmp_path, [talk(0)])
    assert not list((tmp_path / "store").glob(".*.partial"))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot write"):
        prepare_data(
            FinetuneSettings(data_path=str(tmp_path / "data.jsonl")), tokenizer("small"), tmp_path / "file" / "store"
        )


def test_a_file_that_grows_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "data.jsonl", [talk(0)])
    finish = StoreWriter.finish

    def late(*arguments: Any) -> None:
        write_rows(tmp_path / "data.jsonl", [talk(0), talk(1)])
        finish(*arguments)

    monkeypatch.setattr(StoreWriter, "finish", late)
    with pytest.raises(DataError, match="was changed while it was read"):
        prepare(tmp_path, path)


def test_batches_are_padded_on_the_right() -> None:
    items = [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "segment_ids": [1, 1, 2]},
        {"input_ids": [8], "labels": [-100]},
    ]
    batch = {name: values.tolist() for name, values in collate(items, pad_to=4).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 0], [8, 0, 0, 0]],
        "labels": [[-100, 6, 7, -100], [-100, -100, -100, -100]],
        "attention_mask": [[1, 1, 2, 0], [1, 0, 0, 0]],
        "position_ids": [[0, 1, 0, 0], [0, 0, 0, 0]],
    }
    assert "position_ids" not in collate(items[1:])


def test_texts_together_have_the_ids_of_each(tmp_path: Path) -> None:
    small = tokenizer("small")
    texts = [*TEXTS, "</s>", "a<reserved_106>b", "", "<unk>"]
    assert small.encode_texts(texts) == [small.encode_text(text) for text in texts]
