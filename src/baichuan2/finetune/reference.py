"""What the model thought of each preference pair before it learnt anything: two numbers a pair, computed once.

DPO holds the model to where it started. A second copy of the model in memory would say so anew at every step; as the
starting model never changes, its log-probabilities are computed before the first step and kept, 8 bytes a pair. They
lie beside the prepared data as well, because a run that goes on from a checkpoint has the starting model no more.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from baichuan2.errors import TrainingError
from baichuan2.finetune.data import Item, collate

PAIR_FIELDS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")


class PairsWithReference(Dataset[Item]):
    """Preference pairs, each with `reference_logprobs`: a float32 tensor (2,), of the chosen and the rejected reply.

    `values` (N, 2) float32 holds them all, not a number where they are not computed yet.
    """

    def __init__(self, pairs: "Dataset[Item]") -> None:
        self._pairs: Any = pairs
        self.values = torch.full((len(self), 2), torch.nan)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Item:
        return {**self._pairs[index], "reference_logprobs": self.values[index]}

    def origins(self, index: int) -> list[str]:
        """File and row of pair `index`, for messages."""
        return list(self._pairs.origins(index))

    @property
    def is_complete(self) -> bool:
        """Whether every pair has its two numbers."""
        return not bool(self.values.isnan().any())

    def fingerprint(self) -> str:
        """A digest of all pairs: stored numbers of other pairs are not taken for those of these."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            pair = self._pairs[index]
            for name in PAIR_FIELDS:
                digest.update(torch.as_tensor(pair[name], dtype=torch.int64).numpy().tobytes() + b"|")
        return digest.hexdigest()


def collate_pairs(items: Sequence[Item]) -> dict[str, Tensor]:
    """A batch of B pairs: 2B rows, the chosen replies first, as `collate` has them; `reference_logprobs` (B, 2)."""
    reference = torch.stack([item["reference_logprobs"] for item in items])
    return {**collate(items), "reference_logprobs": reference}


def write_reference(path: Path, datasets: Mapping[str, PairsWithReference]) -> None:
    """The numbers of all `datasets`, into a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(path.name + ".part")
    fingerprints = {name: dataset.fingerprint() for name, dataset in datasets.items()}
    save_file({name: dataset.values for name, dataset in datasets.items()}, staged, metadata=fingerprints)
    with staged.open("rb+") as file:
        os.fsync(file.fileno())
    staged.replace(path)


def read_reference(path: Path, datasets: Mapping[str, PairsWithReference]) -> None:
    """Fills `datasets` with the numbers of a file that `write_reference` made.

    Raises:
        TrainingError: the file is missing, damaged, or of other pairs.
    """
    from safetensors import safe_open

    advice = "start the run anew, without --resume-from-checkpoint"
    try:
        stored = load_file(path)
        with safe_open(path, framework="pt") as file:
            fingerprints: dict[str, Any] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"cannot go on: what the starting model thought of the pairs cannot be read from {path} ({error}): {advice}"
        ) from error
    for name, dataset in datasets.items():
        if name not in stored or fingerprints.get(name) != dataset.fingerprint():
            raise TrainingError(f"cannot go on: {path} belongs to other {name} pairs than those of this run: {advice}")
        dataset.values.copy_(stored[name])
