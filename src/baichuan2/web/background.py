"""A reply that is written beside the page, in a thread of its own.

Streamlit runs the page's script anew at every click, so the script only looks at the reply and may be torn away from it
at any time: the reply goes on, and the next run of the script finds it again. If nobody has looked for some seconds
(the tab was closed), it stops by itself.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator

from baichuan2.chat.reply import ReplyChunk, Usage
from baichuan2.engine.stopping import FinishReason
from baichuan2.errors import BaichuanError, GenerationError

__all__ = ["BackgroundReply", "Start"]

logger = logging.getLogger(__name__)
Start = Callable[[Callable[[], bool]], Iterator[ReplyChunk]]
PATIENCE = 10.0  # seconds; a browser that lost its connection is back sooner


class BackgroundReply:
    """The text so far, and how the reply ended once it has.

    Args:
        start: makes the chunks; it is given the function that they ask whether to stop.
        patience: seconds without a look at the reply after which it stops.
    """

    def __init__(self, start: Start, *, patience: float = PATIENCE) -> None:
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.error: BaichuanError | None = None
        self._start, self._patience = start, patience
        self._is_cancelled = self._is_done = False
        self._looked_at = time.monotonic()
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="reply", daemon=True).start()

    @property
    def is_done(self) -> bool:
        """Whether no more text comes."""
        return self._is_done

    def wait(self, seconds: float, known: int) -> str:
        """The text so far, as soon as it is longer than `known` characters, is complete, or so many seconds passed."""
        self._looked_at = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: len(self.text) > known or self._is_done, timeout=seconds)
            return self.text

    def cancel(self) -> None:
        """Ends the work at the next token; the text grows no more from now on."""
        with self._changed:
            self._is_cancelled = True

    def _must_stop(self) -> bool:
        return self._is_cancelled or time.monotonic() - self._looked_at > self._patience

    def _write(self) -> None:
        error: BaichuanError | None = None
        try:
            self._take(self._start(self._must_stop))
        except BaichuanError as failure:
            error = failure
        except Exception as failure:
            logger.exception("a reply failed")
            error = GenerationError(f"the reply failed: {type(failure).__name__}")
        with self._changed:
            self.error = error
            self._is_done = True
            self._changed.notify_all()

    def _take(self, chunks: Iterator[ReplyChunk]) -> None:
        try:
            for chunk in chunks:
                with self._changed:
                    if self._is_cancelled:
                        return
                    self.text += chunk.text
                    if chunk.finish_reason is not None:
                        self.finish_reason, self.usage = chunk.finish_reason, chunk.usage
                    self._changed.notify_all()
        finally:
            if isinstance(chunks, Generator):
                chunks.close()  # whoever writes hears now, not at some garbage collection, that nobody reads
