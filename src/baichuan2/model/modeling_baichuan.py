"""Baichuan 2 as transformers-native classes, both sizes in one file.

Shared: pre-norm decoder blocks with RMSNorm, one fused projection `W_pack` for queries, keys and values, a SiLU-gated
MLP, and NormHead on top. The one difference: the 7B turns queries and keys by rotary angles, the 13B adds an ALiBi
bias to the scores; attention receives one or the other. Module names are the checkpoint's keys.

Shape letters (docs/shapes.md): B batch, T new tokens, S all tokens in view, H heads, D head size, C hidden size,
I inner size, V vocabulary.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from baichuan2.devices import GPU
from baichuan2.errors import CheckpointError
from baichuan2.model.alibi import BaichuanAlibi
from baichuan2.model.attention import use_functions
from baichuan2.model.block import MLP, UNUSED_NAMES, Attention, RMSNorm, alibi_bias, last_places
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.linear_loss import LossRequest, loss_of_layer
from baichuan2.model.loss import IGNORED_LABEL, causal_lm_loss
from baichuan2.model.norm_head import NormHead, OutputHead
from baichuan2.model.online_quantization import mend_quantized, quantize_in_place
from baichuan2.model.pretrained_arguments import load_whole
from baichuan2.model.rope import BaichuanRotaryEmbedding
from baichuan2.model.segments import find_segments, segment_mask, without_first_labels

# transformers 5.24 renamed `past_key_values` to `cache`; both spellings are in the range that we support
CACHE_KEYWORD = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"

use_functions(ALL_ATTENTION_FUNCTIONS)


class DecoderLayer(GradientCheckpointingLayer):
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


class BaichuanPreTrainedModel(PreTrainedModel):
    """What the framework must know of these models: what can be split, captured, compiled, ignored on loading."""

    config: BaichuanConfig
    config_class = BaichuanConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    # the head is a unit of its own under FSDP: accelerate takes what has Norm in its name for the last norm of a model
    # with adapters, and would then split the head twice
    _no_split_modules: ClassVar[list[str]] = ["DecoderLayer", "NormHead"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values", "cache", "kv_cache"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": DecoderLayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [*UNUSED_NAMES]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """The framework's `from_pretrained`, which also takes the arguments of the official README.

        `load_in_8bit=True`, `load_in_4bit=True` and `use_auth_token=` became other arguments since; they still work.
        A checkpoint that lacks a tensor raises CheckpointError instead of getting random numbers for it.
        """
        loaded = load_whole(super().from_pretrained, args, kwargs)
        mend_quantized(loaded[0] if isinstance(loaded, tuple) else loaded, kwargs)
        return loaded

    def quantize(self, bits: int) -> Self:
        """This model with its linear layers in 8 or 4 bits, as in the official README; see `quantize_in_place`."""
        quantize_in_place(self, bits)
        return self

    def cuda(self, device: int | torch.device | None = None) -> Self:
        """This model on a CUDA device; the framework refuses it for 8-bit weights, which our layers can move."""
        return self.to(GPU if device is None else device)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Yes; the framework would guess from this file's source text that `set_attn_implementation` is useless."""
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, NormHead):
            init.kaiming_uniform_(module.weight, a=5**0.5)
        elif isinstance(module, BaichuanAlibi):
            init.copy_(module.slopes, module.compute_slopes())
        else:
            super()._init_weights(module)


class BaichuanModel(BaichuanPreTrainedModel):
    """The decoder without its head: token ids to final hidden states."""

    # a whole checkpoint also holds the head, which has no place here
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        *BaichuanPreTrainedModel._keys_to_ignore_on_load_unexpected,
        r"^lm_head\.",
    ]

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([DecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = BaichuanRotaryEmbedding(config) if config.position_embedding == "rope" else None
        self.alibi = BaichuanAlibi(config.num_attention_heads) if config.position_embedding == "alibi" else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states after the final norm, (B, T, C), and the cache.

        `input_ids` (B, T) int64, or `inputs_embeds` (B, T, C). `attention_mask`: None; (B, S) with 0 for padding and
        1 for text, where other values are segment ids that only see their own segment; (B, T, S) or (B, 1, T, S)
        boolean, True where row i may see key j. `position_ids` (B, T) turn the 7B's angles; the 13B's bias goes by
        place. `cache` and `past_key_values` are two spellings of one argument.
        """
        cache = cache if cache is not None else past_key_values
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, C)
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            if cache is not None:
                raise ValueError(
                    "a cache cannot be filled while gradient checkpointing trains: it would be filled twice"
                )
            use_cache = False
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        past = cache.get_seq_length() if cache is not None else 0
        if isinstance(past, Tensor):
            past = past.clone()  # a static cache counts in place, while the layers run
        if position_ids is None:
            position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None] + past  # (1, T)
        num_rows = hidden_states.shape[1]
        mask = self._framework_mask(hidden_states, attention_mask, position_ids, cache)
        kwargs["padding_rows"] = _padding_rows(attention_mask, num_rows, self.config) if self.training else None
        rotation = self.rotary_emb(hidden_states, position_ids) if self.rotary_emb is not None else None
        bias = alibi_bias(self.alibi, self.config, hidden_states, past, is_training=self.training)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, attention_mask=mask, rotation=rotation, bias=bias, kv_cache=cache, **kwargs
            )
        return BaseModelOutputWithPast(self.norm(hidden_states), cache)

    def _framework_mask(
        self, hidden_states: Tensor, attention_mask: Tensor | None, position_ids: Tensor, cache: Cache | None
    ) -> Any:
        """The mask in the form that the chosen attention implementation takes; see `attend`."""
        if isinstance(attention_mask, Tensor):  # else None, or a block mask that `generate` made
            is_flex = self.config._attn_implementation == "flex_attention"
            if attention_mask.dim() == 2 and _has_segments(attention_mask, hidden_states.shape[1]):
                if is_flex:
                    return _segment_blocks(self.config, hidden_states, attention_mask, cache)
                is_known = not torch.compiler.is_compiling()  # a compiled graph cannot look at values
                return (find_segments(attention_mask) if is_known else None) or segment_mask(attention_mask)
            attention_mask = _explicit_mask(attention_mask)
            if attention_mask.dim() == 4:
                if is_flex:  # it would add the mask's ones and zeros
                    raise ValueError("masks by row need attn_implementation eager or sdpa, got flex_attention")
                return attention_mask
        return create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            position_ids=position_ids if cache is None else None,
            **{CACHE_KEYWORD: cache},
        )


def _explicit_mask(attention_mask: Tensor) -> Tensor:
    """A boolean (B, 1, T, S) mask where the caller's mask says what each row sees; else that mask, (B, S)."""
    if attention_mask.dim() == 4:
        if attention_mask.is_floating_point():  # additive: 0 where a row sees a key
            return attention_mask > torch.finfo(attention_mask.dtype).min / 2
        return attention_mask.bool()
    return attention_mask.bool()[:, None] if attention_mask.dim() == 3 else attention_mask


def _has_segments(attention_mask: Tensor, num_rows: int) -> bool:
    """Whether a mask (B, S) holds segment ids. They mark packed training rows, which have no cache: S = T."""
    if attention_mask.dtype == torch.bool or attention_mask.shape[1] != num_rows:
        return False
    # a compiled graph cannot look at values, and treats every id as a segment
    return torch.compiler.is_compiling() or bool((attention_mask > 1).any())


def _segment_blocks(config: BaichuanConfig, hidden_states: Tensor, ids: Tensor, cache: Cache | None) -> Any:
    """The block mask of flex attention for segment `ids` (B, T): blocks without a visible pair are never computed."""
    ids = ids.to(hidden_states.device)
    return create_causal_mask(
        config=config,
        inputs_embeds=hidden_states,
        attention_mask=(ids > 0).long(),
        position_ids=None,
        and_mask_function=lambda batch, _head, row, key: ids[batch, row] == ids[batch, key],
        **{CACHE_KEYWORD: cache},
    )


def _padding_rows(attention_mask: Tensor | None, num_rows: int, config: BaichuanConfig) -> Tensor | None:
    """Which rows of a whole 13B training input are padding, (B, T) boolean; None where it makes no difference.

    The released 13B code lets such rows attend uniformly to all places, later ones included. Nothing but the max-z
    loss ever looks at them, and it looks at all places (reference: §5).
    """
    matters = config.position_embedding == "alibi" and config.z_loss_weight
    if not matters or attention_mask is None or attention_mask.dim() != 2 or attention_mask.shape[1] != num_rows:
        return None
    return attention_mask == 0


@dataclass
class BaichuanOutput(CausalLMOutputWithPast):
    """What a model with its head returns; `logprobs` (B,) float32 only where `return_logprobs` asks for them."""

    logprobs: Tensor | None = None


class BaichuanForCausalLM(BaichuanPreTrainedModel, GenerationMixin):
    """The decoder with its output head: logits, loss, generation and chat."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.vocab_size = config.vocab_size
        head = NormHead if config.normalized_head else OutputHead
        self.lm_head = head(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def __setattr__(self, name: str, value: Any) -> None:
        # An adapter adds its delta to the product, outside of the normalisation: merged and unmerged logits would
        # differ by whole units. Every method of the peft library puts its layer in place by this very assignment.
        if name == "lm_head" and hasattr(value, "base_layer") and isinstance(value.base_layer, NormHead):
            raise ValueError(
                "lm_head is a normalised head, on which an adapter cannot be merged exactly: leave it out of "
                "target_modules (W_pack, o_proj, gate_proj, up_proj and down_proj are fine), or train it whole with "
                'modules_to_save=["lm_head"]'
            )
        super().__setattr__(name, value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        skip_logits: bool | None = None,
        return_logprobs: bool = False,
        # budget: the names are the framework's, which looks for them in this signature
        **kwargs: Any,
    ) -> BaichuanOutput | tuple[Any, ...]:
        """Logits (B, T, V), and the loss where `labels` (B, T) are given; see `causal_lm_loss`.

        `logits_to_keep` n > 0: only the last n places get logits (a tensor: those places). The other arguments are
        those of `BaichuanModel.forward`. `num_items_in_batch` makes accumulated gradients exact.

        `skip_logits`: the same loss, and None for logits, which with this vocabulary are most of the memory that
        training takes. None (the default) skips them in training with labels; False brings them back there, True
        skips them in evaluation as well.

        `return_logprobs`: in `logprobs` (B,) float32 the sum of the log-probabilities of each row's labels, for losses
        on whole answers such as DPO's; differentiable, also without logits, and neither loss nor logits beside it.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        if return_logprobs and labels is None:
            raise ValueError("return_logprobs=True needs labels: they say which tokens count")
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache if cache is not None else past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if isinstance(logits_to_keep, Tensor):
            hidden_states = hidden_states[:, logits_to_keep]
        else:
            hidden_states = last_places(hidden_states, logits_to_keep)
        logits = loss = logprobs = None
        z_loss_weight = self.config.z_loss_weight
        if labels is not None:
            labels = without_first_labels(labels, attention_mask, IGNORED_LABEL)
        if labels is not None and (return_logprobs or (self.training if skip_logits is None else skip_logits)):
            request = LossRequest(labels, z_loss_weight, num_items_in_batch, as_logprobs=return_logprobs)
            computed = self._without_logits(hidden_states, request)
            loss, logprobs = (None, computed) if return_logprobs else (computed, None)
        else:
            logits = self.lm_head(hidden_states)  # (B, T, V)
            if labels is not None:
                loss = causal_lm_loss(
                    logits, labels, z_loss_weight=z_loss_weight, num_items_in_batch=num_items_in_batch
                )
        result = BaichuanOutput(
            loss, logits, getattr(outputs, CACHE_KEYWORD), outputs.hidden_states, outputs.attentions, logprobs
        )
        wants_tuple = not (self.config.return_dict if return_dict is None else return_dict)
        return result.to_tuple() if wants_tuple else result

    def _without_logits(self, hidden_states: Tensor, request: LossRequest) -> Tensor:
        head = self.lm_head
        if getattr(head, "computes_loss", False):
            computed: Tensor = head(hidden_states, request)
            return computed
        return loss_of_layer(head, hidden_states, request)  # a head in few bits, or one with an adapter

    def chat(
        self,
        tokenizer: Any,
        messages: Sequence[Mapping[str, str]],
        stream: bool = False,
        generation_config: GenerationConfig | None = None,
        **overrides: Any,
    ) -> str | Iterator[str]:
        """The reply to `messages`, as the official README has it; see `baichuan2.chat.compat.chat`.

        With `stream=True` an iterator of the whole text so far. `overrides` are generation settings for this call,
        such as `max_new_tokens=64` or `temperature=0.7`.
        """
        from baichuan2.chat.compat import chat

        return chat(self, tokenizer, messages, stream, generation_config, **overrides)

    def load_custom_generate(self, pretrained_model_name_or_path: Any = None, *_: Any, **__: Any) -> Any:
        """Refused: the framework would run the folder's own `generate.py` here.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"{pretrained_model_name_or_path} is asked to bring its own generate code, which baichuan2 never runs: "
            "give a function as custom_generate instead"
        )

    def _get_resized_lm_head(self, old_lm_head: nn.Linear, *args: Any, **kwargs: Any) -> nn.Linear:
        """The framework builds a plain linear layer of the new size; the head must stay a NormHead."""
        plain: nn.Linear = super()._get_resized_lm_head(old_lm_head, *args, **kwargs)
        if not isinstance(old_lm_head, NormHead) or isinstance(plain, NormHead):
            return plain
        head = NormHead(plain.in_features, plain.out_features, device="meta")
        head.weight = plain.weight
        return head.train(old_lm_head.training)
