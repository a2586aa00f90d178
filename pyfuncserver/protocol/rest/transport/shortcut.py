"""A prediction that is taken past the application, from its head to its one write."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from pyfuncserver.errors import ServingError, Unauthenticated
from pyfuncserver.model import call
from pyfuncserver.model.call import Reply
from pyfuncserver.model.exchange import Exchange
from pyfuncserver.model.pipe import Pipe
from pyfuncserver.protocol import request_id
from pyfuncserver.protocol.rest.prediction import AUTHORIZATION, CHALLENGE, Route, phrase
from pyfuncserver.protocol.rest.transport.streaming import CHUNKED, Outflow, is_chunked

if TYPE_CHECKING:
    from pyfuncserver.protocol.rest.transport.native import HttpConnection

log = logging.getLogger(__name__)

_ID = b"x-request-id"
_TIMEOUT = b"x-request-timeout"
_AUTHORIZATION = b"authorization"
_CHALLENGE = b"%b: %b\r\n" % tuple(text.encode() for text in CHALLENGE)
_LAST = b"Connection: close\r\n"


class Shortcut:
    """See :class:`~.native.Request`."""

    __slots__ = (
        "_body", "_connection", "_deadline", "_exchange", "_head", "_id", "_outflow", "_route",
        "_timer",
    )  # fmt: skip

    def __init__(self, connection: HttpConnection, route: Route) -> None:
        self._connection = connection
        self._head = connection.head  # the connection may go on to another, and this one run
        self._route = route
        self._id = request_id.take_or_make(self._head.get(_ID))
        self._deadline = math.inf
        self._exchange: Exchange | None = None
        self._body = bytearray()
        """What has come of it; not a list of parts, which may be as many as it has bytes."""
        self._timer: asyncio.TimerHandle | None = None
        self._outflow: Outflow | None = None

    def begin(self) -> bool:
        head, route = self._head, self._route
        try:
            self._deadline = route.admit(head.get(_AUTHORIZATION), head.get(_TIMEOUT))
        except ServingError as failure:
            extra = _CHALLENGE if isinstance(failure, Unauthenticated) else b""
            self._send(route.refuse(route.model, self._id, failure, self._headers), extra)
            return False
        return True

    def take(self, part: bytes) -> None:
        self._body += part

    def end(self, part: bytes) -> None:
        body = part
        if self._body:
            self._body += part
            body, self._body = bytes(self._body), bytearray()
        request = call.Request(
            self._route.model,
            body,
            self._id,
            self._headers,
            self._head.found.get,
            deadline=self._deadline,
        )
        self._exchange = exchange = self._route.submit(request, self._deliver)
        if self._deadline < math.inf and self._connection.is_answering(self):
            loop = asyncio.get_running_loop()
            left_s = self._deadline - time.monotonic()
            self._timer = loop.call_later(left_s, exchange.expire)

    def resume(self) -> None:
        """Go on, unless the answer is one write."""
        if self._outflow is not None:
            self._outflow.resume()

    def abandon(self) -> None:
        self._stop_timer()
        if self._outflow is not None:
            self._outflow.abandon()
        if self._exchange is not None:
            self._exchange.abandon()

    def _headers(self) -> dict[str, str]:
        headers = self._head.as_dict()
        if self._route.tokens is not None:
            headers.pop(AUTHORIZATION, None)
        return headers

    def _deliver(self, reply: Reply) -> None:
        """Take the reply, on any thread."""
        hub = self._connection.hub
        if threading.get_ident() == hub.thread:
            self._send(reply)
            return
        assert hub.loop is not None
        try:
            hub.loop.call_soon_threadsafe(self._send, reply)
        except RuntimeError as error:  # the loop has ended before the prediction has
            log.debug("request_id=%s: nobody takes the answer: %s", self._id, error)

    def _send(self, reply: Reply, extra: bytes = b"") -> None:
        connection = self._connection
        if not connection.is_answering(self):
            return
        if reply.stream is not None:
            self._send_stream(reply, reply.stream)
            return
        self._stop_timer()
        if reply.retry_after_s is not None:
            extra += b"Retry-After: %d\r\n" % reply.retry_after_s
        if connection.begin_answer():
            extra += _LAST
        for name, value in reply.headers:
            extra += f"{name}: {value}\r\n".encode("latin-1")
        content_type = reply.content_type or self._route.content_type
        beginning = _beginning(int(reply.status), reply.reason, content_type)
        rest = (connection.hub.date, self._id.encode(), len(reply.body), extra, reply.body)
        connection.write(
            b"%bDate: %b\r\nX-Request-Id: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (beginning, *rest)
        )
        connection.finish()

    def _send_stream(self, reply: Reply, stream: Pipe) -> None:
        """Send the head, and then what comes, until the stream or the deadline ends it."""
        connection = self._connection
        has_chunks = is_chunked(connection)
        extra = CHUNKED if has_chunks else b""
        if connection.begin_answer(ends_by_closing=not has_chunks):
            extra += _LAST
        for name, value in reply.headers:
            extra += f"{name}: {value}\r\n".encode("latin-1")
        beginning = _beginning(int(reply.status), reply.reason, reply.content_type)
        rest = (connection.hub.date, self._id.encode(), extra)
        connection.write(b"%bDate: %b\r\nX-Request-Id: %b\r\n%b\r\n" % (beginning, *rest))
        self._outflow = Outflow(connection, stream, self._stop_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@lru_cache(maxsize=256)
def _beginning(status: int, reason: str, content_type: str) -> bytes:
    line = f"HTTP/1.1 {status} {phrase(status, reason)}\r\nContent-Type: {content_type}\r\n"
    return line.encode("latin-1")
