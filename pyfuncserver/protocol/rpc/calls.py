"""gRPC's calls, counted; those without a message; and the streams that outlive any prediction."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from pyfuncserver.protocol.rpc.arrival import Arrival, arrival_of

log = logging.getLogger(__name__)

T = TypeVar("T")


class CallPool(ThreadPoolExecutor):
    """What grpcio submits its calls to: it counts them, and hands them on as they arrive.

    grpcio's thread that polls calls :meth:`submit`. Where the call cannot be told from the work
    (see :mod:`~pyfuncserver.protocol.rpc.arrival`) it has a thread of this pool.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, thread_name_prefix="grpc-call")
        self.take: Callable[[Arrival], None] | None = None
        """Takes a call that has arrived, on the thread that polls."""
        self._size = size
        self._open = 0
        self._count_lock = threading.Lock()

    @property
    def open(self) -> int:
        """How many calls have come and have not ended."""
        return self._open

    @property
    def is_full(self) -> bool:
        return self._open >= self._size

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        with self._count_lock:
            self._open += 1
        arrival = None if self.take is None else arrival_of((fn, *args))
        if arrival is None or self.take is None:
            future = super().submit(fn, *args, **kwargs)
            future.add_done_callback(self.end)
            return future
        self.take(arrival)
        # grpcio only counts by it, and only where it is told how many calls there may be.
        return None  # type: ignore[return-value]

    def end(self, _: object = None) -> None:
        """Note the end of a call that was taken; of others it is noted here."""
        with self._count_lock:
            self._open -= 1

    def _adjust_thread_count(self) -> None:
        """Make a thread, if there can be one: where it cannot, gRPC's own thread would end."""
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            log.error("no thread for a call, which waits for one of the others: %s", error)


class Threads:
    """At most ``size`` threads, none of which has a queue; the last to rest is the first to work.

    A few warm threads do the work of many clients so: waking whichever rests longest costs a third
    more CPU a call (measured around an echo). They are daemons, made when they are needed.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._made = 0
        self._resting: list[_Seat] = []
        self._lock = threading.Lock()

    def run(self, job: Callable[[], None]) -> bool:
        """Have a job done, on another thread; False where none is free."""
        with self._lock:
            if self._resting:
                seat = self._resting.pop()
                seat.job = job
                seat.bell.release()
                return True
            if self._made >= self._size:
                return False
            self._made += 1
        return self._make(job)

    def _make(self, job: Callable[[], None]) -> bool:
        try:
            threading.Thread(target=self._serve, args=(job,), name="grpc-call", daemon=True).start()
        except RuntimeError as error:
            log.error("no thread for a call, which waits for one of the others: %s", error)
            with self._lock:
                self._made -= 1
            return False
        return True

    def _serve(self, job: Callable[[], None] | None) -> None:
        seat = _Seat()
        while True:
            try:
                if job is not None:
                    job()
            except BaseException:
                log.exception("a call's thread met what the call should have answered")
            seat.job = job = None  # nothing of a call outlives it
            with self._lock:
                self._resting.append(seat)
            seat.bell.acquire()
            job = seat.job


class _Seat:
    """Where a thread rests: who gives it a job rings the bell."""

    __slots__ = ("bell", "job")

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.job: Callable[[], None] | None = None


class Receptions:
    """Calls that wait for their messages; after ``timeout_s`` such a call is cancelled."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._due: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._is_watched = False

    def __len__(self) -> int:
        return len(self._due)

    def begin(self, context: grpc.ServicerContext) -> None:
        """Let a call wait from now on."""
        with self._lock:
            self._due[context] = time.monotonic() + self._timeout_s
            if not self._is_watched:
                self._is_watched = self._start_watching()

    def end(self, context: grpc.ServicerContext) -> None:
        """Note that a call's message has come, or will not come any more."""
        with self._lock:
            del self._due[context]

    def receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Wait for a call's message on this thread. Raises: what gRPC makes of a call's end."""
        self.begin(context)
        try:
            return next(messages, None)
        finally:
            self.end(context)

    def _start_watching(self) -> bool:
        try:
            threading.Thread(target=self._watch, name="receptions", daemon=True).start()
        except RuntimeError as error:  # the next call brings the next attempt
            log.error("no thread to watch calls whose message does not come: %s", error)
            return False
        return True

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._timeout_s / 4))
            with self._lock:
                now = time.monotonic()
                late = [context for context, due in self._due.items() if due < now]
            for context in late:
                log.debug("a call's message did not come within %g s", self._timeout_s)
                context.cancel()


class Streams:
    """Calls that stay open as long as their clients like, and would hold up the server's end."""

    def __init__(self) -> None:
        self._open: set[grpc.ServicerContext] = set()
        self._lock = threading.Lock()

    def add(self, context: grpc.ServicerContext) -> None:
        """Remember a call until it ends."""
        with self._lock:
            self._open.add(context)
        if not context.add_callback(lambda: self._forget(context)):
            self._forget(context)

    def end(self) -> None:
        """Cancel all that are open."""
        with self._lock:
            contexts = list(self._open)
        for context in contexts:
            context.cancel()

    def _forget(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open.discard(context)
