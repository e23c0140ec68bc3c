"""`baichuan2 convert from-baichuan1`: a folder of today out of one in the Baichuan 1 form, or of Baichuan 1 itself.

Weights keep their numbers. What changes is the description: which head and which positions the model has is said, not
left to the name of a class. Which head a Baichuan 2 vocabulary gets depends on its rows: where all have length 1,
normalising them changes nothing, and the folder is Baichuan 2 again for every program.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from baichuan2.checkpoints.shards import read_json
from baichuan2.convert.head import HEAD_WEIGHT, has_unit_rows
from baichuan2.convert.output import files_to_copy
from baichuan2.convert.rewriting import (
    TOKENIZER_CONFIG,
    Conversion,
    Converted,
    Watch,
    as_they_are,
    without_code,
    write_folder,
)
from baichuan2.convert.source import Source, open_source
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import V1_VOCAB_SIZE
from baichuan2.settings import ConvertSettings

__all__ = ["from_baichuan1"]

TOKENIZER_CLASS = "BaichuanTokenizer"


def from_baichuan1(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes the checkpoint `settings.source`, which has a plain head, as a folder of today.

    Warns where a Baichuan 2 vocabulary has a head whose rows have not all length 1: it stays a plain one.

    Raises: as `open_source` and `write_folder`.
        CheckpointError: config.json says that the head is normalised, or does not tell.
    """
    assert settings.source is not None
    source = open_source(settings.source, revision=settings.revision, offline=settings.offline)
    if source.fields.get("normalized_head") is True:
        raise CheckpointError(f"{settings.source} is no Baichuan 1: its config.json says normalized_head true")
    is_first = source.config.vocab_size == V1_VOCAB_SIZE
    is_normalized = not is_first and has_unit_rows(source.tensors[HEAD_WEIGHT])
    if not is_normalized and source.config.normalized_head:
        raise CheckpointError(
            f"{settings.source} may be Baichuan 2 as it was published: its head has rows of other lengths than 1, and "
            'config.json does not tell how they are used. If it was trained with a plain head, add "normalized_head": '
            "false to it; else there is nothing to convert"
        )
    if not is_normalized and not is_first:
        warnings.warn(
            "the head has rows of other lengths than 1, so it was trained as a plain one and stays that "
            "(normalized_head false in config.json); programs that normalise every Baichuan 2 head give other answers",
            stacklevel=2,
        )
    texts = {path.name: _tokenizer_config_text(path) for path in _tokenizer_configs(source.folder)}
    conversion = Conversion(
        tensors=as_they_are(list(source.shapes)),
        config=_present_fields(source, is_normalized=is_normalized),
        texts=texts,
        copied=[path for path in files_to_copy(source.folder) if path.name not in texts],
    )
    return write_folder(settings, source, conversion, watch)


def _present_fields(source: Source, *, is_normalized: bool) -> dict[str, Any]:
    """config.json with the names of today, and what older ones left to be guessed."""
    config = source.config
    fields = without_code(source.fields) | {
        "architectures": ["BaichuanForCausalLM"],
        "position_embedding": config.position_embedding,
        "normalized_head": is_normalized,
        "model_max_length": config.model_max_length,
    }
    if config.position_embedding == "rope":
        fields["max_position_embeddings"] = config.max_position_embeddings
    if "tokenizer_class" in fields:
        fields["tokenizer_class"] = TOKENIZER_CLASS
    return fields


def _tokenizer_configs(folder: Path) -> list[Path]:
    return [path for path in files_to_copy(folder) if path.name == TOKENIZER_CONFIG]


def _tokenizer_config_text(path: Path) -> str:
    """tokenizer_config.json with the class of today; Baichuan 1 7B spelled it otherwise."""
    fields = without_code(read_json(path)) | {"tokenizer_class": TOKENIZER_CLASS}
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
