"""One connection, with a stand-in for what moves its bytes: what a wire hardly brings about."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tornado.web

from pyfuncserver.protocol.rest import framing
from pyfuncserver.protocol.rest.transport.connection import Limits, Phase, refusal
from pyfuncserver.protocol.rest.transport.head import Head
from pyfuncserver.protocol.rest.transport.native import HttpConnection, NativeTransport
from pyfuncserver.protocol.rest.transport.shortcut import Shortcut

LIMITS = Limits(max_body_size=1 << 20, max_header_size=4096, keep_alive_s=60, request_timeout_s=2)


class Loops:
    """The loop's side of a connection, as far as it is asked."""

    def __init__(self) -> None:
        self.unsent = 0
        self.is_aborted = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def write_eof(self) -> None:
        pass


class Abandoned:
    """A request that remembers whether it was abandoned."""

    is_abandoned = False

    def abandon(self) -> None:
        self.is_abandoned = True


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def connection(sockets: tuple[socket.socket, socket.socket]) -> HttpConnection:
    hub = NativeTransport(tornado.web.Application(), {}, LIMITS, None, lambda _: None)
    made = HttpConnection(hub, sockets[0], ("127.0.0.1", 1))
    made.connection_made(Loops())
    return made


def loops(connection: HttpConnection) -> Any:
    return connection._transport


def test_a_client_that_reads_nothing_is_given_up(connection: HttpConnection) -> None:
    now = time.monotonic()
    loops(connection).unsent = 100
    connection.sweep(now)
    connection.sweep(now + 1)
    assert not loops(connection).is_aborted
    connection.sweep(now + 3)
    assert loops(connection).is_aborted


def test_as_much_unsent_of_another_answer_is_no_standstill(connection: HttpConnection) -> None:
    now = time.monotonic()
    for number in range(3):
        loops(connection).unsent = 100
        connection.sweep(now + 10 * number)
        loops(connection).unsent = 0
        connection.finish()
    assert not loops(connection).is_aborted


def test_nobody_answers_once_the_end_was_said(
    connection: HttpConnection, sockets: tuple[socket.socket, socket.socket]
) -> None:
    request: Any = Abandoned()
    connection._request = request
    connection.phase = Phase.RUNNING
    sockets[1].send(b"more")
    connection.close()
    assert connection.closed()
    assert request.is_abandoned
    assert not connection.is_answering(request)


def test_a_body_in_tiny_parts_takes_no_more_memory_than_it_has_bytes() -> None:
    shortcut = Shortcut(SimpleNamespace(head=Head()), None)  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        for number in range(100_000):
            shortcut.take(b"%02d" % (number % 100))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


V1, V2 = b'{"status_code":400,"reason":"so"}', b'{"error":"so"}'
MLFLOW = b'{"error_code":"BAD_REQUEST","message":"so"}'


@pytest.mark.parametrize(("beginning", "body"), [
    (b"POST /v1/models/model-1:predict HTTP/1.1\r\nHost: a", V1),
    (b"POST /v2/models/model/infer HTTP/1.1\r\n", V2),
    (b"\r\n\r\nPOST /v2/models/model/infer HTTP/1.1\r\n", V2),
    (b"POST http://a.example:80/v2/models/model/infer HTTP/1.1\r\n", V2),
    (b"POST /invocations?a=b HTTP/1.1\r\n", MLFLOW),
    (b"HEAD /v2 HTTP/1.1\r\n", b""),
    (b"HEAD /v2", b""),
    (b"POST /v2 ", V2),
    (b"POST /v2", V1),  # there may be more of it
    (b"POST /v2\r\nHost: /v2 ", V1),
    (b"POST  /v2 ", V1),
    (b"/v2", V1),
    (b"\xff\xfe /\xff ", V1),
    (b"", V1),
])  # fmt: skip
def test_a_refusal_has_the_shape_of_its_path(beginning: bytes, body: bytes) -> None:
    head, _, sent = refusal(framing.Refused(400, "so"), beginning).partition(b"\r\n\r\n")
    assert sent == body
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json")
    assert head.endswith(b"\r\nConnection: close")
