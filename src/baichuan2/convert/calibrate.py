"""The model run on text layer by layer, so that each weight is rounded for what it will be fed.

Two streams of hidden states go through the model side by side: one through the layers that are quantised already, one
through the layers as they were. Both lie in mapped files; of the model only one decoder layer is in memory. What a
linear layer is fed comes out of the layer's own modules, stopped where it is reached; only the two sums of a layer are
written here.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baichuan2.convert.rounding import Rounding, round_table, round_weight
from baichuan2.convert.source import EMBEDDING, HEAD, Source
from baichuan2.errors import QuantizationError
from baichuan2.model.alibi import BaichuanAlibi
from baichuan2.model.block import RMSNorm
from baichuan2.model.modeling_baichuan import BaichuanModel, DecoderLayer
from baichuan2.model.rope import BaichuanRotaryEmbedding
from baichuan2.quantization.blockwise import Int8Tensor, check_weight, dequantize_int8
from baichuan2.quantization.freed_memory import release_pages
from baichuan2.quantization.gptq import Hessian, problems
from baichuan2.quantization.linear import Int8Linear, QuantizedLinear

__all__ = ["CalibratedRun", "state_bytes"]

BATCH_TOKENS = 2048
FINAL_NORM = "model.norm"


class _PlainLinear(QuantizedLinear):
    """A weight as it stands in its file, turned into the inputs' number format a block of rows at a time."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        self.stored = weight

    def dequantize(self, dtype: torch.dtype = torch.float32, rows: slice = slice(None)) -> Tensor:
        """The weight (N, K), or the rows asked for, in `dtype`."""
        return self.stored[rows].to(dtype)


class _InputsReachedError(Exception):
    """Ends a run of a layer at the linear layer whose inputs (B, T, K) were wanted; never leaves this module."""

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs


class _MappedStates:
    """States of all batches, (B, T, `width`) each, in a mapped file: they take no memory between their turns."""

    def __init__(self, path: Path, batches: Sequence[Tensor], width: int) -> None:
        shapes = [(*batch.shape, width) for batch in batches]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        states = torch.from_file(str(path), shared=True, size=sum(sizes), dtype=torch.float32)
        parts = zip(torch.split(states, sizes), shapes, strict=True)
        self._path = path
        self._batches = [part.view(shape) for part, shape in parts]

    def __getitem__(self, batch: int) -> Tensor:
        """A batch, in ordinary memory."""
        values = self._batches[batch].clone()
        release_pages(self._batches[batch])
        return values

    def __setitem__(self, batch: int, values: Tensor) -> None:
        self._batches[batch].copy_(values)
        release_pages(self._batches[batch])

    def close(self) -> None:
        """Removes the file."""
        self._batches = []
        self._path.unlink(missing_ok=True)


class _Stream:
    """Hidden states of all windows, and the one decoder layer through which they go next.

    They go in parts, so that what a linear layer is fed is computed once: `mix` up to the attention's own output,
    which is kept, `add_attention` with it, `gated` up to the middle of the MLP, `add_mlp` with that.
    """

    def __init__(self, source: Source, batches: Sequence[Tensor], folder: Path, name: str) -> None:
        self._source = source
        self._model = _one_layer_model(source)
        width = int(source.config.hidden_size)
        self.states = _MappedStates(folder / f"states-{name}.partial", batches, width)
        self.mixed = _MappedStates(folder / f"mixed-{name}.partial", batches, width)

    @property
    def _block(self) -> DecoderLayer:
        block = self._model.layers[0]
        assert isinstance(block, DecoderLayer)
        return block

    def place(self, layer: int, linears: Mapping[str, QuantizedLinear]) -> None:
        """Makes decoder layer `layer` the next one; `linears` by their names in the checkpoint."""
        prefix = f"model.layers.{layer}."
        for name, linear in linears.items():
            self._block.set_submodule(name.removeprefix(prefix), linear)
        for name in self._source.plain_names(layer):
            module, _, parameter = name.removeprefix(prefix).rpartition(".")
            weight = self._source.tensors[name].float().clone()
            setattr(self._block.get_submodule(module), parameter, nn.Parameter(weight, requires_grad=False))

    def attention_inputs(self, batch: int) -> Tensor:
        """What W_pack is fed, (B, T, C)."""
        return self._inputs_of("self_attn.W_pack", self._model, inputs_embeds=self.states[batch], use_cache=False)

    def mix(self, batch: int) -> Tensor:
        """What o_proj is fed, (B, T, C), which is kept as well."""
        mixed = self._inputs_of("self_attn.o_proj", self._model, inputs_embeds=self.states[batch], use_cache=False)
        self.mixed[batch] = mixed
        return mixed

    def add_attention(self, batch: int) -> Tensor:
        """Adds the attention's part to the states; what gate_proj and up_proj are fed, (B, T, C)."""
        states = self.states[batch] + self._block.self_attn.o_proj(self.mixed[batch])
        self.states[batch] = states
        return self._mlp_inputs(states)

    def gated(self, batch: int) -> Tensor:
        """What down_proj is fed, (B, T, I)."""
        return self._inputs_of("mlp.down_proj", self._block.mlp, self._mlp_inputs(self.states[batch]))

    def add_mlp(self, batch: int, gated: Tensor) -> None:
        """Adds the MLP's part to the states, which then have passed the layer."""
        self.states[batch] = self.states[batch] + self._block.mlp.down_proj(gated)

    def advance(self, batch: int) -> None:
        """Sends a batch through the whole layer."""
        self.mix(batch)
        self.add_attention(batch)
        self.add_mlp(batch, self.gated(batch))

    def close(self) -> None:
        """Removes the files."""
        self.states.close()
        self.mixed.close()

    def _mlp_inputs(self, states: Tensor) -> Tensor:
        normalized: Tensor = self._block.post_attention_layernorm(states)
        return normalized

    def _inputs_of(self, part: str, run: Callable[..., object], *arguments: Tensor, **keywords: Any) -> Tensor:
        """What the linear layer `part` of the layer is fed by a call of `run`, (B, T, K)."""

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _InputsReachedError(inputs[0])

        handle = self._block.get_submodule(part).register_forward_pre_hook(stop)
        try:
            run(*arguments, **keywords)
        except _InputsReachedError as reached:
            return reached.inputs
        finally:
            handle.remove()
        raise AssertionError(f"{part} was never reached")


class CalibratedRun:
    """One pass of `windows` of token ids through the checkpoint, in which each decoder layer is rounded.

    For each layer in order: `round_layer`, or `pass_layer` where it is rounded already. Then, where `reaches_head`,
    `head_inputs`.
    """

    def __init__(
        self,
        source: Source,
        windows: Sequence[Sequence[int]],
        rounding: Rounding,
        folder: Path,
        *,
        reaches_head: bool = False,
    ) -> None:
        self._source = source
        self._reaches_head = reaches_head
        self._rounding = rounding
        self._batches, self._lengths = _padded_batches(windows)
        self._quantized = _Stream(source, self._batches, folder, "quantized")
        self._whole = _Stream(source, self._batches, folder, "whole")
        width = int(source.config.intermediate_size)
        self._gated = _MappedStates(folder / "gated-quantized.partial", self._batches, width)

    @torch.no_grad()
    def start(self, has_quantized_embedding: bool) -> None:
        """Looks the tokens up."""
        name = f"{EMBEDDING}.weight"
        table = self._source.tensors[name]
        rounded = round_table(table, is_normalized=False) if has_quantized_embedding else None
        assert rounded is None or isinstance(rounded, Int8Linear)
        for index, ids in enumerate(self._batches):
            whole = table[ids].float()
            self._whole.states[index] = whole
            if rounded is not None:
                flat = ids.reshape(-1)
                rows = Int8Tensor(rounded.weight_codes[flat], rounded.weight_scales[flat], rounded.group_size)
                whole = dequantize_int8(rows).view(whole.shape)
            self._quantized.states[index] = whole
        self._source.tensors.release(name)

    @torch.no_grad()
    def round_layer(self, layer: int) -> dict[str, QuantizedLinear]:
        """The quantised linear layers of the next decoder layer, by their names in the checkpoint.

        Raises:
            QuantizationError: a weight or what it is fed is not finite.
        """
        whole, quantized = self._whole, self._quantized
        plain = self._whole_layer(layer)
        whole.place(layer, plain)
        quantized.place(layer, plain)
        linears = self._round_stage(layer, ("self_attn.W_pack",), _Stream.attention_inputs)
        linears |= self._round_stage(layer, ("self_attn.o_proj",), _Stream.mix)
        linears |= self._round_stage(layer, ("mlp.gate_proj", "mlp.up_proj"), _Stream.add_attention)

        def gated(stream: _Stream, batch: int) -> Tensor:
            states = stream.gated(batch)
            if stream is whole:
                whole.add_mlp(batch, states)
            else:
                self._gated[batch] = states
            return states

        linears |= self._round_stage(layer, ("mlp.down_proj",), gated)
        if layer + 1 < self._source.num_layers or self._reaches_head:
            for batch in range(len(self._batches)):
                quantized.add_mlp(batch, self._gated[batch])
        return linears

    @torch.no_grad()
    def pass_layer(self, layer: int, linears: Mapping[str, QuantizedLinear]) -> None:
        """Sends both streams through a layer that is rounded already, one of them through its quantised form."""
        self._quantized.place(layer, linears)
        self._whole.place(layer, self._whole_layer(layer))
        for batch in range(len(self._batches)):
            self._quantized.advance(batch)
            self._whole.advance(batch)
        self._release(layer)

    @torch.no_grad()
    def head_inputs(self) -> Hessian:
        """What the head is fed, behind all layers and the final norm.

        Raises:
            QuantizationError: it is not finite.
        """
        config, name = self._source.config, f"{FINAL_NORM}.weight"
        norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        norm.weight = nn.Parameter(self._source.tensors[name].float().clone(), requires_grad=False)

        def normed(stream: _Stream, batch: int) -> Tensor:
            states: Tensor = norm(stream.states[batch])
            return states

        with _naming(HEAD):
            return self._hessian(config.hidden_size, normed)

    def close(self) -> None:
        """Removes the files of hidden states."""
        self._quantized.close()
        self._whole.close()
        self._gated.close()

    def _whole_layer(self, layer: int) -> dict[str, QuantizedLinear]:
        names = self._source.linear_names(layer)
        return {name: _PlainLinear(self._source.tensors[f"{name}.weight"]) for name in names}

    def _round_stage(
        self, layer: int, parts: Sequence[str], run: Callable[[_Stream, int], Tensor]
    ) -> dict[str, QuantizedLinear]:
        """The linear layers `parts`, all fed by `run`, quantised and put in their place."""
        names = [f"model.layers.{layer}.{part}" for part in parts]
        weights = [self._source.tensors[f"{name}.weight"] for name in names]
        for name, weight in zip(names, weights, strict=True):
            with _naming(name):
                check_weight(weight)
        with _naming(names[0]):
            hessian = self._hessian(weights[0].shape[1], run)
            self._release(layer)
            left = problems(weights, hessian, consume=True)
        linears: dict[str, QuantizedLinear] = {}
        for name, weight in zip(names, weights, strict=True):
            with _naming(name):
                linears[name] = round_weight(self._rounding, weight, left.pop(0))
        self._quantized.place(layer, linears)
        return linears

    def _release(self, layer: int) -> None:
        for name in self._source.linear_names(layer):
            self._source.tensors.release(f"{name}.weight")

    def _hessian(self, in_features: int, run: Callable[[_Stream, int], Tensor]) -> Hessian:
        hessian = Hessian(in_features)
        for index, lengths in enumerate(self._lengths):
            inputs = _without_padding(run(self._quantized, index), lengths)
            reference = _without_padding(run(self._whole, index), lengths)
            hessian.add(inputs, None if torch.equal(inputs, reference) else reference)
        return hessian


def state_bytes(source: Source, windows: Sequence[Sequence[int]]) -> int:
    """What a run on `windows` keeps on the disk: two states a stream and the inputs of down_proj, float32."""
    width = 4 * int(source.config.hidden_size) + int(source.config.intermediate_size)
    batches, _ = _padded_batches(windows)
    return sum(batch.numel() for batch in batches) * width * torch.float32.itemsize


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Puts the weight's name before what is wrong with it or with its inputs."""
    try:
        yield
    except QuantizationError as error:
        raise QuantizationError(f"{name}.weight: {error}") from error


def _one_layer_model(source: Source) -> BaichuanModel:
    """The decoder with a single layer whose weights are still missing, and without its final norm."""
    config = copy.deepcopy(source.config)
    config.num_hidden_layers = 1
    config.dtype = torch.float32
    with torch.device("meta"):
        model = BaichuanModel(config)
    model.eval()
    model.set_submodule("norm", nn.Identity())
    if model.rotary_emb is not None:
        model.rotary_emb = BaichuanRotaryEmbedding(config)
    if model.alibi is not None:
        model.alibi = BaichuanAlibi(config.num_attention_heads)
    return model


def _padded_batches(windows: Sequence[Sequence[int]]) -> tuple[list[Tensor], list[list[int]]]:
    """Windows of similar length together, padded behind their ends, (B, T) int64 each; and the lengths of each.

    No mask is needed: a token only sees those before it, so what stands behind a window changes nothing in it.
    """
    batches: list[Tensor] = []
    lengths: list[list[int]] = []
    for group in _groups(sorted(windows, key=len, reverse=True)):
        longest = len(group[0])
        batches.append(torch.tensor([[*window, *[0] * (longest - len(window))] for window in group]))
        lengths.append([len(window) for window in group])
    return batches, lengths


def _groups(windows: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
    start = 0
    while start < len(windows):
        count = max(BATCH_TOKENS // len(windows[start]), 1)
        yield windows[start : start + count]
        start += count


def _without_padding(states: Tensor, lengths: Sequence[int]) -> Tensor:
    """The states (B, T, K) of real tokens only: (tokens, K)."""
    return torch.cat([row[:length] for row, length in zip(states, lengths, strict=True)])
