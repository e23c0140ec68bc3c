"""A model on the processor whose passes are steps in C, `kernels.steps`: long ones in pieces, one after another.

`processor_model` looks at a model once for each generation: at its modules, which must be those of this package without
hooks, adapters or other additions, and at where their weights lie. What it does not know runs as ever.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformers.cache_utils import Cache

from baichuan2.engine import prompt
from baichuan2.engine.cache import GrowingLayer
from baichuan2.engine.quantized_cache import Int8Layer
from baichuan2.kernels import products, steps
from baichuan2.kernels.low_rank import Change
from baichuan2.kernels.steps import LayerWeights, Rows, StepModel, StoredWeight
from baichuan2.model.alibi import BaichuanAlibi
from baichuan2.model.block import MLP, Attention, RMSNorm
from baichuan2.model.low_rank import AdaptedLinear, RowAdapters
from baichuan2.model.norm_head import NormHead, OutputHead
from baichuan2.model.plain import PlainBaichuan, PlainDecoder, PlainLayer
from baichuan2.model.rope import BaichuanRotaryEmbedding
from baichuan2.quantization.linear import Int4Linear, Int8Embedding, Int8Linear, NF4Linear

if TYPE_CHECKING:
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

__all__ = ["KNOWN", "ProcessorModel", "StepOutput", "is_made_of", "processor_model"]

KNOWN = (
    *(PlainBaichuan, PlainDecoder, PlainLayer, Attention, MLP, RMSNorm, BaichuanRotaryEmbedding, BaichuanAlibi),
    *(NormHead, OutputHead, nn.Linear, nn.Embedding, nn.ModuleList),
    *(Int4Linear, Int8Linear, NF4Linear, Int8Embedding, AdaptedLinear),
)
FRAMEWORK_MODULE = "baichuan2.model.modeling_baichuan"
FRAMEWORK_CLASSES = ("BaichuanForCausalLM", "BaichuanModel", "DecoderLayer")
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
LEAST_PIECE = 32  # where steps of so many tokens are not worth while, prompts are the model's own pass

ROWS_AT_ONCE = {"AVX2": 1}
"""By instruction set: how many tokens cost hardly more than one, which decides how many are guessed unasked.

Not listed: 1. A step of the 7B in int4 with 4, 8 and 16 tokens takes 3.3, 5.7 and 12 times that of one on AVX2
(benchmarks/cpu_amd-epyc_2026-11-26.md): guesses pay there only where nearly all of them are right.
"""


@dataclass(frozen=True)
class StepOutput:
    """What a pass gives back: logits (B, T or fewer, V)."""

    logits: Tensor


def processor_model(model: Any) -> Any:
    """`model`, whose passes are steps in C where that is possible and faster; else `model` itself."""
    whole, *_ = _framework_classes()
    if type(model) not in (PlainBaichuan, whole) or not _is_plain(model):
        return model
    try:
        return ProcessorModel(model)
    except ValueError:  # a shape or a format that there are no steps for
        return model


class ProcessorModel:
    """A language model as the engine wants it; for one generation, as the model may change until the next."""

    def __init__(self, model: "BaichuanForCausalLM | PlainBaichuan") -> None:
        """Raises ValueError where there are no steps for the model."""
        self._model = model
        decoder = model.model
        self._dtype = decoder.norm.weight.dtype
        self._layers = [_layer_weights(layer, self._dtype) for layer in decoder.layers]
        self._row_adapters: RowAdapters | None = getattr(model, "row_adapters", None)
        self._changes = _changes_of(decoder.layers)
        weights = [(layer.packed, layer.output, layer.gate, layer.up, layer.down) for layer in self._layers]
        self.is_16_bits = any(weight.is_16_bits for of_layer in weights for weight in of_layer)
        """Whether weights are numbers, not codes."""
        embedding, head = decoder.embed_tokens, model.lm_head
        is_stored = isinstance(embedding, Int8Embedding)
        if (embedding.dtype if is_stored else embedding.weight.dtype) != self._dtype:
            raise ValueError("the embedding has another number format")
        self._head: StoredWeight | None = None
        if isinstance(head, NormHead):  # its product is made with the first step
            _numbers(head.weight, self._dtype)
        else:
            self._head = _stored(head, self._dtype)
        self._table: tuple[Tensor, Tensor] | None = None
        self._steps: dict[type[GrowingLayer], StepModel] = {}
        self._step_for(GrowingLayer)  # finds out whether the shapes fit

    @property
    def config(self) -> Any:
        """The model's."""
        return self._model.config

    @property
    def device(self) -> torch.device:
        """The processor."""
        return torch.device("cpu")

    @property
    def rows_at_once(self) -> int:
        """How many tokens go through at hardly more than the cost of one."""
        return max(1, min(ROWS_AT_ONCE.get(products.instructions() or "", 1), steps.most_rows(self.is_16_bits)))

    def __call__(self, **arguments: Any) -> Any:
        """The model's own call; see `engine.generate.LanguageModel`."""
        ids, mask, cache = arguments["input_ids"], arguments.get("attention_mask"), arguments.get("past_key_values")
        held = cache.get_seq_length() if isinstance(cache, Cache) else 0
        firsts = _first_places(mask, len(ids), held + ids.shape[1])
        if firsts is not None and self._suits(ids, cache, arguments) and not _wants_padding(firsts, held, arguments):
            keep = int(arguments["logits_to_keep"])
            if not self._changes and prompt.suits(self._model, ids, firsts, cast(Cache, cache)):
                return StepOutput(self._prompt_logits(ids, held, cast(Cache, cache), keep))
            if steps.most_rows(self.is_16_bits) >= min(LEAST_PIECE, ids.numel()):
                return StepOutput(self._logits(ids, firsts, held, cast(Cache, cache), keep))
        if firsts is not None and any(firsts):
            # as in a step, where a padded prompt is turned by the same angles as alone
            places = torch.arange(held, held + ids.shape[1])[None] - torch.tensor(firsts)[:, None]  # (B, T)
            arguments["position_ids"] = places.clamp_min(0)
        return self._model(**arguments)

    def _suits(self, ids: Tensor, cache: object, arguments: dict[str, Any]) -> bool:
        known = {"input_ids", "attention_mask", "past_key_values", "use_cache", "logits_to_keep"}
        if not (arguments.keys() <= known and ids.device.type == "cpu" and isinstance(cache, Cache)):
            return False
        if ids.numel() == 0 or not isinstance(arguments.get("logits_to_keep"), int):
            return False
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or cache.offloading:
            return False
        kinds = {type(layer) for layer in cache.layers} or {cache.layer_class_to_replicate}
        lengths = {layer.get_seq_length() for layer in cache.layers}
        return kinds in ({GrowingLayer}, {Int8Layer}) and len(lengths) <= 1 and self._fits(ids, cache)

    def _fits(self, ids: Tensor, cache: Cache) -> bool:
        """Whether the cache is empty, or holds keys of this model and batch."""
        if not cache.layers:
            return True
        buffers = cache.layers[0].buffers
        num_layers, config = len(self._layers), self._model.config
        shape = (len(ids), config.num_attention_heads, config.head_dim)
        return len(cache.layers) == num_layers and (
            buffers is None or (*buffers[0][0].shape[:2], buffers[0][0].shape[-1]) == shape
        )

    def _prompt_logits(self, ids: Tensor, held: int, cache: Cache, logits_to_keep: int) -> Tensor:
        """As `_logits`, in one pass of whole products."""
        batch, num_new = ids.shape
        caches = self._buffers(cache, batch, num_new)
        logits = prompt.prompt_logits(self._model, ids, caches, held, min(logits_to_keep or num_new, num_new))
        for layer in cache.layers:
            layer.advance(num_new)
        return logits

    def _logits(self, ids: Tensor, firsts: list[int], held: int, cache: Cache, logits_to_keep: int) -> Tensor:
        """Logits (B, T or the last `logits_to_keep`, V); the cache holds T tokens more."""
        batch, num_new = ids.shape
        caches = self._buffers(cache, batch, num_new)
        num_kept = min(logits_to_keep or num_new, num_new)
        sequence: list[int] = []
        place: list[int] = []
        first: list[int] = []
        for row in range(batch):
            start = min(max(firsts[row] - held, 0), num_new)
            if start:  # padding is not computed; nobody sees it, but it must be numbers
                for layer in caches:
                    for part in (*layer[0], *layer[1]):
                        part[row, :, held : held + start] = 0
            places = range(held + start, held + num_new)
            sequence += [row] * len(places)
            place += places
            first += [firsts[row]] * len(places)
        known = ids[torch.tensor(sequence), torch.tensor(place) - held]  # (M,)
        angles = self._angles(torch.tensor(place) - torch.tensor(first))
        step, head = self._step_for(type(cache.layers[0])), self._head_weight()
        logits = torch.empty(batch * num_kept, head.shape[0], dtype=self._dtype)
        num_done = 0
        for begin, end in _pieces(len(place), steps.most_rows(self.is_16_bits)):
            wanted = [row for row, at in enumerate(place[begin:end]) if at >= held + num_new - num_kept]
            rows = Rows(sequence[begin:end], place[begin:end], first[begin:end], wanted)
            if self._row_adapters is not None:
                numbers = self._row_adapters.numbers(batch)
                rows = replace(rows, adapter=[numbers[row] for row in rows.sequence])
            embeddings = self._model.model.embed_tokens(known[begin:end])  # (M, C) of the piece
            rotation = None if angles is None else (angles[0][begin:end], angles[1][begin:end])
            step.step(embeddings, rotation, rows, caches, head, logits[num_done : num_done + len(wanted)])
            num_done += len(wanted)
        for layer in cache.layers:
            layer.advance(num_new)
        return logits.view(batch, num_kept, -1)

    @property
    def most_rows(self) -> int:
        """Up to how many tokens a step takes here; 0: steps are slower than the model's own passes."""
        return steps.most_rows(self.is_16_bits)

    def paged_logits(
        self,
        ids: Sequence[int],
        rows: Rows,
        caches: Sequence[Any],
        *,
        is_int8_cache: bool = False,
        threads: int | None = None,
    ) -> Tensor:
        """Logits (wanted, V) of a step over a cache in pages; `ids` (M,) are the tokens of the rows."""
        embeddings = self._model.model.embed_tokens(torch.tensor(ids))  # (M, C)
        angles = self._angle_table()
        rotation = None
        if angles is not None:
            places = torch.tensor(rows.place)
            rotation = (angles[0][places], angles[1][places])
        step = self._step_for(Int8Layer if is_int8_cache else GrowingLayer)
        return step.step(embeddings, rotation, rows, caches, self._head_weight(), threads=threads)

    def _angle_table(self) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines, (context, D) each, of all places; for scalings that look at no other place."""
        if self._table is None and self._model.model.rotary_emb is not None:
            self._table = self._angles(torch.arange(int(self._model.config.model_max_length or 0)))
        return self._table

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines, (M, D) each, of positions (M,); None where a bias tells positions."""
        rotary = self._model.model.rotary_emb
        if rotary is None:
            return None
        cosine, sine = rotary(positions, positions[None])  # (1, 1, M, D) each
        return cosine[0, 0].contiguous(), sine[0, 0].contiguous()

    def _buffers(self, cache: Cache, batch: int, num_new: int) -> list[Any]:
        """The buffers of each layer, with room for the new tokens."""
        config = self._model.config
        while len(cache.layers) < len(self._layers):
            cache.layers.append(cache.layer_class_to_replicate())
        like = torch.empty(batch, config.num_attention_heads, 0, config.head_dim, dtype=self._dtype)
        for layer in cache.layers:
            layer.reserve(num_new, like)
        return [layer.buffers for layer in cache.layers]

    def _step_for(self, kind: type[GrowingLayer]) -> StepModel:
        """The model for caches of that kind."""
        if kind not in self._steps:
            decoder = self._model.model
            self._steps[kind] = StepModel(
                self._layers,
                _numbers(decoder.norm.weight, self._dtype),
                slopes=None if decoder.alibi is None else decoder.alibi.slopes,
                num_heads=self._model.config.num_attention_heads,
                epsilon=decoder.norm.eps,
                is_int8_cache=kind is Int8Layer,
                adapters=self._changes,
            )
        return self._steps[kind]

    def _head_weight(self) -> StoredWeight:
        """The head as it is now: a normalised one finds out by itself whether its weight was changed."""
        head = self._model.lm_head
        if not isinstance(head, NormHead):
            assert self._head is not None
            return self._head
        weight = head.normalized_weight()
        if self._head is None or self._head.parts[0] is not weight:
            self._head = steps.plain_weight(weight)
        return self._head


def _framework_classes() -> tuple[type | None, ...]:
    """The classes of a model that is loaded through the framework; importing them here would take seconds.

    Where nobody has imported them there is no such model.
    """
    return tuple(getattr(sys.modules.get(FRAMEWORK_MODULE), name, None) for name in FRAMEWORK_CLASSES)


def is_made_of(model: "BaichuanForCausalLM | PlainBaichuan", kinds: Collection[type]) -> bool:
    """Whether modules of these kinds, those of the framework's class and nothing else, no hook, adapter or other
    attention, make up the model.
    """
    config = model.config
    if config._attn_implementation != "sdpa" or config.output_attentions or config.output_hidden_states:
        return False
    if config.position_embedding == "alibi" and config.alibi_numerics == "official":
        return False
    if not getattr(config, "return_dict", True):
        return False
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return False
    known = {*kinds, *_framework_classes()}
    for module in model.modules():
        if type(module) not in known or "forward" in vars(module):
            return False
        if any(getattr(module, hooks) for hooks in HOOKS):
            return False
    return True


def _is_plain(model: "BaichuanForCausalLM | PlainBaichuan") -> bool:
    """Whether the model is on the processor, set to answer, and made of modules as this package has them."""
    if steps.most_rows() == 0 or model.training:
        return False
    return is_made_of(model, KNOWN) and bool(model.device.type == "cpu")


def _pieces(num_rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Begin and end of pieces of `most` tokens or fewer, all nearly as long."""
    count = -(-num_rows // most)
    for piece in range(count):
        yield piece * num_rows // count, (piece + 1) * num_rows // count


def _layer_weights(layer: Any, dtype: torch.dtype) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        packed=_stored(attention.W_pack, dtype),
        output=_stored(attention.o_proj, dtype),
        gate=_stored(mlp.gate_proj, dtype),
        up=_stored(mlp.up_proj, dtype),
        down=_stored(mlp.down_proj, dtype),
        input_norm=_numbers(layer.input_layernorm.weight, dtype),
        middle_norm=_numbers(layer.post_attention_layernorm.weight, dtype),
    )


def _changes_of(layers: Any) -> list[list[list[Change | None]]]:
    """What each adapter makes of the five weights of each layer; none where there are no adapters."""
    linears = [
        [layer.self_attn.W_pack, layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
        for layer in layers
    ]
    counts = [len(linear.adapters) for of_layer in linears for linear in of_layer if isinstance(linear, AdaptedLinear)]
    numbers = range(max(counts, default=0))
    return [[[_change(linear, number) for linear in of_layer] for of_layer in linears] for number in numbers]


def _change(linear: nn.Module, number: int) -> Change | None:
    change = linear.adapters[number] if isinstance(linear, AdaptedLinear) else None
    return None if change is None else (change.down, change.up, change.gain)


def _numbers(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype != dtype:
        raise ValueError(f"numbers are {values.dtype}, not {dtype}")
    return values.detach()


def _stored(layer: nn.Module, dtype: torch.dtype) -> StoredWeight:
    """The weight of a linear layer; ValueError where a step would compute something else than the layer."""
    if type(layer) is AdaptedLinear:
        return _stored(layer.base_layer, dtype)
    if type(layer) is Int4Linear:
        return steps.int4_weight(
            layer.weight_codes, layer.weight_scales, layer.codebook, layer.group_size, layer.in_features
        )
    if type(layer) is Int8Linear:
        return steps.int8_weight(layer.weight_codes, layer.weight_scales, layer.group_size)
    if type(layer) is NF4Linear and layer.weight_dtype == dtype and not layer.as_released:
        stored = layer.stored()
        nested = None
        if stored.offset is not None and stored.nested_absmax is not None and stored.nested_code is not None:
            nested = (stored.offset, stored.nested_absmax, stored.nested_code)
        return steps.nf4_weight(stored.codes, stored.code, stored.absmax, nested, stored.shape)
    if type(layer) is nn.Linear and getattr(layer, "bias", None) is None:
        return steps.plain_weight(_numbers(layer.weight, dtype))
    raise ValueError(f"no steps with {type(layer).__name__}")


def _wants_padding(firsts: list[int], held: int, arguments: dict[str, Any]) -> bool:
    """Whether logits are asked for of places that hold nothing but padding."""
    num_new, num_kept = arguments["input_ids"].shape[1], int(arguments["logits_to_keep"])
    return bool(max(firsts) > held + num_new - (min(num_kept, num_new) or num_new))


def _first_places(mask: Tensor | None, batch: int, num_keys: int) -> list[int] | None:
    """The first place that each input may see, where the mask (B, S) hides nothing but padding on the left; else None.

    Without a mask nothing is hidden.
    """
    if mask is None:
        return [0] * batch
    if mask.dim() != 2 or mask.shape[1] != num_keys:
        return None
    is_text = mask != 0
    firsts = (~is_text).sum(dim=1)  # (B,)
    is_padded_left = torch.equal(is_text, torch.arange(num_keys) >= firsts[:, None])
    return firsts.tolist() if is_padded_left and bool((mask <= 1).all()) else None
