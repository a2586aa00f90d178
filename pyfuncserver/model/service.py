"""The InferenceService: the one place for which model, what is let in, and who is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue

from pyfuncserver.errors import ServingError
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Dialect, ModelRunner, Reply, Request
from pyfuncserver.model.exchange import Exchange, Meters
from pyfuncserver.model.lane import Lane

FOREVER_S = 1e9
"""A wait that is longer has no end; the operating system could not count it."""


class InferenceService:
    """Answers requests in any dialect with the models of this process. Thread-safe."""

    def __init__(
        self, runners: Mapping[str, ModelRunner], instruments: Instruments, lane: Lane
    ) -> None:
        self._runners = runners
        self._instruments = instruments
        self._lane = lane
        self._meters: dict[str, Meters] = {}

    @property
    def answered(self) -> int:
        """How many requests have had their turn so far."""
        return self._lane.started

    def submit(
        self, dialect: Dialect, request: Request, deliver: Callable[[Reply], None]
    ) -> Exchange:
        """Have a request answered; ``deliver`` gets the one reply, on any thread, also on this one.

        Never raises, and never waits.
        """
        exchange = self._exchange(dialect, request, deliver)
        exchange.enter()
        return exchange

    def handle(
        self,
        dialect: Dialect,
        request: Request,
        when_waiting: Callable[[Exchange], None] = lambda _: None,
    ) -> Reply:
        """Answer a request, and wait for it; never raises.

        ``when_waiting`` is called where that is not done at once on this thread.
        """
        replies: SimpleQueue[Reply] = SimpleQueue()
        exchange = self._exchange(dialect, request, replies.put)
        if not exchange.run_here():
            exchange.enter()
            when_waiting(exchange)
        return _first(replies, exchange, request.deadline)

    def refuse(self, dialect: Dialect, request: Request, failure: ServingError) -> Reply:
        """Count and log a request that a transport does not let in, and give the reply to it."""
        replies: SimpleQueue[Reply] = SimpleQueue()
        self._exchange(dialect, request, replies.put).fail(failure)
        return replies.get_nowait()

    def _exchange(
        self, dialect: Dialect, request: Request, deliver: Callable[[Reply], None]
    ) -> Exchange:
        meters = self._meters.get(dialect.name)
        if meters is None:
            meters = self._meters.setdefault(dialect.name, Meters(self._instruments, dialect.name))
        runner = self._runners.get(request.model)
        return Exchange(self._lane, runner, meters, dialect, request, deliver)


def _first(replies: SimpleQueue[Reply], exchange: Exchange, deadline: float) -> Reply:
    """Wait for the reply; when the deadline passes, it is that the deadline has passed."""
    left_s = deadline - time.monotonic()
    try:
        return replies.get(timeout=max(0.0, left_s) if left_s < FOREVER_S else None)
    except Empty:
        exchange.expire()
        return replies.get()
