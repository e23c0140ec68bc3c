"""The two sides of a comparison: what is asked of a model, whoever runs it, and which of them a name stands for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor

from baichuan2.bench.comparison_prompts import Prompt
from baichuan2.checkpoints.adapters import CONFIG_NAME as ADAPTER_FILE
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.releases import release_meant
from baichuan2.checkpoints.shards import find_weight_files, read_json
from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.settings import CompareSettings, flag_name

__all__ = ["Choice", "Found", "Side", "check_sides", "check_vocabulary", "find_side", "open_side"]

GGUF_MAGIC = b"GGUF"


class Choice(NamedTuple):
    """A token that a model chose, and the natural logarithm of the probability that it gave to it."""

    token_id: int
    logprob: float


class Side(Protocol):
    """A model in memory that answers with token ids and logits."""

    name: str
    """As the user wrote it."""
    program: str
    """Who runs it: baichuan2, transformers, llama.cpp."""
    number_format: str
    """What it computes in: float32, bfloat16, float16."""
    stored_as: str | None
    """The few bits in which its weights are held, such as int4; None: numbers of `number_format`."""
    vocab_size: int
    context: int
    """Tokens that prompt and reply may have together."""
    stop_ids: frozenset[int]
    is_chat: bool

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text, as its program gives them to whoever asks for nothing else."""

    def chat_ids(self, prompt: Prompt) -> list[int] | None:
        """Token ids of a conversation in its own chat format; None where it has none."""

    def piece(self, token_id: int) -> bytes:
        """What a token adds to a text, in UTF-8, maybe a part of a character; of a control token its name."""

    def blocks(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """Logits (n, V) of the places of `ids` (T,) that foretell another one, T - 1 in all, in their order."""

    def continuation(self, ids: Sequence[int], num_tokens: int, stop_ids: frozenset[int]) -> list[Choice]:
        """The likeliest next tokens, one after the other, a stop id included."""

    def sampling_defaults(self) -> dict[str, float | bool]:
        """What its files say of sampling."""

    def head_lengths(self) -> Tensor | None:
        """Lengths (V,) of the head's rows as stored, where the head is normalised; None where it is not."""

    def close(self) -> None:
        """Gives its memory back; it can be asked nothing afterwards."""


class Found(NamedTuple):
    """What a name stands for. `folder`: of the model, or the file of a GGUF. `vocab_size`: where config.json tells."""

    name: str
    kind: str
    folder: Path
    adapter: Path | None = None
    vocab_size: int | None = None


def find_side(name: str, *, offline: bool) -> Found:
    """What `name` stands for: baichuan, transformers or gguf; nothing is loaded.

    Raises:
        CheckpointError: there is no such model, or it is of no kind that can be run without code from its folder.
    """
    path = Path(name)
    try:
        path = path.expanduser()
        is_file = path.is_file()
        magic = b""
        if is_file:
            with path.open("rb") as file:
                magic = file.read(len(GGUF_MAGIC))
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a home that nobody has, no right to read
        raise CheckpointError(f"{name[:80]!r} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if is_file:
        if magic != GGUF_MAGIC:
            raise CheckpointError(f"{name} is a file, and no GGUF: give the folder that holds the model")
        return Found(name, "gguf", path)
    adapter: Path | None = None
    model, plus, rest = name.rpartition("+")
    if plus and not path.is_dir():
        adapter = Path(rest).expanduser()
        if not (adapter / ADAPTER_FILE).is_file():
            raise CheckpointError(f"{name}: {rest or 'what follows the +'} is no adapter folder ({ADAPTER_FILE})")
    else:
        model = name
    folder = _folder(model, offline=offline)
    if not (folder / "config.json").is_file():
        what = f"holds an adapter: write MODEL+{name}" if (folder / ADAPTER_FILE).is_file() else "has no config.json"
        raise CheckpointError(f"{name} {what}")
    fields = read_json(folder / "config.json")
    find_weight_files(folder)  # half a set is told now, not after the other side's minutes
    model_type, size = fields.get("model_type"), fields.get("vocab_size")
    vocab_size = size if isinstance(size, int) else None
    if model_type == BaichuanConfig.model_type:
        return Found(name, "baichuan", folder, adapter, vocab_size)
    if adapter is not None:
        raise CheckpointError(f"{name}: adapters are put into Baichuan models only, {folder} is a {model_type!r}")
    return Found(name, "transformers", folder, None, vocab_size)


def _folder(name: str, *, offline: bool) -> Path:
    """The folder of a model; ID@REVISION names a state of it on the hub, or is a release as a whole: 7B@00220B."""
    model, at, revision = name.rpartition("@")
    if at and model and not _is_release(name) and not Path(name).expanduser().is_dir():
        return locate(model, revision=revision, offline=offline)
    return locate(name, offline=offline)


def _is_release(name: str) -> bool:
    try:
        return release_meant(name) is not None
    except CheckpointError:  # close to one, or to several
        return False


def check_sides(a: Found, b: Found, settings: CompareSettings) -> None:
    """Raises, before anything long begins, what can be known from names and config.json.

    Raises:
        CheckpointError: the vocabularies differ.
        SettingsError: a flag does not go with a side.
        MissingExtraError: a GGUF file is given, and llama-cpp-python is missing.
    """
    if a.vocab_size is not None and b.vocab_size is not None:
        check_vocabulary(a.name, a.vocab_size, b.name, b.vocab_size)
    for found in (a, b):
        if settings.weights and (found.kind == "gguf" or found.adapter is not None):
            raise SettingsError(f"--weights compares the files of two folders, {found.name} is none")
        for name in ("dtype", "numerics"):
            is_taken = found.kind == "baichuan" or (found.kind == "transformers" and name == "dtype")
            if not is_taken and "," in getattr(settings, name):
                raise SettingsError(f"{flag_name(name)} {getattr(settings, name)}: {found.name} has no such choice")
        if found.kind == "gguf":
            from baichuan2.bench.side_llama_cpp import check_library

            check_library(found, settings)


def check_vocabulary(a: str, a_size: int, b: str, b_size: int) -> None:
    """Raises CheckpointError where two models have vocabularies of different sizes."""
    if a_size != b_size:
        raise CheckpointError(
            f"{a} has a vocabulary of {a_size} tokens, {b} one of {b_size}: only models of one vocabulary are compared"
        )


def open_side(found: Found, settings: CompareSettings, *, is_b: bool) -> Side:
    """The model, loaded.

    Raises:
        CheckpointError, TokenizerError, MissingExtraError: it cannot be read or run, as `load_model` says.
        SettingsError: there is no such device, or a flag does not go with this kind of model.
    """
    dtype, numerics = (settings.sides_of(name)[is_b] for name in ("dtype", "numerics"))
    if found.kind == "baichuan":
        from baichuan2.bench.side_baichuan import BaichuanSide

        return BaichuanSide(found, settings, dtype=dtype, numerics=numerics)
    if found.kind == "gguf":
        from baichuan2.bench.side_llama_cpp import LlamaCppSide

        return LlamaCppSide(found, settings)
    from baichuan2.bench.side_transformers import TransformersSide

    return TransformersSide(found, settings, dtype=dtype)
