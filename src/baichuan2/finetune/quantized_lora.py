"""Adapters of the peft library on this package's own layers in few bits, which the library does not know."""

import warnings
from typing import Any

from peft.tuners.lora import Linear

from baichuan2.errors import QuantizationError
from baichuan2.quantization.linear import QuantizedLinear

__all__ = ["QuantizedLora"]


class QuantizedLora(Linear):
    """A `QuantizedLinear` and the products of low rank beside it; the gradient goes through both, to the inputs."""

    def __init__(self, base_layer: QuantizedLinear, adapter_name: str, **options: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)  # it has all that is asked of it
            super().__init__(base_layer, adapter_name, **options)
        self.to(next(base_layer.buffers()).device)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: rounded to few bits again, most of what was learnt would be lost.

        Raises:
            QuantizationError: always.
        """
        del safe_merge, adapter_names
        raise QuantizationError(
            "an adapter cannot be merged into weights in few bits: merge it into the model with all its bits "
            "(baichuan2 merge ADAPTER TARGET --base FOLDER)"
        )
