"""From a name to a model that can answer: `load_model`, and `load_for_replies` where nothing but answers is wanted.

Everything that can be wrong with a folder is looked at before the model is built, so a failure is one line and never
half a model. The weights stay where memory mapping put them: no copy is made unless another number format or fewer bits
are asked for, and then tensor by tensor.

The framework's model class is imported only where it is needed: that takes as long as importing everything else.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.utils import logging

from baichuan2.checkpoints.adapters import CONFIG_NAME as ADAPTER_FILE
from baichuan2.checkpoints.adapters import attach, base_of, check_base, merge_into, read_adapter
from baichuan2.checkpoints.device import placement
from baichuan2.checkpoints.locate import DEMO_DIR, locate
from baichuan2.checkpoints.network import check_weights, empty_model, read_network
from baichuan2.checkpoints.plan import check_fits
from baichuan2.checkpoints.shards import (
    WEIGHT_DTYPES,
    WeightFiles,
    check_values,
    find_weight_files,
    read_json,
)
from baichuan2.checkpoints.threads import use_threads
from baichuan2.devices import pick_device
from baichuan2.errors import BaichuanError, CheckpointError, SettingsError, TokenizerError
from baichuan2.kernels import library
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.norm_head import NormHead
from baichuan2.model.plain import PlainBaichuan
from baichuan2.model.quantized_folders import FolderKind, check_quantization, kind_of_quantization
from baichuan2.model.quantized_layers import quantizable_shapes
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from baichuan2.quantization.apply import default_spec
from baichuan2.quantization.bnb_library import bitsandbytes_library
from baichuan2.quantization.freed_memory import release_if_mapped
from baichuan2.quantization.linear import Int8Embedding
from baichuan2.settings import LoadSettings

if TYPE_CHECKING:
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

__all__ = ["LoadedModel", "ReadyModel", "Watch", "load_for_replies", "load_model", "without_progress_bar"]

Watch = Callable[[int, int], None]
"""Is told how many of how many layers are quantised: 0 before the first, then after each."""


@dataclass(frozen=True)
class ReadyModel:
    """What replies need: a model that the engine can call, with what belongs to it.

    `generation_config`: the checkpoint's own sampling values. `name`: what to call the model in front of people.
    `adapters`: names of those beside the weights, in the order of their numbers in `model.row_adapters`.
    """

    model: "BaichuanForCausalLM | PlainBaichuan"
    tokenizer: BaichuanTokenizer
    generation_config: GenerationConfig
    name: str
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedModel(ReadyModel):
    """A model that is ready to answer, as the framework's class, with what belongs to it."""

    model: "BaichuanForCausalLM"


@dataclass(frozen=True)
class _Folder:
    """A model folder that is read but for its weights, and has passed the checks that need neither them nor a model."""

    config: BaichuanConfig
    tokenizer: BaichuanTokenizer
    generation_config: GenerationConfig
    files: WeightFiles
    kind: FolderKind
    name: str


def load_model(
    name_or_path: str | Path | None = None, settings: LoadSettings | None = None, *, watch: Watch | None = None
) -> LoadedModel:
    """The model called `name_or_path`, in evaluation mode.

    A folder, a hub id such as `baichuan-inc/Baichuan2-7B-Chat`, or "demo-chat" and "demo-base" for the embedded
    models. None: `settings.model`, and if that is None too, the embedded Chat model. `settings` says where the model
    goes and in which number format; by default on the first accelerator, else the processor, in the checkpoint's own.
    `settings.adapter` is put into the weights, or beside those in few bits; see `checkpoints.adapters`.
    `settings.quantize` makes fewer bits of the weights as they are read, which takes 0.01 (int8) or 0.08 seconds (int4)
    of a core for each million weights on the processor; `watch` is told how far that is.

    Raises:
        CheckpointError: no such model, its folder is incomplete, damaged or of another kind, or a revision is given
            for one that is not on the hub; as MemoryShortageError, when it does not fit into memory.
        TokenizerError: the folder has no usable tokenizer.model.
        SettingsError: there is no such device, or fewer bits are asked for of a model that is quantised already.
        MissingExtraError: the weights, or quantising them on an accelerator, need an optional package.
        QuantizationError: a weight is beyond what the format asked for can hold.
    """
    settings = settings if settings is not None else LoadSettings()
    return _through_framework(_open_folder(name_or_path, settings), settings, watch)


def load_for_replies(
    name_or_path: str | Path | None = None, settings: LoadSettings | None = None, *, watch: Watch | None = None
) -> ReadyModel:
    """As `load_model`, where nothing is done with the model but replies: `chat.reply`, `chat.session`, the engine.

    On the processor the model is the network alone, which is ready in half the time; else, and for folders and settings
    that ask for more, it is what `load_model` gives. Both compute the same numbers.

    Raises: as `load_model`.
    """
    settings = settings if settings is not None else LoadSettings()
    folder = _open_folder(name_or_path, settings)
    model = None
    if settings.quantize == "none" and pick_device(settings.device).type == "cpu":
        model = read_network(folder.files, folder.config, folder.kind)
    if model is None:
        return _through_framework(folder, settings, watch)
    check_values(model, folder.files, model.get_input_embeddings())
    _convert(model, settings)
    adapters = _with_adapters(model, settings)
    _settle(model)
    return ReadyModel(model, folder.tokenizer, folder.generation_config, folder.name, adapters)


def _open_folder(name_or_path: str | Path | None, settings: LoadSettings) -> _Folder:
    """Everything of `load_model` before the weights are looked at."""
    name = name_or_path if name_or_path is not None else settings.model
    if name is None and settings.adapter is not None:
        name = _base_name(settings)
    folder = locate(name, revision=settings.revision, offline=settings.offline)
    config = read_config(folder)
    display_name = _display_name(name, folder)
    if settings.quantize != "none":
        _check_can_quantize(config, display_name, settings)
    if pick_device(settings.device).type == "cpu":
        use_threads(settings.threads)
        library.check_limit()
    if settings.numerics == "official":
        config.alibi_numerics = "official"
    tokenizer = read_tokenizer(folder, config)
    generation_config = read_generation_config(folder)
    files = find_weight_files(folder)
    if settings.check_memory:
        options = {"device": settings.device, "dtype": settings.dtype, "quantize": settings.quantize}
        check_fits(config, display_name, file_bytes=files.num_bytes, **options)
    kind = check_quantization(folder / "config.json", getattr(config, "quantization_config", None))
    return _Folder(config, tokenizer, generation_config, files, kind, display_name)


def _through_framework(folder: _Folder, settings: LoadSettings, watch: Watch | None) -> LoadedModel:
    """The rest of `load_model`."""
    config, files = folder.config, folder.files
    if folder.kind in ("none", "own"):  # the readers of other layouts check what they read
        from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

        empty = empty_model(files.folder / "config.json", config, BaichuanForCausalLM)
        ignored = tuple(empty._keys_to_ignore_on_load_unexpected or ())
        check_weights(files, empty.state_dict(), ignored, folder.kind)
    model = _read_weights(files, config, settings)
    if folder.kind != "bitsandbytes":
        is_kept = settings.quantize == "none"
        check_values(model, files, model.get_input_embeddings() if is_kept else model)
    adapters: tuple[str, ...] = ()
    if settings.adapter is not None and not settings.named_adapters:  # put into the weights before they lose bits
        _convert(model, settings)
        _with_adapters(model, settings)
    if folder.kind != "bitsandbytes":
        model = _with_fewer_bits(model, settings, watch)
    _convert(model, settings)
    if settings.named_adapters:
        adapters = _with_adapters(model, settings)
    if model.device.type == "cpu":
        _settle(model.eval())
    model.generation_config = folder.generation_config
    return LoadedModel(model.eval(), folder.tokenizer, folder.generation_config, folder.name, adapters)


def _base_name(settings: LoadSettings) -> str:
    """The model that the first adapter was trained on."""
    assert settings.adapter is not None
    folder = Path(next(iter(settings.named_adapters.values()), settings.adapter))
    name = base_of(folder)
    if not name:
        raise CheckpointError(f"{folder} does not say which model it was trained on: name that with --model")
    try:
        return str(locate(name, revision=settings.revision, offline=settings.offline))
    except CheckpointError as error:
        raise CheckpointError(f"{folder} was trained on another model, which is needed: {error}; or --model") from error


def _with_adapters(model: "BaichuanForCausalLM | PlainBaichuan", settings: LoadSettings) -> tuple[str, ...]:
    """Puts the adapters asked for into the model, or beside its weights; the names of the latter."""
    if settings.adapter is None:
        return ()
    named = settings.named_adapters
    found = [read_adapter(Path(path).expanduser(), model.config) for path in named.values() or [settings.adapter]]
    for adapter in found:
        check_base(model.named_parameters(), adapter)
    if named:
        attach(model, found)
    else:
        merge_into(model, found[0])
    return tuple(named)


def read_config(folder: Path, *, is_run: bool = True) -> BaichuanConfig:
    """The configuration of a model folder. `is_run`: the model will compute, so what its weights need must be there.

    Raises:
        CheckpointError: config.json is missing, damaged, of another kind of model, or of an official 4-bit folder.
        MissingExtraError: the weights are quantised and bitsandbytes is not installed.
    """
    path = folder / "config.json"
    if not path.is_file():
        if (folder / ADAPTER_FILE).is_file():
            raise CheckpointError(f"{folder} holds an adapter, not a model: give it by --adapter {folder}")
        is_empty = not any(folder.iterdir())
        found = "is empty" if is_empty else "holds no config.json"
        raise CheckpointError(f"{folder} {found}: give the folder of a Baichuan model")
    fields = read_json(path)
    model_type = fields.get("model_type")
    if model_type != BaichuanConfig.model_type:
        hint = f"; a Baichuan in the Llama layout: first baichuan2 convert from-llama {folder} TARGET"
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}, not {BaichuanConfig.model_type!r}: only Baichuan models are loaded"
            + (hint if model_type == "llama" else "")
        )
    (check_quantization if is_run else kind_of_quantization)(path, fields.get("quantization_config"))
    for name in ("dtype", "torch_dtype"):
        if not _names_a_dtype(fields.get(name)):
            raise CheckpointError(
                f"{path}: {name} must name a number format, one of {_dtype_names()}, got {fields[name]!r}"
            )
    try:
        config = BaichuanConfig.from_dict(fields)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except Exception as error:  # the framework's own validation has many classes
        raise CheckpointError(f"{path} has a field that cannot be used: {_one_line(error)}") from error
    assert isinstance(config, BaichuanConfig)
    return config


def read_tokenizer(folder: Path, config: BaichuanConfig) -> BaichuanTokenizer:
    """The tokenizer of a model folder.

    Raises:
        TokenizerError: tokenizer.model is missing, damaged, or has more pieces than the model has embeddings.
    """
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise TokenizerError(f"{folder} holds no tokenizer.model: copy it from the official model folder")
    try:
        tokenizer = BaichuanTokenizer.from_pretrained(folder)
    except BaichuanError:
        raise
    except Exception as error:  # damaged side files (tokenizer_config.json and others) fail in many ways
        raise TokenizerError(f"{folder}: the tokenizer cannot be read: {_one_line(error)}") from error
    assert isinstance(tokenizer, BaichuanTokenizer)
    if len(tokenizer) > config.vocab_size:
        raise TokenizerError(
            f"{path} has {len(tokenizer)} tokens, config.json only {config.vocab_size} (vocab_size): they belong to "
            "different models"
        )
    return tokenizer


def read_generation_config(folder: Path) -> GenerationConfig:
    """The sampling values of a model folder; without generation_config.json those that config.json implies.

    Raises:
        CheckpointError: generation_config.json is damaged, or an id that ends a reply is no whole number.
    """
    path = folder / "generation_config.json"
    source = path if path.is_file() else folder / "config.json"
    fields = read_json(source)
    for name, may_be_list in (("eos_token_id", True), ("user_token_id", False)):
        value = fields.get(name)
        for token_id in value if may_be_list and isinstance(value, list) else [value]:
            if isinstance(token_id, bool) or not isinstance(token_id, int | None):
                many = " or a list of them" if may_be_list else ""
                raise CheckpointError(f"{source}: {name} must be a whole number{many}, got {value!r}")
    try:
        if path.is_file():
            return GenerationConfig.from_dict(fields)
        token_ids = {key: fields[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id") if key in fields}
        return GenerationConfig(**token_ids)
    except Exception as error:  # the framework checks values with exceptions of many classes
        raise CheckpointError(f"{source} has a value that cannot be used: {_one_line(error)}") from error


def _read_weights(files: WeightFiles, config: BaichuanConfig, settings: LoadSettings) -> "BaichuanForCausalLM":
    """The model with its weights: mapped from the files on the processor, copied once to an accelerator."""
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

    # what is quantised never stands on an accelerator with all its bits
    device_map = placement(settings.device, files.num_bytes) if settings.quantize == "none" else None
    # on the processor `_convert` changes the number format afterwards, which needs less memory than doing it here
    dtype = "auto" if device_map is None or settings.dtype == "auto" else getattr(torch, settings.dtype)
    with without_progress_bar():
        model = BaichuanForCausalLM.from_pretrained(
            files.folder, config=config, dtype=dtype, device_map=device_map, local_files_only=True
        )
    assert isinstance(model, BaichuanForCausalLM)
    return model


def _check_can_quantize(config: BaichuanConfig, name: str, settings: LoadSettings) -> None:
    """Raises, before anything is read, where `_with_fewer_bits` could not do its work."""
    if getattr(config, "quantization_config", None) is not None:
        raise SettingsError(
            f"--quantize {settings.quantize}: {name} is quantised already: leave the flag out, or give the model with "
            "all its bits"
        )
    if pick_device(settings.device).type != "cpu":
        bitsandbytes_library()


def _with_fewer_bits(
    model: "BaichuanForCausalLM", settings: LoadSettings, watch: Watch | None
) -> "BaichuanForCausalLM":
    """The model with its linear layers in 8 or 4 bits, on its device; one layer at a time has all its bits in memory.

    On the processor in our own format, on an accelerator by bitsandbytes, which does it before the model moves there.
    """
    if settings.quantize == "none":
        return model
    from baichuan2.model.online_quantization import quantize_in_place
    from baichuan2.model.quantizer import quantize_model

    total, num_done = len(quantizable_shapes(model.config)), 0

    def done(layer: nn.Linear) -> None:
        nonlocal num_done
        release_if_mapped(layer.weight)
        num_done += 1
        if watch is not None:
            watch(num_done, total)

    if watch is not None:
        watch(0, total)
    device = pick_device(settings.device)
    if device.type == "cpu":
        quantize_model(model, default_spec(settings.quantize), done)
        return model
    _convert(model, settings)  # the library's layers cannot be cast afterwards
    quantize_in_place(model, 8 if settings.quantize == "int8" else 4, done)
    moved: BaichuanForCausalLM = model.to(device)
    return moved


def _convert(model: "BaichuanForCausalLM | PlainBaichuan", settings: LoadSettings) -> None:
    """Brings the weights into the number format that was asked for, one tensor at a time."""
    if settings.dtype == "auto":
        return
    dtype = getattr(torch, settings.dtype)
    for parameter in model.parameters():
        is_plain = type(parameter) is nn.Parameter  # the library may keep its codes in bytes that it calls floats
        if is_plain and parameter.dtype != dtype and parameter.is_floating_point():
            old = parameter.data
            parameter.data = old.to(dtype)
            release_if_mapped(old)
    for module in model.modules():
        if isinstance(module, Int8Embedding):
            module.dtype = dtype
    model.config.dtype = dtype


def _settle(model: "BaichuanForCausalLM | PlainBaichuan") -> None:
    """Scales the head now, and takes its weight as it was out of memory; it stays mapped for who saves the model."""
    if isinstance(model.lm_head, NormHead):
        model.lm_head.hold()
        release_if_mapped(model.lm_head.weight)


@contextlib.contextmanager
def without_progress_bar() -> Iterator[None]:
    """The framework's bar kept away: mapping takes a fraction of a second, it would only flicker."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _display_name(name: str | Path | None, folder: Path) -> str:
    if folder.parent == DEMO_DIR:
        return f"demo-{folder.name}"
    return str(name) if name is not None and not Path(name).expanduser().is_dir() else folder.resolve().name


def _names_a_dtype(value: object) -> bool:
    """Whether the field of a config.json is absent or spells one of WEIGHT_DTYPES: `bfloat16`, `torch.float16`."""
    if value is None:
        return True
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else None
    return isinstance(dtype, torch.dtype) and dtype in WEIGHT_DTYPES


def _dtype_names() -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHT_DTYPES)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
