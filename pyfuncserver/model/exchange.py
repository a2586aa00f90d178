"""An exchange: one request, and what becomes of it."""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from pyfuncserver.errors import (
    ClientGone,
    DeadlinePassed,
    InternalError,
    PredictionTimedOut,
    ServingError,
)
from pyfuncserver.metrics.meters import LOOP, THREAD, Meters, Where
from pyfuncserver.model.call import Answer, Call, Dialect, ModelRunner, Parts, Reply, Request
from pyfuncserver.model.pipe import Pipe
from pyfuncserver.utils import logs

if TYPE_CHECKING:
    from pyfuncserver.model.spans import PredictionSpan

log = logging.getLogger(__name__)

OK = 200
BEAT_S = 1.0
"""So often a stream that waits for its client tells that it is not the model who is slow."""

T = TypeVar("T")
Outcome = tuple[Reply, ServingError | None]
"""The reply, and what went wrong, if anything did."""


class Stage(Enum):
    """How far an exchange has come; each only goes on to a later one."""

    NEW = 0
    WAITING = 1
    RUNNING = 2
    STREAMING = 3
    """Its reply has been delivered, and goes on."""
    SETTLED = 4


# An Enum's members cost a search each time before Python 3.12.
NEW, WAITING, RUNNING, STREAMING, SETTLED = Stage


class Entrance(Protocol):
    """A lane, or what stands in the place of one; see :class:`~pyfuncserver.model.lane.Lane`."""

    limit_s: float

    def submit(self, job: Exchange, /) -> None: ...

    def run_here(self, job: Exchange, /) -> bool: ...

    def run_on_loop(self, job: Exchange, /) -> bool: ...

    def forget(self, job: Exchange, /) -> bool: ...

    def restart(self, job: Exchange, /) -> None: ...


class Nowhere:
    """Stands where no model is: nothing enters it."""

    limit_s = 0.0

    def submit(self, _: Exchange, /) -> None:
        raise AssertionError("a request without a model has entered a lane")

    def run_here(self, _: Exchange, /) -> bool:
        return False

    run_on_loop = forget = run_here

    def restart(self, _: Exchange, /) -> None:
        """Do nothing: nothing runs."""


@dataclass(slots=True)
class Desk:
    """What all requests of one dialect for one model have in common."""

    lane: Entrance
    dialect: Dialect
    meters: Meters
    logs_all: bool
    """Whether a line is logged for what was answered well, too."""
    missing: Callable[[str], ServingError]
    """Says why nothing runs the model of this key."""
    streams: set[Exchange] = field(default_factory=set)
    """Those whose replies go on."""


class Exchange:
    """A request on its way to its one reply: the job that a :class:`Lane` runs. Thread-safe.

    Whatever comes first settles it: an answer, a refusal, the client's end, a deadline or a time
    limit. It is counted, logged and delivered then, and what comes later is dropped.

    ``deliver`` gets the reply; it may be changed until the request has entered the lane. A reply in
    parts is delivered with the first one, and what settles the exchange ends it.
    """

    __slots__ = (
        "_arrived_at", "_began_at", "_desk", "_ended_at", "_lock", "_outcome", "_request",
        "_runner", "_stage", "_stream", "_where", "deliver", "needs_thread", "span",
    )  # fmt: skip

    def __init__(
        self,
        desk: Desk,
        runner: ModelRunner | None,
        request: Request,
        deliver: Callable[[Reply], None],
        span: PredictionSpan | None = None,
    ) -> None:
        self._desk = desk
        self._runner = runner
        self._request = request
        self.deliver = deliver
        self._lock = threading.Lock()
        self._stage = NEW
        self._arrived_at = time.monotonic()
        self._where = THREAD
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._outcome: Outcome | None = None
        self._stream: _Stream | None = None
        self.needs_thread = False
        self.span = span
        desk.meters.arrive()

    def enter(self) -> None:
        """Take a place in the lane, or be refused."""
        if self._runner is None:
            self.fail(self._desk.missing(self._request.model))
            return
        self._stage = WAITING
        self._desk.meters.queue()
        try:
            self._desk.lane.submit(self)
        except ServingError as failure:
            self._stage = NEW  # nobody else has it yet
            self._desk.meters.turn_away()
            self.fail(failure)

    def run_here(self) -> bool:
        """Be answered on this thread; False where the lane has to be entered."""
        return self._runner is not None and self._desk.lane.run_here(self)

    def run_on_loop(self) -> bool:
        """Be answered on this thread, the loop's; False where the lane has to be entered."""
        return self._runner is not None and self._desk.lane.run_on_loop(self)

    def abandon(self) -> None:
        """Have no reply, for the client has gone; where it waits, its place is free at once."""
        self._give_up(DeadlinePassed() if self._is_due_for_the_client() else ClientGone())

    def expire(self) -> None:
        """Be told that the deadline has passed; where it waits, its place is free at once."""
        self._give_up(DeadlinePassed())

    def fail(self, failure: ServingError) -> None:
        """Be answered with an error, if not with something else before."""
        token = logs.mark(self._request.id)
        try:
            self._settle(self._desk.dialect.error(failure), failure)
        finally:
            logs.unmark(token)

    def run(self, where: Where) -> None:
        """Hand the request to the model, unless it is settled. See :class:`Lane`."""
        if self._stage is not RUNNING and not self._begin():
            return
        self._where = where
        reply = self._attempt(self._predict)
        if reply is not None:
            self._outcome = reply, None

    def finish(self) -> None:
        """Settle it with what :meth:`run` has brought, or say that this came too late."""
        if self._outcome is None:
            return
        token = logs.mark(self._request.id)
        try:
            if not self._settle(*self._outcome):
                log.warning(
                    "%s %s was answered too late, after %.1f s; the answer is dropped",
                    self._desk.dialect.name, self._request.model,
                    time.monotonic() - self._arrived_at,
                )  # fmt: skip
        finally:
            logs.unmark(token)

    def time_out(self) -> None:
        """Be told that the prediction took too long; it still runs."""
        self.fail(PredictionTimedOut(self._desk.lane.limit_s))

    # As one of several that run together: see batch.Member.

    @property
    def id(self) -> str:
        return self._request.id

    @property
    def arrived_at(self) -> float:
        return self._arrived_at

    @property
    def deadline(self) -> float:
        return self._request.deadline

    def open(self, prepare: Callable[[Call], T]) -> tuple[Call, T] | None:
        """Give the call and what is made of it; None where that fails, or it is settled."""
        if self._stage is SETTLED:
            return None
        return self._attempt(partial(self._decoded, prepare))

    def begin(self) -> bool:
        """Be handed to the model, perhaps again; False where it is too late for that."""
        if self._stage is not RUNNING and not self._begin():
            return False
        began_at = self._attempt(self._start)
        if began_at is None:
            return False
        self._began_at = began_at
        return True

    def answer(self, make: Callable[[], Answer]) -> None:
        """Take what this gives for the answer, or what it raises for the failure."""
        reply = self._attempt(lambda: self._encoded(make()))
        if reply is not None:
            self._outcome = reply, None

    def stream(self, call: Call, beat: Callable[[], None]) -> None:
        """Be answered part by part; ``beat`` is called whenever the model has made one."""
        assert call.parts is not None
        reply = self._attempt(partial(self._flow, call, call.parts, beat))
        if reply is not None:
            self._outcome = reply, None

    def _is_due_for_the_client(self) -> bool:
        """Tell whether a client that goes now does so at its deadline, which it sees before us.

        It counts from when it sent, and gRPC rounds what it sends us up, by at most a hundredth.
        """
        deadline = self._request.deadline
        if deadline == math.inf:
            return False
        return time.monotonic() >= deadline - 0.05 - (deadline - self._arrived_at) / 100

    def _give_up(self, failure: ServingError) -> None:
        if self._stage is not SETTLED:
            self._desk.lane.forget(self)
            self.fail(failure)

    def _begin(self) -> bool:
        with self._lock:
            stage = self._stage
            if stage is SETTLED:
                return False
            self._stage = RUNNING
        if stage is WAITING:
            self._desk.meters.leave_queue(time.monotonic() - self._arrived_at)
        else:
            self._desk.meters.enter_at_once()
        return True

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """Give what this gives; where it fails, that is the outcome, and None is given."""
        token = logs.mark(self._request.id)
        try:
            return work()
        except ServingError as error:
            failure = error
        except BaseException as error:  # ours, or of what a model's own objects do when read
            failure = InternalError(uuid.uuid4().hex)
            log.error("an internal error, error_id=%s", failure.error_id, exc_info=error)
        finally:
            logs.unmark(token)
        self._outcome = self._desk.dialect.error(failure), failure
        return None

    def _predict(self) -> Reply | None:
        assert self._runner is not None
        self._began_at = self._start()
        call = self._desk.dialect.decode(self._request)
        if call.parts is None:
            return self._encoded(self._runner.predict(call))
        self.needs_thread = True
        if self._where is LOOP:
            return None
        return self._flow(call, call.parts, partial(self._desk.lane.restart, self))

    def _flow(self, call: Call, parts: Parts, beat: Callable[[], None]) -> Reply | None:
        """Hand over what the model makes, no faster than the client reads.

        Give the reply that ends it, or None where it has been settled meanwhile.
        """
        assert self._runner is not None
        stream = _Stream(parts)
        with closing(self._runner.stream(call)) as chunks:
            for chunk in chunks:
                part = parts.part(chunk)
                if time.monotonic() >= self._request.deadline:
                    raise DeadlinePassed
                if not self._open_stream(stream):
                    return None
                stream.pipe.put(part)
                self._desk.meters.note_part()
                if not self._is_read(stream.pipe, beat):
                    return None
        return stream.end(None) if self._open_stream(stream) else None

    def _open_stream(self, stream: _Stream) -> bool:
        """Deliver the reply, unless that has been done; False where it is settled."""
        with self._lock:
            if self._stage is not RUNNING:
                return self._stage is STREAMING
            self._stage, self._stream, deliver = STREAMING, stream, self.deliver
            self._desk.streams.add(self)
        deliver(stream.beginning())
        return True

    def _is_read(self, pipe: Pipe, beat: Callable[[], None]) -> bool:
        """Wait for the client to read; False where the stream has ended meanwhile.

        That is not the model's time, which begins anew.
        """
        limit_s = self._desk.lane.limit_s
        while not pipe.wait_for_room(min(BEAT_S, limit_s / 2) if limit_s else BEAT_S):
            beat()
        beat()
        return not pipe.is_ended

    def _encoded(self, answer: Answer) -> Reply:
        reply = self._desk.dialect.encode(answer)
        self._ended_at = time.monotonic()
        if self._ended_at >= self._request.deadline:
            raise DeadlinePassed
        return reply

    def _decoded(self, prepare: Callable[[Call], T]) -> tuple[Call, T]:
        call = self._desk.dialect.decode(self._request)
        return call, prepare(call)

    def _start(self) -> float:
        """Give the time at which the model is to have the request. Raises: if it is not to."""
        request, limit_s, now = self._request, self._desk.lane.limit_s, time.monotonic()
        if now >= request.deadline:
            raise DeadlinePassed
        if limit_s and now - self._arrived_at >= limit_s:
            raise DeadlinePassed  # it has waited for longer than it might have run
        if not request.is_wanted():
            raise ClientGone
        return now

    def _settle(self, reply: Reply, failure: ServingError | None) -> bool:
        """Let this be what became of it; False where that is settled."""
        with self._lock:
            stage, self._stage = self._stage, SETTLED
        if stage is SETTLED:
            return False
        if stage is STREAMING:
            reply = self._end_stream(failure)
        elif failure is not None and failure.retry_after_s is not None:
            reply = replace(reply, retry_after_s=failure.retry_after_s)
        try:
            if stage is WAITING:
                self._desk.meters.leave_queue(time.monotonic() - self._arrived_at)
            self._count(reply, failure)
        finally:
            self.deliver(reply)
        return True

    def _end_stream(self, failure: ServingError | None) -> Reply:
        """Give the last part in the place of a reply, for a reply has been delivered."""
        assert self._stream is not None
        self._desk.streams.discard(self)
        self.deliver = self._stream.take_end
        return self._stream.end(failure)

    def _count(self, reply: Reply, failure: ServingError | None) -> None:
        desk, began_at = self._desk, self._began_at
        now = self._ended_at or time.monotonic()
        ran = None if began_at is None else (self._where, now - began_at)
        desk.meters.settle(reply.status, None if failure is None else failure.kind.label, ran)
        if self.span is not None:
            self.span.end(reply.status, failure)
        if failure is None and not desk.logs_all:
            return
        log.info(
            "%s %s status=%s in %.1f ms%s",
            desk.dialect.name, self._request.model, reply.status,
            (now - (began_at or self._arrived_at)) * 1000,
            "" if failure is None else f": {failure}",
        )  # fmt: skip


class _Stream:
    """A reply that goes on: how its parts are written, and what takes them to the client."""

    __slots__ = ("_parts", "pipe")

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.pipe = Pipe()

    def beginning(self) -> Reply:
        parts = self._parts
        return Reply(
            b"", OK, content_type=parts.content_type, headers=parts.headers, stream=self.pipe
        )

    def end(self, failure: ServingError | None) -> Reply:
        """Give the last part; the status is that of the beginning, whatever has failed."""
        return Reply(self._parts.end() if failure is None else self._parts.error(failure), OK)

    def take_end(self, reply: Reply) -> None:
        self.pipe.end(reply.body)
