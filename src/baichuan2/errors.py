"""Every exception that baichuan2 raises at its users.

    BaichuanError
    ├── SettingsError          ValueError    a flag, option or setting is wrong
    ├── CheckpointError        ValueError    a model folder or hub id cannot be read
    │   └── MemoryShortageError              it is sound, but does not fit into this machine
    ├── TokenizerError         ValueError    a tokenizer file or a token id is wrong
    ├── ContextLengthError     ValueError    the prompt does not fit into the context
    ├── MessageError           ValueError    a chat message is malformed
    ├── DataError              ValueError    a training or evaluation file is malformed
    ├── GenerationError        RuntimeError  the model failed while producing a reply
    ├── TrainingError          RuntimeError  training stopped: a loss that is no number, a full disk
    ├── OverloadedError        RuntimeError  too many requests are waiting, or the engine is closing: try again later
    ├── QuantizationError      ValueError    weights cannot be quantised as asked
    └── MissingExtraError      ImportError   an optional package is not installed

A message says what is wrong, what was received and what to do. Each class is also the matching built-in, so callers
that never heard of this package still catch what they expect.
"""

__all__ = [
    "BaichuanError",
    "CheckpointError",
    "ContextLengthError",
    "DataError",
    "GenerationError",
    "MemoryShortageError",
    "MessageError",
    "MissingExtraError",
    "OverloadedError",
    "QuantizationError",
    "SettingsError",
    "TokenizerError",
    "TrainingError",
]


class BaichuanError(Exception):
    """Base of everything below; `except BaichuanError` catches every user-facing failure."""


class SettingsError(BaichuanError, ValueError):
    """A flag, option or setting has a value that cannot work; the message names it."""


class CheckpointError(BaichuanError, ValueError):
    """A model folder, file or hub id is missing, damaged or of a foreign kind."""


class MemoryShortageError(CheckpointError):
    """A model does not fit into the memory of its device; found out before any of it is loaded.

    `plan`: the whole calculation, a `baichuan2.checkpoints.plan.Plan`.
    """

    def __init__(self, message: str, plan: object = None) -> None:
        super().__init__(message)
        self.plan = plan


class TokenizerError(BaichuanError, ValueError):
    """A tokenizer file is missing or damaged, or a token id lies outside the vocabulary."""


class ContextLengthError(BaichuanError, ValueError):
    """The prompt and the room kept for the reply exceed the context of the model."""


class MessageError(BaichuanError, ValueError):
    """A chat message lacks a field, has an unknown role or stands in the wrong place."""


class DataError(BaichuanError, ValueError):
    """A training or evaluation file is malformed; the message names file, item and field."""


class GenerationError(BaichuanError, RuntimeError):
    """The model failed while producing a reply; the cause is chained."""


class TrainingError(BaichuanError, RuntimeError):
    """Training cannot go on; what was saved last is whole, and the message says how to go on from there."""


class OverloadedError(BaichuanError, RuntimeError):
    """A request was not taken: too many are waiting already, or the engine is closing; the same one may pass later.

    `is_closing`: it will not, as no request is taken any more.
    """

    def __init__(self, message: str, *, is_closing: bool = False) -> None:
        super().__init__(message)
        self.is_closing = is_closing


class QuantizationError(BaichuanError, ValueError):
    """Weights cannot be quantised, or quantised weights cannot be read, as asked."""


class MissingExtraError(BaichuanError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""
