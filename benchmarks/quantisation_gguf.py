"""A 7B-like model as a GGUF file of llama.cpp's `llama` architecture, and what such a file holds, read back.

What stands where is the package's (`convert/gguf_layout.py`). None of its differences from our layout changes which
weights share a block of a quantised format: those run along a row.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from torch import Tensor
from torch.nn.functional import normalize

from baichuan2.convert.gguf_layout import NORM_NAMES, PACKED_NAMES, PLAIN_NAMES, gguf_tensors, to_halves
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

LINEAR_NAMES = (*PACKED_NAMES, *PLAIN_NAMES)


def write_gguf(model: BaichuanForCausalLM, path: Path) -> None:
    """Writes `model` in float32."""
    config = model.config
    assert config.position_embedding == "rope"
    heads = config.num_attention_heads
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")  # only ids are ever fed
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    for tensor in gguf_tensors(config):
        weight = state[tensor.source]
        weight = weight if tensor.rows is None else weight[tensor.rows]
        writer.add_tensor(tensor.name, (normalize(weight) if tensor.is_normalized else weight).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a GGUF file really holds: formats fall back where a row is no multiple of their block.

    `types`: number of tensors of each type, by kind of tensor ("ffn_down": {"Q5_0": 4, "Q8_0": 4}).
    """

    types: dict[str, dict[str, int]]
    linear_bits: float
    all_bits: float
    num_bytes: int


def read_contents(path: Path) -> Contents:
    """The types and true bits per weight of a GGUF file: of the decoder's linear layers, and of all its weights."""
    types: dict[str, dict[str, int]] = {}
    linear_bytes = linear_weights = all_bytes = all_weights = 0
    for tensor in GGUFReader(path).tensors:
        kind = tensor.name.removesuffix(".weight").rpartition(".")[2]
        counts = types.setdefault(kind, {})
        counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
        all_bytes += int(tensor.n_bytes)
        all_weights += int(tensor.n_elements)
        if kind in LINEAR_NAMES:
            linear_bytes += int(tensor.n_bytes)
            linear_weights += int(tensor.n_elements)
    return Contents(
        types=types,
        linear_bits=8 * linear_bytes / linear_weights,
        all_bits=8 * all_bytes / all_weights,
        num_bytes=path.stat().st_size,
    )


def read_state(path: Path, num_heads: int) -> dict[str, Tensor]:
    """The weights of a GGUF file in float32 under our names: what its codes stand for, the head's rows as stored."""
    stored: dict[str, Tensor] = {}
    for tensor in GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        stored[tensor.name.removesuffix(".weight")] = torch.from_numpy(np.array(values))
    state = {
        "model.embed_tokens.weight": stored["token_embd"],
        "model.norm.weight": stored["output_norm"],
        "lm_head.weight": stored["output"],
    }
    num_layers = sum(name.endswith("attn_q") for name in stored)
    for layer in range(num_layers):
        ours, theirs = f"model.layers.{layer}", f"blk.{layer}"
        query, key, value = (stored[f"{theirs}.{name}"] for name in PACKED_NAMES)
        packed = (to_halves(query, num_heads), to_halves(key, num_heads), value)
        state[f"{ours}.self_attn.W_pack.weight"] = torch.cat(packed)
        for their_name, our_name in (PLAIN_NAMES | NORM_NAMES).items():
            state[f"{ours}.{our_name}.weight"] = stored[f"{theirs}.{their_name}"]
    return state
