"""Threads for gRPC's calls, counted, and the streams that outlive any prediction."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

log = logging.getLogger(__name__)

T = TypeVar("T")


class CallPool(ThreadPoolExecutor):
    """A pool that knows whether all its threads are taken, which are made when they are needed.

    A call takes its thread before its message has come, so clients that never send one could take
    them all; see :class:`Receptions`.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, thread_name_prefix="grpc-call")
        self._size = size
        self._open = 0
        self._count_lock = threading.Lock()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Tell whether all calls have ended; a thread is free a moment after its call's end."""
        deadline = time.monotonic() + timeout_s
        while self._open and time.monotonic() < deadline:
            time.sleep(timeout_s / 10)
        return not self._open

    @property
    def is_full(self) -> bool:
        return self._open >= self._size

    @property
    def is_crowded(self) -> bool:
        """Tell whether so many calls are open that those who send nothing have to make room."""
        return self._open >= self._size / 2

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        with self._count_lock:
            self._open += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._end)
        return future

    def _end(self, _: Future[Any]) -> None:
        with self._count_lock:
            self._open -= 1

    def _adjust_thread_count(self) -> None:
        """Make a thread, if there can be one: where it cannot, gRPC's own thread would end."""
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            log.error("no thread for a call, which waits for one of the others: %s", error)


class Receptions:
    """Waits for calls' messages, each no longer than ``timeout_s``; then the call is cancelled."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._due: dict[grpc.ServicerContext, float] = {}
        self._lock = threading.Lock()
        self._is_watched = False

    def receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """Give a call's message. Raises: what gRPC makes of a call without one."""
        with self._lock:
            self._due[context] = time.monotonic() + self._timeout_s
            if not self._is_watched:
                self._is_watched = self._start_watching()
        try:
            message = next(messages, None)
        finally:
            with self._lock:
                del self._due[context]
        if message is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "a call needs a message")
        return message

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
