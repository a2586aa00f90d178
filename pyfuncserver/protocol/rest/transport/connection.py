"""What every HTTP transport has: connections that keep to limits, and an order to end them in."""

from __future__ import annotations

import http
import re
import socket
import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from pyfuncserver.config import Config
from pyfuncserver.protocol.rest import framing, shapes

PIPELINE_S = 1.0
BEGINNING = 512
"""Bytes of a head that are enough to tell its method, and the dialect of its path."""
_METHOD_AND_TARGET = re.compile(rb"[\r\n]*([^ \r\n]+) (?:([^ \r\n]+) )?")


@dataclass(frozen=True)
class Limits:
    """What clients may send, and how long they may take."""

    max_body_size: int
    max_header_size: int
    keep_alive_s: float
    request_timeout_s: float

    @classmethod
    def of(cls, config: Config) -> Limits:
        return cls(
            config.max_body_size,
            config.max_header_size,
            config.keep_alive_sec,
            config.request_timeout_sec,
        )


class Phase(Enum):
    """How far a connection's request has come."""

    WAITING = auto()
    """Not a byte of it is there."""
    HEAD = auto()
    BODY = auto()
    RUNNING = auto()
    """All of it is there, and none of its answer."""
    ANSWERED = auto()
    """Its answer is being sent."""


class Connection(Protocol):
    """One client's connection, as the front sees it."""

    phase: Phase
    since: float
    """When the phase began; of HEAD and BODY, when the request's first byte came."""

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing has come, also nothing that a busy loop has not read yet."""

    @property
    def is_busy(self) -> bool: ...

    @property
    def taken(self) -> int:
        """Bytes that were received and read as requests."""

    def arrived(self) -> int:
        """Count the bytes that have come so far; with TLS, rather more than those."""

    def has_more(self) -> bool:
        """Tell whether bytes of a further request have come."""

    def closed(self) -> bool: ...

    def close(self) -> None: ...

    def sweep(self, now: float) -> None:
        """Close it if it has taken its time."""


class Connections:
    """The connections of one transport, and what each may still expect while it drains."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.is_draining = False
        self._drained_at = 0.0
        self._promised: dict[Connection, int] = {}

    def add(self, connection: Connection) -> None:
        self.open.add(connection)

    def discard(self, connection: Connection) -> None:
        self.open.discard(connection)
        self._promised.pop(connection, None)

    def start_draining(self) -> None:
        """Answer from now on what has come, and nothing that comes much later."""
        self.is_draining = True
        self._drained_at = time.monotonic()
        self._promised = {one: one.arrived() for one in self.open if not one.closed()}

    def may_go_on(self, connection: Connection) -> bool:
        """Tell whether a request behind the one at hand will be answered too."""
        if not connection.has_more():
            return False
        is_early = not self.is_draining or time.monotonic() < self._drained_at + PIPELINE_S
        return is_early or connection.taken < self._promised.get(connection, 0)

    def longest_idle(self) -> Connection | None:
        """Give who has waited longest: without a request, or else with a part of its head."""
        waiting = (one for one in self.open if one.phase in (Phase.WAITING, Phase.HEAD))
        still_open = (one for one in waiting if not one.closed())
        return min(still_open, key=lambda one: (one.phase is Phase.HEAD, one.since), default=None)

    def sweep(self) -> None:
        """Close what has taken its time."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.sweep(now)


class Transport(Protocol):
    """Makes connections of accepted sockets. For one loop, and not thread-safe."""

    connections: Connections

    def adopt(self, accepted: socket.socket, address: Any) -> None:
        """Serve a connection that was just accepted. Raises: OSError where it is lost already."""

    def sweep(self) -> None:
        """Do what is due now and then."""

    @property
    def leaving(self) -> int:
        """How many connections wait for nothing but their client's goodbye."""

    async def close(self) -> None:
        """Close all that is open; what was answered is still sent."""

    def cut(self) -> None:
        """Forget those that still leave."""


def refusal(refused: framing.Refused, beginning: bytes) -> bytes:
    """Write the answer to a request that got no further than its framing.

    ``beginning`` is that of its head, as far as there is one; the path in it tells the dialect.
    """
    found = _METHOD_AND_TARGET.match(beginning)
    method, target = found.groups(b"") if found is not None else (b"", b"")
    path = framing.origin_form(target.decode("latin-1")).partition("?")[0]
    shape = shapes.shape_of(path)
    body = shape.body(refused.status, refused.reason)
    lines = (
        f"HTTP/1.1 {refused.status} {http.HTTPStatus(refused.status).phrase}",
        f"Content-Type: {shape.content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if method == b"HEAD" else head + body
