from __future__ import annotations

import threading

from harness import wait_until

from pyfuncserver.model.pipe import MOST_BYTES, MOST_PARTS, Pipe


def test_what_is_put_in_comes_out_in_order() -> None:
    pipe = Pipe()
    pipe.put(b"a")
    pipe.put(b"b")
    assert pipe.take() == (b"ab", False)
    assert pipe.take() == (b"", False)
    pipe.put(b"c")
    pipe.end(b"d")
    assert pipe.take() == (b"cd", True)
    assert pipe.take() == (b"", True)


def test_nothing_comes_behind_the_end() -> None:
    pipe = Pipe()
    pipe.end(b"last")
    pipe.put(b"more")
    pipe.end(b"other")
    assert pipe.is_ended
    assert pipe.take() == (b"last", True)


def test_it_is_full_by_parts_and_by_bytes() -> None:
    pipe = Pipe()
    for _ in range(MOST_PARTS):
        assert pipe.wait_for_room(0)
        pipe.put(b"a")
    assert not pipe.wait_for_room(0)
    pipe.take()
    assert pipe.wait_for_room(0)
    pipe.put(b"a" * MOST_BYTES)
    assert not pipe.wait_for_room(0)


def test_who_waits_for_room_hears_of_it_and_of_the_end() -> None:
    for free in (Pipe.take, lambda pipe: pipe.end(b"")):
        pipe = Pipe()
        pipe.put(b"a" * MOST_BYTES)
        waiting = threading.Thread(target=pipe.wait_for_room, args=(10,))
        waiting.start()
        free(pipe)
        waiting.join(5)
        assert not waiting.is_alive()


def test_the_listener_is_told_of_what_is_new() -> None:
    pipe, told = Pipe(), []
    pipe.put(b"early")
    pipe.listen(lambda: told.append(pipe.take()))
    assert told == [(b"early", False)]
    pipe.put(b"a")
    pipe.end(b"b")
    assert told[1:] == [(b"a", False), (b"b", True)]


def test_the_listener_is_told_once_until_it_takes() -> None:
    pipe, told = Pipe(), []
    pipe.listen(lambda: told.append(1))
    pipe.put(b"a")
    pipe.put(b"b")
    assert told == [1]
    pipe.take()
    pipe.put(b"c")
    assert told == [1, 1]


def test_two_threads() -> None:
    pipe, taken = Pipe(), bytearray()

    def fill() -> None:
        for number in range(400):
            assert pipe.wait_for_room(10)
            pipe.put(b"%d," % number)
        pipe.end(b"end")

    threading.Thread(target=fill).start()
    ends = []

    def take() -> bool:
        data, is_over = pipe.take()
        taken.extend(data)
        ends.append(is_over)
        return is_over

    wait_until(take, 30)
    assert bytes(taken) == b"".join(b"%d," % number for number in range(400)) + b"end"
