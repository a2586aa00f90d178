"""Our own HTTP/1.1 transport: heads parsed by httptools, bytes moved by uvloop.

One connection answers one request after the other; what comes meanwhile waits unparsed, and beyond
a bound is left in the kernel. A prediction whose path is known is taken past the application: it
costs a fraction of a handler. All else goes to the Tornado application, by :mod:`.bridge`.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import math
import re
import select
import socket
import termios
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Protocol

from tornado.web import Application

from pyfuncserver.protocol.rest import framing
from pyfuncserver.protocol.rest.prediction import Route
from pyfuncserver.protocol.rest.transport.bridge import Bridge
from pyfuncserver.protocol.rest.transport.chunks import Chunks
from pyfuncserver.protocol.rest.transport.connection import (
    BEGINNING,
    Connections,
    Limits,
    Phase,
    refusal,
)
from pyfuncserver.protocol.rest.transport.head import END, Head, parse
from pyfuncserver.protocol.rest.transport.shortcut import Shortcut
from pyfuncserver.utils.tls import ServerTls

log = logging.getLogger(__name__)

READ_AHEAD = 256 << 10
"""Bytes that may wait behind a request before nothing more is read."""
TURN = 16
"""Requests of one connection that are answered before others have their turn."""
QUIET_S = 2.0
LONGEST_S = 30.0
RESET_S = 0.005
MOST_BYTES = 256 << 20
FOREVER_S = 86400.0
EMPTY_LINES = re.compile(rb"\A(\r\n)+")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request(Protocol):
    """A request on its way to its one answer, which it writes to its connection."""

    def begin(self) -> bool:
        """Look at the head; False where that is enough for an answer."""

    def take(self, part: bytes) -> None:
        """Take a part of the body."""

    def end(self, part: bytes) -> None:
        """Take the last part of the body, which may be all of it, or nothing."""

    def resume(self) -> None:
        """Be told that what was written has been read, after more of it than should wait."""

    def abandon(self) -> None:
        """Be told that nobody is there to be answered."""


class NativeTransport:
    """See :class:`~.connection.Transport`."""

    def __init__(
        self,
        application: Application,
        routes: dict[bytes, Route],
        limits: Limits,
        tls: ServerTls | None,
        when_refused: Callable[[int], None],
    ) -> None:
        self.application = application
        self.routes = routes
        self.limits = limits
        self.is_secure = tls is not None
        self.read_ahead = max(READ_AHEAD, limits.max_header_size)
        """Bytes that may wait on a connection; not less than a head that is still to be whole."""
        self.when_refused = when_refused
        self.connections = Connections()
        self.thread = 0
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop, and its thread, as soon as there is a connection."""
        self.date = b""
        """The time of day as answers tell it, not older than a sweep."""
        self._tls = tls
        self._leaving: set[HttpConnection] = set()
        self._openings: dict[HttpConnection, asyncio.Task[None]] = {}

    def adopt(self, accepted: socket.socket, address: Any) -> None:
        self.thread = threading.get_ident()
        self.loop = asyncio.get_running_loop()
        connection = HttpConnection(self, accepted, address)
        self.connections.add(connection)
        self._openings[connection] = opening = self.loop.create_task(
            self._open(connection, accepted)
        )
        opening.add_done_callback(lambda _: self._end_opening(connection, accepted))

    async def _open(self, connection: HttpConnection, accepted: socket.socket) -> None:
        context = None if self._tls is None else self._tls.material().context
        limits: dict[str, float] = {}
        if context is not None:
            limits["ssl_handshake_timeout"] = self.limits.request_timeout_s
            # Its time includes that of sending what was answered; the sweep sees to both.
            limits["ssl_shutdown_timeout"] = FOREVER_S
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, accepted, ssl=context, **limits
            )
        except (OSError, asyncio.TimeoutError) as error:  # an SSLError is an OSError
            log.debug("a connection was lost before its first request: %s", error)
            self.forget(connection)
            accepted.close()

    def give_up_opening(self, connection: HttpConnection) -> None:
        """Let a connection go whose handshake is not over."""
        self.forget(connection)
        if connection in self._openings:
            self._openings[connection].cancel()

    def _end_opening(self, connection: HttpConnection, accepted: socket.socket) -> None:
        if self._openings.pop(connection).cancelled():
            accepted.close()

    def leave(self, connection: HttpConnection) -> None:
        """Take note that a connection only waits for its client's goodbye."""
        self.connections.discard(connection)
        self._leaving.add(connection)

    def forget(self, connection: HttpConnection) -> None:
        self.connections.discard(connection)
        self._leaving.discard(connection)

    def sweep(self) -> None:
        self.date = formatdate(usegmt=True).encode()
        self.connections.sweep()
        now = time.monotonic()
        for connection in list(self._leaving):
            connection.sweep(now)

    @property
    def leaving(self) -> int:
        return len(self._leaving)

    async def close(self) -> None:
        for connection in list(self.connections.open):
            connection.close()
        await asyncio.sleep(0)

    def cut(self) -> None:
        for connection in list(self._leaving):
            connection.abort()


class HttpConnection(asyncio.Protocol):
    """See :class:`~.connection.Connection`."""

    def __init__(self, hub: NativeTransport, accepted: socket.socket, address: Any) -> None:
        self.hub = hub
        self.phase = Phase.WAITING
        self.since = time.monotonic()
        self.remote_ip = str(address[0])
        self.received = 0
        self.head = Head()
        self.is_last = False
        """The client has been told that no request will be answered after this one."""
        self.is_writable = True
        self._socket = accepted
        self._transport: Any = None
        self._pending = b""
        """What has come and is not taken yet."""
        self._request: Request | None = None
        self._chunks: Chunks | None = None
        self._missing = 0
        """Bytes of a body of known length that have not come."""
        self._is_advancing = False
        self._is_reading = True
        self._has_ended = False
        """The client sends nothing more; it may still read."""
        self._leaves_at = math.inf
        self._must_linger = False
        self._discarded = 0
        self._unsent = 0
        self._moved_at = self.since
        """When a byte was last seen to come or go, of a connection that leaves or is stuck."""

    # Where it stands

    @property
    def is_leaving(self) -> bool:
        return self._leaves_at < math.inf

    @property
    def is_waiting(self) -> bool:
        return self.phase is Phase.WAITING and not self.closed()

    @property
    def is_idle(self) -> bool:
        return self.is_waiting and not self.has_more()

    @property
    def is_busy(self) -> bool:
        return self.phase not in (Phase.WAITING, Phase.HEAD) or self.unsent() > 0

    @property
    def taken(self) -> int:
        return self.received - len(self._pending)

    def closed(self) -> bool:
        is_closing = self._transport is not None and self._transport.is_closing()
        return self.is_leaving or is_closing

    def arrived(self) -> int:
        return self.received + self._in_kernel(termios.FIONREAD)

    def _in_kernel(self, queue: int) -> int:
        """Count the bytes in one of the socket's queues."""
        waiting = array.array("i", [0])
        try:
            fcntl.ioctl(self._socket.fileno(), queue, waiting)
        except (OSError, ValueError) as error:  # it has gone
            log.debug("nobody knows what is waiting: %s", error)
        return waiting[0]

    def has_more(self) -> bool:
        return bool(self._pending) or self._kernel_has_more()

    def _kernel_has_more(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing there, or nobody
            return False

    def unsent(self) -> int:
        """Give the bytes of answers that wait for the client to read; with TLS, some of them."""
        if self._transport is None:
            return 0
        waiting = int(self._transport.get_write_buffer_size())
        if self.hub.is_secure:
            # What TLS has handed on is not told; while it waits, so does something in the kernel.
            waiting += self._in_kernel(termios.TIOCOUTQ)
        return waiting

    # The loop calls these

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.since = time.monotonic()
        if self.is_leaving:  # it was closed before it was open
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.is_leaving:
            self._discard(len(data))
            return
        self._pending = self._pending + data if self._pending else data
        if self.phase is Phase.WAITING:
            self.phase = Phase.HEAD
            self.since = time.monotonic()
        self._advance()

    def eof_received(self) -> bool:
        """Stay open for what is owed to a client that may still read."""
        self._has_ended = True
        if self.is_leaving or self.hub.is_secure:
            return False
        if self.phase is Phase.RUNNING and self.head.version == "HTTP/1.1":
            self._ask_if_gone()
        if self.phase in (Phase.HEAD, Phase.BODY):  # whole requests may wait for their turn
            asyncio.get_running_loop().call_soon(self._advance)
        return self.phase is not Phase.WAITING

    def _ask_if_gone(self) -> None:
        """Find out about a client that has ended: one that only writes no more still reads.

        One that is there may be told to go on at any time before its answer (RFC 9110, section
        15.2); where nobody is, this makes the other side's system say so.
        """
        self._transport.write(CONTINUE)
        self._look_for_reset(RESET_S)

    def _look_for_reset(self, after_s: float) -> None:
        """Look soon, and then less and less often, since the loop reads nothing any more."""
        if self.phase is not Phase.RUNNING or self.closed():
            return
        if self._has_been_reset():
            self.abort()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(after_s, self._look_for_reset, min(2 * after_s, 1.0))

    def _has_been_reset(self) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno(), 0)
        return bool(poll.poll(0))

    def pause_writing(self) -> None:
        self.is_writable = False

    def resume_writing(self) -> None:
        self.is_writable = True
        self._moved_at = time.monotonic()  # a stream may fill up again to the same byte
        if self._request is not None:
            self._request.resume()
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.hub.forget(self)
        self._pending = b""
        request, self._request = self._request, None
        if request is not None:
            request.abandon()

    # A request comes

    def _advance(self) -> None:
        """Take what is there, request after request, as far as that goes."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            self._take_turn()
        except framing.Refused as refused:
            self.refuse(refused)
        finally:
            self._is_advancing = False
        self._read_on_or_pause()

    def _take_turn(self) -> None:
        for _ in range(TURN):
            if self.is_leaving:
                return
            if self.phase is Phase.HEAD:
                goes_on = self.is_writable and self._take_head()
            else:
                goes_on = self.phase is Phase.BODY and self._take_body()
            if not goes_on:
                self._part_if_ended()
                return
        asyncio.get_running_loop().call_soon(self._advance)

    def _part_if_ended(self) -> None:
        """Go where the rest of a request will not come."""
        is_answering = self.phase in (Phase.RUNNING, Phase.ANSWERED)
        if self._has_ended and self.is_writable and not is_answering:
            self._leave()

    def _read_on_or_pause(self) -> None:
        has_enough = len(self._pending) > self.hub.read_ahead
        if has_enough is self._is_reading and not self._transport.is_closing():
            self._is_reading = not has_enough
            if has_enough:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _take_head(self) -> bool:
        pending = self._pending
        if pending[:1] == b"\r":  # empty lines are nothing (RFC 9112, section 2.2)
            self._pending = pending = EMPTY_LINES.sub(b"", pending, count=1)
        end = pending.find(END) + len(END)
        is_there = end >= len(END)
        limit = self.hub.limits.max_header_size
        if (end if is_there else len(pending)) > limit:
            raise framing.head_too_large(limit)
        if is_there:
            self.head = parse(pending[:end], self.hub.limits.max_body_size)
            self._begin(end)
        return is_there

    def _begin(self, end: int) -> None:
        """Begin with the request whose head is there, up to ``end``."""
        head = self.head
        route = self.hub.routes.get(head.target) if head.is_plain_post else None
        self._request = request = Bridge(self) if route is None else Shortcut(self, route)
        pending, length = self._pending, head.body_length
        if length is not None and len(pending) >= end + length:
            self._pending = pending[end + length :]
            self.phase = Phase.RUNNING
            if request.begin():
                request.end(pending[end : end + length])
            return
        self.phase = Phase.BODY
        self._pending = pending[end:]
        self._missing = length or 0
        limits = self.hub.limits
        self._chunks = None
        if length is None:
            self._chunks = Chunks(limits.max_body_size, limits.max_header_size)
        if (
            request.begin()
            and not self._pending
            and framing.expects_continue(head.version, head.get_all)
        ):
            self._transport.write(CONTINUE)

    def _take_body(self) -> bool:
        """Take what there is of the body; tell whether that is all of it."""
        request = self._request
        assert request is not None
        if self._chunks is not None:
            parts, self._pending = self._chunks.take(self._pending)
            is_whole = self._chunks.is_complete
        else:
            part = self._pending[: self._missing]
            self._pending = self._pending[len(part) :]
            self._missing -= len(part)
            parts, is_whole = [part], not self._missing
        for part in parts:
            request.take(part)
        if is_whole:
            self.phase = Phase.RUNNING
            request.end(b"")
        return is_whole

    # An answer goes

    def is_answering(self, request: Request) -> bool:
        """Tell whether this request's answer is the one that the client waits for."""
        return self._request is request

    def begin_answer(self, wants_end: bool = False, ends_by_closing: bool = False) -> bool:
        """Take note that an answer is about to be written; tell whether it is the last one."""
        # What is answered before it was read will not be read.
        self._must_linger = self.phase in (Phase.HEAD, Phase.BODY)
        self.is_last = self._must_linger or ends_by_closing or not self.head.is_kept_alive
        if not self.is_last and (wants_end or self.hub.connections.is_draining):
            self.is_last = not self.hub.connections.may_go_on(self)
        self.phase = Phase.ANSWERED
        return self.is_last

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def finish(self) -> None:
        """Take note that all of an answer was written; go on with the next request."""
        self._request = None
        self._unsent = 0  # as much of the next one is no sign that nothing moves
        if self.is_last:
            self._leave()
            return
        self.since = time.monotonic()
        self.phase = Phase.HEAD if self._pending else Phase.WAITING
        if self._pending or self._has_ended:
            self._advance()

    def refuse(self, refused: framing.Refused) -> None:
        """Answer in the application's place, and go."""
        if self.closed():
            return
        beginning = b"%b %b " % (self.head.method, self.head.target)
        if self.phase is Phase.HEAD:  # that was the last one's
            beginning = self._pending[:BEGINNING]
        request, self._request = self._request, None
        self._must_linger = True
        self._transport.write(refusal(refused, beginning))
        self._leave()
        self.hub.when_refused(refused.status)
        if request is not None:
            request.abandon()

    # It ends

    def sweep(self, now: float) -> None:
        if self._transport is None:
            return  # its handshake has a limit of its own
        if self.is_leaving:
            self._sweep_leaving(now)
        elif unsent := self.unsent():
            self._sweep_unsent(unsent, now)
        elif self.phase in (Phase.HEAD, Phase.BODY):
            if now - self.since > self.hub.limits.request_timeout_s:
                self._refuse_as_late()
        elif now - self.since > self.hub.limits.keep_alive_s and self.is_idle:
            self.close()

    def _sweep_leaving(self, now: float) -> None:
        if unsent := self.unsent():
            self._sweep_unsent(unsent, now)
            return
        self.hub.leave(self)
        if now - self._moved_at <= QUIET_S and now - self._leaves_at <= LONGEST_S:
            return
        if self._transport.is_closing():
            self.abort()
        else:  # TLS says goodbye first
            self._moved_at = now
            self._transport.close()

    def _sweep_unsent(self, unsent: int, now: float) -> None:
        """Give up a client that does not read what was answered."""
        if unsent != self._unsent:
            self._unsent, self._moved_at = unsent, now
        elif now - self._moved_at > self.hub.limits.request_timeout_s:
            self.abort()

    def _refuse_as_late(self) -> None:
        if self.phase is Phase.HEAD and not self._pending.strip(b"\r\n"):
            self.close()  # empty lines are no request
        else:
            self.refuse(framing.too_late(self.hub.limits.request_timeout_s))

    def close(self) -> None:
        """Close when what was answered is sent."""
        if self.is_leaving:
            return
        if self._transport is None:
            self._leaves_at = time.monotonic()
            self.hub.give_up_opening(self)
        elif self.hub.is_secure or self.has_more():  # TLS waits for the client's goodbye
            request, self._request = self._request, None
            self._leave()
            if request is not None:
                request.abandon()
        else:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        """Say that this is the end, and discard what the client still sends, within bounds.

        Closing at once would answer what it sends by a reset, and that makes its system throw away
        the answer that it has not read yet (RFC 9112, section 9.6).
        """
        self._leaves_at = self._moved_at = time.monotonic()
        self._pending = b""
        if self._transport.is_closing():
            return
        if self._has_ended or (self.hub.is_secure and not self._must_linger):
            self._transport.close()
            return
        self._read_on_or_pause()
        if not self.hub.is_secure:  # TLS has no such thing; the answer's head has said it
            self._transport.write_eof()

    def _discard(self, count: int) -> None:
        self._moved_at = time.monotonic()
        self._discarded += count
        if self._discarded > MOST_BYTES:
            self.abort()
