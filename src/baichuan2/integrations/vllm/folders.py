"""Which folders vLLM serves, and what their tensors must look like. Knows nothing of vLLM."""

import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, dtype

from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import CheckpointError
from baichuan2.model.block import UNUSED_NAMES
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.quantized_layers import HEAD, quantizable_shapes

__all__ = ["ARCHITECTURES", "check_served", "generation_fields", "prepared_weights", "weight_shapes"]

ARCHITECTURES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
"""The spellings in config.json: Baichuan 1 7B has the capital C."""
HEAD_WEIGHT = f"{HEAD}.weight"


def check_served(source: object, config: BaichuanConfig) -> None:
    """Raises CheckpointError, of one line, for a folder that vLLM would not serve, or serve with other results.

    `source` is the folder or hub id, for the message.
    """
    quantization = getattr(config, "quantization_config", None)
    if quantization is not None:
        raise CheckpointError(
            f"{source}: vLLM cannot read these quantised weights ({_kind(quantization)}): serve this folder with  "
            "baichuan2 serve , or with vLLM the 16-bit folder, which it quantises while loading with --quantization"
        )
    rope_type = (config.rope_parameters or {}).get("rope_type", "default")
    if config.position_embedding == "rope" and rope_type == "dynamic":
        raise CheckpointError(
            f"{source}: vLLM computes dynamic RoPE scaling for one fixed length, which changes every answer: serve "
            "it with  baichuan2 serve , or take the type linear or yarn"
        )


def _kind(quantization: Any) -> str:
    fields = quantization.to_dict() if hasattr(quantization, "to_dict") else quantization
    if not isinstance(fields, Mapping):
        return repr(fields)
    method = fields.get("quant_method") or ("official 4bits" if fields.get("load_in_4bit") else "bitsandbytes")
    return " ".join(str(part) for part in (method, fields.get("format")) if part)


def generation_fields(generation_config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a generation_config.json in vLLM's terms: what it would read otherwise, or not at all.

    - A reply ends at the user token too: a model that opens a user turn has finished its own (`engine/stopping.py`).
    - Without `do_sample` the default temperature is 0; vLLM does not know that field. `overrides` are the fields that
      were given to vLLM with --override-generation-config, which may set it.
    """
    fields = dict(generation_config)
    if fields.get("user_token_id") is not None:
        fields["eos_token_id"] = sorted(stop_ids_from(types.SimpleNamespace(**fields)))
    if not overrides.get("do_sample", fields.get("do_sample")):
        fields["temperature"] = 0.0
    return fields


def weight_shapes(config: BaichuanConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of each tensor in a 16-bit folder with this config (reference: §3)."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{layer}.weight": shape for layer, shape in quantizable_shapes(config).items()
    }
    for layer in range(config.num_hidden_layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (hidden,)
    table = (config.vocab_size, hidden)
    return {"model.embed_tokens.weight": table, **shapes, "model.norm.weight": (hidden,), HEAD_WEIGHT: table}


def prepared_weights(
    weights: Iterable[tuple[str, Tensor]], config: BaichuanConfig, compute_dtype: dtype
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a folder as the model computes with them: rows of a Baichuan 2 head have unit length.

    The head is converted to `compute_dtype` before its rows are normalised, as our own model does it. Names that no
    model uses are left out.

    Raises:
        CheckpointError: a tensor that the config does not describe, or of another shape. vLLM itself would cut a
            W_pack with too many rows without a word.
    """
    shapes = weight_shapes(config)
    for name, weight in weights:
        if any(re.search(pattern, name) for pattern in UNUSED_NAMES):
            continue
        if name not in shapes:
            raise CheckpointError(f"unexpected tensor {name!r:.80}, which config.json does not describe")
        if tuple(weight.shape) != shapes[name]:
            raise CheckpointError(
                f"{name} has the shape {tuple(weight.shape)}, config.json wants {shapes[name]}: config.json and "
                "weights belong to different models"
            )
        if name == HEAD_WEIGHT and config.normalized_head:
            weight = F.normalize(weight.to(compute_dtype))  # noqa: PLW2901
        yield name, weight
