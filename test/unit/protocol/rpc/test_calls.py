from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from harness import wait_until

from pyfuncserver.protocol.rpc.calls import CallPool, Streams, Threads

WAIT_S = 30


def test_pool_knows_when_it_is_full() -> None:
    may_end = threading.Event()
    with CallPool(2) as pool:
        calls = [pool.submit(may_end.wait, WAIT_S)]
        assert not pool.is_full
        calls.append(pool.submit(may_end.wait, WAIT_S))
        assert pool.is_full
        may_end.set()
        assert all(call.result(WAIT_S) for call in calls)
    assert not pool.is_full


def test_call_waits_where_no_thread_can_be_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with CallPool(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            first = pool.submit(int, 1)
        assert "can't start new thread" in caplog.text
        assert pool.submit(int, 2).result(WAIT_S) == 2
        assert first.result(WAIT_S) == 1


def test_threads_refuse_what_would_have_to_wait() -> None:
    threads, may_end, ended = Threads(2), threading.Event(), threading.Event()
    begun = threading.Barrier(3)

    def job() -> None:
        begun.wait(WAIT_S)
        may_end.wait(WAIT_S)

    assert [threads.run(job) for _ in range(2)] == [True, True]
    begun.wait(WAIT_S)
    assert not threads.run(ended.set)
    may_end.set()
    wait_until(lambda: threads.run(ended.set), WAIT_S)
    assert ended.wait(WAIT_S)


def test_last_thread_to_rest_is_the_first_to_work() -> None:
    threads, done = Threads(2), threading.Semaphore(0)
    first, second = threading.Event(), threading.Event()
    assert threads.run(partial(first.wait, WAIT_S))
    assert threads.run(partial(second.wait, WAIT_S))
    first.set()
    wait_until(lambda: len(threads._resting) == 1, WAIT_S)
    second.set()
    wait_until(lambda: len(threads._resting) == 2, WAIT_S)
    last = threads._resting[-1]
    for _ in range(3):
        assert threads.run(done.release)
        assert done.acquire(timeout=WAIT_S)
        wait_until(lambda: len(threads._resting) == 2, WAIT_S)
        assert threads._resting[-1] is last


def test_thread_survives_a_job_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    threads, ended = Threads(1), threading.Event()
    assert threads.run(partial(int, "none"))
    wait_until(lambda: threads.run(ended.set), WAIT_S)
    assert ended.wait(WAIT_S)
    assert "ValueError" in caplog.text


def test_threads_that_cannot_be_made_are_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads, ended = Threads(1), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not threads.run(ended.set)
    assert "can't start new thread" in caplog.text
    assert threads.run(ended.set)
    assert ended.wait(WAIT_S)


class Context:
    """What Streams sees of a call."""

    def __init__(self, is_open: bool = True) -> None:
        self.is_open = is_open
        self.cancelled = 0
        self.when_ended: Callable[[], None] = int

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.when_ended = callback
        return self.is_open

    def cancel(self) -> None:
        self.cancelled += 1
        self.when_ended()


def test_streams_that_are_open_are_ended() -> None:
    streams = Streams()
    ended, open_, late = Context(), Context(), Context(is_open=False)
    for context in (ended, open_, late):
        streams.add(context)  # type: ignore[arg-type]
    ended.when_ended()
    streams.end()
    streams.end()
    assert [context.cancelled for context in (ended, open_, late)] == [0, 1, 0]
