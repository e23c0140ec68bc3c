"""NormHead: the output head of Baichuan 2, whose logits are products with unit-length rows (arXiv 2309.10305, §2.3)."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from baichuan2.model.linear_loss import LossRequest


class OutputHead(nn.Linear):
    """A linear layer, the head of Baichuan 1, that also computes a loss without the logits of all places.

    The loss is computed inside `forward`, because hooks around it are what gathers a weight that lies in parts on many
    devices (ZeRO-3, FSDP).
    """

    computes_loss = True
    is_normalized = False

    def forward(self, hidden_states: Tensor, request: "LossRequest | None" = None) -> Tensor:
        """Logits (..., V) of `hidden_states` (..., C), or what `request` asks for of (B, T, C); see `linear_loss`."""
        if request is not None:
            from baichuan2.model.linear_loss import linear_loss  # brings torch._dynamo, needless for replies

            return linear_loss(hidden_states, self.weight, request, is_normalized=self.is_normalized)
        return F.linear(hidden_states, self.weight, self.bias)


class NormHead(OutputHead):
    """A linear layer without bias that normalises each row of its weight before the product.

    The weight itself is never changed (the released code overwrote it). In inference the normalised copy is kept and
    made anew when the weight is replaced, moved, or written to; training normalises at each pass, so the gradient
    flows through. To other libraries this is an `nn.Linear`.
    """

    is_normalized = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if bias:
            raise ValueError("NormHead has no bias, got bias=True")
        super().__init__(in_features, out_features, bias=False, device=device, dtype=dtype)
        self._normalized: Tensor | None = None
        self._normalized_from: tuple[object, ...] = ()
        self._probe: Tensor | None = None
        self._is_held = False

    def hold(self) -> None:
        """Makes the normalised copy now, and reads the weight no more as long as torch records no change of it.

        For models that only answer: the probe of `_sample` would read a page of each row for every token. A write
        through `weight.data` goes unnoticed afterwards.
        """
        self._is_held = True
        with torch.no_grad():
            self.eval().normalized_weight()

    def normalized_weight(self) -> Tensor:
        """The rows of the weight divided by max(length, 1e-12), (V, C), in the dtype of the weight."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._forget()
            return F.normalize(self.weight)
        origin = self._origin()
        if self._is_held and self._normalized is not None and origin == self._normalized_from:
            return self._normalized
        probe = self._sample()
        is_fresh = self._normalized is not None and origin == self._normalized_from
        if not is_fresh or self._probe is None or not torch.equal(probe, self._probe):  # also when their sizes differ
            self._normalized = F.normalize(self.weight.detach())
            self._normalized_from = origin
            self._probe = probe.clone()
        assert self._normalized is not None
        return self._normalized

    def forward(self, hidden_states: Tensor, request: "LossRequest | None" = None) -> Tensor:
        """Logits (..., V) of `hidden_states` (..., C), or what `request` asks for of (B, T, C); see `linear_loss`."""
        if request is not None:
            if self.training:
                self._forget()
            return super().forward(hidden_states, request)
        return F.linear(hidden_states, self.normalized_weight())

    def _origin(self) -> tuple[object, ...]:
        """What identifies the present content of the weight, as far as torch counts changes."""
        weight = self.weight
        # tensors made in inference mode count no versions; they cannot be written to outside of it either
        version = -1 if weight.is_inference() else weight._version
        return (version, weight.data_ptr(), weight.dtype, weight.device, weight.shape)

    def _sample(self) -> Tensor:
        """Two values of (nearly) each row, the first and one along the diagonal.

        `weight.data` can be written to without torch counting it, and rows are what people write, such as that of a new
        token. A write through `.data` that misses all of these places goes unnoticed until the next training step.
        """
        weight = self.weight.detach()
        return torch.cat((weight[:, 0], weight.reshape(-1)[:: weight.shape[1] + 1]))

    def _forget(self) -> None:
        if self._normalized is not None and not torch.compiler.is_compiling():
            self._normalized = None
            self._normalized_from = ()
            self._probe = None

    def __getstate__(self) -> dict[str, object]:
        state = self.__dict__.copy()
        state.update(_normalized=None, _normalized_from=(), _probe=None)  # a copy or pickle makes its own
        return state
