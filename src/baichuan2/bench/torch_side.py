"""What sides of a comparison that compute by torch share: logits place by place, sampling settings, the model's end."""

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from baichuan2.bench.quality import Places

__all__ = ["TorchSide"]

SAMPLING_FIELDS = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")


class TorchSide:
    """See `sides.Side`."""

    _model: Any
    _generation_config: Any

    @torch.inference_mode()
    def blocks(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """Logits (n, V) of all places of `ids` (T,) but the last, on the processor."""
        places = Places(self._model, [torch.tensor(ids)], [0])
        for block in places.blocks():
            yield places.logits(block).cpu()

    def sampling_defaults(self) -> dict[str, float | bool]:
        """What generation_config.json says of sampling."""
        found = {name: getattr(self._generation_config, name, None) for name in SAMPLING_FIELDS}
        return {name: value for name, value in found.items() if value is not None}

    def close(self) -> None:
        """Lets the model go, which must be out of memory before the next one comes."""
        left = weakref.ref(self._model)
        self._model = None
        if left() is not None:  # something in it holds itself
            gc.collect()
