"""What stands in front of the weights of a GGUF file: shape, tokenizer, chat format, sampling, origin."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from baichuan2.checkpoints.locate import HUB_ID
from baichuan2.convert.gguf_layout import architecture_of, rope_scaling
from baichuan2.convert.gguf_types import StoredTensor
from baichuan2.convert.gguf_vocabulary import Vocabulary
from baichuan2.engine.sampling import Sampling
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.special_tokens import BOS_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID, UNKNOWN_TOKEN_ID
from baichuan2.optional import require

__all__ = ["Origin", "check_shapes", "header_bytes", "origin_of"]

LARGEST_ALIBI_BIAS = 8.0  # what the exponents of ALiBi's slopes go up to, in llama.cpp's terms
CARD_FIELDS = {"license": "license", "license_name": "license.name", "license_link": "license.link"}
SNAPSHOT = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")
SAMPLING_ORDER = (
    "penalties;temperature;top_k;top_p"  # as the official code has it; llama.cpp's own ends with temperature
)
UNIT_ROWS = "The rows of the head have unit length: the normalised head of Baichuan 2, as inference has it."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the weights come from. `licence`: by GGUF key, as the model card of the source says it."""

    name: str
    url: str | None
    licence: Mapping[str, str]


def origin_of(source_name: str, folder: Path) -> Origin:
    """Name, address and licence of a checkpoint, as far as its name and its model card tell."""
    resolved = folder.resolve()
    snapshot = SNAPSHOT.fullmatch(resolved.parent.parent.name) if resolved.parent.name == "snapshots" else None
    hub_id = None
    if snapshot is not None:
        hub_id = f"{snapshot['owner']}/{snapshot['name']}"
    elif HUB_ID.fullmatch(source_name) and not Path(source_name).exists():
        hub_id = source_name
    if hub_id is not None:
        name = hub_id.rpartition("/")[2]
    else:
        name = resolved.name if Path(source_name).exists() else source_name
    return Origin(
        name=name,
        url=f"https://huggingface.co/{hub_id}" if hub_id else None,
        licence=_licence(folder / "README.md"),
    )


def _licence(card: Path) -> dict[str, str]:
    """The licence fields at the head of a model card; empty where there is none."""
    try:
        lines = card.read_text(encoding="utf-8").splitlines()[:200]
    except (OSError, UnicodeDecodeError):
        return {}
    if not lines or lines[0].strip() != "---":
        return {}
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            return found
        name, colon, value = line.partition(":")
        if colon and name in CARD_FIELDS and value.strip():
            found[CARD_FIELDS[name]] = value.strip().strip("'\"")
    return {}  # no end mark: not the head of a card


def header_bytes(
    config: BaichuanConfig,
    vocabulary: Vocabulary,
    tensors: Sequence[StoredTensor],
    *,
    file_type: int,
    origin: Origin,
    sampling: Sampling | None,
) -> bytes:
    """The header, padded to where the first tensor lies.

    `sampling`: how the checkpoint wants its tokens chosen; None: it does not say.
    """
    gguf: Any = require("gguf", extra="gguf")
    writer = gguf.GGUFWriter(None, architecture_of(config))
    writer.add_type("model")
    writer.add_name(origin.name)
    writer.add_size_label(_size_label(sum(int(np.prod(item.tensor.shape)) for item in tensors)))
    if config.normalized_head:
        writer.add_description(UNIT_ROWS)
    for key, value in origin.licence.items():
        writer.add_string(f"general.{key}", value)
    if origin.url is not None:
        writer.add_source_url(origin.url)
    writer.add_file_type(file_type)
    if any(item.type.startswith("Q") for item in tensors):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if sampling is not None:
        _add_sampling(writer, sampling)
    _add_shape(writer, config)
    _add_vocabulary(writer, vocabulary, config)
    for item in tensors:
        shape = item.tensor.shape
        writer.add_tensor_info(
            item.tensor.name, shape, np.dtype(np.float32), item.num_bytes, gguf.GGMLQuantizationType[item.type]
        )
    header = _written(writer)
    return header + bytes(-len(header) % writer.data_alignment)


def _written(writer: Any) -> bytes:
    """The header as the library writes it, which it does to files only."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "header"
            writer.write_header_to_file(path)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            writer.close()
            return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{tempfile.gettempdir()} cannot take the header of the file, some MB ({error.strerror or error}): make "
            "room there, or name another folder in TMPDIR"
        ) from error


def check_shapes(path: Path, tensors: Sequence[StoredTensor]) -> None:
    """Whether a file that llama.cpp wrote holds the tensors that it was made of, in whatever formats.

    Raises:
        CheckpointError: names or shapes differ.
    """
    gguf: Any = require("gguf", extra="gguf")
    try:
        found = {item.name: item for item in gguf.GGUFReader(path).tensors}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} cannot be read again: {' '.join(str(error).split())}") from error
    for item in tensors:
        name, shape = item.tensor.name, item.tensor.shape
        stored = found.pop(name, None)
        if stored is None or tuple(map(int, reversed(stored.shape))) != shape:
            raise CheckpointError(f"{path}: {name} is not there as it was written")
    if found:
        raise CheckpointError(f"{path} holds {min(found)}, which nobody wrote")


def _add_shape(writer: Any, config: BaichuanConfig) -> None:
    writer.add_context_length(config.max_position_embeddings or config.model_max_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_attention_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.position_embedding == "alibi":
        writer.add_max_alibi_bias(LARGEST_ALIBI_BIAS)
        return
    gguf: Any = require("gguf", extra="gguf")
    writer.add_rope_dimension_count(config.head_dim)
    parameters = rope_scaling(config)
    writer.add_rope_freq_base(float(parameters.get("rope_theta", 10_000.0)))
    if parameters.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(parameters["factor"]))


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, config: BaichuanConfig) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(vocabulary.pieces))
    writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.kinds))
    writer.add_bos_token_id(BOS_TOKEN_ID)
    writer.add_eos_token_id(EOS_TOKEN_ID)
    writer.add_unk_token_id(UNKNOWN_TOKEN_ID)
    writer.add_pad_token_id(PAD_TOKEN_ID if config.pad_token_id is None else config.pad_token_id)
    if vocabulary.user_token_id is not None:
        writer.add_eot_token_id(vocabulary.user_token_id)  # who begins a user turn has finished its own
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocabulary.add_dummy_prefix)
    writer.add_bool("tokenizer.ggml.remove_extra_whitespaces", False)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _add_sampling(writer: Any, sampling: Sampling) -> None:
    """The checkpoint's own sampling settings, which llama.cpp takes where its user gives none."""
    prefix = "general.sampling."  # the library has names for these keys in newer releases only
    writer.add_string(f"{prefix}sequence", SAMPLING_ORDER)
    writer.add_float32(f"{prefix}temp", sampling.temperature if sampling.do_sample else 0.0)
    writer.add_int32(f"{prefix}top_k", sampling.top_k)
    writer.add_float32(f"{prefix}top_p", sampling.top_p)
    writer.add_float32(f"{prefix}min_p", sampling.min_p)
    writer.add_float32(f"{prefix}penalty_repeat", sampling.repetition_penalty)
    writer.add_int32(f"{prefix}penalty_last_n", -1)  # all of the text, the prompt included


def _size_label(num_parameters: int) -> str:
    """As llama.cpp's model names have it: 7.5B, 8.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if num_parameters >= size:
            return f"{num_parameters / size:.1f}{letter}"
    return f"{num_parameters / 1e3:.0f}K"
