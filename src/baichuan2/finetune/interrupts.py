"""Ctrl-C and SIGTERM while a model trains: the first is remembered until the step is done, a second ends it at once."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Interrupts", "catch_interrupts"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_WISH_SECONDS = 1.0  # launchers pass one Ctrl-C on as several signals


class Interrupts:
    """Which signal asked for an end, if any."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._tell = tell
        self._time = 0.0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Remembers the first signal; leaves at the next one that is not its echo.

        Raises:
            KeyboardInterrupt, SystemExit: as the signal would have done without us.
        """
        del frame
        now = time.monotonic()
        if self.received is None:
            self.received, self._time = number, now
            with contextlib.suppress(RuntimeError):  # the signal fell into the middle of another print
                self._tell(signal.Signals(number).name)
        elif now - self._time > SAME_WISH_SECONDS:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + number)


@contextlib.contextmanager
def catch_interrupts(tell: Callable[[str], None]) -> Iterator[Interrupts]:
    """Signals go to the `Interrupts` that this gives; `tell` hears the name of the first.

    Outside of the main thread, where Python allows no handlers, nothing is caught.
    """
    interrupts = Interrupts(tell)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup sets it
    before = {number: signal.signal(number, interrupts.handle) for number in heard}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
