"""The network alone, for a process that only answers: the same layers and numbers, without the framework's model class.

Importing the framework's class takes as long as importing torch and the rest of the framework together. This module
leaves it out, so `baichuan2 chat` says its first word sooner. Names of modules and weights are those of
`BaichuanForCausalLM`; there is no training, saving, adapter or hook of the framework here. Shape letters as in `block`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import Cache

from baichuan2.model.alibi import BaichuanAlibi
from baichuan2.model.block import MLP, Attention, RMSNorm, alibi_bias, last_places
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.norm_head import NormHead
from baichuan2.model.rope import BaichuanRotaryEmbedding

__all__ = ["PlainBaichuan", "PlainDecoder", "PlainLayer", "PlainOutput", "is_plain_config", "without_memory"]

IMPLEMENTATION = "sdpa"


def is_plain_config(config: BaichuanConfig) -> bool:
    """Whether `PlainBaichuan` computes what the framework's class would with that configuration."""
    if config._attn_implementation not in (None, IMPLEMENTATION):
        return False
    return not (config.output_attentions or config.output_hidden_states)


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Modules that are made inside have neither memory nor values: their tensors are on the meta device."""
    with torch.device("meta"), _WithoutValues():
        yield


class _WithoutValues(TorchFunctionMode):
    """New modules get no values: they have no memory, and random ones would import torch's compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class PlainOutput:
    """What a pass gives back: logits (B, T or fewer, V)."""

    logits: Tensor


class PlainLayer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer_idx)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """`hidden_states` (B, T, C) after attention and MLP; the keywords are those of `Attention.forward`."""
        hidden_states = hidden_states + self.self_attn(self.input_layernorm(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class PlainDecoder(nn.Module):
    """Token ids to final hidden states."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([PlainLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        with torch.device("cpu"):  # they are computed, not read
            self.rotary_emb = BaichuanRotaryEmbedding(config) if config.position_embedding == "rope" else None
            self.alibi = BaichuanAlibi(config.num_attention_heads) if config.position_embedding == "alibi" else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """Hidden states after the final norm, (B, T, C)."""
        hidden_states = self.embed_tokens(input_ids)  # (B, T, C)
        num_new, past = input_ids.shape[1], cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + num_new)[None]  # (1, T)
        mask = _seen(attention_mask, num_new, past)
        rotation = self.rotary_emb(hidden_states, position_ids) if self.rotary_emb is not None else None
        bias = alibi_bias(self.alibi, self.config, hidden_states, past, is_training=False)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask, rotation=rotation, bias=bias, kv_cache=cache)
        return self.norm(hidden_states)


class PlainBaichuan(nn.Module):
    """The decoder with its head, on the processor: what the engine calls (`engine.generate.LanguageModel`)."""

    def __init__(self, config: BaichuanConfig) -> None:
        """Weights are made where torch makes them by default, on the meta device for one; positions have values.

        `config` passes `is_plain_config`, or the model is not called.
        """
        super().__init__()
        config._attn_implementation = IMPLEMENTATION
        self.config = config
        self.model = PlainDecoder(config)
        head = NormHead if config.normalized_head else nn.Linear
        self.lm_head: nn.Module = head(config.hidden_size, config.vocab_size, bias=False)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format that the network computes in."""
        return self.model.norm.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, as the framework's class calls it."""
        return self.model.embed_tokens

    def set_input_embeddings(self, embedding: nn.Module) -> None:
        """Another in its place."""
        self.model.embed_tokens = embedding

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 0,
    ) -> PlainOutput:
        """Logits (B, T, V) of ids (B, T), or of the last `logits_to_keep` places.

        `attention_mask` (B, S): 0 for padding, 1 for text. `position_ids` (B, T) turn the 7B's angles.
        """
        cache = past_key_values if use_cache else None
        hidden_states = self.model(input_ids, attention_mask, position_ids, cache)
        return PlainOutput(self.lm_head(last_places(hidden_states, logits_to_keep)))


def _seen(attention_mask: Tensor | None, num_new: int, past: int) -> Tensor | None:
    """Which keys each new row may see, boolean (B or 1, 1, T, S); None: all up to itself, see `attend`."""
    if attention_mask is not None and bool(attention_mask.all()):
        attention_mask = None
    if attention_mask is None and (num_new == 1 or past == 0):
        return None
    rows = torch.arange(past, past + num_new)
    seen = torch.arange(past + num_new) <= rows[:, None]  # (T, S)
    return seen[None, None] if attention_mask is None else seen & attention_mask[:, None, None, :].bool()
