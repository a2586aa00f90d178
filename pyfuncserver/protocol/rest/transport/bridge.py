"""Tornado's side of our transport: the application serves a request over it as over its own."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# Tornado imports it at the first request, when there may be no descriptor left to do so with.
import tornado.platform.asyncio  # noqa: F401
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from pyfuncserver.protocol.rest import framing

if TYPE_CHECKING:
    from pyfuncserver.protocol.rest.transport.native import HttpConnection

log = logging.getLogger(__name__)


class Context:
    """What Tornado wants to know of the connection itself."""

    def __init__(self, remote_ip: str, protocol: str) -> None:
        self.remote_ip = remote_ip
        self.protocol = protocol
        self.address_family = None
        self.address = None


class Bridge(HTTPConnection):
    """See :class:`~.native.Request`, and Tornado's ``HTTPConnection``, which handlers write to."""

    def __init__(self, connection: HttpConnection) -> None:
        self.context = Context(
            connection.remote_ip, "https" if connection.hub.is_secure else "http"
        )
        self._connection = connection
        self._head = connection.head
        self._delegate = connection.hub.application.start_request(object(), self)
        self._parts: list[bytes] = []
        self._is_whole = False
        self._has_come = asyncio.Event()
        self._has_begun = False
        """The answer's head is written."""
        self._is_chunked = False
        self._flushes: list[Future[None]] = []
        self._when_closed: Callable[[], object] | None = None
        self._task: asyncio.Task[None] | None = None

    # The connection calls these

    def begin(self) -> bool:
        self._task = asyncio.get_running_loop().create_task(self._hand_over())
        return True

    def take(self, part: bytes) -> None:
        self._parts.append(part)
        self._has_come.set()

    def end(self, part: bytes) -> None:
        self._is_whole = True
        self.take(part)

    def resume(self) -> None:
        flushes, self._flushes = self._flushes, []
        for flush in flushes:
            flush.set_result(None)

    def abandon(self) -> None:
        flushes, self._flushes = self._flushes, []
        for flush in flushes:
            flush.set_exception(StreamClosedError())
            flush.exception()  # nobody may be waiting for it
        tell, self._when_closed = self._when_closed, None
        if tell is not None:
            tell()
        else:
            self._delegate.on_connection_close()
        if self._task is not None:
            self._task.cancel()

    async def _hand_over(self) -> None:
        """Give the request to the application, as it comes."""
        try:
            await self._hand_over_head()
            while self._connection.is_answering(self):
                await self._has_come.wait()
                self._has_come.clear()
                parts, self._parts = self._parts, []
                for part in filter(None, parts):
                    await _done(self._delegate.data_received(part))
                if self._is_whole:
                    self._delegate.finish()
                    return
        except HTTPInputError as error:
            log.debug("Tornado refuses a request: %s", error)
            self._connection.refuse(framing.Refused(400, "Malformed HTTP request"))
        except Exception:
            log.exception("a request could not be handed to the application")
            self._connection.abort()

    async def _hand_over_head(self) -> None:
        headers = HTTPHeaders()
        for name, value in self._head.fields:
            headers.add(name.decode("latin-1"), value.strip(b" \t").decode("latin-1"))
        target = framing.origin_form(self._head.target.decode("latin-1"))
        line = RequestStartLine(self._head.method.decode(), target, self._head.version)
        await _done(self._delegate.headers_received(line, headers))

    # Handlers call these

    def set_close_callback(self, callback: Callable[[], object] | None) -> None:
        self._when_closed = callback

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        assert isinstance(start_line, ResponseStartLine)
        if not self._connection.is_answering(self):
            return self._closed()
        has_body = self._head.method != b"HEAD" and start_line.code not in (204, 304)
        is_endless = has_body and "Content-Length" not in headers
        self._is_chunked = is_endless and self._head.version == "HTTP/1.1"
        wants_end = headers.get("Connection", "").lower() == "close"
        headers.pop("Connection", None)
        if self._connection.begin_answer(wants_end, is_endless and not self._is_chunked):
            headers["Connection"] = "close"
        elif self._head.version == "HTTP/1.0":
            headers["Connection"] = "keep-alive"
        if self._is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {start_line.code} {start_line.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.get_all()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header holds the end of a line")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self._has_begun = True
        return self._write(head + self._framed(chunk or b""))

    def write(self, chunk: bytes) -> Future[None]:
        if not self._connection.is_answering(self):
            return self._closed()
        return self._write(self._framed(chunk))

    def finish(self) -> None:
        self._when_closed = None
        if not self._connection.is_answering(self):
            return
        if not self._has_begun:  # the next answer would be taken for this one
            self._connection.abort()
            return
        if self._is_chunked:
            self._connection.write(b"0\r\n\r\n")
        self._connection.finish()

    def _framed(self, chunk: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked and chunk else chunk

    def _write(self, data: bytes) -> Future[None]:
        """Write; what is given is done when the client has read enough for more."""
        self._connection.write(data)
        flush: Future[None] = Future()
        if self._connection.is_writable:
            flush.set_result(None)
        else:
            self._flushes.append(flush)
        return flush

    def _closed(self) -> Future[None]:
        gone: Future[None] = Future()
        gone.set_exception(StreamClosedError())
        gone.exception()  # nobody may be waiting for it
        return gone


async def _done(result: Any) -> None:
    """Wait for what a delegate's method gives, where it gives something to be waited for."""
    if result is not None:
        await result
