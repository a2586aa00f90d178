"""An exchange: one request, and what becomes of it."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import lru_cache, partial

from pyfuncserver.errors import (
    ClientGone,
    DeadlinePassed,
    InternalError,
    PredictionTimedOut,
    ServingError,
    UnknownModel,
)
from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Dialect, ModelRunner, Reply, Request
from pyfuncserver.model.lane import Lane
from pyfuncserver.utils import logs

log = logging.getLogger(__name__)

Outcome = tuple[Reply, ServingError | None]
"""The reply, and what went wrong, if anything did."""


class Meters:
    """One dialect's instruments, looked up once instead of at each request."""

    def __init__(self, instruments: Instruments, dialect: str) -> None:
        self.in_flight = instruments.in_flight.labels(dialect)
        self.waiting = instruments.waiting.labels(dialect)
        self.wait = instruments.wait.labels(dialect)
        self.duration = instruments.duration.labels(dialect)
        self.requests = lru_cache(partial(instruments.requests.labels, dialect))
        self.errors = lru_cache(partial(instruments.errors.labels, dialect))


class Stage(Enum):
    """How far an exchange has come; each only goes on to a later one."""

    NEW = 0
    WAITING = 1
    RUNNING = 2
    SETTLED = 3


class Exchange:
    """A request on its way to its one reply: the job that a :class:`Lane` runs. Thread-safe.

    Whatever comes first settles it: an answer, a refusal, the client's end, a deadline or a time
    limit. It is counted, logged and delivered then, and what comes later is dropped.
    """

    def __init__(
        self,
        lane: Lane,
        runner: ModelRunner | None,
        meters: Meters,
        dialect: Dialect,
        request: Request,
        deliver: Callable[[Reply], None],
    ) -> None:
        self._lane = lane
        self._runner = runner
        self._meters = meters
        self._dialect = dialect
        self._request = request
        self._deliver = deliver
        self._lock = threading.Lock()
        self._stage = Stage.NEW
        self._arrived_at = time.monotonic()
        self._began_at: float | None = None
        self._outcome: Outcome | None = None
        meters.in_flight.inc()

    def enter(self) -> None:
        """Take a place in the lane, or be refused."""
        if self._runner is None:
            self.fail(UnknownModel(self._request.model))
            return
        self._stage = Stage.WAITING
        self._meters.waiting.inc()
        try:
            self._lane.submit(self)
        except ServingError as failure:
            self._stage = Stage.NEW  # nobody else has it yet
            self._meters.waiting.dec()
            self.fail(failure)

    def run_here(self) -> bool:
        """Be answered on this thread; False where the lane has to be entered."""
        return self._runner is not None and self._lane.run_here(self)

    def abandon(self) -> None:
        """Have no reply, for the client has gone; where it waits, its place is free at once."""
        self._give_up(DeadlinePassed() if self._is_due_for_the_client() else ClientGone())

    def expire(self) -> None:
        """Be told that the deadline has passed; where it waits, its place is free at once."""
        self._give_up(DeadlinePassed())

    def fail(self, failure: ServingError) -> None:
        """Be answered with an error, if not with something else before."""
        with logs.request(self._request.id):
            self._settle((self._dialect.error(failure), failure))

    def run(self) -> None:
        """Hand the request to the model, unless it is settled. See :class:`Lane`."""
        if not self._begin():
            return
        with logs.request(self._request.id):
            self._outcome = self._answer()

    def finish(self) -> None:
        """Settle it with what :meth:`run` has brought, or say that this came too late."""
        if self._outcome is None:
            return
        with logs.request(self._request.id):
            if not self._settle(self._outcome):
                log.warning(
                    "%s %s was answered too late, after %.1f s; the answer is dropped",
                    self._dialect.name, self._request.model, time.monotonic() - self._arrived_at,
                )  # fmt: skip

    def time_out(self) -> None:
        """Be told that the prediction took too long; it still runs."""
        self.fail(PredictionTimedOut(self._lane.limit_s))

    def _is_due_for_the_client(self) -> bool:
        """Tell whether a client that goes now does so at its deadline, which it sees before us.

        It counts from when it sent, and gRPC rounds what it sends us up, by at most a hundredth.
        """
        deadline = self._request.deadline
        if deadline == math.inf:
            return False
        return time.monotonic() >= deadline - 0.05 - (deadline - self._arrived_at) / 100

    def _give_up(self, failure: ServingError) -> None:
        if self._stage is not Stage.SETTLED:
            self._lane.forget(self)
            self.fail(failure)

    def _begin(self) -> bool:
        with self._lock:
            if self._stage is Stage.SETTLED:
                return False
            was_waiting = self._stage is Stage.WAITING
            self._stage = Stage.RUNNING
        self._leave_queue(was_waiting)
        return True

    def _leave_queue(self, was_waiting: bool) -> None:
        if was_waiting:
            self._meters.waiting.dec()
        self._meters.wait.observe(time.monotonic() - self._arrived_at)

    def _answer(self) -> Outcome:
        try:
            return self._predict(), None
        except ServingError as error:
            failure = error
        except BaseException as error:  # ours, or of what a model's own objects do when read
            failure = InternalError(uuid.uuid4().hex)
            log.error("an internal error, error_id=%s", failure.error_id, exc_info=error)
        return self._dialect.error(failure), failure

    def _predict(self) -> Reply:
        assert self._runner is not None
        self._check_deadline()
        if self._lane.limit_s and time.monotonic() - self._arrived_at >= self._lane.limit_s:
            raise DeadlinePassed  # it has waited for longer than it might have run
        if not self._request.is_wanted():
            raise ClientGone
        self._began_at = time.monotonic()
        reply = self._dialect.encode(self._runner.predict(self._dialect.decode(self._request)))
        self._check_deadline()
        return reply

    def _check_deadline(self) -> None:
        if time.monotonic() >= self._request.deadline:
            raise DeadlinePassed

    def _settle(self, outcome: Outcome) -> bool:
        """Let this be what became of it; False where that is settled."""
        with self._lock:
            stage, self._stage = self._stage, Stage.SETTLED
        if stage is Stage.SETTLED:
            return False
        reply, failure = outcome
        if failure is not None and failure.retry_after_s is not None:
            reply = replace(reply, retry_after_s=failure.retry_after_s)
        try:
            if stage is Stage.WAITING:
                self._leave_queue(was_waiting=True)
            self._count(reply, failure)
        finally:
            self._deliver(reply)
        return True

    def _count(self, reply: Reply, failure: ServingError | None) -> None:
        meters, now = self._meters, time.monotonic()
        meters.in_flight.dec()
        meters.requests(str(reply.status)).inc()
        if failure is not None:
            meters.errors(failure.kind.label).inc()
        if self._began_at is not None:
            meters.duration.observe(now - self._began_at)
        took_s = now - (self._began_at or self._arrived_at)
        log.info(
            "%s %s status=%s in %.1f ms%s",
            self._dialect.name, self._request.model, reply.status, took_s * 1000,
            "" if failure is None else f": {failure}",
        )  # fmt: skip
