"""From the scheduler's thread to the event loop: nothing is lost, out of order, or left lying."""

import asyncio
import threading
from collections import deque

import pytest

from baichuan2.server.deliveries import Mailroom


@pytest.mark.parametrize("pause", [0, 1])
def test_everything_arrives_in_order_whatever_the_threads_do(pause):
    async def run() -> None:
        room = Mailroom(asyncio.get_running_loop())
        boxes = [room.new_box() for _ in range(8)]
        num_items = 2_000

        def deliver() -> None:
            for number in range(num_items):
                for box in boxes:
                    box.put(number)
                if pause and number % 50 == 0:
                    threading.Event().wait(0.0005)

        async def collect(box) -> list[int]:
            found: list[int] = []
            while len(found) < num_items:
                items = await box.take()
                assert items
                found += items
            return found

        thread = threading.Thread(target=deliver)
        thread.start()
        found = await asyncio.wait_for(asyncio.gather(*map(collect, boxes)), 30)
        thread.join()
        assert found == [list(range(num_items))] * len(boxes)

    asyncio.run(run())


def test_many_deliveries_wake_the_loop_once():
    async def run() -> None:
        loop = asyncio.get_running_loop()
        calls = 0
        original = loop.call_soon_threadsafe

        def counting(*arguments):
            nonlocal calls
            calls += 1
            return original(*arguments)

        loop.call_soon_threadsafe = counting
        room = Mailroom(loop)
        boxes = [room.new_box() for _ in range(16)]
        for number in range(10):  # while the loop does not get to run
            for box in boxes:
                box.put(number)
        assert calls == 1
        assert [await box.take() for box in boxes] == [list(range(10))] * 16
        await asyncio.sleep(0)  # the loop gets to run
        boxes[0].put(1)
        assert calls == 2

    asyncio.run(run())


class DequeWithLatecomer(deque):
    """Something is delivered just after it was found empty."""

    def __init__(self) -> None:
        super().__init__()
        self.deliver_late = None

    def __len__(self) -> int:
        size = super().__len__()
        if size == 0 and self.deliver_late is not None:
            deliver, self.deliver_late = self.deliver_late, None
            deliver()
        return size


def test_what_comes_while_the_loop_stops_looking_wakes_it_again():
    async def run() -> None:
        room = Mailroom(asyncio.get_running_loop())
        room._with_news = DequeWithLatecomer()
        first, second = room.new_box(), room.new_box()
        waiting = asyncio.create_task(second.take())
        await asyncio.sleep(0)
        first.put(1)
        room._with_news.deliver_late = lambda: second.put(2)
        assert await asyncio.wait_for(waiting, 5) == [2]

    asyncio.run(run())


def test_deliveries_to_a_loop_that_is_closed_are_dropped():
    loop = asyncio.new_event_loop()
    room = Mailroom(loop)
    box = room.new_box()
    loop.close()
    box.put(1)
    box.put(2)
