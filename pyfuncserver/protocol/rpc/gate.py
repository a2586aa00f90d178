"""The gate: answers wait there for the moment in which a gRPC server begins to shut down."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Gate:
    """Holds answers back for the moment in which the server begins to shut down.

    gRPC cancels calls that arrive after its shutdown began and before the client has seen GOAWAY.
    A client that waits for an answer sends no such call, so answers wait at the gate until nothing
    has arrived for a while; they go out after GOAWAY, and the clients' next calls go elsewhere.
    """

    QUIET_S = 0.05
    LONGEST_S = 1.0

    def __init__(self) -> None:
        self._is_open = True
        self._held: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._last_arrival = time.monotonic()

    def arrive(self) -> None:
        """Note that a call has come; on the thread that takes calls from the wire."""
        self._last_arrival = time.monotonic()

    def pass_through(self, send: Callable[[], None]) -> None:
        """Let an answer go, now or when the gate opens; never waits."""
        if not self._is_open:
            with self._lock:
                if not self._is_open:
                    self._held.append(send)
                    return
        send()

    def wait(self) -> None:
        """Wait until an answer may go, for callers that have a thread of their own."""
        opened = threading.Event()
        self.pass_through(opened.set)
        opened.wait(3 * self.LONGEST_S)

    def close(self) -> None:
        """Hold answers from now on; return when no call has come for a while."""
        self._is_open = False
        now = time.monotonic()
        deadline, self._last_arrival = now + self.LONGEST_S, now
        while (quiet_at := self._last_arrival + self.QUIET_S) > now and now < deadline:
            time.sleep(min(quiet_at, deadline) - now)
            now = time.monotonic()

    def open(self) -> None:
        with self._lock:
            self._is_open = True
            held, self._held = self._held, []
        for send in held:
            send()
