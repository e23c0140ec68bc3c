"""Training data, from files to datasets of token ids and the batches made of them."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baichuan2.chat.template import ChatTokenizer
from baichuan2.errors import DataError, SettingsError
from baichuan2.finetune.items import Item, Items, PackedItems, PairItems, SingleItems, StreamItems, collate
from baichuan2.finetune.preparation import DataReport, Watch, prepared_store
from baichuan2.finetune.store import Store
from baichuan2.settings import FinetuneSettings

__all__ = ["DataReport", "Item", "Items", "TrainingData", "collate", "prepare_data"]


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from, and what it is measured on while it does."""

    train: Items
    evaluation: Items | None
    report: DataReport
    """Counts of the training data, held-out examples included."""
    evaluation_report: DataReport | None = None
    """Counts of `eval_data_path`; None without one."""

    @property
    def fingerprint(self) -> str:
        """Changes with files, tokenizer and settings: equal ones mean the same items in the same order."""
        return self.train.folder.name


def prepare_data(
    settings: FinetuneSettings,
    tokenizer: ChatTokenizer,
    directory: Path,
    *,
    seed: int = 42,
    watch: Watch | None = None,
) -> TrainingData:
    """The data that `settings` name, as token ids; what is prepared once is kept in `directory`.

    `seed` draws what is held out and what is packed together. `watch` is told how many megabytes of how many are read.
    Warns, on the first process of a run alone, of rows that are left out and of ends that are not taught.

    Raises:
        DataError: the data are malformed, of another kind than the objective needs, or nothing can be learnt from them.
        SettingsError: no data are named, or `directory` cannot be written.
        TrainingError: the disk is full.
    """
    if settings.data_path is None:
        raise SettingsError("--data-path is missing: give a file to learn from")
    store, report = prepared_store(
        settings,
        settings.data_path,
        tokenizer,
        directory,
        eval_fraction=settings.eval_fraction,
        seed=seed,
        watch=watch,
    )
    train = _items(store, "train", settings)
    if len(train) == 0:
        raise DataError(f"{settings.data_path} holds less than two tokens to learn")
    evaluation = _items(store, "evaluation", settings) if settings.eval_fraction > 0 else None
    evaluation_report = None
    num_duplicates = report.num_duplicates
    if settings.eval_data_path is not None:
        held_out, evaluation_report = prepared_store(
            settings, settings.eval_data_path, tokenizer, directory, seed=seed, watch=watch
        )
        evaluation = _items(held_out, "train", settings)
        num_duplicates = int(np.isin(_hashes(held_out), _hashes(store)).sum())
    if int(os.environ.get("RANK", "0")) == 0:
        for one, name in ((report, settings.data_path), (evaluation_report, settings.eval_data_path)):
            if one is not None:
                _warn(one, str(name), settings)
        if num_duplicates:
            warnings.warn(f"{num_duplicates} held-out examples are also learnt from", stacklevel=2)
    return TrainingData(train, evaluation, report, evaluation_report)


def _hashes(store: Store) -> NDArray[np.int64]:
    """A hash of each example to learn from; of a pair, of the better reply with its prompt."""
    return store.array("hashes")[store.array("train")]


def _items(store: Store, name: str, settings: FinetuneSettings) -> Items:
    if settings.objective == "dpo":
        return PairItems(store, name)
    if settings.objective == "pretrain":
        return StreamItems(store, name, settings.model_max_length)
    return PackedItems(store, name) if settings.packing else SingleItems(store, name)


def _warn(report: DataReport, name: str, settings: FinetuneSettings) -> None:
    """Warns of what is left out of training, and of ends that are not taught."""
    if report.num_bad:
        shown = "; ".join([*report.bad, *(["..."] if report.num_bad > len(report.bad) else [])])
        many = f"{report.num_bad} of {report.num_rows}"
        warnings.warn(f"{many} rows of {name} are malformed and left out: {shown}", stacklevel=3)
    advice = f"raise --model-max-length {settings.model_max_length} (the longest example has {report.longest} tokens)"
    if report.num_unlearnable:
        warnings.warn(
            f"{report.num_unlearnable} of {report.num_rows} rows of {name} are left out, as all their labels are cut: "
            + advice,
            stacklevel=3,
        )
    if report.num_equal:
        warnings.warn(
            f"{report.num_equal} pairs of {name} are left out, as both replies are the same, or were cut to the same",
            stacklevel=3,
        )
    if report.num_without_end * 2 > report.num_examples:
        warnings.warn(
            f"{report.num_without_end} of {report.num_examples} examples of {name} teach no end token, as they are "
            f"cut, so the model may not learn to stop: {advice}",
            stacklevel=3,
        )
