"""Data files to a store of token ids: rows are read, checked, encoded, cut, counted, split and packed, once.

The store is kept beside the run's output under a name made of everything that it depends on, so the next run with the
same files, tokenizer and settings takes it as it is. Of several processes on one machine one prepares, the others wait.
"""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from baichuan2.chat.template import ChatTokenizer
from baichuan2.errors import DataError, SettingsError, TrainingError
from baichuan2.finetune.dataset import LEARNT, join_turns
from baichuan2.finetune.files import RawRow, Reading, find_files, iter_rows, text_pieces
from baichuan2.finetune.layouts import Document, Layout, Pair, Row, detect_layout, read_row
from baichuan2.finetune.packing import pack
from baichuan2.finetune.store import Store, StoreWriter, remove_unfinished
from baichuan2.model.special_tokens import EOS_TOKEN_ID
from baichuan2.settings import FinetuneSettings

__all__ = ["DataReport", "Watch", "prepared_store"]

Watch = Callable[[int, int], None]
"""Is told how many megabytes of how many are read."""

VERSION: Final = 2  # of what a store holds: another one is prepared anew
NUM_SHOWN: Final = 3  # malformed rows whose messages are kept
BATCH_ROWS: Final = 256
BATCH_CHARACTERS: Final = 1 << 19
LAYOUTS_OF: Final[Mapping[str, tuple[Layout, ...]]] = {
    "sft": ("conversations", "sharegpt", "messages", "alpaca"),
    "dpo": ("preference",),
    "pretrain": ("text",),
}
WANTED: Final[Mapping[Layout, str]] = {
    "preference": "preference pairs: --objective dpo learns from them",
    "text": "plain text: --objective pretrain learns from it",
}


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What was found in the data, in numbers."""

    layouts: tuple[str, ...] = ()
    """The layouts that were read."""
    num_rows: int = 0
    """Rows in the files, malformed ones included."""
    num_bad: int = 0
    bad: tuple[str, ...] = ()
    """What is wrong with the first malformed rows."""
    num_unlearnable: int = 0
    """Rows left out because the cut removed everything that is learnt."""
    num_equal: int = 0
    """Pairs left out because their replies are the same, or were cut to the same."""
    num_cut: int = 0
    """Examples of which the cut removed a part."""
    num_without_end: int = 0
    """Examples that teach no end token."""
    num_examples: int = 0
    """Examples to learn from; pairs of replies count as one."""
    num_evaluation: int = 0
    """Examples that are held out."""
    num_duplicates: int = 0
    """Held-out examples that are also learnt from."""
    num_tokens: int = 0
    num_learnt: int = 0
    """Tokens that are learnt, end tokens included."""
    longest: int = 0
    """Tokens of the longest example, before the cut."""
    num_items: int = 0
    """Rows of a batch that the examples make."""
    utilization: float = 1.0
    """Where examples are packed: the part of these rows that holds tokens."""


def prepared_store(
    settings: FinetuneSettings,
    data_path: str,
    tokenizer: ChatTokenizer,
    directory: Path,
    *,
    eval_fraction: float = 0.0,
    seed: int = 42,
    watch: Watch | None = None,
) -> tuple[Store, DataReport]:
    """The store of the data at `data_path`, prepared now or earlier, and the report on it.

    Raises:
        DataError: the data are malformed, of another kind than the objective needs, or nothing can be learnt from them.
        SettingsError: `directory` cannot be written.
        TrainingError: the disk is full.
    """
    source = _Source(settings, find_files(data_path), tokenizer, eval_fraction=eval_fraction, seed=seed)
    fingerprint = source.fingerprint()
    folder = directory / fingerprint
    store = Store.open(folder)
    if store is None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(directory):
                store = Store.open(folder)
                if store is None:
                    remove_unfinished(directory)
                    _build(source, folder, watch)
                    store = Store(folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TrainingError(f"the disk of {directory} is full: token ids need 5 bytes each") from error
            raise SettingsError(f"cannot write {directory}: {error.strerror or error}") from error
        if source.fingerprint() != fingerprint:
            shutil.rmtree(folder, ignore_errors=True)
            raise DataError(f"{data_path} was changed while it was read: start again when it is complete")
    report = store.description["report"]
    return store, DataReport(**{**report, "layouts": tuple(report["layouts"]), "bad": tuple(report["bad"])})


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Lets one process of the machine in; where files cannot be locked all come in, and each works on its own copy."""
    with (directory / ".lock").open("wb") as lock:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by being killed
        yield


@dataclass
class _Source:
    """What a store is made of."""

    settings: FinetuneSettings
    files: list[Path]
    tokenizer: Any
    eval_fraction: float
    seed: int

    def fingerprint(self) -> str:
        """A name for everything that the store depends on."""
        settings = self.settings
        try:
            stats = [file.stat() for file in self.files]
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        facts = {
            "version": VERSION,
            "files": [
                # the change time too: a copy that keeps size and date is another file
                [str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
                for file, stat in zip(self.files, stats, strict=True)
            ],
            "tokenizer": _tokenizer_digest(self.tokenizer),
            "settings": [
                settings.data_format,
                settings.objective,
                settings.model_max_length,
                settings.packing,
                settings.protect_roles,
                settings.max_bad_rows,
                self.eval_fraction,
                self.seed,
            ],
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        if not self.settings.protect_roles:
            return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        if hasattr(self.tokenizer, "encode_texts"):
            return self.tokenizer.encode_texts(texts)
        return [self.tokenizer.encode_text(text) for text in texts]


def _tokenizer_digest(tokenizer: Any) -> str:
    content = getattr(tokenizer, "_model_content", b"")
    added = sorted(tokenizer.get_added_vocab().items()) if hasattr(tokenizer, "get_added_vocab") else []
    return hashlib.sha256(bytes(content) + repr(added).encode()).hexdigest()


@dataclass
class _Builder:
    """Counts what is read, and writes what is learnt."""

    source: _Source
    writer: StoreWriter
    counts: DataReport = field(default_factory=DataReport)
    is_in_document: bool = False

    def count(self, **more: int) -> None:
        """Adds to the counts of those names."""
        self.counts = replace(self.counts, **{name: getattr(self.counts, name) + value for name, value in more.items()})

    def refuse(self, error: DataError) -> None:
        """Counts a malformed row; raises when there are more of them than are allowed."""
        most = self.source.settings.max_bad_rows
        self.count(num_bad=1)
        if len(self.counts.bad) < NUM_SHOWN:
            self.counts = replace(self.counts, bad=(*self.counts.bad, str(error)))
        if most == 0:
            raise DataError(f"{error} (--max-bad-rows N goes on without up to N such rows)") from error
        if self.counts.num_bad > most:
            raise DataError(
                f"more than {most} rows are malformed (--max-bad-rows {most}); the first: {self.counts.bad[0]}"
            ) from error

    def add(self, rows: Sequence[tuple[RawRow, Row, int]]) -> None:
        """Encodes rows, each with the number of its file, and writes the examples that they make."""
        waiting = iter(self.source.encode([text for _, row, _ in rows for text in row.texts]))
        for raw, row, file in rows:
            encoded = [next(waiting) for _ in row.texts]
            if isinstance(row, Document):
                self._add_document(encoded[0], raw, file)
            elif isinstance(row, Pair):
                size = len(row.chosen.texts)
                self._add([join_turns(row.chosen, encoded[:size]), join_turns(row.rejected, encoded[size:])], raw, file)
            else:
                self._add([join_turns(row, encoded)], raw, file)

    def _add_document(self, ids: list[int], raw: RawRow, file: int) -> None:
        ids = ids if raw.goes_on else [*ids, EOS_TOKEN_ID]
        self.writer.add(ids, bytes([LEARNT]) * len(ids), file=file, row=raw.number, goes_on=self.is_in_document)
        self.count(num_tokens=len(ids), num_learnt=len(ids) - (not self.is_in_document))
        if not raw.goes_on:
            self.count(num_examples=1)
            self.counts = replace(self.counts, longest=max(self.counts.longest, int(self.writer.last_length)))
        self.is_in_document = raw.goes_on

    def _add(self, sequences: Sequence[tuple[list[int], list[int]]], raw: RawRow, file: int) -> None:
        """Writes the sequences of one example, cut; leaves it out where nothing is learnt from one of them."""
        most = self.source.settings.model_max_length
        longest = max(len(ids) for ids, _ in sequences)
        self.counts = replace(self.counts, longest=max(self.counts.longest, longest))
        cut = [(ids[:most], bytes(marks[:most])) for ids, marks in sequences]
        num_learnt = [len(marks) - 1 - marks.count(0, 1) for _, marks in cut]  # the first token follows nothing
        if min(num_learnt) == 0:
            self.count(num_unlearnable=1)
            return
        if len(cut) == 2 and cut[0] == cut[1]:
            self.count(num_equal=1)
            return
        for (ids, marks), (whole, _) in zip(cut, sequences, strict=True):
            self.writer.add(ids, marks, file=file, row=raw.number, num_cut=len(whole) - len(ids))
        self.count(
            num_examples=1,
            num_cut=int(longest > most),
            num_without_end=int(any(marks.find(2, 1) < 0 for _, marks in cut)),
            num_tokens=sum(len(ids) for ids, _ in cut),
            num_learnt=sum(num_learnt),
        )


def _build(source: _Source, folder: Path, watch: Watch | None) -> None:
    """Reads all files and writes the store at `folder`."""
    with StoreWriter(folder) as writer:
        builder = _Builder(source, writer)
        units: list[str] = []
        layouts: list[str] = []
        rows = _checked_rows(builder, units, layouts, watch)
        for batch in _batches(rows):
            builder.add(batch)
        num_starts = len(writer) // (2 if source.settings.objective == "dpo" else 1)
        if num_starts == 0:
            raise DataError(_nothing_left(builder.counts, source.settings))
        arrays, facts = _arrange(source, writer)
        arrays["hashes"] = writer.hashes
        report = replace(builder.counts, layouts=tuple(layouts), **facts)
        files = [[str(file), unit] for file, unit in zip(source.files, units, strict=True)]
        writer.finish({"report": asdict(report), "files": files}, arrays)


def _nothing_left(counts: DataReport, settings: FinetuneSettings) -> str:
    if counts.num_unlearnable:
        return (
            f"all labels of all {counts.num_unlearnable} examples are cut: raise --model-max-length "
            f"{settings.model_max_length} (the longest has {counts.longest} tokens)"
        )
    equal = f", {counts.num_equal} pairs of two equal replies" if counts.num_equal else ""
    return (
        f"no example is left to learn from: {counts.num_rows} rows were read, {counts.num_bad} of them malformed{equal}"
    )


def _checked_rows(
    builder: _Builder, units: list[str], layouts: list[str], watch: Watch | None
) -> Iterator[tuple[RawRow, Row, int]]:
    """The sound rows of all files; `units` and `layouts` get what the rows of each file are called and look like."""
    settings, files = builder.source.settings, builder.source.files
    sizes = [file.stat().st_size for file in files]
    for number, file in enumerate(files):
        reading = Reading()
        layout: Layout | None = None if settings.data_format == "auto" else settings.data_format
        if layout is not None:
            _check_objective(layout, settings, str(file))
        units.append("")
        last_told = -1
        is_inside = False  # a document whose beginning was counted
        for raw in iter_rows(file, reading):
            done = (sum(sizes[:number]) + reading.num_bytes) // 1_000_000
            if watch is not None and done != last_told:
                watch(done, max(1, sum(sizes) // 1_000_000))
                last_told = done
            units[-1] = units[-1] or _unit(raw)
            if not is_inside:
                builder.count(num_rows=1)
            is_inside = raw.goes_on
            try:
                if raw.error is not None:
                    raise raw.error
                if layout is None:
                    layout = _detected(raw, settings)
                row = read_row(raw.value, layout, raw.place, str(raw.number))
            except DataError as error:
                if isinstance(error, _WrongKindError):
                    raise
                builder.refuse(error)
                continue
            name = "conversations" if layout == "sharegpt" and settings.data_format == "auto" else layout
            if name not in layouts:
                layouts.append(name)
            yield from _in_pieces(raw, row, number)


class _WrongKindError(DataError):
    """The whole file is of a kind that the objective cannot learn from."""


def _unit(raw: RawRow) -> str:
    return "line" if ", line " in raw.place else "item" if ", item " in raw.place else ""


def _detected(raw: RawRow, settings: FinetuneSettings) -> Layout:
    if settings.objective == "pretrain" and isinstance(raw.value, Mapping) and isinstance(raw.value.get("text"), str):
        return "text"
    layout = detect_layout(raw.value, raw.place)
    _check_objective(layout, settings, raw.place)
    return layout


def _check_objective(layout: Layout, settings: FinetuneSettings, place: str) -> None:
    if layout in LAYOUTS_OF[settings.objective]:
        return
    seen = WANTED.get(layout, f"conversations (layout {layout}): --objective sft learns from them")
    needed = {"sft": "conversations", "dpo": "preference pairs (prompt, chosen, rejected)", "pretrain": "text"}
    raise _WrongKindError(
        f"{place}: --objective {settings.objective} needs {needed[settings.objective]}, but this holds {seen}"
    )


def _in_pieces(raw: RawRow, row: Row, file: int) -> Iterator[tuple[RawRow, Row, int]]:
    """The row; a long document in pieces that are encoded by themselves."""
    if not isinstance(row, Document):
        yield raw, row, file
        return
    pieces = list(text_pieces(row.text))
    for number, piece in enumerate(pieces):
        yield raw._replace(value=None, goes_on=raw.goes_on or number < len(pieces) - 1), Document(piece), file


def _batches(rows: Iterable[tuple[RawRow, Row, int]]) -> Iterator[list[tuple[RawRow, Row, int]]]:
    batch: list[tuple[RawRow, Row, int]] = []
    size = 0
    for raw, row, file in rows:
        batch.append((raw._replace(value=None), row, file))
        size += sum(map(len, row.texts))
        if len(batch) >= BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _arrange(source: _Source, writer: StoreWriter) -> tuple[dict[str, NDArray[np.int64]], dict[str, Any]]:
    """Which examples are learnt and which are held out, and the rows that they make; with their counts."""
    settings = source.settings
    starts = np.arange(0, len(writer), 2 if settings.objective == "dpo" else 1, dtype=np.int64)
    num_held_out = 0
    if source.eval_fraction > 0:
        num_held_out = max(1, round(source.eval_fraction * len(starts)))
        if num_held_out >= len(starts):
            raise DataError(
                f"--eval-fraction {source.eval_fraction} of {len(starts)} examples leaves none to learn from"
            )
    drawn = np.random.default_rng(source.seed).permutation(starts)
    parts = {"train": np.sort(drawn[num_held_out:]), "evaluation": np.sort(drawn[:num_held_out])}
    lengths, hashes = writer.lengths, writer.hashes
    arrays: dict[str, NDArray[np.int64]] = {}
    facts: dict[str, Any] = {
        "num_evaluation": num_held_out,
        "num_duplicates": int(np.isin(hashes[parts["evaluation"]], hashes[parts["train"]]).sum()),
        "num_items": len(parts["train"]),
    }
    for name, order in parts.items():
        arrays[name] = order
        if settings.objective == "pretrain":
            arrays[f"{name}_stream"] = np.cumsum(lengths[order])
        elif settings.packing and settings.objective == "sft":
            mixed, arrays[f"{name}_ends"] = pack(lengths[order], settings.model_max_length, source.seed)
            arrays[name] = order[mixed]
    if settings.objective == "pretrain":
        num_tokens = int(lengths[parts["train"]].sum())
        whole, rest = divmod(num_tokens, settings.model_max_length)
        facts["num_items"] = whole + (rest > 1)  # as `StreamItems` has it
    elif settings.packing and settings.objective == "sft":
        facts["num_items"] = len(arrays["train_ends"])
        room = facts["num_items"] * settings.model_max_length
        facts["utilization"] = float(lengths[parts["train"]].sum() / max(1, room))
    return arrays, facts
