"""Rows of data files come one by one, whatever kind of file they stand in, and broken ones are named by their line."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from baichuan2.errors import DataError
from baichuan2.finetune import files
from baichuan2.finetune.files import find_files, iter_rows, text_pieces

ROWS = [{"a": 1}, {"b": "你好"}, {"c": [1.5, None]}]


def values(path: Path) -> list[Any]:
    rows = list(iter_rows(path))
    assert not [row.error for row in rows if row.error is not None]
    return [row.value for row in rows]


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["data.json", "data.jsonl", "data"])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lists_and_lines_are_told_apart_by_content(tmp_path: Path, name: str, is_packed: bool, mark: bytes) -> None:
    for content in (json.dumps(ROWS, indent=1).encode(), as_lines(ROWS), b"\n\n" + as_lines(ROWS).rstrip()):
        path = tmp_path / name
        path.write_bytes(gzip.compress(mark + content) if is_packed else mark + content)
        assert values(path) == ROWS


def test_rows_are_named_by_line_or_item(tmp_path: Path) -> None:
    lines, items = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_bytes(b"{}\n\n{}\n")
    items.write_text("[{}, {}]")
    assert [row.place for row in iter_rows(lines)] == [f"{lines}, line 1", f"{lines}, line 3"]
    assert [row.place for row in iter_rows(items)] == [f"{items}, item 0", f"{items}, item 1"]


@pytest.mark.parametrize("window", [1, 7, 4096])
def test_a_long_list_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    rows: list[Any] = [{"id": index, "text": "好" * 50, "n": 1.5} for index in range(300)]
    rows += [12345678901, "\ud800", -1e-7, [], {}, True, None, [[1, [2]], {"a": "]"}], '🙂 " ,']
    path = tmp_path / "long.json"
    path.write_bytes(json.dumps(rows, ensure_ascii=False, indent=1).replace("\ud800", "\\ud800").encode())
    monkeypatch.setattr(files, "LARGEST_LIST", 1000)
    monkeypatch.setattr(files, "WINDOW", window)
    monkeypatch.setattr(files, "_parse_list", None)
    assert values(path) == rows
    monkeypatch.setattr(files, "LARGEST_ROW", 2000)
    whole = path.read_text("utf-8")
    for text, message in (
        (whole[:5000], "Unterminated string|expected|Expecting"),
        (whole + " 1", "behind item 308: Extra data"),
        (whole.replace('"id": 200,', '"id": 200 ?,'), "behind item 199: Expecting ',' delimiter"),
        (whole.replace("}", "};", 1), "behind item 0: expected ',' or '\\]', got ';'"),
        (whole[:-1].rstrip() + ",]", "Expecting value"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(DataError, match=rf"long\.json is not JSON.*{message}"):
            list(iter_rows(path))
    path.write_bytes(whole.encode()[:6000] + b"\xff" + whole.encode()[6000:])
    with pytest.raises(DataError, match=r"is not UTF-8 behind item \d+"):
        list(iter_rows(path))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"a": ?', r"line 2: is not JSON: Expecting value at column 7$"),
        (b'{"a": "\xff"}', r"line 2: is not UTF-8: byte 7 is wrong$"),
        (b"[" * 100_000, r"line 2: is not JSON that can be read: "),
        (b'{"a": ' + b"1" * 5000 + b"}", r"line 2: is not JSON that can be read: "),
    ],
    ids=["cut", "bytes", "deep", "digits"],
)
def test_a_broken_line_leaves_the_others(tmp_path: Path, line: bytes, error: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    rows = list(iter_rows(path))
    assert [row.value for row in rows] == [{"a": 1}, None, {"b": 2}]
    with pytest.raises(DataError, match=error):
        raise rows[1].error or AssertionError


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.json", b"", r"a\.json is not JSON: Expecting value at line 1, column 1"),
        ("a.json", b"[]", r"a\.json must hold a list of rows that is not empty"),
        ("a.json", b"[1,\n2", r"a\.json is not JSON: .* at line 2"),
        ("a.jsonl", b" \n", None),
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.txt", b"abc\xff", r"a\.txt is not UTF-8"),
        ("a.csv", b"x,y\n1,2\n", r"a\.csv is of an unknown kind, it begins with b'x,y.n1,2.n': expected"),
        ("a.parquet", b"PAR1....", r"a\.parquet is a Parquet file: expected"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), r"a\.jsonl is UTF-16, not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 9999)[:-20], r"a\.jsonl\.gz is cut off"),
        ("a.jsonl.gz", b"\x1f\x8b" + b"\0" * 50, r"cannot read .*a\.jsonl\.gz: "),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, error: str | None) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if error is None:
        assert list(iter_rows(path)) == []
        return
    with pytest.raises(DataError, match=error):
        list(iter_rows(path))


def test_a_row_of_many_megabytes_is_another_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_ROW", 1 << 20)
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * (1 << 21) + b'"}')
    with pytest.raises(DataError, match="line 1: the line is longer than 1 MiB: expected one row a line"):
        list(iter_rows(path))


def test_a_text_file_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", 100)
    text = "".join(f"第 {index} 行\n" for index in range(60)) + "y" * 450 + "\n\nend"
    path = tmp_path / "book.txt"
    path.write_bytes(text.replace("\n", "\r\n").encode())
    rows = list(iter_rows(path))
    assert "".join(row.value["text"] for row in rows) == text
    assert [row.goes_on for row in rows] == [True] * (len(rows) - 1) + [False]
    assert max(len(row.value["text"]) for row in rows) <= 300
    assert len(rows) > 5


def test_text_is_cut_at_line_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", 10)
    text = "".join(f"line {index}\n" for index in range(9)) + "x" * 55
    pieces = list(text_pieces(text))
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces[:4])
    assert list(text_pieces("short")) == ["short"]


def test_folders_and_lists_of_files_are_found(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "notes.pdf", ".hidden.json", "in/c.txt.gz", "x,y.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    names = [file.relative_to(tmp_path).as_posix() for file in find_files(str(tmp_path))]
    assert names == ["a.json", "b.jsonl", "in/c.txt.gz", "x,y.json"]
    assert find_files(f"{tmp_path}/a.json, {tmp_path}/b.jsonl,") == [tmp_path / "a.json", tmp_path / "b.jsonl"]
    assert find_files(f"{tmp_path}/x,y.json") == [tmp_path / "x,y.json"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for given, error in (
        (f"{tmp_path}/none.json", r"cannot read .*none\.json: No such file"),
        (f"{tmp_path}/empty", "holds no data file: expected names in .json, "),
        (f"{tmp_path}/pipe", "it is no file that can be read twice"),
        (" , ", "names no data file"),
        ("a\0b", "cannot read "),
        ("x" * 5000, "cannot read "),
    ):
        with pytest.raises(DataError, match=error):
            find_files(given)
