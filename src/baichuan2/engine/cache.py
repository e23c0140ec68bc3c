"""Keys and values of the tokens already seen, in buffers that grow by whole blocks.

The framework's dynamic cache copies everything it holds for each new token: 2 GB a token for the 7B model at 4,096
tokens. Here a new token is written in place and the attention reads a view. Everything else (cropping, reordering,
picking rows) is the framework's own, so its `generate` accepts this cache too.
"""

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["GrowingLayer", "new_cache"]

BLOCK = 256  # tokens; at most this much room is reserved beyond what is used


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # the framework is untyped to mypy
    """One layer's keys and values, (B, H, S, D) each: views on buffers with room for more tokens."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._views: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """All keys and all values, (B, H, S + T, D) each, after adding those of T new tokens, (B, H, T, D) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        total = held + key_states.shape[-2]
        buffers = self._room_for(total, key_states, value_states)
        buffers[0][..., held:total, :] = key_states
        buffers[1][..., held:total, :] = value_states
        self.keys, self.values = self._views = (buffers[0][..., :total, :], buffers[1][..., :total, :])
        return self.keys, self.values

    def _room_for(self, total: int, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Buffers that hold what is cached now and reach to `total` tokens."""
        held = self.get_seq_length()
        # cropping, reordering and the like replace `keys` and `values`: then the buffers no longer tell the truth
        current = held > 0 and self._views is not None and self.keys is self._views[0] and self.values is self._views[1]
        if current and self._buffers is not None and self._buffers[0].shape[-2] >= total:
            return self._buffers
        capacity = -(-total // BLOCK) * BLOCK
        buffers = (
            _enlarged(key_states, self.keys, held, capacity),
            _enlarged(value_states, self.values, held, capacity),
        )
        self._buffers = buffers
        return buffers


def _enlarged(states: Tensor, cached: Tensor, held: int, capacity: int) -> Tensor:
    """A buffer (B, H, capacity, D) like `states`, (B, H, T, D), that starts with the `held` tokens of `cached`."""
    buffer = states.new_empty((*states.shape[:-2], capacity, states.shape[-1]))
    if held:
        buffer[..., :held, :] = cached
    return buffer


def new_cache() -> Cache:
    """An empty cache; layers are added as the model writes to them."""
    return Cache(layer_class_to_replicate=GrowingLayer)
