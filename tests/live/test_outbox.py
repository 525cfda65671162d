"""Messages to a client: sent immediately if possible, else queued in order up to a limit until there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from speech_qc.live.outbox import Outbox


class Line:
    """A client that accepts messages while it is open."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.at_once = 0
        self.open = asyncio.Event()
        self.ready = True  # for immediate messages

    def send_now(self, text: bytes) -> bool:
        if self.ready:
            self.taken.append(text)
            self.at_once += 1
        return self.ready

    async def send(self, text: bytes) -> None:
        await self.open.wait()
        self.taken.append(text)


def run(test: Callable[[Line], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await test(Line())

    asyncio.run(asyncio.wait_for(main(), 5))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_client_that_is_ready_gets_everything_at_once_and_nothing_waits() -> None:
    async def test(line: Line) -> None:
        box = Outbox(100, lambda: 0.0, line.send_now)
        for number in range(1000):
            box.force(b"%d" % number)
            await box.put(b"+")
        assert line.at_once == 2000
        assert not box.full
        box.close()
        await box.run(line.send)
        assert len(line.taken) == 2000

    run(test)


def test_what_cannot_be_sent_at_once_is_sent_later_and_nothing_overtakes_it() -> None:
    async def test(line: Line) -> None:
        box = Outbox(100, lambda: 7.0, line.send_now)
        sending = asyncio.create_task(box.run(line.send))
        await turns()
        box.force(b"0")
        line.ready = False
        box.force(b"1")
        line.ready = True
        box.force(b"2")  # could be sent immediately, but 1 is queued
        await turns()
        assert box.sending_since == 7.0
        box.force(b"3")  # could be sent immediately, but 1 is being sent
        assert line.taken == [b"0"]
        line.open.set()
        await turns()
        assert box.sending_since is None
        box.force(b"4")
        box.close()
        await sending
        assert line.taken == [b"0", b"1", b"2", b"3", b"4"]
        assert line.at_once == 2

    run(test)


def test_a_full_box_makes_put_wait_but_not_force_and_says_when_there_is_room() -> None:
    async def test(line: Line) -> None:
        line.ready, rooms = False, 0

        def room() -> None:
            nonlocal rooms
            rooms += 1
            assert not box.full

        box = Outbox(4, lambda: 0.0, line.send_now)
        box.on_room = room
        box.force(b"aaaa")
        assert box.full
        putting = asyncio.create_task(box.put(b"c"))
        await turns()
        box.force(b"b")
        assert not putting.done()
        sending = asyncio.create_task(box.run(line.send))
        await turns()
        assert rooms == 1, "what is being sent does not fill the box"
        line.open.set()
        await putting
        box.close()
        await sending
        assert line.taken == [b"aaaa", b"b", b"c"]
        assert rooms == 1, "said once, for it was full once"

    run(test)


def test_one_message_always_fits() -> None:
    async def test(line: Line) -> None:
        line.ready = False
        box = Outbox(4, lambda: 0.0, line.send_now)
        await box.put(b"x" * 1000)
        assert box.full

    run(test)


def test_what_waits_can_be_forgotten_for_a_last_word() -> None:
    async def test(line: Line) -> None:
        line.ready, rooms = False, []
        box = Outbox(4, lambda: 0.0, line.send_now)
        box.on_room = lambda: rooms.append(1)
        sending = asyncio.create_task(box.run(line.send))
        box.force(b"first")
        await turns()
        for _ in range(3):
            box.force(b"lost")
        box.clear()
        assert (box.full, rooms) == (False, [1, 1])  # when the first was sent, and now
        box.force(b"why")
        box.close()
        line.open.set()
        await sending
        assert line.taken == [b"first", b"why"]

    run(test)


def test_without_a_short_way_everything_is_sent_by_the_task() -> None:
    async def test(line: Line) -> None:
        box = Outbox(100, lambda: 0.0, lambda _: False)
        line.open.set()
        box.force(b"1")
        await box.put(b"2")
        box.close()
        await box.run(line.send)
        assert line.taken == [b"1", b"2"]
        assert line.at_once == 0

    run(test)
