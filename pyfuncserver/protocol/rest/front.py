"""The HTTP front end of one process: accepts from the shared socket, and drains.

All processes accept from one listening socket, so a connection that waits is taken by whoever is
free, and none is lost with the process that has just died.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import tornado.httputil
import tornado.web
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from pyfuncserver.protocol.rest import framing
from pyfuncserver.protocol.rest.connection import Limits, Phase, Stream, TlsStream
from pyfuncserver.protocol.rest.farewell import Farewell
from pyfuncserver.utils.sockets import ignore_new_connections
from pyfuncserver.utils.tls import ServerTls

log = logging.getLogger(__name__)

LINGER_S = 0.5
DRIP_S = 2.0
PIPELINE_S = 1.0
HANDSHAKE_S = 0.05
POLL_S = 0.02


class _Incoming(tornado.httputil.HTTPMessageDelegate):
    """A request on its way to the application: refused at its head, or noted when it is whole."""

    def __init__(
        self,
        server: Server,
        stream: Stream,
        start: Callable[[tornado.httputil.HTTPConnection], tornado.httputil.HTTPMessageDelegate],
        connection: tornado.httputil.HTTPConnection,
    ) -> None:
        self._server = server
        self._stream = stream
        self._outgoing = _Outgoing(server, stream, connection)
        self._delegate = start(self._outgoing)

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        with self._stream.refusing():
            framing.check_fields(start_line.version, headers, self._server.limits.max_body_size)
        if framing.expects_continue(start_line.version, headers):
            headers["Expect"] = "100-continue"  # as Tornado writes it
        elif "Expect" in headers:
            del headers["Expect"]
        self._outgoing.request_headers = headers
        self._outgoing.version = start_line.version
        return self._delegate.headers_received(framing.origin_form(start_line), headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._stream.phase = Phase.RUNNING
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class _Outgoing(tornado.httputil.HTTPConnection):
    """Tornado's side of a connection as handlers see it: says when an answer is the last one."""

    def __init__(
        self, server: Server, stream: Stream, connection: tornado.httputil.HTTPConnection
    ) -> None:
        self._server = server
        self._stream = stream
        self._connection = connection
        self.request_headers = tornado.httputil.HTTPHeaders()
        self.version = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def write_headers(
        self, start_line: Any, headers: tornado.httputil.HTTPHeaders, chunk: bytes | None = None
    ) -> Any:
        is_last = self._is_last(headers)
        headers.pop("Connection", None)
        if is_last:
            # Tornado looks at the request's for what it says to HTTP/1.0.
            headers["Connection"] = self.request_headers["Connection"] = "close"
        self._stream.answer(is_last)
        return self._connection.write_headers(start_line, headers, chunk)

    def _is_last(self, headers: tornado.httputil.HTTPHeaders) -> bool:
        if self._stream.phase is Phase.BODY:
            return True  # it is answered before it was read, and will not be read
        if self.version != "HTTP/1.1" and not self._is_kept():
            return True
        wished = headers.get("Connection", "").lower() == "close" or self._server.is_draining
        return wished and not self._server.may_go_on(self._stream)

    def _is_kept(self) -> bool:
        """Tell whether Tornado keeps a connection that speaks another version than HTTP/1.1."""
        wish = self.request_headers.get("Connection", "").lower()
        return self.version == "HTTP/1.0" and wish == "keep-alive"

    def write(self, chunk: bytes) -> Any:
        return self._connection.write(chunk)

    def finish(self) -> None:
        self._connection.finish()


class Server(HTTPServer):
    """An HTTPServer whose connections keep to limits, and are told when it drains."""

    limits: Limits

    def initialize(self, *args: Any, **options: Any) -> None:
        self.limits = options.pop("limits")
        self.farewell = Farewell()
        self.streams: set[Stream] = set()
        self.is_draining = False
        self._drained_at = 0.0
        self._promised: dict[Stream, int] = {}
        options["max_header_size"] = self.limits.max_header_size
        options["max_body_size"] = self.limits.max_body_size
        super().initialize(*args, **options)
        self.conn_params.header_timeout = None  # a timer each; the front sweeps instead

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        assert isinstance(stream, Stream)
        self.streams.add(stream)
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: tornado.httputil.HTTPConnection
    ) -> tornado.httputil.HTTPMessageDelegate:
        assert isinstance(server_conn, HTTP1ServerConnection)
        stream = server_conn.stream
        assert isinstance(stream, Stream)
        if stream.is_last:
            stream.close()
        start = partial(super().start_request, server_conn)
        return _Incoming(self, stream, start, request_conn)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        assert isinstance(server_conn, HTTP1ServerConnection)
        assert isinstance(server_conn.stream, Stream)
        self.streams.discard(server_conn.stream)
        self._promised.pop(server_conn.stream, None)

    def start_draining(self) -> None:
        """Answer from now on what has come, and nothing that comes much later."""
        self.is_draining = True
        self._drained_at = time.monotonic()
        self._promised = {
            stream: stream.arrived() for stream in self.streams if not stream.closed()
        }

    def may_go_on(self, stream: Stream) -> bool:
        """Tell whether a request behind the one at hand will be answered too."""
        if not stream.has_more():
            return False
        is_early = not self.is_draining or time.monotonic() < self._drained_at + PIPELINE_S
        return is_early or stream.taken < self._promised.get(stream, 0)

    def longest_idle(self) -> Stream | None:
        """Give who has waited longest: without a request, or else with a part of its head."""
        waiting = [s for s in self.streams if s.phase in (Phase.WAITING, Phase.HEAD)]
        still_open = (stream for stream in waiting if not stream.closed())
        return min(still_open, key=lambda s: (s.phase is Phase.HEAD, s.since), default=None)

    def sweep(self) -> None:
        """Close what has taken its time."""
        now = time.monotonic()
        for stream in list(self.streams):
            stream.sweep(now)
        self.farewell.sweep(now)


class HttpFront:
    """Serves an application on a listening socket that other processes may listen on as well.

    ``when_refused`` is told the status of each request that gets no further than its framing.
    """

    def __init__(
        self,
        application: tornado.web.Application,
        listener: socket.socket,
        limits: Limits,
        tls: ServerTls | None = None,
        when_refused: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._server = Server(application, limits=limits)
        self._when_refused = when_refused
        self._limits = limits
        self._tls = tls
        self._listener = listener
        self._accepting = False
        self._evicted = 0
        self._sweep_s = min(1.0, limits.keep_alive_s / 4, limits.request_timeout_s / 4)

    def start(self) -> None:
        """Accept connections on the running loop."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
        self._accepting = True
        self._sweep()

    def _sweep(self) -> None:
        self._server.sweep()
        if self._evicted:
            log.warning("%d idle connections were closed: too many open files", self._evicted)
            self._evicted = 0
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def _accept(self) -> bool:
        """Accept one connection: the rest of a burst is left to the other workers.

        Tells whether there may be more.
        """
        try:
            connection, address = self._accept_somehow()
        except BlockingIOError:
            return False
        except ConnectionAbortedError:  # the client has gone; there may be others
            return True
        except OSError as error:
            if self._accepting and error.errno == errno.EINVAL:
                # Another worker has shut the socket for all, for the daemon is stopping.
                asyncio.get_running_loop().remove_reader(self._listener.fileno())
            elif self._accepting:
                self._pause(error)
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._server.handle_stream(self._stream(connection), address)
        except OSError as error:  # the client has gone before its handshake
            log.debug("a connection was lost at once: %s", error)
            connection.close()
        return True

    def _accept_somehow(self) -> tuple[socket.socket, Any]:
        """Accept; where there is no descriptor left, in place of whoever has waited longest."""
        try:
            return self._listener.accept()
        except OSError as error:
            idle = self._server.longest_idle()
            if error.errno not in (errno.EMFILE, errno.ENFILE) or idle is None:
                raise
            idle.close()
            self._evicted += 1
        return self._listener.accept()

    def _stream(self, connection: socket.socket) -> Stream:
        rest = (self._limits, self._server.farewell, self._when_refused)
        if self._tls is None:
            return Stream(connection, *rest)
        context = self._tls.material().context
        wrapped = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return TlsStream(wrapped, *rest, ssl_options=context)

    def _pause(self, error: OSError) -> None:
        """Give the others a moment where no connection can be taken (too many open files)."""
        log.error("no connection can be accepted for a second: %s", error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        loop.call_later(1, self._resume)

    def _resume(self) -> None:
        if self._accepting:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    async def drain(self, timeout_s: float, last: bool) -> bool:
        """Stop accepting, answer what was accepted, close; False where that took too long.

        ``last`` says that no process goes on listening: then the socket is shut for all of them,
        when what waits in it has been accepted.
        A connection without a request stays a moment, since one may be on its way.
        """
        self._server.start_draining()
        await self._stop_accepting(last)
        started = time.monotonic()
        # Tornado has no event for this.
        while self._open_connections(started) and time.monotonic() < started + timeout_s:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        is_done = not any(stream.is_busy for stream in self._server.streams)
        await self._server.close_all_connections()
        await self._part()
        return is_done

    async def _part(self) -> None:
        """Wait a moment for clients to close, too."""
        farewell = self._server.farewell
        deadline = time.monotonic() + LINGER_S
        while len(farewell) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        farewell.close()
        self._sweeper.cancel()

    async def _stop_accepting(self, last: bool) -> None:
        if not self._accepting:
            return
        if last:
            # Nobody may connect between the last accept and the end of the socket: the kernel would
            # say yes to him, and then reset him.
            ignore_new_connections(self._listener)
            await asyncio.sleep(HANDSHAKE_S)
        self._accepting = False
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        if last:
            while self._accept():
                continue
            try:
                self._listener.shutdown(socket.SHUT_RD)
            except OSError as error:  # another worker was faster
                log.debug("the listening socket is shut already: %s", error)
        self._listener.close()

    def _open_connections(self, since: float) -> bool:
        """Close connections that wait in vain; tell whether any is left."""
        now = time.monotonic()
        for stream in list(self._server.streams):
            waited_s = now - max(since, stream.since)
            is_waiting = waited_s >= LINGER_S and stream.is_idle
            is_dripping = stream.phase is Phase.HEAD and waited_s >= DRIP_S
            if is_waiting or is_dripping:
                stream.close()
        return bool(self._server.streams)
