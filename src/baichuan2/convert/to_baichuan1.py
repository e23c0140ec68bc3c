"""`baichuan2 convert to-baichuan1`: a plain head whose rows have length 1, under the names of a Baichuan 1 folder.

What the official README has people do with a few lines of Python, whole weights in memory and one file only: programs
that know Baichuan 1, and no normalised head, then compute the logits of Baichuan 2.
"""

from typing import Any

from baichuan2.convert.head import HEAD_WEIGHT, normalized_head
from baichuan2.convert.output import files_to_copy
from baichuan2.convert.rewriting import Conversion, Converted, Watch, as_they_are, without_code, write_folder
from baichuan2.convert.source import Source, open_source
from baichuan2.errors import CheckpointError
from baichuan2.settings import ConvertSettings

__all__ = ["to_baichuan1"]

CLASS_NAMES = {"rope": "BaiChuanForCausalLM", "alibi": "BaichuanForCausalLM"}
"""Of the 7B and the 13B, as Baichuan 1 spelled them."""
UNKNOWN_FIELDS = ("z_loss_weight", "_from_model_config", "alibi_numerics")
"""Fields that Baichuan 1 has not."""


def to_baichuan1(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes the checkpoint `settings.source` in its Baichuan 1 form.

    Raises: as `open_source` and `write_folder`.
        CheckpointError: the source has a plain head already.
    """
    assert settings.source is not None
    source = open_source(settings.source, revision=settings.revision, offline=settings.offline)
    if not source.config.normalized_head:
        raise CheckpointError(
            f"{settings.source} has a plain head already, so it is in the Baichuan 1 form: nothing is to be done "
            "(other files of it: to-safetensors)"
        )
    conversion = Conversion(
        tensors=as_they_are(list(source.shapes)) | {HEAD_WEIGHT: normalized_head(settings.dtype)},
        config=_baichuan1_fields(source),
        copied=files_to_copy(source.folder),
    )
    return write_folder(settings, source, conversion, watch)


def _baichuan1_fields(source: Source) -> dict[str, Any]:
    """config.json of a Baichuan 1 folder; what this package derives from the vocabulary is said as well."""
    config = source.config
    fields = {name: value for name, value in without_code(source.fields).items() if name not in UNKNOWN_FIELDS}
    position_embedding = str(config.position_embedding)
    fields |= {
        "architectures": [CLASS_NAMES[position_embedding]],
        "position_embedding": position_embedding,
        "normalized_head": False,
    }
    # of the two lengths each size has one, by which its code and others tell them apart
    for name in ("max_position_embeddings", "model_max_length"):
        fields.pop(name, None)
    if position_embedding == "rope":
        fields["max_position_embeddings"] = config.max_position_embeddings
    else:
        fields["model_max_length"] = config.model_max_length
    return fields
