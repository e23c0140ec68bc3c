"""Work that is done in threads before a request may wait for its turn."""

import asyncio
import threading

import pytest

from baichuan2.errors import OverloadedError
from baichuan2.server.preparing import Preparing
from baichuan2.server.problems import ApiError, ClientGoneError

SECONDS = 10


class Client:
    """A client that stays until it is told to leave."""

    def __init__(self) -> None:
        self.has_left = asyncio.Event()

    async def receive(self):
        await self.has_left.wait()
        return {"type": "http.disconnect"}


class Held:
    """Work that goes on until it may end, and tells when it has begun."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.has_begun.set()
        assert self.may_end.wait(SECONDS)
        return "done"


async def begun(held: Held) -> None:
    assert await asyncio.to_thread(held.has_begun.wait, SECONDS)


def test_what_nobody_waits_for_any_more_is_not_begun_and_takes_no_place():
    async def run() -> None:
        preparing = Preparing("test", num_threads=1, most=2, seconds=SECONDS)
        first, second, third = Held(), Held(), Held()
        client = Client()
        one = asyncio.create_task(preparing.run(first, Client().receive))
        await begun(first)
        two = asyncio.create_task(preparing.run(second, client.receive))
        await asyncio.sleep(0.05)
        with pytest.raises(OverloadedError):
            await preparing.run(third, Client().receive)
        client.has_left.set()
        with pytest.raises(ClientGoneError):
            await two
        three = asyncio.create_task(preparing.run(third, Client().receive))
        third.may_end.set()
        first.may_end.set()
        assert await one == "done"
        assert await three == "done"
        assert not second.has_begun.is_set()

    asyncio.run(run())


def test_who_leaves_while_the_work_is_done_waits_no_longer():
    async def run() -> None:
        preparing = Preparing("test", num_threads=1, most=None, seconds=SECONDS)
        held, client = Held(), Client()
        task = asyncio.create_task(preparing.run(held, client.receive))
        await begun(held)
        client.has_left.set()
        with pytest.raises(ClientGoneError):
            await task
        held.may_end.set()

    asyncio.run(run())


def test_what_takes_too_long_is_told_so():
    async def run() -> None:
        preparing = Preparing("test", num_threads=1, most=None, seconds=0.05)
        held = Held()
        with pytest.raises(ApiError) as caught:
            await preparing.run(held, Client().receive)
        assert caught.value.code == "request_timeout"
        held.may_end.set()

    asyncio.run(run())


def test_failures_are_those_of_the_work():
    def fail() -> None:
        raise ApiError(400, "no", code="invalid_value")

    async def run() -> None:
        with pytest.raises(ApiError, match="no"):
            await Preparing("test", num_threads=1, most=None, seconds=SECONDS).run(fail, Client().receive)

    asyncio.run(run())
