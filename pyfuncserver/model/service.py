"""The InferenceService: the one place for which model, what is let in, and who is answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from pyfuncserver.errors import NotReady, ServingError
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.metrics.meters import Meters
from pyfuncserver.model.call import Dialect, ModelRunner, Reply, Request
from pyfuncserver.model.catalogue import NO_MODELS, Catalogue
from pyfuncserver.model.exchange import Desk, Entrance, Exchange, Nowhere

if TYPE_CHECKING:
    from pyfuncserver.model.spans import Spans

NO_MODEL = ""
"""The label of what is asked for and is not served."""
FOREVER_S = 1e9
"""A wait that is longer has no end; the operating system could not count it."""


@dataclass(slots=True)
class Stand:
    """Where one model is served: what runs it, and where its requests wait."""

    runner: ModelRunner | None
    lane: Entrance
    desks: dict[str, Desk] = field(default_factory=dict)
    """By the dialects' names."""


class InferenceService:
    """Answers requests in any dialect with the models of this process. Thread-safe.

    ``stands`` are by the keys of the ``models`` that are served. ``logs_all`` lets a line be logged
    for what was answered well, too; ``spans``, where there are any, has each request traced.
    """

    def __init__(
        self,
        stands: Mapping[str, Stand],
        instruments: Instruments,
        logs_all: bool = False,
        models: Catalogue = NO_MODELS,
        spans: Spans | None = None,
    ) -> None:
        self.models = models
        self._stands = stands
        self._instruments = instruments
        self._logs_all = logs_all
        self._spans = spans
        self._nobodys = Stand(None, Nowhere())

    def submit(
        self, dialect: Dialect, request: Request, deliver: Callable[[Reply], None]
    ) -> Exchange:
        """Have a request answered; ``deliver`` gets the one reply, on any thread, also on this one.

        Never raises, and never waits. Where the lane has a loop, call it on that one's thread: what
        is short is answered there, before this returns.
        """
        exchange = self._exchange(dialect, request, deliver)
        if not exchange.run_on_loop():
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
        found: list[Reply] = []
        exchange = self._exchange(dialect, request, found.append)
        if exchange.run_here():
            return found[0]
        replies: SimpleQueue[Reply] = SimpleQueue()
        exchange.deliver = replies.put
        exchange.enter()
        when_waiting(exchange)
        return _first(replies, exchange, request.deadline)

    def refuse(self, dialect: Dialect, request: Request, failure: ServingError) -> Reply:
        """Count and log a request that a transport does not let in, and give the reply to it."""
        found: list[Reply] = []
        self._exchange(dialect, request, found.append).fail(failure)
        return found[0]

    def cut_streams(self) -> int:
        """End all answers that go on, with an error; give how many these were."""
        desks = [desk for stand in self._stands.values() for desk in tuple(stand.desks.values())]
        streams = [stream for desk in desks for stream in tuple(desk.streams)]
        for stream in streams:
            stream.fail(NotReady("The server stops; the answer ends here, incomplete"))
        return len(streams)

    def _exchange(
        self, dialect: Dialect, request: Request, deliver: Callable[[Reply], None]
    ) -> Exchange:
        stand = self._stands.get(request.model, self._nobodys)
        desk = stand.desks.get(dialect.name) or self._make_desk(stand, request.model, dialect)
        runner = stand.runner
        if self._spans is None:
            return Exchange(desk, runner, request, deliver)
        span = self._spans.begin(dialect.name, request)
        return Exchange(
            desk, None if runner is None else span.runner(runner), request, deliver, span
        )

    def _make_desk(self, stand: Stand, model: str, dialect: Dialect) -> Desk:
        # Whatever is asked for that is not here is counted together.
        label = NO_MODEL if stand is self._nobodys else model
        meters = Meters(self._instruments, label, dialect.name)
        desk = Desk(stand.lane, dialect, meters, self._logs_all, self.models.missing)
        return stand.desks.setdefault(dialect.name, desk)


def _first(replies: SimpleQueue[Reply], exchange: Exchange, deadline: float) -> Reply:
    """Wait for the reply; when the deadline passes, it is that the deadline has passed."""
    left_s = deadline - time.monotonic()
    try:
        return replies.get(timeout=max(0.0, left_s) if left_s < FOREVER_S else None)
    except Empty:
        exchange.expire()
        return replies.get()
