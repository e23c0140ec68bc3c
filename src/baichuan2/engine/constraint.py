"""What a reply may say, seen from the engine: which tokens are allowed next. Grammars are made above."""

from typing import Protocol

from torch import Tensor

__all__ = ["Constraint"]


class Constraint(Protocol):
    """A grammar while it follows one reply; `fork` it for every reply of a prompt."""

    def apply(self, logits: Tensor) -> None:
        """Minus infinity, in place, for every token of (V,) float32 that may not come next.

        Some token, a stop id at the end, always stays possible.
        """

    def accept(self, token_id: int) -> None:
        """Goes on behind the token that was chosen."""
