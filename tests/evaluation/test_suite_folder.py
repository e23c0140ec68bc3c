"""The log of items: whole after a kill at any byte, read by one run at a time, and never a silent loss."""

import errno
import json
import os

import pytest

from baichuan2.errors import DataError, SettingsError
from baichuan2.evaluation.records import ItemRecord, line_of, record_of
from baichuan2.evaluation.suite_folder import SuiteFolder, read_log, write_whole


def record(number: int, **changes: object) -> ItemRecord:
    values = {
        "subject": "law",
        "number": str(number),
        "is_right": number % 2 == 0,
        "answer": "A",
        "prediction": "甲",
        "prompt_tokens": 7,
        "shots": 5,
        "prompt_sha256": "0" * 64,
        "scores": (1.5, -0.1),
    }
    return ItemRecord(**{**values, **changes})


@pytest.fixture
def place(tmp_path) -> SuiteFolder:
    found = SuiteFolder(tmp_path / "ceval")
    found.path.mkdir()
    return found


def fill(place: SuiteFolder, numbers, part: int = 0) -> None:
    log = place.open_log(part)
    for number in numbers:
        log.append(record(number))
    log.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"is_right": None, "answer": None, "prediction": None, "scores": ()},
        {"output": 'a\nb\r\u2028\x00"\\', "details": {"tests": [1, {"a": None}]}},
        {"output": "\\\ud83d half a character"},
        {"scores": (0.1 + 0.2, 1e-300, -3.0)},
    ],
)
def test_a_record_comes_back_as_it_was(changes):
    line = line_of(record(1, **changes))
    assert line.index("\n") == len(line) - 1
    line.encode("utf-8")
    assert record_of(line) == record(1, **changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        line_of(record(1, scores=(0.0, value)))


@pytest.mark.parametrize("text", ["[]", "{}", "1", '{"subject": "law"}'])
def test_a_line_of_another_kind_is_refused(text):
    with pytest.raises(ValueError, match="not a record"):
        record_of(text)


def test_a_log_cut_at_any_byte_keeps_every_whole_line(place):
    fill(place, range(3))
    path = place.path / "items.jsonl"
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(0, len(content) + 1, 7):
        path.write_bytes(content[:cut])
        whole = sum(end <= cut for end in ends)
        assert [int(number) for _, number in read_log(path)] == list(range(whole))
        # what is appended next starts a line of its own
        fill(place, range(whole, 3))
        assert path.read_bytes() == content


def test_a_line_damaged_in_the_middle_is_named(place):
    fill(place, range(3))
    path = place.path / "items.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "{torn\n" + lines[2])
    with pytest.raises(DataError, match=r"items\.jsonl, line 2 is damaged .*--overwrite"):
        read_log(path)


def test_logs_of_several_processes_become_one(place):
    fill(place, [0, 1])
    fill(place, [2], part=1)
    fill(place, [3, 1], part=2)  # 1 was joined before a kill, its log not yet removed
    assert sorted(number for _, number in place.records()) == ["0", "1", "2", "3"]
    assert [path.name for path in place.path.iterdir()] == ["items.jsonl"]
    assert len((place.path / "items.jsonl").read_text().splitlines()) == 4


def test_two_runs_in_one_folder_are_refused(place):
    other = SuiteFolder(place.path).alone()
    with place.alone(), pytest.raises(SettingsError, match=r"another run is writing into .*--output-dir"):
        other.__enter__()
    with place.alone():  # free again
        pass


def test_a_full_disk_is_one_line_and_the_log_goes_on(place, monkeypatch):
    fill(place, [0])
    log, write = place.open_log(), os.write

    def full(descriptor, content):
        write(descriptor, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SettingsError, match=r"items\.jsonl cannot be written: No space left .* the same command"):
        log.append(record(1))
    monkeypatch.undo()
    log.close()
    assert list(place.records()) == [("law", "0")]
    fill(place, [1])
    assert len(place.records()) == 2


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SettingsError, match="cannot be written: Not a directory"),
        SuiteFolder(tmp_path / "file/x").alone(),
    ):
        pass


def test_answers_of_an_unknown_run_are_not_touched(place):
    fill(place, [0])
    with pytest.raises(SettingsError, match=r"without a readable run\.json"):
        place.identity()
    (place.path / "run.json").write_text("{torn")
    with pytest.raises(SettingsError, match=r"without a readable run\.json"):
        place.identity()


def test_clearing_deletes_our_files_alone(place):
    fill(place, [0])
    fill(place, [1], part=1)
    place.write_identity({"a": 1})
    place.write_result({"a": 1})
    (place.path / "notes.txt").write_text("mine")
    place.clear()
    assert [path.name for path in place.path.iterdir()] == ["notes.txt"]


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_whole(path, json.dumps({"a": 1}))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(SettingsError, match="No space left"):
        write_whole(path, "x")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [one.name for one in tmp_path.iterdir()] == ["result.json"]
