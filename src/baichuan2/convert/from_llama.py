"""`baichuan2 convert from-llama`: a Baichuan 2 folder out of a 7B in the Llama layout, as people hold and train it.

Its weights have no mark of what they were, so the config is looked at for everything that no Baichuan has, and the
tokenizer for its role pieces: a LLaMA must not pass.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from baichuan2.checkpoints.adapters import CONFIG_NAME as ADAPTER_CONFIG
from baichuan2.checkpoints.load import read_generation_config
from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import check_layout, find_weight_files, read_json
from baichuan2.convert.head import HEAD_WEIGHT, has_unit_rows
from baichuan2.convert.llama_layout import baichuan_fields, joined, llama_shapes
from baichuan2.convert.llama_tokenizer import LlamaTokenizerFiles, find_tokenizer
from baichuan2.convert.output import files_to_copy
from baichuan2.convert.plain_tokenizer import TOKENIZER_FILES
from baichuan2.convert.rewriting import Conversion, Converted, Watch, write_folder
from baichuan2.convert.source import WeightSource
from baichuan2.convert.to_llama import GENERATION_FILE
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID
from baichuan2.settings import ConvertSettings

__all__ = ["from_llama"]

IGNORED_KEYS = (r"rotary_emb\.inv_freq$",)  # tables that older releases stored


def from_llama(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes the checkpoint `settings.source`, a 7B in the Llama layout, as a Baichuan 2 folder.

    Warns where the head stays a plain one, and where the tokenizer has habits that are not official.

    Raises: as `write_folder`.
        CheckpointError: there is no such folder, it is damaged, or it is no Baichuan in the Llama layout.
        TokenizerError: there is no tokenizer.model for it, or that is of another model.
    """
    assert settings.source is not None
    folder = locate(settings.source, revision=settings.revision, offline=settings.offline)
    try:
        source, config = _open(settings.source, folder)
        tokenizer = find_tokenizer(source, settings)
        kept = _kept_files(folder, tokenizer)
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    is_normalized = has_unit_rows(source.tensors[HEAD_WEIGHT])
    if not is_normalized:
        warnings.warn(
            "the head has rows of other lengths than 1, so it was trained as a plain one, or never normalised, and "
            "stays that (normalized_head false in config.json); programs that normalise every Baichuan 2 head give "
            "other answers",
            stacklevel=2,
        )
    texts = tokenizer.texts(int(config["model_max_length"])) | _generation_text(folder, tokenizer)
    conversion = Conversion(
        tensors=joined(list(llama_shapes(config))),
        config=config | {"normalized_head": is_normalized},
        texts=texts,
        copied=kept,
    )
    return write_folder(settings, source, conversion, watch)


def _open(name: str, folder: Path) -> tuple[WeightSource, dict[str, Any]]:
    """The weights, looked at but not read, and the config.json that they get."""
    path = folder / "config.json"
    if not path.is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(f"{name} holds an adapter, not a model: merge it into its Llama first")
        raise CheckpointError(f"{name} holds no config.json: give the folder of a model in the Llama layout")
    fields = read_json(path)
    if fields.get("model_type") == BaichuanConfig.model_type:
        raise CheckpointError(f"{name} is in Baichuan's own layout already: there is nothing to convert")
    config = baichuan_fields(name, fields)
    try:
        model = BaichuanConfig.from_dict({**config, "normalized_head": False})
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except Exception as error:  # the framework's own validation has many classes
        raise CheckpointError(f"{path} has a field that cannot be used: {' '.join(str(error).split())}") from error
    shapes = llama_shapes({field: getattr(model, field) for field in BaichuanConfig.__annotations__})
    files = find_weight_files(folder)
    check_layout(files, shapes, IGNORED_KEYS)
    tensors = MappedTensors(files)
    dtype = str(tensors[HEAD_WEIGHT].dtype).removeprefix("torch.")
    filled = {field: getattr(model, field) for field in ("vocab_size", "hidden_size", "intermediate_size")}
    filled |= {field: getattr(model, field) for field in ("num_hidden_layers", "num_attention_heads")}
    return WeightSource(name, folder, fields, tensors, files.paths), config | filled | {"torch_dtype": dtype}


def _kept_files(folder: Path, tokenizer: LlamaTokenizerFiles) -> list[Path]:
    """What is taken over: tokenizer.model, and of the rest what describes neither tokenizer nor replies."""
    replaced = (*TOKENIZER_FILES, GENERATION_FILE, tokenizer.path.name)
    return [tokenizer.path, *(path for path in files_to_copy(folder) if path.name not in replaced)]


def _generation_text(folder: Path, tokenizer: LlamaTokenizerFiles) -> dict[str, str]:
    """generation_config.json with role tokens where it, or the chat template, knows them.

    A user token among the ids that end a reply stands there because others would not stop at it; here its own field
    says so.
    """
    path = folder / GENERATION_FILE
    fields: dict[str, Any] = {}
    if path.is_file():
        read_generation_config(folder)  # refuses what could not be loaded afterwards
        fields = read_json(path)
    if tokenizer.knows_roles:
        fields = {"user_token_id": USER_TOKEN_ID, "assistant_token_id": ASSISTANT_TOKEN_ID} | fields
    if not fields:
        return {}
    return {GENERATION_FILE: json.dumps(_without_user_stop(fields), indent=2, ensure_ascii=False) + "\n"}


def _without_user_stop(fields: Mapping[str, Any]) -> dict[str, Any]:
    stops, user = fields.get("eos_token_id"), fields.get("user_token_id")
    if not isinstance(stops, list) or user is None or user not in stops:
        return dict(fields)
    rest = [token_id for token_id in stops if token_id != user]
    return {**fields, "eos_token_id": rest[0] if len(rest) == 1 else rest}
