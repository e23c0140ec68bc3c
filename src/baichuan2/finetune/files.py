"""Data files: which there are, and their rows one by one, so that a file may be larger than memory.

A file's kind is seen from its beginning: a JSON list, JSON objects one a line (JSONL), or plain text if its name says
so, each maybe compressed by gzip. A row that cannot be read is handed on with its error, so that the caller decides.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from baichuan2.errors import DataError

__all__ = ["RawRow", "find_files", "iter_rows", "text_pieces"]

SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".txt", ".md")
LARGEST_ROW: Final = 1 << 26  # bytes: a longer line is a file of another kind
LARGEST_LIST: Final = 1 << 24  # bytes of a JSON list that is read at once, which finds line and column of mistakes
WINDOW: Final = 1 << 20  # bytes of a longer one that are read at once
PIECE: Final = 1 << 16  # characters of plain text that are encoded at once
FOREIGN: Final = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or Excel file",
    b"\xfd7zXZ": "compressed by xz",
    b"(\xb5/\xfd": "compressed by zstd",
    b"ARROW1": "an Arrow file",
    b"SQLite": "a SQLite database",
    b"%PDF": "a PDF",
    b"\xff\xfe": "UTF-16, not UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8",
}


class RawRow(NamedTuple):
    """One row of a file, as it stands there."""

    place: str
    """`FILE, line 7` (from 1) or `FILE, item 7` (from 0)."""
    number: int
    value: Any
    error: DataError | None = None
    """Why there is no value."""
    goes_on: bool = False
    """Whether the next row goes on with the same document."""


def find_files(data_path: str) -> list[Path]:
    """The files that `data_path` names: one, several with commas, or all data files of a folder, in sorted order.

    Raises:
        DataError: there is none.
    """
    names = [data_path] if _exists(data_path) else [name for part in data_path.split(",") if (name := part.strip())]
    files: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        try:
            if path.is_dir():
                inside = [file for file in sorted(path.rglob("*")) if _is_data_file(file, path)]
                if not inside:
                    raise DataError(f"folder {path} holds no data file: expected names in {', '.join(SUFFIXES)}")
                files += inside
            elif not path.exists():
                raise DataError(f"cannot read {path}: No such file or directory")
            elif not path.is_file():
                raise DataError(f"cannot read {path}: it is no file that can be read twice")
            else:
                files.append(path)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"cannot read {name!r}: {_reason(error)}") from error
    if not files:
        raise DataError(f"{data_path!r} names no data file")
    return files


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _is_data_file(file: Path, folder: Path) -> bool:
    if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
        return False
    return file.name.lower().removesuffix(".gz").endswith(SUFFIXES)


@dataclass
class Reading:
    """How far a file is read."""

    num_bytes: int = 0
    """Bytes of the file on disk that have been read."""


def iter_rows(path: Path, reading: Reading | None = None) -> Iterator[RawRow]:
    """The rows of a file in order; `reading` is kept up to date with how far that is.

    Raises:
        DataError: the file cannot be read, or is no list of rows as a whole.
    """
    reading = reading if reading is not None else Reading()
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20) if is_packed else raw
            for row in _iter_stream(path, stream):
                reading.num_bytes = raw.tell()
                yield row
    except EOFError as error:
        raise DataError(f"{path} is cut off: its gzip stream does not end") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


def _iter_stream(path: Path, stream: Any) -> Iterator[RawRow]:
    beginning = stream.peek(64)
    for magic, kind in FOREIGN.items():
        if beginning.startswith(magic):
            raise DataError(f"{path} is {kind}: expected JSON, JSONL or plain text in UTF-8")
    if beginning.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".txt", ".md")):
        yield from _iter_text(path, stream)
        return
    first = _first_character(stream)
    if first == b"[":
        yield from _iter_list(path, stream)
    elif first == b"{" or name.endswith((".jsonl", ".ndjson")):
        yield from _iter_lines(path, stream)
    elif not first and not name.endswith(".json"):
        raise DataError(f"{path} is empty")
    elif name.endswith(".json"):
        yield from _iter_list(path, stream)
    else:
        raise DataError(
            f"{path} is of an unknown kind, it begins with {beginning[:16]!r}: expected a JSON list, JSON objects "
            "one a line, or plain text in a file that ends in .txt"
        )


def _first_character(stream: Any) -> bytes:
    """The first byte that is no white space, which is skipped in the stream only as far as whole lines are empty."""
    for _ in range(1024):
        ahead = bytes(stream.peek(64))
        if not ahead:
            return b""
        if ahead.strip():
            return ahead.strip()[:1]
        stream.read(len(ahead))
    return b""


def _iter_lines(path: Path, stream: Any) -> Iterator[RawRow]:
    number = 0
    while line := stream.readline(LARGEST_ROW + 1):
        number += 1
        place = f"{path}, line {number}"
        if len(line) > LARGEST_ROW:
            raise DataError(f"{place}: the line is longer than {LARGEST_ROW >> 20} MiB: expected one row a line")
        if not line.strip():
            continue
        try:
            yield RawRow(place, number, json.loads(line.rstrip()))
        except UnicodeDecodeError as error:
            yield RawRow(place, number, None, DataError(f"{place}: is not UTF-8: byte {error.start} is wrong"))
        except json.JSONDecodeError as error:
            hint = ": expected a whole object on each line" if number == 1 and line.strip() == b"{" else ""
            why = f"{place}: is not JSON: {error.msg} at column {error.colno}{hint}"
            yield RawRow(place, number, None, DataError(why))
        except (ValueError, RecursionError) as error:  # a number of too many digits; too deeply nested
            yield RawRow(place, number, None, DataError(f"{place}: is not JSON that can be read: {error}"))


def _iter_list(path: Path, stream: Any) -> Iterator[RawRow]:
    """The items of one JSON list: of a short file by the standard library, of a long one piece by piece."""
    content = stream.read(LARGEST_LIST + 1)
    is_short = len(content) <= LARGEST_LIST
    items = _parse_list(path, content) if is_short else _stream_list(path, content, stream)
    number = -1
    for number, value in enumerate(items):
        yield RawRow(f"{path}, item {number}", number, value)
    if number < 0:
        raise DataError(f"{path} must hold a list of rows that is not empty")


def _parse_list(path: Path, content: bytes) -> Iterator[Any]:
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: byte {error.start} is wrong") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON that can be read: {error}") from error
    if not isinstance(value, list):
        raise DataError(f"{path} must hold a list of rows, got {type(value).__name__}")
    return iter(value)


def _stream_list(path: Path, beginning: bytes, rest: Any) -> Iterator[Any]:
    """The items of a list of any length, of whose text one item and a window behind it are in memory."""
    window = _Window(path, beginning, rest)
    number = 0
    try:
        window.skip("[")
        while window.next_character() != "]" or number:
            yield window.read_value()
            number += 1
            if window.skip(",", "]") == "]":
                break
        else:
            window.skip("]")
        if window.next_character():
            raise json.JSONDecodeError("Extra data", window.text, window.place)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 behind item {number - 1}: {error.reason}") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{path} is not JSON behind item {number - 1}: {reason}") from error


class _Window:
    """A part of a long JSON text, which moves on as it is read."""

    def __init__(self, path: Path, beginning: bytes, rest: Any) -> None:
        self.text = ""
        self.place = 0
        self._path = path
        self._waiting = io.BytesIO(beginning)
        self._rest = rest
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._is_whole = False

    def next_character(self) -> str:
        """The next character that is no white space; none at the end."""
        while True:
            for place in range(self.place, len(self.text)):
                if self.text[place] not in " \t\r\n":
                    self.place = place
                    return self.text[place]
            self.place = len(self.text)
            if self._is_whole:
                return ""
            self._grow()

    def skip(self, *wanted: str) -> str:
        """Goes behind the next character, which must be one of `wanted`, and gives it."""
        found = self.next_character()
        if found not in wanted:
            expected = " or ".join(repr(character) for character in wanted)
            raise ValueError(f"expected {expected}, got {found!r}" if found else f"expected {expected}, it is cut off")
        self.place += 1
        return found

    def read_value(self) -> Any:
        """The value that begins at the next character."""
        self.next_character()
        while True:
            try:
                value, end = self._parse(self.text, self.place)
            except json.JSONDecodeError:
                if self._is_whole or len(self.text) - self.place > LARGEST_ROW:
                    raise
            else:
                if end < len(self.text) or self._is_whole:  # a number that ends with the window may go on
                    self.place = end
                    return value
            self._grow()

    def _grow(self) -> None:
        """Drops what lies behind, and reads on: as much again as is still held, so that long values stay cheap."""
        self.text, self.place = self.text[self.place :], 0
        size = max(WINDOW, len(self.text))
        part = self._waiting.read(size) or self._rest.read(size)
        self._is_whole = not part
        self.text += self._decode(part, not part)


def _iter_text(path: Path, stream: Any) -> Iterator[RawRow]:
    """A text file as one document, in pieces that end at line breaks."""
    number = 0
    waiting: str | None = None
    text = io.TextIOWrapper(stream, encoding="utf-8")
    try:
        for piece in _read_pieces(text):
            if waiting is not None:
                yield RawRow(str(path), number, {"text": waiting}, goes_on=True)
                number += 1
            waiting = piece
    except UnicodeDecodeError as error:
        near = (number + (waiting is not None)) * PIECE
        raise DataError(f"{path} is not UTF-8: {error.reason}, behind character {near}") from error
    finally:
        text.detach()
    if waiting is None:
        raise DataError(f"{path} is empty")
    yield RawRow(str(path), number, {"text": waiting})


def _read_pieces(text: io.TextIOWrapper) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    while line := text.readline(PIECE):
        lines.append(line)
        size += len(line)
        if size >= PIECE and (line.endswith("\n") or size >= 2 * PIECE):
            yield "".join(lines)
            lines, size = [], 0
    if lines:
        yield "".join(lines)


def text_pieces(text: str) -> Iterator[str]:
    """`text` in pieces of a bounded size that end at line breaks, where cutting changes no token."""
    start = 0
    while len(text) - start > PIECE:
        end = text.find("\n", start + PIECE - 1, start + 2 * PIECE)
        end = start + 2 * PIECE if end < 0 else end + 1
        yield text[start:end]
        start = end
    if start < len(text) or not text:
        yield text[start:]


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
