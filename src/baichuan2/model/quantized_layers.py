"""Which layers of a Baichuan hold few bits, and empty ones in the place of the others: nothing of the framework."""

from typing import Any

from torch import nn

from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.quantization.apply import empty_embedding, empty_head, empty_linear, replace_modules
from baichuan2.quantization.scheme import QuantizationSpec

__all__ = ["HEAD", "QUANTIZED_LINEARS", "place_layers", "quantizable_shapes"]

QUANTIZED_LINEARS = ("self_attn.W_pack", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
"""The layers that the official 8-bit and 4-bit models quantise (reference: §9); all others stay as they are."""
HEAD = "lm_head"
BASE = "model."


def quantizable_shapes(config: BaichuanConfig) -> dict[str, tuple[int, int]]:
    """Names of the layers that are quantised, in order, and the shapes (N, K) of their weights."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = ((3 * hidden, hidden), (hidden, hidden), (inner, hidden), (inner, hidden), (hidden, inner))
    return {
        f"{BASE}layers.{layer}.{part}": shape
        for layer in range(config.num_hidden_layers)
        for part, shape in zip(QUANTIZED_LINEARS, shapes, strict=True)
    }


def place_layers(model: Any, spec: QuantizationSpec) -> None:
    """Puts empty layers as `spec` describes them in the place of the model's; on the device where those are.

    Raises:
        CheckpointError: the spec names a layer that the model has not.
    """
    names = quantizable_shapes(model.config)
    unknown = sorted(set(spec.unquantized) - set(names))
    if unknown:
        raise CheckpointError(f"quantization_config: unquantized names {unknown[0]!r}, which is no layer of the model")
    prefix = "" if hasattr(model, "model") else BASE  # a decoder without its head has no such prefix

    def make(name: str, layer: nn.Linear) -> nn.Module:
        with layer.weight.device:
            if name == HEAD:
                assert spec.head is not None
                return empty_head(spec.head, layer.in_features, layer.out_features)
            return empty_linear(spec, layer.in_features, layer.out_features)

    replace_modules(model, [name.removeprefix(prefix) for name in names if name not in spec.unquantized], make)
    if spec.head is not None and hasattr(model, HEAD):
        replace_modules(model, [HEAD], make)
    if spec.embedding is not None:
        table = model.get_input_embeddings()
        with table.weight.device:
            model.set_input_embeddings(empty_embedding(table))
