"""Keys and values of the tokens already seen, in buffers that grow by whole blocks.

The framework's dynamic cache copies everything it holds for each new token: 2 GB a token for the 7B model at 4,096
tokens. Here a new token is written in place and the attention reads a view; tokens that are taken back leave their
room. The framework's `generate` accepts this cache too, and the step in C writes to its buffers.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["GrowingLayer", "new_cache"]

BLOCK = 256  # tokens; at most this much room is reserved beyond what is used


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # the framework is untyped to mypy
    """One layer's keys and values, (B, H, S, D) each: views on buffers with room for more tokens.

    `buffers` holds the parts in which keys, then values, are stored, each (B, H, capacity, ...): here the numbers
    themselves; None before the first token.
    """

    def __init__(self, **kwargs: object) -> None:
        self.buffers: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
        self._num_held = 0
        super().__init__(**kwargs)

    @property
    def capacity(self) -> int:
        """How many tokens the buffers have room for."""
        return 0 if self.buffers is None else min(part.shape[-2] for parts in self.buffers for part in parts)

    def lazy_initialization(self, key_states: Tensor, _value_states: Tensor) -> None:
        """Notes the device, as the framework's layers do; the buffers come with the first tokens."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """All keys and all values, (B, H, S + T, D) each, after adding those of T new tokens, (B, H, T, D) each."""
        start, num_new = self._num_held, key_states.shape[-2]
        self.reserve(num_new, key_states)
        assert self.buffers is not None
        for parts, states in zip(self.buffers, (key_states, value_states), strict=True):
            for part, new in zip(parts, self._split(states), strict=True):
                part[..., start : start + num_new, :] = new
        self._num_held = start + num_new
        return self._joined(0), self._joined(1)

    def reserve(self, num_new: int, like: Tensor) -> None:
        """Makes room for `num_new` more tokens of keys and values like `like` (B, H, any, D)."""
        if not self.is_initialized:
            self.lazy_initialization(like, like)
        total = self._num_held + num_new
        if self.capacity >= total:
            return
        capacity = -(-total // BLOCK) * BLOCK
        empty = self._split(like[..., :0, :])
        held = (empty, empty) if self.buffers is None else self.buffers
        keys, values = (tuple(_enlarged(part, self._num_held, capacity) for part in parts) for parts in held)
        self.buffers = (keys, values)

    def take_over(
        self, buffers: tuple[tuple[Tensor, ...], tuple[Tensor, ...]], num_held: int, dtype: torch.dtype
    ) -> None:
        """Other buffers, which hold `num_held` tokens, in the place of its own; `dtype`: of keys and values as seen."""
        self.dtype, self.device, self.is_initialized = dtype, buffers[0][0].device, True
        self.buffers, self._num_held = buffers, num_held

    def advance(self, num_new: int) -> None:
        """Counts `num_new` tokens that were written to the buffers behind those held so far."""
        assert self._num_held + num_new <= self.capacity
        self._num_held += num_new

    def get_seq_length(self) -> int:
        """How many tokens are held."""
        return self._num_held

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens; a negative number: leaves out as many of the last."""
        self._num_held = min(self._num_held, length) if length >= 0 else max(self._num_held + length, 0)

    def reset(self) -> None:
        """Forgets everything."""
        self.buffers, self._num_held, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Puts row `beam_idx[b]` in the place of row b."""
        self._change(lambda part: part.index_select(0, beam_idx.to(part.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        self._change(lambda part: part.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`."""
        self._change(lambda part: part[indices, ...])

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.buffers is not None:
            keys, values = (tuple(change(part) for part in parts) for parts in self.buffers)
            self.buffers = (keys, values)

    def _split(self, states: Tensor) -> tuple[Tensor, ...]:
        """The parts in which `states` (B, H, T, D) are stored, each (B, H, T, ...)."""
        return (states,)

    def _join(self, parts: Iterable[Tensor]) -> Tensor:
        """What `_split` took apart."""
        (states,) = parts
        return states

    def _joined(self, which: int) -> Tensor:
        assert self.buffers is not None
        return self._join(part[..., : self._num_held, :] for part in self.buffers[which])

    def _replace(self, which: int, states: Tensor | None) -> None:
        """What the framework's own operations do: they put other keys, then other values, in place."""
        if states is None:
            self.buffers, self._num_held = None, 0
            return
        parts = tuple(part.contiguous() for part in self._split(states))
        pair = [parts, parts] if self.buffers is None else list(self.buffers)
        pair[which] = parts
        self.buffers, self._num_held = (pair[0], pair[1]), states.shape[-2]

    @property
    def keys(self) -> Tensor | None:
        """All keys (B, H, S, D)."""
        return None if self.buffers is None else self._joined(0)

    @keys.setter
    def keys(self, states: Tensor | None) -> None:
        """Other keys in the place of all."""
        self._replace(0, states)

    @property
    def values(self) -> Tensor | None:
        """All values (B, H, S, D)."""
        return None if self.buffers is None else self._joined(1)

    @values.setter
    def values(self, states: Tensor | None) -> None:
        """Other values in the place of all."""
        self._replace(1, states)


def _enlarged(part: Tensor, held: int, capacity: int) -> Tensor:
    """A buffer (B, H, capacity, ...) that starts with the `held` tokens of `part`."""
    buffer = part.new_empty((*part.shape[:-2], capacity, part.shape[-1]))
    buffer[..., :held, :] = part[..., :held, :]
    return buffer


def new_cache(layer_class: type[GrowingLayer] = GrowingLayer) -> Cache:
    """An empty cache; layers, of the class given, are added as the model writes to them."""
    return Cache(layer_class_to_replicate=layer_class)
