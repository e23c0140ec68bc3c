"""The optional bitsandbytes library, without the lines that it logs about things that are no matter here.

Every import of the library goes through here. It logs through Python's logging, so nothing below hides a warning of
ours or of the framework, and each filter names the one message that it drops.
"""

import logging
from types import ModuleType

from baichuan2.optional import require

__all__ = ["bitsandbytes_library"]

# logger -> how its message begins, and why nobody needs it
UNNEEDED_MESSAGES = {
    # on import, where the `kernels` package is absent: that one would fetch binaries from the hub
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    # at each layer of each token: LLM.int8 is defined on float16 inputs
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast from",
}


class _Drop(logging.Filter):
    """Drops the messages that begin with `beginning`."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        return not str(record.msg).startswith(self.beginning)

    def __eq__(self, other: object) -> bool:  # so that a logger takes each of them once
        return isinstance(other, _Drop) and other.beginning == self.beginning

    def __hash__(self) -> int:
        return hash(self.beginning)


def bitsandbytes_library() -> ModuleType:
    """The imported library.

    Raises:
        MissingExtraError: it is not installed; the message says what to type.
    """
    for name, beginning in UNNEEDED_MESSAGES.items():
        logging.getLogger(name).addFilter(_Drop(beginning))
    return require("bitsandbytes", extra="bnb")
