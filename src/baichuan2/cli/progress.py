"""A bar on standard error for work that is done in parts; nothing where that is no terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["bytes_bar", "progress_bar"]


def bytes_bar(title: str) -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
    """The same for bytes: sizes and speed in place of counts."""
    return progress_bar(title, is_bytes=True)


@contextlib.contextmanager
def progress_bar(title: str, *, delay: float = 0.0, is_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A function that is told how many parts of how many are done, and shows that with the time that is left.

    The bar appears when that is called `delay` seconds after its first call, or later, and goes away at the end.
    """
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    bar: Progress | None = None
    started: float | None = None

    def show(done: int, total: int) -> None:
        nonlocal bar, started
        started = time.monotonic() if started is None else started
        if bar is None and time.monotonic() - started >= delay:
            bar = _bar(title, is_bytes)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done, total=total)

    try:
        yield show
    finally:
        if bar is not None:
            bar.stop()


def _bar(title: str, is_bytes: bool) -> "Progress":
    from rich import progress
    from rich.console import Console

    amounts = (progress.DownloadColumn(), progress.TransferSpeedColumn())
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        *(amounts if is_bytes else (progress.MofNCompleteColumn(),)),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(title, total=None)
    return bar
