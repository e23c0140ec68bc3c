"""Token ids on disk, mapped into memory: as many examples as the disk holds, each read at random.

A store is a folder: `tokens.bin` (int32) and `marks.bin` (uint8, see `dataset.py`) of all examples behind each other,
`ends.bin` (int64: where each ends), `rows.bin` (int64 triples: file and row that each comes from, and how many tokens
were cut off it), further arrays by name, and `store.json`, which is written last. It is written beside its place and
renamed when it is whole.
"""

import hashlib
import json
import os
import platform
import shutil
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from baichuan2.finetune.dataset import ENDS, LEARNT
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.special_tokens import EOS_TOKEN_ID

__all__ = ["Store", "StoreWriter", "remove_unfinished"]

DESCRIPTION: Final = "store.json"
BUFFER: Final = 1 << 20


class StoreWriter:
    """Writes a store at `folder`, beside it until `finish`; used as a context, it removes what was not finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder.with_name(f".{folder.name}.{platform.node()}.{os.getpid()}.partial")
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        self._tokens = (self.staging / "tokens.bin").open("wb", BUFFER)
        self._marks = (self.staging / "marks.bin").open("wb", BUFFER)
        self._lengths = array("q")
        self._rows = array("q")
        self._hashes = array("q")

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._marks.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def last_length(self) -> int:
        """Tokens of the last example so far."""
        return self._lengths[-1]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example so far."""
        return np.array(self._lengths, dtype=np.int64)

    @property
    def hashes(self) -> NDArray[np.int64]:
        """A hash of the tokens of each example so far; equal examples have equal ones."""
        return np.array(self._hashes, dtype=np.int64)

    def add(
        self,
        ids: Sequence[int],
        marks: Sequence[int],
        *,
        file: int,
        row: int,
        num_cut: int = 0,
        goes_on: bool = False,
    ) -> None:
        """Adds an example that comes from that row of that file and lost `num_cut` tokens at its end.

        `goes_on`: it belongs to the example before.
        """
        content = np.asarray(ids, dtype=np.int32).tobytes()
        self._tokens.write(content)
        self._marks.write(bytes(marks))
        if goes_on:
            self._lengths[-1] += len(ids)
            self._hashes[-1] = _hash(content, self._hashes[-1])
            return
        self._lengths.append(len(ids))
        self._rows.extend((file, row, num_cut))
        self._hashes.append(_hash(content))

    def finish(self, description: Mapping[str, Any], arrays: Mapping[str, NDArray[np.int64]]) -> None:
        """Puts the store in its place, with further arrays by name."""
        self._tokens.close()
        self._marks.close()
        every = {
            "ends": np.cumsum(self.lengths, dtype=np.int64),
            "rows": np.array(self._rows, dtype=np.int64),
            **arrays,
        }
        for name, values in every.items():
            (self.staging / f"{name}.bin").write_bytes(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        sizes = {file.name: file.stat().st_size for file in sorted(self.staging.iterdir())}
        text = json.dumps({**description, "sizes": sizes}, ensure_ascii=False, indent=1)
        (self.staging / DESCRIPTION).write_text(text, encoding="utf-8")
        for file in self.staging.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        if self.folder.exists():  # a damaged one, or another process was faster where folders cannot be locked
            shutil.rmtree(self.folder, ignore_errors=True)
        self.staging.rename(self.folder)


def remove_unfinished(directory: Path) -> None:
    """Removes what processes of this machine that were killed have left; those of other machines are left alone."""
    if os.name != "posix":  # where asking for a process would end it
        return
    for path in directory.glob(f".*.{platform.node()}.*.partial"):
        process = path.name.split(".")[-2]
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, ValueError, OverflowError):
            shutil.rmtree(path, ignore_errors=True)
        except PermissionError:  # it lives, and is another user's
            continue


class Store:
    """A finished store. Files are mapped when they are first read, in each process anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self._mapped: dict[str, NDArray[Any]] = {}

    @classmethod
    def open(cls, folder: Path) -> "Store | None":
        """The store at `folder`; None where there is none, or it is damaged."""
        try:
            store = cls(folder)
            sizes = store.description["sizes"]
            is_whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return store if is_whole else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}

    def __len__(self) -> int:
        return len(self.array("ends"))

    def array(self, name: str, dtype: Any = np.int64) -> NDArray[Any]:
        """The array of that name, mapped."""
        if name not in self._mapped:
            path = self.folder / f"{name}.bin"
            is_empty = path.stat().st_size == 0  # which cannot be mapped
            self._mapped[name] = np.empty(0, dtype) if is_empty else np.memmap(path, dtype=dtype, mode="r")
        return self._mapped[name]

    def has(self, name: str) -> bool:
        """Whether there is an array of that name."""
        return f"{name}.bin" in self.description["sizes"]

    def bounds(self, index: int) -> tuple[int, int]:
        """Where example `index` begins and ends in the arrays of all tokens."""
        ends = self.array("ends")
        return (int(ends[index - 1]) if index else 0), int(ends[index])

    def origin(self, index: int) -> str:
        """File and row that an example comes from."""
        file, row = (int(value) for value in self.array("rows")[3 * index : 3 * index + 2])
        name, unit = self.description["files"][file]
        return f"{name}, {unit} {row}" if unit else str(name)

    def num_cut(self, index: int) -> int:
        """How many tokens were cut off the end of an example."""
        return int(self.array("rows")[3 * index + 2])

    def read(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and labels of the tokens from `begin` to `end`, int64."""
        ids = np.asarray(self.array("tokens", np.int32)[begin:end], dtype=np.int64)
        marks = np.asarray(self.array("marks", np.uint8)[begin:end])
        labels = np.where(marks == LEARNT, ids, np.where(marks == ENDS, EOS_TOKEN_ID, IGNORED_LABEL))
        return ids, labels.astype(np.int64)


def _hash(content: bytes, before: int = 0) -> int:
    digest = hashlib.blake2b(content, digest_size=8, salt=before.to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little", signed=True)
