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
from typing import Any

import tornado.httputil
import tornado.web
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from pyfuncserver.utils.sockets import ignore_new_connections

log = logging.getLogger(__name__)

LINGER_S = 0.5
HANDSHAKE_S = 0.05
POLL_S = 0.02


class _Tracked(tornado.httputil.HTTPMessageDelegate):
    """Tells the server when the first bytes of a request's head are complete."""

    def __init__(
        self, delegate: tornado.httputil.HTTPMessageDelegate, server: TrackingServer, owner: object
    ) -> None:
        self._delegate = delegate
        self._server = server
        self._owner = owner

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        self._server.busy.add(self._owner)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class TrackingServer(HTTPServer):
    """An HTTPServer that knows which connections have a request in hand and which wait for one.

    A connection is fresh until Tornado asks for its first request, which is some turns of the loop
    after it was accepted. It is busy from the moment a request's head was read until its answer
    has been flushed, which is when Tornado asks for the connection's next request.
    """

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self.fresh: set[IOStream] = set()
        self.busy: set[object] = set()
        self.waiting: dict[HTTP1ServerConnection, float] = {}

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        self.fresh.add(stream)
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: tornado.httputil.HTTPConnection
    ) -> tornado.httputil.HTTPMessageDelegate:
        assert isinstance(server_conn, HTTP1ServerConnection)
        self.fresh.discard(server_conn.stream)
        self.busy.discard(server_conn)
        self.waiting[server_conn] = time.monotonic()
        return _Tracked(super().start_request(server_conn, request_conn), self, server_conn)

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        self.busy.discard(server_conn)
        if isinstance(server_conn, HTTP1ServerConnection):
            self.waiting.pop(server_conn, None)


class HttpFront:
    """Serves an application on a listening socket that other processes may listen on as well."""

    def __init__(self, application: tornado.web.Application, listener: socket.socket) -> None:
        self._server = TrackingServer(application)
        self._listener = listener
        self._accepting = False

    def start(self) -> None:
        """Accept connections on the running loop."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)
        self._accepting = True

    def _accept(self) -> bool:
        """Accept one connection: the rest of a burst is left to the other workers."""
        try:
            connection, address = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            if self._accepting and error.errno == errno.EINVAL:
                # Another worker has shut the socket for all, for the daemon is stopping.
                asyncio.get_running_loop().remove_reader(self._listener.fileno())
            elif self._accepting:
                self._pause(error)
            return False
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.handle_stream(
            IOStream(connection, max_buffer_size=self._server.max_buffer_size), address
        )
        return True

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
        await self._stop_accepting(last)
        self._server.conn_params.no_keep_alive = True
        started = time.monotonic()
        # Tornado has no event for this.
        while self._open_connections(started) and time.monotonic() < started + timeout_s:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        is_done = not self._server.busy
        await self._server.close_all_connections()
        return is_done

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
        server = self._server
        now = time.monotonic()
        for connection, waiting_since in list(server.waiting.items()):
            if connection in server.busy:
                continue
            if now - max(since, waiting_since) >= LINGER_S:
                connection.stream.close()
        return bool(server.fresh or server.waiting)
