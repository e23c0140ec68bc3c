"""Baichuan 2 on vLLM's layers: both sizes, split over the ranks of tensor and pipeline parallelism.

Module names are the checkpoint's keys, so that weights and LoRA adapters are found by their own names; only gate_proj
and up_proj lie in one layer. Shape letters (docs/shapes.md): T new tokens of all requests together, C hidden size,
H heads of this rank, D head size, V vocabulary.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    PPMissingLayer,
    WeightsMapper,
    make_empty_intermediate_tensors_factory,
    make_layers,
    maybe_prefix,
)
from vllm.sequence import IntermediateTensors
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import get_attn_backend

from baichuan2.integrations.vllm.alibi import FALLBACK_BACKEND, needs_other_backend, slopes_of_rank
from baichuan2.integrations.vllm.folders import prepared_weights

__all__ = ["BaichuanForCausalLM"]


class BaichuanAttention(nn.Module):
    """Self-attention whose heads are shared out among the ranks; RoPE or ALiBi as the config says."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        num_ranks = get_tensor_model_parallel_world_size()
        self.W_pack = QKVParallelLinear(
            config.hidden_size,
            config.head_dim,
            config.num_attention_heads,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.W_pack",
        )
        self.o_proj = RowParallelLinear(
            config.hidden_size,
            config.hidden_size,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.rotary_emb = slopes = backend = None
        if config.position_embedding == "rope":
            self.rotary_emb = get_rope(
                config.head_dim,
                max_position=max(config.max_position_embeddings, vllm_config.model_config.max_model_len),
                rope_parameters=config.rope_parameters,
                dtype=torch.float32,
            )
        else:
            slopes = slopes_of_rank(config.num_attention_heads, get_tensor_model_parallel_rank(), num_ranks)
            backend = _alibi_backend(vllm_config, config.head_dim)
        self.attn = Attention(
            config.num_attention_heads // num_ranks,
            config.head_dim,
            config.head_dim**-0.5,
            alibi_slopes=slopes,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            attn_backend=backend,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        """`hidden_states` (T, C) mixed with what the cache holds of their requests; `positions` (T,)."""
        packed, _ = self.W_pack(hidden_states)
        query, key, value = packed.chunk(3, dim=-1)  # each (T, H * D)
        if self.rotary_emb is not None:  # in float32, as the released code turns them
            query, key = (turned.to(value.dtype) for turned in self.rotary_emb(positions, query.float(), key.float()))
        mixed, _ = self.o_proj(self.attn(query, key, value))
        return mixed


def _alibi_backend(vllm_config: VllmConfig, head_dim: int) -> Any:
    """The attention backend class to take in place of the one that vLLM would choose; None: that one adds ALiBi."""
    chosen = get_attn_backend(head_dim, torch.get_default_dtype(), vllm_config.cache_config.cache_dtype)
    asked = vllm_config.attention_config
    if not needs_other_backend(chosen.get_name(), by_user=bool(asked.backend or asked.backend_per_kind)):
        return None
    return AttentionBackendEnum[FALLBACK_BACKEND].get_class()


class BaichuanMLP(nn.Module):
    """The gated feed-forward part, gate and up in one product."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.gate_up_proj = MergedColumnParallelLinear(
            config.hidden_size,
            [config.intermediate_size] * 2,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.gate_up_proj",
        )
        self.down_proj = RowParallelLinear(
            config.intermediate_size,
            config.hidden_size,
            bias=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.down_proj",
        )
        self.activation = SiluAndMul()

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(T, C) to (T, C)."""
        gate_up, _ = self.gate_up_proj(hidden_states)
        result, _ = self.down_proj(self.activation(gate_up))
        return result


class BaichuanDecoderLayer(nn.Module):
    """One pre-norm block; the sum so far travels beside the states, so that adding and norm are one kernel."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.self_attn = BaichuanAttention(vllm_config, f"{prefix}.self_attn")
        self.mlp = BaichuanMLP(vllm_config, f"{prefix}.mlp")
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """What this block adds, (T, C), and the sum before that, (T, C)."""
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions, hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual


@support_torch_compile
class BaichuanModel(nn.Module):
    """Embedding, blocks and final norm, or this pipeline stage's part of them."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.embed_tokens = (
            VocabParallelEmbedding(config.vocab_size, config.hidden_size)
            if get_pp_group().is_first_rank
            else PPMissingLayer()
        )
        self.start_layer, self.end_layer, self.layers = make_layers(
            config.num_hidden_layers,
            lambda prefix: BaichuanDecoderLayer(vllm_config, prefix),
            prefix=f"{prefix}.layers",
        )
        self.norm = (
            RMSNorm(config.hidden_size, eps=config.rms_norm_eps) if get_pp_group().is_last_rank else PPMissingLayer()
        )
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(
            ["hidden_states", "residual"], config.hidden_size
        )

    def embed_input_ids(self, input_ids: Tensor | None) -> Tensor:
        """The embeddings (T, C) of ids (T,)."""
        return self.embed_tokens(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """The normed states (T, C), or what the next pipeline stage needs."""
        residual = None
        if get_pp_group().is_first_rank:
            hidden_states = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        else:
            assert intermediate_tensors is not None
            hidden_states, residual = intermediate_tensors["hidden_states"], intermediate_tensors["residual"]
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            hidden_states, residual = layer(positions, hidden_states, residual)
        if not get_pp_group().is_last_rank:
            return IntermediateTensors({"hidden_states": hidden_states, "residual": residual})
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states


class BaichuanForCausalLM(nn.Module, SupportsLoRA, SupportsPP):
    """The model that vLLM builds for a Baichuan folder, 7B or 13B, version 1 or 2."""

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "W_pack": ["W_pack"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_stacked={".gate_proj": (".gate_up_proj", 0), ".up_proj": (".gate_up_proj", 1)}
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        self.model = BaichuanModel(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = (
            ParallelLMHead(config.vocab_size, config.hidden_size, prefix=maybe_prefix(prefix, "lm_head"))
            if get_pp_group().is_last_rank
            else PPMissingLayer()
        )
        self.logits_processor = LogitsProcessor(config.vocab_size)
        self.compute_dtype = vllm_config.model_config.dtype
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """The embeddings (T, C) of ids (T,)."""
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor | IntermediateTensors:
        """The normed states (T, C), or what the next pipeline stage needs."""
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits (T, V) of states (T, C); None on ranks that do not sample."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fills this rank's part of the weights from a folder's tensors; returns the names of what was filled."""
        prepared = prepared_weights(weights, self.config, self.compute_dtype)
        return AutoWeightsLoader(self).load_weights(prepared, mapper=self.hf_to_vllm_mapper)
