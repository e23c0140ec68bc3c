"""Logits of one model kept on disk until those of another one are there, so that one model at a time is in memory."""

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from baichuan2.errors import CheckpointError

__all__ = ["StoredLogits"]


class StoredLogits:
    """Rows of logits (V,), each as the model gave it, in the order in which they are added; gone when it is closed.

    The file has no name where the system allows that, so nothing is left behind, however the program ends.
    """

    def __init__(self, num_rows: int, vocab_size: int) -> None:
        """Room for `num_rows`; raises CheckpointError where the disk lacks it even in 16 bits."""
        self.vocab_size, self._num_rows = vocab_size, num_rows
        self._dtype: torch.dtype | None = None
        self._check_disk(2)
        self._file = tempfile.TemporaryFile(prefix="baichuan2-compare-")  # noqa: SIM115  # until `__exit__`
        self.num_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, rows: Tensor) -> None:
        """Writes rows (n, V), all of one number format."""
        if self._dtype is None:
            self._dtype = rows.dtype
            self._check_disk(rows.dtype.itemsize)
        assert rows.dtype == self._dtype
        try:
            self._file.write(rows.detach().contiguous().view(torch.uint8).numpy().tobytes())
        except OSError as error:
            raise CheckpointError(
                f"the logits of A cannot be kept in {tempfile.gettempdir()}: {error.strerror}"
            ) from error
        self.num_rows += len(rows)

    def read(self, start: int, count: int) -> Tensor:
        """Rows start .. start + count, (count, V), as they were given."""
        assert self._dtype is not None
        width = self.vocab_size * self._dtype.itemsize
        self._file.seek(start * width)
        content = bytearray(self._file.read(count * width))
        return torch.frombuffer(content, dtype=self._dtype).view(count, self.vocab_size)

    def _check_disk(self, itemsize: int) -> None:
        folder = Path(tempfile.gettempdir())
        need, free = self._num_rows * self.vocab_size * itemsize, shutil.disk_usage(folder).free
        if need > free:
            raise CheckpointError(
                f"the logits of A take {need / 1e9:.1f} GB of disk until B has been read, {folder} has "
                f"{free / 1e9:.1f} GB free: lower --limit or --max-new-tokens, or set TMPDIR to a folder elsewhere"
            )
