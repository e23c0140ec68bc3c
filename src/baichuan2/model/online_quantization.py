"""Weights in 8 or 4 bits in memory, by bitsandbytes: `model.quantize(bits)`, and what from_pretrained made.

Which layers stay as they are is known here, and what the framework must know of a quantised model; the layers
themselves are in `baichuan2.quantization.bnb`. bitsandbytes is imported when it is needed, not before.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from baichuan2.errors import QuantizationError
from baichuan2.model.quantizer import quantizable_shapes
from baichuan2.quantization.bnb_library import bitsandbytes_library

__all__ = ["mend_quantized", "quantize_in_place"]

BITS = (8, 4)


def quantize_in_place(model: PreTrainedModel, bits: int, done: Callable[[nn.Linear], None] | None = None) -> None:
    """Brings the linear layers of `model` into 8 or 4 bits, where they are: on the processor or on a GPU.

    W_pack, o_proj, gate_proj, up_proj and down_proj shrink at once, one after the other; embedding, norms and output
    head stay. 8: LLM.int8 with the outlier threshold 6.0. 4: NF4 in blocks of 64 with compressed statistics, which
    works in the dtype of its input. Moving the model, saving it and loading the folder work afterwards; casting it
    does not. `done` is called with each layer that was replaced.

    Raises:
        QuantizationError: `bits` is neither 8 nor 4, or the model is quantised, or spread over several devices, or
            partly offloaded, or carries adapters.
        MissingExtraError: bitsandbytes is not installed.
    """
    if isinstance(bits, bool) or bits not in BITS:
        raise QuantizationError(f"a model is quantised to 8 or 4 bits, got {bits!r}: write quantize(8) or quantize(4)")
    if getattr(model, "is_quantized", False) or getattr(model.config, "quantization_config", None) is not None:
        raise QuantizationError(
            f"the model is quantised already, quantize({bits}) cannot do it again: load the folder that is not "
            "quantised, without load_in_8bit and load_in_4bit"
        )
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        raise QuantizationError(
            f"the model is spread over several devices, where quantize({bits}) cannot replace its layers: give "
            f'load_in_{bits}bit=True beside device_map="auto" instead, or load it without device_map'
        )
    bitsandbytes_library()
    from baichuan2.quantization.bnb import quantize_linears

    layers = dict(model.named_modules())
    chosen = quantizable_shapes(model.config)
    for name in chosen:
        if name not in layers or type(layers[name]) is not nn.Linear:
            raise QuantizationError(
                f"{name} is no plain linear layer: quantise the model first, and put adapters on it afterwards"
            )
    keep = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and name not in chosen]
    quantize_linears(model, bits, keep=keep, done=done)
    _tell_framework(model, bits)


def mend_quantized(model: Any, arguments: dict[str, Any]) -> None:
    """Mends the layers of a model that from_pretrained loaded with `arguments` and bitsandbytes quantised.

    The flag `load_in_4bit=True` alone means what `quantize(4)` does: layers that work in the model's own dtype. The
    framework would let them work in float32.
    """
    if not any(type(module).__module__.startswith("bitsandbytes.") for module in model.modules()):
        return
    config = model.config.quantization_config
    from baichuan2.quantization.bnb import mend_linears, set_compute_dtype

    mend_linears(model)
    if arguments.get("load_in_4bit") and "bnb_4bit_compute_dtype" not in arguments:
        config.bnb_4bit_compute_dtype = model.dtype
        set_compute_dtype(model, model.dtype)


def _tell_framework(model: PreTrainedModel, bits: int) -> None:
    """Leaves `model` as from_pretrained would have: its config is saved with it, and adapters find its layers."""
    from transformers.quantizers import AutoHfQuantizer

    if bits == 8:
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=model.dtype,
        )
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    model.is_quantized = True
    model.quantization_method = config.quant_method
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
