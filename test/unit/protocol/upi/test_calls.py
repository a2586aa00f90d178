from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pyfuncserver.protocol.upi.calls import CallPool, Streams

WAIT_S = 10


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
