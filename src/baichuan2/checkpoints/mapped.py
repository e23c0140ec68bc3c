"""Tensors read one by one out of mapped weight files, so that a checkpoint needs no more memory than one of them.

What has been read counts as memory of this process until it is given back by `release`. Knows files, no model.
"""

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baichuan2.checkpoints.shards import WeightFiles
from baichuan2.errors import CheckpointError
from baichuan2.quantization.freed_memory import release_if_mapped, release_pages

__all__ = ["HeldTensors", "MappedTensors"]


class MappedTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, each mapped from its file when it is asked for.

    They must not be written to. The files have passed `check_layout` before.
    """

    def __init__(self, files: WeightFiles) -> None:
        self._readers: dict[str, Callable[[], Tensor]] = {}
        self._is_mapped: dict[str, bool] = {}
        for path in files.paths:
            is_mapped, readers = _open_safetensors(path) if path.suffix == ".safetensors" else _open_bin(path)
            self._readers |= readers
            self._is_mapped |= dict.fromkeys(readers, is_mapped)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def release(self, name: str) -> None:
        """Gives the memory of a tensor back; asking for it again reads the file again."""
        if self._is_mapped[name]:
            release_pages(self[name])


class HeldTensors(Mapping[str, Tensor]):
    """Tensors that are at hand, of which those that lie in a mapped file leave memory when they are released."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def release(self, name: str) -> None:
        """Gives the memory of a tensor back where it can be read again."""
        release_if_mapped(self._tensors[name])


def _open_safetensors(path: Path) -> tuple[bool, dict[str, Callable[[], Tensor]]]:
    from safetensors import SafetensorError, safe_open

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            try:
                tensor: Tensor = file.get_tensor(name)
            except failures as error:
                raise CheckpointError(f"{path}: {name} cannot be read ({error}): download it again") from error
            return tensor

        return read

    failures = (SafetensorError, OSError, ValueError)
    try:
        file: Any = safe_open(path, framework="pt")
        return True, {name: reader(name) for name in file.keys()}  # noqa: SIM118
    except failures as error:
        raise CheckpointError(f"{path} cannot be read ({error}): download it again") from error


def _open_bin(path: Path) -> tuple[bool, dict[str, Callable[[], Tensor]]]:
    is_mapped = zipfile.is_zipfile(path)  # files from before torch 1.6 are no zip, and are read as a whole
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({' '.join(str(error).split())}): download it again") from error

    def reader(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor.detach()

    return is_mapped, {str(name): reader(tensor) for name, tensor in tensors.items()}
