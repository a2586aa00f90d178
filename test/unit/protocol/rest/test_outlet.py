from __future__ import annotations

import asyncio
import threading

from pyfuncserver.model.pipe import Pipe
from pyfuncserver.protocol.rest.outlet import Outlet


async def drained(pipe: Pipe) -> list[bytes]:
    outlet, found = Outlet(pipe), []
    while (data := await outlet.next()) is not None:
        found.append(data)
    assert await outlet.next() is None
    return found


def test_what_is_there_comes_at_once() -> None:
    pipe = Pipe()
    pipe.put(b"a")
    pipe.end(b"b")
    assert asyncio.run(drained(pipe)) == [b"ab"]


def test_an_end_with_nothing() -> None:
    pipe = Pipe()
    pipe.end(b"")
    assert asyncio.run(drained(pipe)) == []


def test_another_thread_puts_in() -> None:
    pipe = Pipe()

    def fill() -> None:
        for number in range(500):
            pipe.wait_for_room(10)
            pipe.put(b"%d," % number)
        pipe.end(b"end")

    threading.Thread(target=fill).start()
    found = asyncio.run(asyncio.wait_for(drained(pipe), 10))
    assert b"".join(found) == b"".join(b"%d," % number for number in range(500)) + b"end"


def test_a_loop_that_has_ended_is_no_error() -> None:
    pipe = Pipe()

    async def listen() -> None:
        Outlet(pipe)

    asyncio.run(listen())
    pipe.put(b"a")
    pipe.end(b"b")
