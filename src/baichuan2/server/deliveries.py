"""From the scheduler's thread to the event loop: what is delivered there is taken here, in batches.

The scheduler delivers every token of every request by a call in its own thread. Waking the event loop is a system call;
so all that is delivered until the loop gets to run wakes it once. No request has a thread of its own.
"""

import asyncio
import contextlib
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Mailbox", "Mailroom"]

Item = TypeVar("Item")


class Mailroom(Generic[Item]):
    """Wakes the owners of mailboxes; one for an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._with_news: deque[Mailbox[Item]] = deque()
        self._is_called = False

    def new_box(self) -> "Mailbox[Item]":
        """An empty mailbox."""
        return Mailbox(self)

    def announce(self, box: "Mailbox[Item]") -> None:
        """Has the owner of `box` woken soon; from any thread."""
        self._with_news.append(box)
        if self._is_called:
            return  # `_wake` still has to run, and will find the box
        self._is_called = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_called = False  # before looking: what comes from now on calls again
        while self._with_news:
            self._with_news.popleft().has_news.set()


class Mailbox(Generic[Item]):
    """What was delivered for one request and not yet taken; as long as the request may deliver, so bounded."""

    def __init__(self, room: Mailroom[Item]) -> None:
        self._room = room
        self._items: deque[Item] = deque()
        self.has_news = asyncio.Event()

    def put(self, item: Item) -> None:
        """Adds an item; from any thread."""
        self._items.append(item)
        self._room.announce(self)

    async def take(self) -> list[Item]:
        """All that has come, at least one item; waits for it."""
        while not self._items:
            self.has_news.clear()
            if self._items:  # it came in between, and its call to wake may have been just before `clear`
                break
            await self.has_news.wait()
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items
