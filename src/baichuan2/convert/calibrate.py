"""The model run on text layer by layer, so that each weight is rounded for what it will be fed.

Two streams of hidden states go through the model side by side: one through the layers that are quantised already, one
through the layers as they were. Both lie in mapped files; of the model only one decoder layer is in memory.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from baichuan2.convert.rounding import Rounding, round_table, round_weight
from baichuan2.convert.source import EMBEDDING, Source
from baichuan2.errors import QuantizationError
from baichuan2.model.alibi import BaichuanAlibi
from baichuan2.model.modeling_baichuan import BaichuanModel
from baichuan2.model.rope import BaichuanRotaryEmbedding
from baichuan2.quantization.blockwise import Int8Tensor, dequantize_int8
from baichuan2.quantization.freed_memory import release_pages
from baichuan2.quantization.gptq import Hessian
from baichuan2.quantization.linear import QuantizedLinear

__all__ = ["CalibratedRun"]

BATCH_TOKENS = 2048
# linear layers that are fed the same inputs, in the order in which data passes them
STAGES = (("self_attn.W_pack",), ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))


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


class _Stream:
    """Hidden states of all windows, and the one decoder layer through which they go next.

    The states lie in a file that is mapped, batch after batch, so that they take no memory between their turns.
    """

    def __init__(self, source: Source, batches: Sequence[Tensor], path: Path) -> None:
        self._source = source
        self._path = path
        self._shapes = [(*batch.shape, int(source.config.hidden_size)) for batch in batches]
        sizes = [torch.Size(shape).numel() for shape in self._shapes]
        states = torch.from_file(str(path), shared=True, size=sum(sizes), dtype=torch.float32)
        parts = torch.split(states, sizes)
        self.batches = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        self._model = _one_layer_model(source)

    def place(self, layer: int, linears: Mapping[str, QuantizedLinear]) -> None:
        """Makes decoder layer `layer` the next one; `linears` by their names in the checkpoint."""
        prefix = f"model.layers.{layer}."
        block = self._model.layers[0]
        for name, linear in linears.items():
            block.set_submodule(name.removeprefix(prefix), linear)
        for name in self._source.plain_names(layer):
            module, _, parameter = name.removeprefix(prefix).rpartition(".")
            weight = self._source.tensors[name].float().clone()
            setattr(block.get_submodule(module), parameter, nn.Parameter(weight, requires_grad=False))

    def run(self, batch: int) -> Tensor:
        """The batch (B, T, C) after the layer."""
        result: Tensor = self._model(inputs_embeds=self.batches[batch].clone(), use_cache=False).last_hidden_state
        return result

    def inputs_of(self, part: str, batch: int) -> Tensor:
        """What the linear layer `part` of the layer is fed, (B, T, K)."""

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _InputsReachedError(inputs[0])

        handle = self._model.layers[0].get_submodule(part).register_forward_pre_hook(stop)
        try:
            self.run(batch)
        except _InputsReachedError as reached:
            return reached.inputs
        finally:
            handle.remove()
            release_pages(self.batches[batch])
        raise AssertionError(f"{part} was never reached")

    def advance(self) -> None:
        """Sends all states through the layer."""
        for index, batch in enumerate(self.batches):
            batch.copy_(self.run(index))
            release_pages(batch)

    def close(self) -> None:
        """Removes the file."""
        self.batches = []
        self._path.unlink(missing_ok=True)


class CalibratedRun:
    """One pass of `windows` of token ids through the checkpoint, in which each decoder layer is rounded.

    For each layer in order: `round_layer`, or nothing where it is rounded already; then `go_on` with the result.
    """

    def __init__(self, source: Source, windows: Sequence[Sequence[int]], rounding: Rounding, folder: Path) -> None:
        self._source = source
        self._rounding = rounding
        self._batches, self._lengths = _padded_batches(windows)
        self._quantized = _Stream(source, self._batches, folder / "states-quantized.partial")
        self._whole = _Stream(source, self._batches, folder / "states-whole.partial")

    @torch.no_grad()
    def start(self, has_quantized_embedding: bool) -> None:
        """Looks the tokens up."""
        name = f"{EMBEDDING}.weight"
        table = self._source.tensors[name]
        rounded = round_table(table, is_normalized=False) if has_quantized_embedding else None
        for index, ids in enumerate(self._batches):
            whole = table[ids].float()
            self._whole.batches[index].copy_(whole)
            if rounded is not None:
                flat = ids.reshape(-1)
                rows = Int8Tensor(rounded.weight_codes[flat], rounded.weight_scales[flat], rounded.group_size)
                whole = dequantize_int8(rows).view(whole.shape)
            self._quantized.batches[index].copy_(whole)
            release_pages(self._whole.batches[index])
            release_pages(self._quantized.batches[index])
        self._source.tensors.release(name)

    @torch.no_grad()
    def round_layer(self, layer: int) -> dict[str, QuantizedLinear]:
        """The quantised linear layers of a decoder layer, by their names in the checkpoint.

        Raises:
            QuantizationError: a weight or what it is fed is not finite.
        """
        prefix = f"model.layers.{layer}."
        whole = self._whole_layer(layer)
        self._whole.place(layer, whole)
        linears: dict[str, QuantizedLinear] = dict(whole)
        for stage in STAGES:
            self._quantized.place(layer, linears)
            hessian = self._hessian(layer, stage[0])
            for part in stage:
                name = prefix + part
                try:
                    linears[name] = round_weight(self._rounding, self._source.tensors[f"{name}.weight"], hessian)
                except QuantizationError as error:
                    raise QuantizationError(f"{name}.weight: {error}") from error
            del hessian
        return linears

    @torch.no_grad()
    def go_on(self, layer: int, linears: Mapping[str, QuantizedLinear]) -> None:
        """Sends both streams through the layer, one of them through its quantised form."""
        self._quantized.place(layer, linears)
        self._quantized.advance()
        self._whole.place(layer, self._whole_layer(layer))
        self._whole.advance()
        for name in self._source.linear_names(layer):
            self._source.tensors.release(f"{name}.weight")

    def close(self) -> None:
        """Removes the files of hidden states."""
        self._quantized.close()
        self._whole.close()

    def _whole_layer(self, layer: int) -> dict[str, QuantizedLinear]:
        names = self._source.linear_names(layer)
        return {name: _PlainLinear(self._source.tensors[f"{name}.weight"]) for name in names}

    def _hessian(self, layer: int, part: str) -> Hessian:
        weight = self._source.shapes[f"model.layers.{layer}.{part}.weight"]
        hessian = Hessian(weight[1])
        for index, lengths in enumerate(self._lengths):
            inputs = _without_padding(self._quantized.inputs_of(part, index), lengths)
            reference = _without_padding(self._whole.inputs_of(part, index), lengths)
            hessian.add(inputs, None if torch.equal(inputs, reference) else reference)
        return hessian


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
