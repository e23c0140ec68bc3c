"""Our quantised folders through the framework's own loader: `AutoModelForCausalLM.from_pretrained(folder)`.

The framework asks a quantizer for three things: which modules stand in the place of which before the weights are read,
what to do with each tensor (nothing: they are stored as they are used), and whether the result can be saved.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from baichuan2.errors import QuantizationError
from baichuan2.model.norm_head import NormHead, OutputHead
from baichuan2.model.quantized_layers import HEAD, QUANTIZED_LINEARS, place_layers, quantizable_shapes
from baichuan2.quantization.apply import (
    TABLE_GROUP_SIZE,
    empty_embedding,
    quantized_head,
    quantized_linear,
    replace_modules,
)
from baichuan2.quantization.blockwise import quantize_int8
from baichuan2.quantization.linear import Int8Embedding, QuantizedLinear
from baichuan2.quantization.scheme import METHOD, QuantizationSpec

__all__ = [
    "QUANTIZED_LINEARS",
    "BaichuanQuantizationConfig",
    "BaichuanQuantizer",
    "place_layers",
    "quantizable_shapes",
    "quantize_model",
    "restore_layers",
]


@register_quantization_config(METHOD)
class BaichuanQuantizationConfig(QuantizationConfigMixin):
    """The `quantization_config` of our own folders, as the framework passes it around."""

    def __init__(self, **written: Any) -> None:
        written.setdefault("quant_method", METHOD)
        self.quant_method = METHOD
        self.spec = QuantizationSpec.from_dict("config.json", written)

    @classmethod
    def from_spec(cls, spec: QuantizationSpec) -> "BaichuanQuantizationConfig":
        """The same, from a spec."""
        return cls(**spec.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """What stands in config.json."""
        return self.spec.to_dict()


@register_quantizer(METHOD)
class BaichuanQuantizer(HfQuantizer):
    """Builds the model with quantised layers, which the framework then fills from the files."""

    requires_calibration = True  # files come from `baichuan2 quantize`, never from this loader
    quantization_config: BaichuanQuantizationConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        del kwargs
        place_layers(model, self.quantization_config.spec)

    def is_serializable(self) -> bool:
        """Yes: `save_pretrained` writes what was read."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Yes, adapters on it: the layers hand gradients on to their inputs, and have none themselves."""
        return True

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | str | None = None) -> nn.Module:
        """What `model.dequantize()` runs: plain layers in the place of the quantised ones."""
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype  # `save_pretrained` leaves a name behind
        return restore_layers(model, wanted if wanted is not None else torch.float32)


def restore_layers(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model` with plain layers of `dtype` in the place of its quantised ones; a head keeps rows of unit length."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear | Int8Embedding):
            weight = nn.Parameter(module.dequantize(dtype))
            with torch.device("meta"):
                plain: nn.Module
                if isinstance(module, Int8Embedding):
                    plain = nn.Embedding(module.num_embeddings, module.embedding_dim, module.padding_idx)
                else:
                    plain = _plain_class(name, model)(module.in_features, module.out_features, bias=False)
            plain.weight = weight
            model.set_submodule(name, plain.train(module.training))
    return model


def _plain_class(name: str, model: Any) -> type[nn.Linear]:
    if name != HEAD:
        return nn.Linear
    return NormHead if model.config.normalized_head else OutputHead


def quantize_model(model: Any, spec: QuantizationSpec, done: Callable[[nn.Linear], None] | None = None) -> None:
    """Brings the layers of `model` into our own format in memory, one after the other, rounding to nearest.

    Without calibration: `baichuan2 quantize` makes better files, once. `done` is called with each old layer.

    Raises:
        QuantizationError: the model is quantised already, or holds weights that cannot be.
    """
    if getattr(model, "is_quantized", False):
        raise QuantizationError("the model is quantised already: load the folder that is not")

    def make(name: str, layer: nn.Linear) -> nn.Module:
        weight = layer.weight.detach()
        if name == HEAD:
            assert spec.head is not None
            unit = F.normalize(weight.float()) if isinstance(layer, NormHead) else weight
            made: nn.Module = quantized_head(spec.head, unit)
        else:
            made = quantized_linear(spec, weight)
        if done is not None:
            done(layer)
        return made.train(layer.training)

    names = [name for name in quantizable_shapes(model.config) if name not in spec.unquantized]
    replace_modules(model, names if spec.head is None else [*names, HEAD], make)
    if spec.embedding is not None:
        table = model.get_input_embeddings()
        layer = empty_embedding(table)
        stored = quantize_int8(table.weight.detach(), group_size=TABLE_GROUP_SIZE)
        layer.weight_codes, layer.weight_scales = stored.codes, stored.scales
        model.set_input_embeddings(layer)
    config = BaichuanQuantizationConfig.from_spec(spec)
    quantizer = BaichuanQuantizer(config, pre_quantized=True)
    model.is_quantized = True
    model.quantization_method = config.quant_method
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
