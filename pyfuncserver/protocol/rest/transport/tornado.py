"""Tornado's own transport: its HTTPServer, whose connections keep to limits and drain.

It costs several times what :mod:`.native` does; it is for comparison, and for where httptools
cannot be had.
"""

from __future__ import annotations

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
from pyfuncserver.protocol.rest.transport.connection import Connections, Limits, Phase
from pyfuncserver.protocol.rest.transport.farewell import Farewell
from pyfuncserver.protocol.rest.transport.streams import Stream, TlsStream
from pyfuncserver.utils.tls import ServerTls


class _Incoming(tornado.httputil.HTTPMessageDelegate):
    """A request on its way to the application: refused at its head, or noted when it is whole."""

    def __init__(
        self,
        server: TornadoTransport,
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
            framing.body_length(
                start_line.version, headers.get_list, self._server.limits.max_body_size
            )
        if framing.expects_continue(start_line.version, headers.get_list):
            headers["Expect"] = "100-continue"  # as Tornado writes it
        elif "Expect" in headers:
            del headers["Expect"]
        self._outgoing.request_headers = headers
        self._outgoing.version = start_line.version
        path = framing.origin_form(start_line.path)
        return self._delegate.headers_received(start_line._replace(path=path), headers)

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
        self, server: TornadoTransport, stream: Stream, connection: tornado.httputil.HTTPConnection
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
        wished = (
            headers.get("Connection", "").lower() == "close" or self._server.connections.is_draining
        )
        return wished and not self._server.connections.may_go_on(self._stream)

    def _is_kept(self) -> bool:
        """Tell whether Tornado keeps a connection that speaks another version than HTTP/1.1."""
        wish = self.request_headers.get("Connection", "").lower()
        return self.version == "HTTP/1.0" and wish == "keep-alive"

    def write(self, chunk: bytes) -> Any:
        return self._connection.write(chunk)

    def finish(self) -> None:
        self._connection.finish()


class TornadoTransport(HTTPServer):
    """See :class:`~.connection.Transport`.

    ``when_refused`` is told the status of each request that gets no further than its framing.
    """

    limits: Limits

    def initialize(self, *args: Any, **options: Any) -> None:
        self.limits = options.pop("limits")
        self._tls: ServerTls | None = options.pop("tls")
        self._when_refused: Callable[[int], None] = options.pop("when_refused")
        self.connections = Connections()
        self._farewell = Farewell()
        options["max_header_size"] = self.limits.max_header_size
        options["max_body_size"] = self.limits.max_body_size
        super().initialize(*args, **options)
        self.conn_params.header_timeout = None  # a timer each; the front sweeps instead

    def adopt(self, accepted: socket.socket, address: Any) -> None:
        self.handle_stream(self._stream(accepted), address)

    def _stream(self, accepted: socket.socket) -> Stream:
        rest = (self.limits, self._farewell, self._when_refused)
        if self._tls is None:
            return Stream(accepted, *rest)
        context = self._tls.material().context
        wrapped = context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        return TlsStream(wrapped, *rest, ssl_options=context)

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        assert isinstance(stream, Stream)
        self.connections.add(stream)
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
        self.connections.discard(server_conn.stream)

    def sweep(self) -> None:
        self.connections.sweep()
        self._farewell.sweep(time.monotonic())

    @property
    def leaving(self) -> int:
        return len(self._farewell)

    async def close(self) -> None:
        await self.close_all_connections()

    def cut(self) -> None:
        self._farewell.close()
