"""A model on a GPU whose decode steps are CUDA graphs: a step's some hundred kernels start at once, not one by one.

`graph_model` looks at a model once for each generation, as `processor_model` does on the processor. Prompts are
computed as they stand, with fewer kernels than by the modules; the first step of a shape (B inputs, T new tokens) is
recorded, which takes a tenth of a second, and played again, by later generations too. What cannot be recorded runs as
ever: adapters, hooks, other attention, models over several devices.
"""

import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from baichuan2.devices import Recorder, current_stream, on_device, supports_graphs
from baichuan2.engine.cache import GrowingLayer
from baichuan2.engine.processor import KNOWN, ProcessorModel, StepOutput, is_made_of
from baichuan2.engine.step_kernels import (
    ALIGNMENT,
    FusedKernels,
    Places,
    PlainKernels,
    PromptKernels,
    StepKernels,
    has_fused_kernels,
)
from baichuan2.engine.step_products import is_stored_in_few_bits, library_layers, library_scales
from baichuan2.errors import SettingsError
from baichuan2.model.block import last_places
from baichuan2.model.low_rank import AdaptedLinear
from baichuan2.model.norm_head import NormHead

if TYPE_CHECKING:
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

__all__ = ["GRAPHS", "GraphModel", "graph_model", "step_logits"]

GRAPHS = "BAICHUAN2_GRAPHS"
"""Environment variable: `off` for a model's own passes; `plain` for graphs of torch's operations, without Triton."""
CHOICES = ("on", "plain", "off")
MOST_ROWS = 256  # B * T; a pass of more is worth its starts
LEAST_PROMPT = 1024
"""B * T, for fused kernels: on an H200 a pass of 4,096 is a third faster by them, one of 512 waits for Python."""
MOST_NEW = 16  # tokens of one input: guesses
MOST_GRAPHS = MOST_NEW + 2  # of one model, so that all lengths of guesses stay; the least lately used makes room
MOST_ROWS_IN_FEW_BITS = 64  # a weight that is dequantised once is worth while for more
ROPE_TYPES = ("default", "linear", "yarn", "llama3")  # others look at positions, and would wait for the device

log = logging.getLogger(__name__)


def graph_model(model: Any, firsts: Sequence[int]) -> Any:
    """`model`, whose decode steps are recorded, where that is possible; else `model` itself.

    `firsts`: how many places of padding stand on the left of each input of the batch. Graphs that are no longer wanted
    are given up: the model has left the GPU, is being trained, or got hooks.

    Raises:
        SettingsError: the environment variable GRAPHS is none of CHOICES.
    """
    if _chosen() == "off" or not supports_graphs(model.device):
        return _without_graphs(model)
    from baichuan2.model.modeling_baichuan import BaichuanForCausalLM  # seconds, if there is no such model yet

    if type(model) is not BaichuanForCausalLM:
        return model
    reason = _why_not(model, is_fused=_wants_fused(model))
    if reason is not None:
        log.debug("steps are not recorded: %s", reason)
        return _without_graphs(model)
    state = _state_of(model)  # it stays after a failure, which is not to be tried again
    return model if state.failure is not None else GraphModel(model, firsts, state)


def _chosen() -> str:
    """Which of CHOICES the environment variable names; raises SettingsError where it names none."""
    value = os.environ.get(GRAPHS, "").strip()
    word = value.lower() or CHOICES[0]
    if word not in CHOICES:
        raise SettingsError(f"{GRAPHS}={value}: not known; it must be one of {', '.join(CHOICES)}")
    return word


def _without_graphs(model: Any) -> Any:
    """`model`, whose graphs are forgotten, as they hold memory of the GPU."""
    whole = model._model if isinstance(model, ProcessorModel) else model
    if isinstance(whole, nn.Module):
        _states.pop(whole, None)
    return model


def step_logits(
    model: "BaichuanForCausalLM", ids: Tensor, places: Places, kernels: StepKernels, head: Tensor | None, keep: int = 0
) -> Tensor:
    """Logits (B, T, V) of `ids` (B, T), whose keys and values go to the cache that `kernels` are bound to.

    `head`: the normalised weight of the head, None where the head multiplies by itself. `keep` n > 0: of the last n
    places only.
    """
    decoder = model.model
    hidden = decoder.embed_tokens(ids.reshape(-1))  # (M, C)
    rotation = None if decoder.rotary_emb is None else decoder.rotary_emb(hidden, places.positions())
    delta: Tensor | None = None
    layer: Any
    for index, layer in enumerate(decoder.layers):
        hidden, normed = kernels.add_norm(hidden, delta, layer.input_layernorm)
        attention, mlp = layer.self_attn, layer.mlp
        mixed = kernels.mixed(kernels.times(attention.W_pack, normed), index, rotation)
        delta = kernels.times(attention.o_proj, mixed)
        hidden, normed = kernels.add_norm(hidden, delta, layer.post_attention_layernorm)
        delta = kernels.times(mlp.down_proj, kernels.gated(mlp, normed))
    _, normed = kernels.add_norm(hidden, delta, decoder.norm)
    normed = last_places(normed.view(*ids.shape, -1), keep).flatten(0, 1)
    logits = kernels.times(model.lm_head, normed) if head is None else kernels.times_weight(head, normed)
    return logits.view(len(ids), -1, logits.shape[-1])


@dataclass
class _Step:
    """A step of one shape: its inputs, what computes it, and, once it is recorded, how to play it."""

    ids: Tensor  # (B, T)
    places: Places
    kernels: StepKernels
    head: Tensor | None
    play: Callable[[], None] | None = None
    logits: Tensor | None = None  # (B, T, V), written anew by each play
    bound: tuple[object, ...] | None = None  # the cache that the kernels know, its room, where it starts, the padding


@dataclass
class State:
    """What is kept of one model from one generation to the next."""

    origin: tuple[object, ...]
    is_recorded: bool = True
    is_fused: bool = False
    is_in_few_bits: bool = False
    failure: str | None = None
    steps: OrderedDict[tuple[int, ...], _Step] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    recorder: Recorder = field(default_factory=Recorder)
    played: Any = None  # the event after which a step's inputs and logits may be written again, by any stream


_states: "weakref.WeakKeyDictionary[nn.Module, State]" = weakref.WeakKeyDictionary()


def _state_of(model: "BaichuanForCausalLM") -> State:
    """The state of `model`; a new one where its weights lie elsewhere than they did: graphs know addresses."""
    modules = list(model.modules())
    origin = tuple(
        (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride())
        for tensor in chain(_tensors_of(modules), library_scales(modules))
    )
    state = _states.get(model)
    if state is None or state.origin != origin:
        is_in_few_bits = any(map(is_stored_in_few_bits, {type(module) for module in modules}))
        state = State(origin, is_fused=_wants_fused(model), is_in_few_bits=is_in_few_bits)
        _states[model] = state
    return state


def _tensors_of(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Weights and buffers, without their names, which would take most of the time."""
    for module in modules:
        for tensors in (module._parameters, module._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)


def _wants_fused(model: "BaichuanForCausalLM") -> bool:
    """Whether Triton is there, all numbers are of one format, and a head's keys fill what is loaded at once."""
    if _chosen() == "plain" or not has_fused_kernels():
        return False
    head_bytes = model.config.head_dim * model.dtype.itemsize
    layer: Any
    norms = [model.model.norm.weight]
    for layer in model.model.layers:
        norms += [layer.input_layernorm.weight, layer.post_attention_layernorm.weight]
    return head_bytes % ALIGNMENT == 0 and {weight.dtype for weight in norms} == {model.dtype}


def _why_not(model: "BaichuanForCausalLM", *, is_fused: bool) -> str | None:
    """Why steps of `model` are not recorded; None where they are."""
    if model.training:
        return "the model is being trained"
    kinds = {*KNOWN, *library_layers("Linear4bit", "Linear8bitLt")} - {
        AdaptedLinear
    }  # which row has which is not recorded
    if not is_made_of(model, kinds):
        return "the model has adapters, hooks, other attention, or layers that are not known"
    modules = list(model.modules())
    if not is_fused and any(map(is_stored_in_few_bits, {type(module) for module in modules})):
        return "layers in 8 bits, and our own in 4, need Triton to be recorded"
    rotary = model.model.rotary_emb
    if rotary is not None and rotary.rope_type not in ROPE_TYPES:
        return f"rope scaling {rotary.rope_type} looks at positions"
    if len({tensor.device for tensor in _tensors_of(modules)}) != 1:
        return "the model lies on several devices"
    return None


class GraphModel:
    """A language model as the engine wants it, for one generation: `firsts` are the padding of its inputs."""

    def __init__(self, model: "BaichuanForCausalLM", firsts: Sequence[int], state: State) -> None:
        self._model, self._state = model, state
        self._padding = tuple(firsts)
        self._firsts = torch.tensor(firsts, device=model.device)  # (B,)
        self._is_padded = any(firsts)
        self._is_in_few_bits = state.is_in_few_bits
        self._head: Tensor | None = None
        self._is_head_known = False

    def padded(self, firsts: Sequence[int]) -> "GraphModel":
        """The same for other inputs, without looking at the model again."""
        return GraphModel(self._model, firsts, self._state)

    @property
    def config(self) -> Any:
        """The model's."""
        return self._model.config

    @property
    def device(self) -> torch.device:
        """The model's."""
        device: torch.device = self._model.device
        return device

    def __call__(self, **arguments: Any) -> Any:
        """The model's own call; see `engine.generate.LanguageModel`."""
        ids, cache = arguments["input_ids"], arguments["past_key_values"]
        logits: Tensor | None = None
        if self._suits_prompt(ids, cache):
            logits = self._tried(lambda: self._prompt_logits(ids, cache, int(arguments["logits_to_keep"])))
        while logits is None and self._suits(ids, cache):
            logits = self._tried(lambda: self._logits(ids, cache))
        if logits is not None:
            return StepOutput(logits)
        if self._is_padded:  # turned by the same angles as in a step, which are those of the input alone
            places = torch.arange(ids.shape[1], device=ids.device) + cache.get_seq_length()
            arguments["position_ids"] = (places[None] - self._firsts[:, None]).clamp_min(0)
        return self._model(**arguments)

    def _tried(self, compute: Callable[[], Tensor]) -> Tensor | None:
        """What `compute` gives; None where it fails, and is not to be tried again."""
        was_fused = self._state.is_fused
        try:
            return compute()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self._give_up(error, was_fused=was_fused)
            return None

    def _give_up(self, error: Exception, *, was_fused: bool) -> None:
        """After a step that could not be recorded: the next are recorded without Triton, or none are."""
        state = self._state
        with state.lock:
            if was_fused and not state.is_fused:
                return  # another thread has given up Triton meanwhile; without it nothing has failed yet
            log.debug("a step could not be recorded%s", " with Triton" if was_fused else "", exc_info=error)
            state.steps.clear()
            state.recorder.forget()
            state.is_fused = False
            state.failure = _why_not(self._model, is_fused=False) if was_fused else f"{type(error).__name__}: {error}"

    def _suits(self, ids: Tensor, cache: Any) -> bool:
        """Whether the pass is a step after a prompt, over a cache of our own."""
        if self._state.failure is not None or not isinstance(cache, Cache) or _is_recorded_by_torch(ids.device):
            return False
        most = MOST_ROWS_IN_FEW_BITS if self._is_in_few_bits else MOST_ROWS
        if ids.shape[1] > MOST_NEW or ids.numel() > most or len(ids) != len(self._firsts):
            return False
        layers = cache.layers
        if cache.get_seq_length() == 0 or len(layers) != len(self._model.model.layers):
            return False
        return all(type(layer) is GrowingLayer and layer.dtype == self._model.dtype for layer in layers)

    def _suits_prompt(self, ids: Tensor, cache: Any) -> bool:
        """Whether the pass is a whole prompt, over an empty cache of our own, that fused kernels can take."""
        if not self._state.is_fused or self._state.failure is not None or _is_recorded_by_torch(ids.device):
            return False
        if not isinstance(cache, Cache) or cache.layers or cache.layer_class_to_replicate is not GrowingLayer:
            return False
        return ids.numel() >= LEAST_PROMPT and ids.shape[1] > 1 and not self._is_padded

    def _prompt_logits(self, ids: Tensor, cache: Cache, keep: int) -> Tensor:
        """Logits (B, `keep`, V) after a prompt, which the cache then holds; computed as it stands."""
        model, num_new = self._model, ids.shape[1]
        decoder, heads = model.model, model.config.num_attention_heads
        like = torch.empty(len(ids), heads, 0, model.config.head_dim, dtype=model.dtype, device=ids.device)
        for _ in decoder.layers:
            layer = GrowingLayer()
            layer.reserve(num_new + 1, like)  # and the first token of the reply
            cache.layers.append(layer)
        places = Places(torch.zeros(1, dtype=torch.long, device=ids.device), self._firsts, num_new)
        slopes = None if decoder.alibi is None else decoder.alibi.slopes
        with on_device(ids.device):
            kernels = PromptKernels(places, heads, slopes, [layer.self_attn for layer in decoder.layers])
            kernels.bind(cache)
            logits = step_logits(model, ids, places, kernels, self._head_weight(), keep)
        for layer in cache.layers:
            layer.advance(num_new)
        return logits

    def _logits(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, T, V), and T tokens more in the cache."""
        num_new, held = ids.shape[1], cache.get_seq_length()
        if cache.layers[0].capacity < held + num_new:  # they grow together; to ask each takes a tenth of a millisecond
            for layer in cache.layers:
                layer.reserve(num_new, layer.buffers[0][0])
        state = self._state
        with state.lock, on_device(ids.device):
            present = current_stream(ids.device)
            if present is not None and state.played is not None:
                present.wait_event(state.played)  # another stream may still play this step
            step = self._step(ids, cache)
            self._bind(step, cache)
            step.ids.copy_(ids)
            step.places.held.fill_(held)
            if step.play is None:
                self._record(step)
            assert step.play is not None
            step.play()
            assert step.logits is not None
            logits = step.logits.clone()  # the next play writes there
            if present is not None:
                state.played = present.record_event(state.played)
        for layer in cache.layers:
            layer.advance(num_new)
        return logits

    def _step(self, ids: Tensor, cache: Cache) -> _Step:
        """The step of this shape, made if it is the first."""
        steps, kind = self._state.steps, FusedKernels if self._state.is_fused else PlainKernels
        key = (*ids.shape, *kind.key(cache))
        head = self._head_weight()
        if any(step.head is not head for step in steps.values()):
            steps.clear()  # each holds a whole head that the model has replaced
        if key in steps:
            steps.move_to_end(key)
            return steps[key]
        while len(steps) >= MOST_GRAPHS:
            steps.popitem(last=False)
        held = torch.zeros(1, dtype=torch.long, device=ids.device)
        places = Places(held, torch.zeros_like(self._firsts), ids.shape[1])
        decoder, config = self._model.model, self._model.config
        slopes = None if decoder.alibi is None else decoder.alibi.slopes
        kernels: StepKernels
        if self._state.is_fused:
            kernels = FusedKernels(places, config.num_attention_heads, slopes, len(decoder.layers))
        else:
            kernels = PlainKernels(places, config.num_attention_heads, slopes, self._model.dtype)
        step = steps[key] = _Step(torch.empty_like(ids), places, kernels, head)
        return step

    def _bind(self, step: _Step, cache: Cache) -> None:
        """Tells the step which cache it works on, unless it was the last one too, with the room that it has."""
        first = cache.layers[0]
        bound = (weakref.ref(cache), first.capacity, first.buffers[0][0].data_ptr(), self._padding)
        if step.bound != bound:  # a reference to a cache that is gone equals no other
            step.kernels.bind(cache)
            step.places.firsts.copy_(self._firsts)
            step.bound = bound

    def _head_weight(self) -> Tensor | None:
        """The head as it was when this generation took its first step: looking at it again waits for the device."""
        if not self._is_head_known:
            head = self._model.lm_head
            self._head = head.normalized_weight() if isinstance(head, NormHead) else None
            self._is_head_known = True
        return self._head

    def _record(self, step: _Step) -> None:
        """Lets `step.play` compute `step.logits`: by a CUDA graph, or, where none is wanted, as it stands."""
        model = self._model

        def compute() -> None:
            step.logits = step_logits(model, step.ids, step.places, step.kernels, step.head)

        step.play = self._state.recorder.record(compute) if self._state.is_recorded else compute


def _is_recorded_by_torch(device: torch.device) -> bool:
    """Whether torch would do more than compute: keep what gradients need, or cast."""
    return torch.is_grad_enabled() or torch.is_autocast_enabled(device.type)
