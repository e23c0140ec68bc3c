"""The 7B in the names of `LlamaForCausalLM`, and back: which tensors, and which fields of config.json.

Both rotate the halves of each head by the same angles, so the rows of `W_pack` keep their order: its first third is q,
then k, then v. All other tensors have the same names. What Llama lacks is the normalised head.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from baichuan2.convert.rewriting import NewTensor
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import ROPE_TYPES, SHAPE_13B, BaichuanConfig

__all__ = ["baichuan_fields", "joined", "llama_fields", "llama_shapes", "split"]

JOINED = "W_pack.weight"
PARTS = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
ROPE_THETA = 10_000.0
READABLE_SINCE = "4.40.0"
"""The version that config.json names: fields are those of then, and younger releases see that they need no mending."""

KEPT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""Fields that both layouts have, with one meaning."""


def split(names: list[str]) -> dict[str, NewTensor]:
    """How the tensors of a Llama are made of those of a Baichuan, which are called `names`, but for the head."""
    tensors: dict[str, NewTensor] = {}
    for name in names:
        if name.endswith(JOINED):
            for number, part in enumerate(PARTS):
                tensors[name.removesuffix(JOINED) + part] = NewTensor((name,), partial(_third, number))
        else:
            tensors[name] = NewTensor((name,))
    return tensors


def joined(names: list[str]) -> dict[str, NewTensor]:
    """How the tensors of a Baichuan are made of those of a Llama, which are called `names`."""
    tensors: dict[str, NewTensor] = {}
    for name in names:
        if name.endswith(PARTS[0]):
            layer = name.removesuffix(PARTS[0])
            tensors[layer + JOINED] = NewTensor(tuple(layer + part for part in PARTS), _in_one)
        elif not name.endswith(PARTS):
            tensors[name] = NewTensor((name,))
    return tensors


def _third(number: int, weight: Tensor) -> Tensor:
    """Rows (C, C) of q, k or v in W_pack (3C, C)."""
    size = weight.shape[0] // 3
    return weight[number * size : (number + 1) * size]


def _in_one(*weights: Tensor) -> Tensor:
    """W_pack (3C, C) of q, k and v (C, C)."""
    return torch.cat(weights)


def llama_shapes(fields: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Name and shape of each tensor of the Llama that these fields describe, in the order of its layers."""
    hidden, inner = fields["hidden_size"], fields["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (fields["vocab_size"], hidden)}
    for number in range(fields["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        shapes |= {f"{layer}self_attn.{part}": (hidden, hidden) for part in (*PARTS, "o_proj.weight")}
        shapes |= {f"{layer}mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[f"{layer}mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{layer}{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
    shapes |= {"model.norm.weight": (hidden,), "lm_head.weight": (fields["vocab_size"], hidden)}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def llama_fields(config: BaichuanConfig, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a plain Llama; releases 4.x and 5.x of transformers read it alike.

    4.x reads the rotation from `rope_theta` and `rope_scaling`, 5.x from `rope_parameters`.
    """
    rope = dict(config.rope_parameters or {}) or {"rope_type": "default"}
    theta = float(rope.get("rope_theta", ROPE_THETA))
    is_scaled = rope.get("rope_type", "default") != "default"
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"} if is_scaled else None
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{name: getattr(config, name) for name in KEPT_FIELDS},
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.head_dim,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", **rope, "rope_theta": theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "transformers_version": READABLE_SINCE,
    }


def baichuan_fields(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a Baichuan 2, but for head and number format, out of that of a Llama; `name` stands in messages.

    Raises:
        CheckpointError: no Baichuan has such a layer, position or head.
    """
    problem = _difference(fields)
    if problem is not None:
        raise CheckpointError(f"{name} is no Baichuan in the Llama layout: {problem}")
    result: dict[str, Any] = {
        "architectures": ["BaichuanForCausalLM"],
        "model_type": "baichuan",
        "tokenizer_class": "BaichuanTokenizer",
    }
    result |= {field: fields[field] for field in KEPT_FIELDS if fields.get(field) is not None}
    length = fields.get("max_position_embeddings") or 2048  # what Llama takes where it is not said
    result |= {"max_position_embeddings": length, "model_max_length": length, "tie_word_embeddings": False}
    result["position_embedding"] = "rope"
    if result.get("pad_token_id") == -1:  # how some programs write that there is none
        del result["pad_token_id"]
    scaling = _scaling(fields)
    if scaling is not None:
        result["rope_scaling"] = scaling
    return result


def _scaling(fields: Mapping[str, Any]) -> Any:
    """What a config says of rotation beyond its base, in the form of either release; None: nothing."""
    for field in ("rope_parameters", "rope_scaling"):
        value = fields.get(field)
        if isinstance(value, dict):
            rest = {name: one for name, one in value.items() if name != "rope_theta"}
            if rest.get("rope_type", rest.get("type", "default")) != "default":
                return rest
        elif value is not None:
            return value
    return None


def _difference(fields: Mapping[str, Any]) -> str | None:
    """The first thing in a Llama's config that no Baichuan has; None: there is none."""
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if fields.get("model_type") != "llama":
        return f"model_type is {fields.get('model_type')!r}, not 'llama'"
    if fields.get("architectures") not in (None, ["LlamaForCausalLM"], ["LLaMAForCausalLM"]):
        return f"architectures is {fields['architectures']!r}, not ['LlamaForCausalLM']"
    if fields.get("quantization_config") is not None:
        return "its weights are quantised; give the folder with all their bits"
    if fields.get("num_key_value_heads", heads) not in (heads, None):
        return f"it has grouped heads (num_key_value_heads {fields['num_key_value_heads']}, {heads} for queries)"
    if (hidden, fields.get("num_hidden_layers"), heads) == SHAPE_13B:
        return "it has the shape of the 13B, whose positions (ALiBi) no Llama computes"
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        width = fields.get("head_dim")
        if width is not None and width != hidden / heads:
            return f"head_dim is {width}, not hidden_size / num_attention_heads ({hidden / heads:g})"
    for field in ("attention_bias", "mlp_bias", "bias"):
        if fields.get(field):
            return f"{field} is {fields[field]!r}; no Baichuan 2 7B has biases"
    if fields.get("tie_word_embeddings"):
        return "its embedding and head are tied"
    if fields.get("hidden_act", "silu") not in ("silu", "swish"):
        return f"hidden_act is {fields['hidden_act']!r}, not 'silu'"
    return _other_rotation(fields)


def _other_rotation(fields: Mapping[str, Any]) -> str | None:
    """What is wrong with the rotary positions; None: nothing."""
    parameters = fields.get("rope_parameters")
    stated = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    theta = stated if stated is not None else fields.get("rope_theta", ROPE_THETA)
    if theta is not None and theta != ROPE_THETA:
        return f"rope_theta is {theta!r}, not {ROPE_THETA:g}"
    if fields.get("partial_rotary_factor", 1.0) not in (1.0, None):
        return f"partial_rotary_factor is {fields['partial_rotary_factor']!r}, not 1"
    scaling = _scaling(fields)
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else scaling
    if scaling is not None and kind not in ROPE_TYPES:
        return f"its positions are scaled by {kind!r}; {', '.join(ROPE_TYPES[1:])} are known here"
    return None
