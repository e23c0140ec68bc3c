"""Which tensors of two folders of one layout differ, and by how much: read from the files, one pair at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import find_weight_files, read_layout
from baichuan2.errors import CheckpointError

__all__ = ["TensorDifference", "WeightDifferences", "compare_weights"]

VALUES_AT_A_TIME = 1 << 22


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """One tensor of two files that is not the same.

    `maximum`: of absolute differences; `relative`: root mean square of the difference beside that of A's values; both
    None where the shapes differ. `is_cast`: one is the other in another number format, to the bit.
    """

    name: str
    formats: tuple[str, str]
    maximum: float | None
    relative: float | None
    is_cast: bool


@dataclass(frozen=True, kw_only=True)
class WeightDifferences:
    """Tensors of two folders. `only_a`, `only_b`: names that one side alone has."""

    num_equal: int
    different: tuple[TensorDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def num_cast(self) -> int:
        """How many differ by their number format alone."""
        return sum(one.is_cast for one in self.different)


def compare_weights(a: Path, b: Path, show: Callable[[int, int], None] = lambda *_: None) -> WeightDifferences:
    """The tensors of two model folders, by name; the largest relative difference first.

    Raises:
        CheckpointError: a folder has no weights, they cannot be read, or the two have no tensor's name in common.
    """
    files_a, files_b = find_weight_files(a), find_weight_files(b)
    for path in (*files_a.paths, *files_b.paths):
        read_layout(path)  # refuses what holds more than tensors
    left, right = MappedTensors(files_a), MappedTensors(files_b)
    names = [name for name in left if name in right]
    if not names:
        raise CheckpointError(f"--weights: {a} and {b} have no tensor of the same name: their layouts differ")
    different = []
    for number, name in enumerate(names):
        show(number, len(names))
        found = _difference(name, left[name], right[name])
        if found is not None:
            different.append(found)
        left.release(name)
        right.release(name)
    different.sort(key=lambda one: -(one.relative if one.relative is not None else float("inf")))
    return WeightDifferences(
        num_equal=len(names) - len(different),
        different=tuple(different),
        only_a=tuple(sorted(name for name in left if name not in right)),
        only_b=tuple(sorted(name for name in right if name not in left)),
    )


def _difference(name: str, a: Tensor, b: Tensor) -> TensorDifference | None:
    formats = (_format(a), _format(b))
    if a.shape != b.shape:
        return TensorDifference(name=name, formats=formats, maximum=None, relative=None, is_cast=False)
    parts_a, parts_b = (torch.split(tensor.reshape(-1), VALUES_AT_A_TIME) for tensor in (a, b))
    pairs = list(zip(parts_a, parts_b, strict=True))
    if a.dtype == b.dtype and all(torch.equal(*pair) for pair in pairs):
        return None
    is_cast = a.dtype != b.dtype
    maximum = squares = difference_squares = 0.0
    for part_a, part_b in pairs:
        is_cast = is_cast and (torch.equal(part_a.to(b.dtype), part_b) or torch.equal(part_b.to(a.dtype), part_a))
        wide_a, wide_b = part_a.double(), part_b.double()
        difference = wide_b - wide_a
        maximum = max(maximum, difference.abs().max().item() if len(difference) else 0.0)
        difference_squares += difference.square().sum().item()
        squares += wide_a.square().sum().item()
    relative = (difference_squares / squares) ** 0.5 if squares > 0 else float(difference_squares > 0)
    return TensorDifference(name=name, formats=formats, maximum=maximum, relative=relative, is_cast=is_cast)


def _format(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
