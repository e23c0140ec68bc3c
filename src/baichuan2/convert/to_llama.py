"""`baichuan2 convert to-llama`: a 7B as a plain `LlamaForCausalLM`, which engines run that know nothing of Baichuan."""

import json
from typing import Any

import torch

from baichuan2.checkpoints.load import read_generation_config, read_tokenizer
from baichuan2.checkpoints.shards import read_json
from baichuan2.convert.head import HEAD_WEIGHT, normalized_head
from baichuan2.convert.llama_layout import llama_fields, split
from baichuan2.convert.output import files_to_copy
from baichuan2.convert.plain_tokenizer import TOKENIZER_FILES, plain_tokenizer_texts
from baichuan2.convert.rewriting import Conversion, Converted, Watch, write_folder
from baichuan2.convert.source import Source, open_source
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import CheckpointError
from baichuan2.model.sentencepiece_file import read_sentencepiece_file
from baichuan2.settings import ConvertSettings

__all__ = ["to_llama"]

GENERATION_FILE = "generation_config.json"


def to_llama(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes the checkpoint `settings.source`, a 7B of either generation, in the Llama layout.

    Raises: as `open_source` and `write_folder`.
        CheckpointError: the source has ALiBi positions.
        TokenizerError: there is no usable tokenizer.model, or one whose ids no tokenizer.json gives.
    """
    assert settings.source is not None
    source = open_source(settings.source, revision=settings.revision, offline=settings.offline)
    if source.config.position_embedding != "rope":
        raise CheckpointError(
            f"{settings.source} has ALiBi positions, as each 13B, and Llama has rotary ones: no Llama computes the "
            "same. For llama.cpp use to-gguf, for programs that know Baichuan 1 use to-baichuan1; vLLM runs the model "
            "as it is through this package's plugin"
        )
    tensors = split(list(source.shapes))
    if source.config.normalized_head:
        tensors[HEAD_WEIGHT] = normalized_head(settings.dtype)
    dtype = source.dtype if settings.dtype == "same" else getattr(torch, settings.dtype)
    texts = _texts(source)
    conversion = Conversion(
        tensors=tensors,
        config=llama_fields(source.config, dtype),
        texts=texts,
        copied=[path for path in files_to_copy(source.folder) if path.name not in (*texts, *TOKENIZER_FILES)],
    )
    return write_folder(settings, source, conversion, watch)


def _texts(source: Source) -> dict[str, str]:
    """The tokenizer and the settings of replies."""
    tokenizer = read_tokenizer(source.folder, source.config)
    file = read_sentencepiece_file(source.folder / "tokenizer.model")
    generation = json.dumps(_generation_fields(source), indent=2, ensure_ascii=False) + "\n"
    length = int(source.config.model_max_length or source.config.max_position_embeddings or 4096)
    return plain_tokenizer_texts(tokenizer, file, length) | {GENERATION_FILE: generation}


def _generation_fields(source: Source) -> dict[str, Any]:
    """generation_config.json of the source, whose user token is among the ids that end a reply: see `stop_ids_from`."""
    config = read_generation_config(source.folder)
    path = source.folder / GENERATION_FILE
    ids = {name: getattr(source.config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    fields = ids | (read_json(path) if path.is_file() else {})
    if fields.get("user_token_id") is not None:
        fields["eos_token_id"] = sorted(stop_ids_from(config))
    return fields
