"""What takes long before a request can wait for its turn: forms are compiled, long texts cut into tokens.

It is done in threads, as others wait for the event loop; of what waits for a thread, nothing is begun for clients that
have left.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.types import Receive

from baichuan2.errors import OverloadedError
from baichuan2.server.problems import ClientGoneError, timed_out

__all__ = ["Preparing"]

Result = TypeVar("Result")


class Preparing:
    """Threads for one kind of such work."""

    def __init__(self, name: str, *, num_threads: int, most: int | None, seconds: float) -> None:
        """`most`: requests in work or waiting, beyond which they are refused. `seconds`: how long each may take."""
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        self._most, self._seconds = most, seconds
        self._num_open = 0

    async def run(self, work: Callable[[], Result], receive: Receive) -> Result:
        """`work()`. `receive`: that of a request whose body has been read, so that it tells of the client's leaving.

        Raises OverloadedError when too many wait, ClientGoneError, ApiError when it takes too long, and what `work`
        raises.
        """
        if self._most is not None and self._num_open >= self._most:
            raise OverloadedError(f"{self._num_open} requests are being prepared already: try again in some seconds")
        self._num_open += 1
        working = asyncio.wrap_future(self._threads.submit(work))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((working, leaving), timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientGoneError() if leaving.done() else timed_out(self._seconds)
        finally:
            self._num_open -= 1
            working.cancel()  # taken out, unless a thread is at it
            leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
