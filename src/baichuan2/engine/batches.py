"""Which kind of batch a model's sequences are computed in, and how many tokens its memory holds."""

from typing import Any, Literal

from baichuan2.engine.aligned import AlignedBatch, cached_bytes
from baichuan2.engine.batch import Batch
from baichuan2.engine.generate import LanguageModel, context_length
from baichuan2.engine.paged import PagedBatch, page_shape
from baichuan2.engine.processor import ProcessorModel, processor_model
from baichuan2.errors import SettingsError

__all__ = ["Batches"]

ROPE_TYPES = ("default", "linear", "yarn", "llama3")  # others turn a token by how long its own sequence is
LEAST_ROWS = 8  # tokens of a step; where fewer are worth while, replies together go faster by the model's own passes
UNBOUNDED = 1 << 20  # tokens of a context, where a model sets no limit


class Batches:
    """Makes empty batches of one kind and size for a model."""

    def __init__(
        self, model: LanguageModel, *, max_running: int, cache_bytes: int | None, kv_cache: Literal["same", "int8"]
    ) -> None:
        """See `Scheduler`; raises SettingsError when the memory holds not even one context."""
        self._model: Any = model
        self._kv_cache = kv_cache
        suits_company = _suits_company(model)
        self.most_sequences = max_running if suits_company else 1
        """How many can be computed together."""
        self._processor = _steps_of(model) if suits_company else None  # one alone too: steps take guesses
        self._pages = page_shape(model, kv_cache) if self._processor is not None else None
        context = int(min(context_length(model), UNBOUNDED))
        if self._pages is not None:
            whole = self.most_sequences * self._pages.bytes_of(context)
            self._cache_bytes = whole if cache_bytes is None else cache_bytes
            return
        self._capacity = self.most_sequences * context
        if cache_bytes is not None:
            per_token = cached_bytes(model, kv_cache)
            self._capacity = min(self._capacity, cache_bytes // per_token)
            if self._capacity < context:
                raise SettingsError(
                    f"a key/value cache of {cache_bytes} bytes holds {self._capacity} tokens of {per_token} bytes, "
                    f"but a context of {context} tokens takes {context * per_token}: give at least that"
                )

    def new(self) -> Batch:
        """An empty batch."""
        if self._processor is not None and self._pages is not None:
            return PagedBatch(self._processor, self._pages, cache_bytes=self._cache_bytes)
        return AlignedBatch(self._model, capacity=self._capacity, kv_cache=self._kv_cache)


def _suits_company(model: Any) -> bool:
    """Whether rows of different lengths can go through the model in one pass."""
    rotary = getattr(getattr(model, "model", None), "rotary_emb", None)
    return rotary is None or rotary.rope_type in ROPE_TYPES


def _steps_of(model: Any) -> ProcessorModel | None:
    """The model by steps in C, where these are worth while; else None."""
    by_steps = processor_model(model)
    return by_steps if isinstance(by_steps, ProcessorModel) and by_steps.most_rows >= LEAST_ROWS else None
