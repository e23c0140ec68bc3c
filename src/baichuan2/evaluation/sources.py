"""Where a benchmark's files lie: in a folder, or in the archive as it is published, which is read without unpacking.

Nothing is ever written: a hostile archive has no place to write to. Names that leave the archive, links and devices
are passed over, and what a file may hold is bounded whatever its header says.
"""

import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO

from baichuan2.errors import DataError

__all__ = ["Files", "find_files", "open_archive"]

MAX_FILE_BYTES = 1 << 30
MAX_MEMBERS = 1_000_000
KEPT_BYTES, KEPT_FILE_BYTES = 1 << 28, 1 << 22
_DAMAGE = (  # RuntimeError: encrypted
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Files:
    """Files by their names, which are relative and have `/` between their parts.

    `place`: what messages call the whole, a folder or an archive. `tops`: the folders directly in it.
    """

    def __init__(
        self,
        place: str,
        has: Callable[[str], bool],
        opened: Callable[[str], IO[bytes]],
        names: "Names",
        tops: Sequence[str] = (),
    ) -> None:
        self.place, self.tops = place, tops
        self._has, self._opened, self._names = has, opened, names

    def has(self, name: str) -> bool:
        """Whether there is a file of that name; with `/` at its end: a folder that holds files."""
        return bool(self._names(name[:-1], "")) if name.endswith("/") else self._has(name)

    def path_of(self, name: str) -> str:
        """What messages call a file."""
        return f"{self.place}/{name}" if name else self.place

    def names(self, folder: str, ending: str) -> list[str]:
        """Names of the files directly in `folder` (empty: the top) that end so, in alphabetical order."""
        return sorted(self._names(folder, ending))

    def read(self, name: str) -> bytes:
        """What the file holds.

        Raises:
            DataError: there is none, it cannot be read, or it holds more than a gigabyte.
        """
        path = self.path_of(name)
        try:
            with self._opened(name) as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except _DAMAGE as error:
            raise DataError(f"{path} cannot be read: {error}: the archive is damaged or encrypted") from error
        if len(content) > MAX_FILE_BYTES:
            raise DataError(f"{path} holds more than {MAX_FILE_BYTES >> 20} MiB, which no benchmark does")
        return content

    def text(self, name: str) -> str:
        """The file's text: UTF-8, without a byte order mark.

        Raises:
            DataError: as `read`, or it is no UTF-8; the message names the line.
        """
        content = self.read(name)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise DataError(f"{self.path_of(name)} line {line} is no UTF-8: save it as UTF-8") from error

    def below(self, folder: str) -> "Files":
        """The files below `folder` alone; empty: all of them."""
        if not folder:
            return self
        return Files(
            self.path_of(folder),
            lambda name: self._has(f"{folder}/{name}"),
            lambda name: self._opened(f"{folder}/{name}"),
            lambda inner, ending: [
                name.removeprefix(f"{folder}/")
                for name in self._names(f"{folder}/{inner}" if inner else folder, ending)
            ],
        )


Names = Callable[[str, str], list[str]]


def find_files(
    data: Path, title: str, *, folders: Sequence[str], roots: Sequence[str], expected: Sequence[str]
) -> Files:
    """The files of a benchmark somewhere at `data`: the first place that has one of the `expected` names.

    Looked at, in this order: what lies in `data` under one of the names `folders`, as a folder or an archive, whatever
    the case of its letters; then `data` itself, a folder or an archive. In each of these every one of `roots` is tried,
    the inner folders in which publishers put the files (empty: none); by itself, in a folder with one of the names, and
    in the only folder of an archive, as downloads of repositories have it.

    Raises:
        DataError: there is none; the message says where was looked, and for what.
    """
    try:
        return _find(data, title, folders, roots, expected)
    except OSError as error:
        raise DataError(f"--data {data}: {error.filename or data}: {error.strerror or error}") from error


def _find(data: Path, title: str, folders: Sequence[str], roots: Sequence[str], expected: Sequence[str]) -> Files:
    if not data.exists():
        raise DataError(f"--data {data}: there is no such folder")
    tried: list[str] = []
    for place in [*_named(data, folders), data]:
        if place.is_dir():
            files = _folder(place)
        elif place.name.lower().endswith(ARCHIVE_ENDINGS):
            files = open_archive(place)
        else:
            raise DataError(f"--data {data} is neither a folder nor one of {' '.join(ARCHIVE_ENDINGS)}")
        wanted = {name.lower() for name in folders}
        is_only = not place.is_dir() and len(files.tops) == 1
        for top in ("", *(top for top in files.tops if is_only or _stem(top) in wanted)):
            for root in roots:
                below = files.below("/".join(part for part in (top, root) if part))
                if any(below.has(name) for name in expected):
                    return below
                tried.append(below.place)
    places = ", ".join(dict.fromkeys(tried))
    raise DataError(
        f"{title} was not found at --data {data}: looked for files such as {expected[0]} in {places}, and for folders "
        f"or archives called {', '.join(folders)}"
    )


def _named(data: Path, folders: Sequence[str]) -> list[Path]:
    """What lies in `data` under one of these names, in their order; archives after folders."""
    if not data.is_dir():
        return []
    wanted = [name.lower() for name in folders]
    found: list[tuple[bool, int, str, Path]] = []
    for path in data.iterdir():
        name = path.name.lower()
        ending = next((ending for ending in sorted(ARCHIVE_ENDINGS, key=len)[::-1] if name.endswith(ending)), "")
        stem = _stem(name.removesuffix(ending) if path.is_file() else name)
        if stem in wanted and (path.is_dir() or ending):
            found.append((path.is_file(), wanted.index(stem), path.name, path))
    return [path for *_, path in sorted(found)]


def _stem(name: str) -> str:
    """The name in small letters, without what downloads of whole repositories have behind it: a branch or a commit."""
    return re.sub(r"-(main|master|[0-9a-f]{7,40})$", "", name.lower())


def _folder(root: Path) -> Files:
    def names(folder: str, ending: str) -> list[str]:
        place = root / folder
        inside = place.iterdir() if place.is_dir() else ()
        prefix = f"{folder}/" if folder else ""
        return [prefix + path.name for path in inside if path.name.endswith(ending) and path.is_file()]

    tops = sorted(path.name for path in root.iterdir() if path.is_dir())
    return Files(str(root), lambda name: (root / name).is_file(), lambda name: (root / name).open("rb"), names, tops)


def open_archive(path: Path) -> Files:
    """The files in a zip or tar archive. No handle stays open; an archive that has changed is looked at anew.

    Raises:
        DataError: it is damaged, or of a kind that is not known.
    """
    try:
        status = path.stat()
        return _archive(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=4)
def _archive(path: Path, modified: int, size: int) -> Files:
    del modified, size  # they only tell one state of the archive from another
    try:
        members = _in_zip(path) if path.name.lower().endswith(".zip") else _in_tar(path)
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged, or no archive: {error}") from error

    def names(folder: str, ending: str) -> list[str]:
        return [name for name in members if name.endswith(ending) and name.rpartition("/")[0] == folder]

    def opened(name: str) -> IO[bytes]:
        if name not in members:
            raise FileNotFoundError(2, "no such file in the archive", name)
        return io.BytesIO(members[name]())

    tops = sorted({name.partition("/")[0] for name in members if "/" in name})
    return Files(str(path), members.__contains__, opened, names, tops)


def _in_zip(path: Path) -> dict[str, Callable[[], bytes]]:
    def read(member: str) -> bytes:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return file.read(MAX_FILE_BYTES + 1)

    with zipfile.ZipFile(path) as archive:
        return {
            name: partial(read, info.filename)
            for info in archive.infolist()[:MAX_MEMBERS]
            if not info.is_dir() and (name := _safe(info.filename))
        }


def _in_tar(path: Path) -> dict[str, Callable[[], bytes]]:
    """Small files of a compressed archive are kept, as going back in one means to read it from its start."""

    def read(member: str) -> bytes:
        with tarfile.open(path) as archive:
            file = archive.extractfile(member)
            assert file is not None
            return file.read(MAX_FILE_BYTES + 1)

    with path.open("rb") as start:
        is_compressed = start.read(3) in (b"\x1f\x8b\x08", b"BZh", b"\xfd7z")
    held: dict[str, Callable[[], bytes]] = {}
    room = KEPT_BYTES if is_compressed else 0
    with tarfile.open(path) as archive:
        for info in archive:
            if len(held) >= MAX_MEMBERS:
                break
            if not info.isreg() or info.issparse() or not (name := _safe(info.name)):
                continue
            held[name] = partial(read, info.name)
            if info.size <= min(KEPT_FILE_BYTES, room):
                file = archive.extractfile(info)
                assert file is not None
                content = file.read()
                held[name] = partial(bytes, content)
                room -= len(content)
    return held


def _safe(name: str) -> str | None:
    """The name in its plain form; None for one that leaves the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        return None
    return str(path)
