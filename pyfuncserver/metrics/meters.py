"""Meters: what is counted of each request, at the price of a few additions.

Our instruments stay ``prometheus_client``'s; here their cells are written without it, those of one
step under one lock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from enum import Enum
from typing import Any

from pyfuncserver.metrics.instruments import LATENCY_BUCKETS_S, Instruments
from pyfuncserver.metrics.values import LOCK, Value


class Where(Enum):
    """Where a prediction runs."""

    LOOP = "loop"
    """On the thread that serves the clients, who wait meanwhile."""
    THREAD = "thread"
    """On a thread that may take its time."""


# An Enum's members cost a search each time before Python 3.12.
LOOP, THREAD = Where


class Meters:
    """One model's figures in one dialect. Thread-safe."""

    def __init__(self, instruments: Instruments, model: str, dialect: str) -> None:
        who = (model, dialect)
        self._in_flight = _value(instruments.in_flight.labels(*who))
        self._waiting = _value(instruments.waiting.labels(*who))
        self._wait = _Times(instruments.wait.labels(*who))
        self._duration = _Times(instruments.duration.labels(*who))
        self._on_loop, self._on_thread = (
            _value(instruments.predictions.labels(*who, where.value)) for where in Where
        )
        self._parts = _value(instruments.parts.labels(*who))
        self._answered = _ByLabel(lambda status: instruments.requests.labels(*who, status))
        self._errors = _ByLabel(lambda kind: instruments.errors.labels(*who, kind))

    def arrive(self) -> None:
        """Count a request that is there from now on."""
        in_flight = self._in_flight
        with LOCK:
            in_flight.cells[in_flight.index] += 1.0

    def queue(self) -> None:
        """Count one that waits for its turn from now on."""
        self._waiting.inc(1.0)

    def turn_away(self) -> None:
        """Count one as not waiting after all: there was no place."""
        self._waiting.inc(-1.0)

    def leave_queue(self, waited_s: float) -> None:
        """Count one that had waited, and does not any more."""
        waiting, wait = self._waiting, self._wait
        with LOCK:
            waiting.cells[waiting.index] -= 1.0
            wait.add(waited_s)

    def enter_at_once(self) -> None:
        """Count one that did not have to wait."""
        with LOCK:
            self._wait.add_none()

    def note_part(self) -> None:
        """Count a part of a streamed answer."""
        self._parts.inc(1.0)

    def settle(
        self, status: int | str, failure: str | None, ran: tuple[Where, float] | None
    ) -> None:
        """Count one that has its reply, and where it ran for how many seconds, if it did."""
        in_flight, answered = self._in_flight, self._answered[status]
        error = None if failure is None else self._errors[failure]
        with LOCK:
            in_flight.cells[in_flight.index] -= 1.0
            answered.cells[answered.index] += 1.0
            if error is not None:
                error.cells[error.index] += 1.0
            if ran is not None:
                where, took_s = ran
                begun = self._on_loop if where is LOOP else self._on_thread
                begun.cells[begun.index] += 1.0
                self._duration.add(took_s)


class _Times:
    """A histogram of seconds; :data:`LOCK` has to be held."""

    __slots__ = ("_buckets", "_sum")

    def __init__(self, histogram: Any) -> None:
        # In these files each bucket has what is in none below; the exposition adds them up.
        self._buckets: list[Value] = histogram._buckets
        self._sum: Value = histogram._sum

    def add_none(self) -> None:
        """Add a time of no seconds."""
        bucket = self._buckets[0]
        bucket.cells[bucket.index] += 1.0

    def add(self, seconds: float) -> None:
        bucket, total = self._buckets[bisect_left(LATENCY_BUCKETS_S, seconds)], self._sum
        bucket.cells[bucket.index] += 1.0
        total.cells[total.index] += seconds


class _ByLabel(dict[int | str, Value]):
    """Counters by the value of a label, made when they are first asked for."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, label: int | str) -> Value:
        return self.setdefault(label, _value(self._make(str(label))))


def _value(child: Any) -> Value:
    value = child._value
    assert isinstance(value, Value)
    return value
