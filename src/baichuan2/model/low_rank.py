"""Low-rank adapters (arXiv 2106.09685, 2402.09353) in inference: added to a weight, or computed beside it.

Beside it a layer can have several, and each row of a batch its own; so many fine-tuned models share one base. Knows
tensors and linear layers, no files.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NO_ADAPTER", "AdaptedLinear", "LowRank", "RowAdapters"]

NO_ADAPTER = -1
ROWS_AT_A_TIME = 1 << 20  # weights whose lengths are measured together


@dataclass(frozen=True)
class LowRank:
    """The change of a weight W (N, K): W + up^T down, each row brought to the length `magnitude` where that is given.

    `down` (R, K) and `up` (R, N) in float32, the scaling within `down`; `magnitude` (N,) float32, of DoRA.

    `gain` (N,): magnitude by the length of the changed row, known once the weight is; see `on`.
    """

    down: Tensor
    up: Tensor
    magnitude: Tensor | None = None
    gain: Tensor | None = None

    @property
    def rank(self) -> int:
        """R."""
        return self.down.shape[0]

    def merged(self, weight: Tensor) -> Tensor:
        """The changed weight (N, K), computed in float32 and rounded once to the number format of `weight`."""
        here = self.to(weight.device)
        result = torch.empty_like(weight)
        step = max(ROWS_AT_A_TIME // weight.shape[1], 1)
        for start in range(0, len(weight), step):
            rows = slice(start, start + step)
            changed = torch.addmm(weight[rows].float(), here.up[:, rows].T, here.down)
            if here.magnitude is not None:
                changed *= (here.magnitude[rows] / changed.norm(dim=1))[:, None]
            result[rows] = changed
        return result

    def on(self, layer: Any) -> "LowRank":
        """The same for use beside `layer`, a plain linear layer or one in few bits."""
        if self.magnitude is None:
            return self
        lengths = []
        step = max(ROWS_AT_A_TIME // self.down.shape[1], 1)
        for start in range(0, self.up.shape[1], step):
            rows = slice(start, start + step)
            part = layer.weight[rows].float() if hasattr(layer, "weight") else layer.dequantize(torch.float32, rows)
            here = self.to(part.device)
            lengths.append(torch.addmm(part, here.up[:, rows].T, here.down).norm(dim=1).cpu())
        return replace(self, gain=self.magnitude / torch.cat(lengths))

    def to(self, device: torch.device) -> "LowRank":
        """The same on a device."""
        parts = (self.down, self.up, self.magnitude, self.gain)
        return LowRank(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]

    def add_to(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Outputs (..., N) of the unchanged weight and inputs (..., K) -> outputs of the changed one, in float32."""
        changed = outputs.float() + F.linear(inputs.float(), self.down) @ self.up
        return changed if self.gain is None else changed * self.gain


@dataclass
class RowAdapters:
    """Which adapter the rows of the next pass have: shared by all layers of a model, and set before each pass.

    `default`: that of all rows where `of_rows` is None. NO_ADAPTER: the base alone.
    """

    default: int = NO_ADAPTER
    of_rows: list[int] | None = field(default=None)

    def numbers(self, batch: int) -> list[int]:
        """The adapter of each of `batch` rows."""
        return [self.default] * batch if self.of_rows is None else self.of_rows

    @contextmanager
    def chosen(self, numbers: Sequence[int]) -> Iterator[None]:
        """These inside."""
        self.of_rows = list(numbers)
        try:
            yield
        finally:
            self.of_rows = None


class AdaptedLinear(nn.Module):
    """A linear layer, plain or in few bits, with adapters beside it."""

    def __init__(self, base_layer: nn.Module, adapters: Sequence[LowRank | None], rows: RowAdapters) -> None:
        """`adapters`: by their number; None for one that leaves this layer as it is."""
        super().__init__()
        self.base_layer = base_layer
        self.adapters = list(adapters)
        self.rows = rows

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs` (B, T, K) -> (B, T, N), in the dtype of the inputs; row b by its own adapter."""
        outputs: Tensor = self.base_layer(inputs)
        chosen = self.rows.of_rows
        if chosen is None:
            return self._changed(self.rows.default, outputs, inputs)
        if len(set(chosen)) == 1:
            return self._changed(chosen[0], outputs, inputs)
        result = outputs.clone()
        for number in set(chosen):
            rows = [row for row, other in enumerate(chosen) if other == number]
            result[rows] = self._changed(number, outputs[rows], inputs[rows])
        return result

    def _changed(self, number: int, outputs: Tensor, inputs: Tensor) -> Tensor:
        adapter = None if number == NO_ADAPTER else self.adapters[number]
        if adapter is None:
            return outputs
        if adapter.down.device != inputs.device:
            adapter = self.adapters[number] = adapter.to(inputs.device)
        return adapter.add_to(outputs, inputs).to(outputs.dtype)
