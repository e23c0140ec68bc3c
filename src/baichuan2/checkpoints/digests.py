"""Whether files are what was published: their digests, who states them, and the note that remembers what was found.

Two digests occur: SHA-256, and for small files the one that git names their content by. Standard library only.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from baichuan2.errors import CheckpointError

__all__ = [
    "Checked",
    "Digest",
    "check_files",
    "note_path",
    "read_note",
    "stated_by_cache",
    "stated_by_note",
    "stated_by_sums",
    "write_note",
]

NOTE_FILE = ".baichuan2-verified.json"
NOTE_FOLDER = "baichuan2-verified"
SUMS_FILE = "SHA256SUMS"
PIECE = 1 << 22
SUMS_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")

By = Literal["hub", "release", "SHA256SUMS", "note", "cache"]


@dataclass(frozen=True)
class Digest:
    """What the content of a file should be, and who says so."""

    kind: Literal["sha256", "git"]
    value: str
    by: By


@dataclass(frozen=True)
class Checked:
    """A file that was read: its bytes, its SHA-256, and who states the same; nobody, where nothing was stated."""

    name: str
    size: int
    sha256: str
    by: tuple[By, ...]


Watch = Callable[[int, int], None]


def check_files(
    folder: Path,
    names: Iterable[str],
    stated: Mapping[str, Iterable[Digest]],
    watch: Watch = lambda *_: None,
    *,
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Checked], list[tuple[str, str]]]:
    """Reads files and compares them with what is stated; what was checked, and what differs with the reason.

    `known`: the files of an earlier note; one whose size and time of change are the same is not read again. `watch` is
    told how many of how many bytes were read.
    """
    names = list(names)
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    total, done = sum(sizes.values()), 0
    checked, wrong = [], []
    for name in names:
        if name not in sizes:
            wrong.append((name, "is missing"))
            continue
        by = _remembered_by(folder / name, (known or {}).get(name))
        git: str | None = None
        if by is not None and known is not None:
            sha256 = str(known[name]["sha256"])
        else:
            sha256, git = _digests(folder / name, sizes[name], partial(_shifted, watch, done, total))
        by = by or []
        done += sizes[name]
        watch(done, total)
        for digest in stated.get(name, ()):
            found = sha256 if digest.kind == "sha256" else git
            if found is None:  # remembered, and checked when it was
                continue
            if found != digest.value.lower():
                kind = "sha256" if digest.kind == "sha256" else "git digest"
                wrong.append((name, f"has the {kind} {found}, {_says(digest.by)} {digest.value}"))
                break
            by.append(digest.by)
        else:
            checked.append(Checked(name, sizes[name], sha256, tuple(dict.fromkeys(by))))
    return checked, wrong


def _shifted(watch: Watch, before: int, total: int, done: int) -> None:
    """Tells bytes of one file as bytes of all."""
    watch(before + done, total)


def _says(by: By) -> str:
    return {
        "hub": "the hub states",
        "release": "the official release has",
        "SHA256SUMS": "SHA256SUMS states",
        "note": "when it was downloaded it was",
        "cache": "the cache names it",
    }[by]


def _digests(path: Path, size: int, tell: Callable[[int], None]) -> tuple[str, str]:
    """SHA-256 and git's digest (SHA-1 behind a header) of a file, in one pass."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    done = 0
    is_small = size <= PIECE  # git's digest is stated for small files only
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            if is_small:
                git.update(piece)
            done += len(piece)
            tell(done)
    return sha256.hexdigest(), git.hexdigest()


def _remembered_by(path: Path, note: Mapping[str, Any] | None) -> list[By] | None:
    """Who stated what a note says of a file that has not changed since, None where it has, or nothing is said."""
    if note is None:
        return None
    state = path.stat()
    is_same = (note.get("size"), note.get("mtime_ns")) == (state.st_size, state.st_mtime_ns)
    by = note.get("by")
    return list(by) if is_same and isinstance(by, list) else None


def stated_by_sums(folder: Path) -> dict[str, Digest]:
    """File name -> digest, from a SHA256SUMS file in `folder`; empty where there is none.

    Raises:
        CheckpointError: the file cannot be read, or a line is none that sha256sum writes.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        return {}
    found = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = SUMS_LINE.fullmatch(line.rstrip())
        if match is None:
            raise CheckpointError(f"{path}, line {number}: not of the form  DIGEST  NAME: download the folder again")
        found[match[2].removeprefix("./")] = Digest("sha256", match[1].lower(), "SHA256SUMS")
    return found


def stated_by_note(note: Mapping[str, Any]) -> dict[str, Digest]:
    """File name -> digest, from a note of an earlier download."""
    return {name: Digest("sha256", facts["sha256"], "note") for name, facts in note["files"].items()}


def stated_by_cache(folder: Path) -> dict[str, Digest]:
    """File name -> digest that the hub's cache names a file's content by; empty for other folders."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.is_symlink():
            continue
        target = path.readlink().name
        if re.fullmatch(r"[0-9a-f]{64}", target):
            found[path.name] = Digest("sha256", target, "cache")
        elif re.fullmatch(r"[0-9a-f]{40}", target):
            found[path.name] = Digest("git", target, "cache")
    return found


def note_path(folder: Path) -> Path:
    """Where the note of a folder lies: in it, or beside the snapshots where it is one of the hub's cache.

    The cache has a folder for each commit that holds links alone, which is left so.
    """
    if folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir():
        return folder.parent.parent / NOTE_FOLDER / f"{folder.name}.json"
    return folder / NOTE_FILE


def read_note(folder: Path) -> dict[str, Any] | None:
    """The note of a folder, None where there is none, or it is none of ours."""
    try:
        note = json.loads(note_path(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    files = note.get("files") if isinstance(note, dict) else None
    if not isinstance(files, dict):
        return None
    is_ours = all(
        isinstance(facts, dict) and isinstance(facts.get("sha256"), str) and Path(name).name == name
        for name, facts in files.items()
    )
    return note if is_ours else None


def write_note(folder: Path, facts: Mapping[str, Any], checked: Iterable[Checked]) -> None:
    """Remembers what was checked, beside `facts` such as the repository; written aside and renamed.

    Raises:
        CheckpointError: it cannot be written.
    """
    files = {}
    for item in checked:
        state = (folder / item.name).stat()
        files[item.name] = {
            "size": item.size,
            "mtime_ns": state.st_mtime_ns,
            "sha256": item.sha256,
            "by": list(item.by),
        }
    path = note_path(folder)
    try:
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(path.name + ".partial")
        aside.write_text(json.dumps({**facts, "files": files}, indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}") from error
