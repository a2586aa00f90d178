"""The transport on a loop of its own, with an application that does what ours does not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import tornado.web
import uvloop
from harness import wait_until
from wire import Wire, get, post

from pyfuncserver.metrics.instruments import Instruments
from pyfuncserver.model.call import Answer, Call, Complete
from pyfuncserver.model.lane import Lane
from pyfuncserver.model.service import InferenceService, Stand
from pyfuncserver.protocol.rest import v1
from pyfuncserver.protocol.rest.front import HttpFront
from pyfuncserver.protocol.rest.prediction import Route
from pyfuncserver.protocol.rest.transport.connection import Limits
from pyfuncserver.protocol.rest.transport.native import NativeTransport

PREDICT = "/v1/models/m:predict"
LIMITS = Limits(max_body_size=1 << 20, max_header_size=4096, keep_alive_s=60, request_timeout_s=2)


class Parts(tornado.web.RequestHandler):
    """Answers part by part, without saying how long it will be."""

    async def get(self) -> None:
        for number in range(3):
            self.write(f"part {number};")
            await self.flush()


class Flood(tornado.web.RequestHandler):
    """Answers more than anybody reads, and remembers how much it could write."""

    written = 0
    ended: list[str] = []

    async def get(self) -> None:
        try:
            while True:
                self.write(b"x" * 65536)
                await self.flush()
                Flood.written += 65536
        except tornado.iostream.StreamClosedError:
            self.ended.append("closed")


@tornado.web.stream_request_body
class Upload(tornado.web.RequestHandler):
    """Counts the parts of a body as they come."""

    def prepare(self) -> None:
        self.sizes: list[int] = []

    def data_received(self, chunk: bytes) -> None:
        self.sizes.append(len(chunk))

    def post(self) -> None:
        self.finish({"size": sum(self.sizes), "is_in_parts": len(self.sizes) > 1})


class Waiting(tornado.web.RequestHandler):
    """Waits until it is told that its client has gone."""

    gone: list[bool] = []

    def on_connection_close(self) -> None:
        self.gone.append(True)

    async def get(self) -> None:
        while not self.gone:  # noqa: ASYNC110  that is how little it knows
            await asyncio.sleep(0.01)


class TwoLines(tornado.web.RequestHandler):
    def get(self) -> None:
        self._reason = "a\r\nX-Smuggled: b"  # past Tornado's own check
        self.finish("two lines")


class Runner:
    """Echoes; blocks while it is told to."""

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.may_go.set()
        self.begun = 0
        self.seen: list[Any] = []
        self.names: list[str | None] = []

    def predict(self, call: Call) -> Answer:
        self.begun += 1
        self.may_go.wait(10)
        self.seen.append(call.payload)
        self.names.append(call.headers().get("X-Name"))
        return Complete(call.payload)


class Serving:
    """A front on a thread of its own."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.errors: list[dict[str, Any]] = []
        self.runner = Runner()
        self.refused: list[int] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.transport: NativeTransport
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        asyncio.set_event_loop(None)
        self._loop.close()

    async def _serve(self) -> None:
        handlers = (Parts, Flood, Upload, Waiting, TwoLines)
        routes: list[Any] = [(f"/{handler.__name__.lower()}", handler) for handler in handlers]
        service = InferenceService({"m": Stand(self.runner, Lane(1, 100))}, Instruments())
        route = Route(v1.V1(), v1.CONTENT_TYPE, service, model="m")
        self.transport = NativeTransport(
            tornado.web.Application(routes),
            {PREDICT.encode(): route},
            self.limits,
            None,
            self.refused.append,
        )
        self.front = HttpFront(self.transport, self.listener, self.limits)
        self.front.start()
        self._end = asyncio.Event()
        self._started.set_result(None)
        await self._end.wait()
        await self.front.drain(1, last=True)

    def stop(self) -> None:
        self.runner.may_go.set()
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert not self.errors


@pytest.fixture
def serving() -> Iterator[Serving]:
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    running = Serving()
    yield running
    running.stop()


@pytest.fixture
def wire(serving: Serving) -> Iterator[Wire]:
    with Wire(serving.port) as open_wire:
        yield open_wire


# What the application serves


def test_an_answer_of_unknown_length_goes_in_chunks(wire: Wire) -> None:
    wire.send(get("/parts", "Connection: close"))
    head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert body == b"".join(b"7\r\npart %d;\r\n" % number for number in range(3)) + b"0\r\n\r\n"


def test_http_1_0_is_told_its_end_by_the_connections(wire: Wire) -> None:
    wire.send(b"GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"Connection: close" in head
    assert body == b"part 0;part 1;part 2;"


def test_a_handler_waits_for_a_client_that_does_not_read(serving: Serving) -> None:
    Flood.written, Flood.ended = 0, []
    with Wire(serving.port) as wire:
        wire.send(get("/flood"))
        wait_until(lambda: Flood.written > 0, 30)
        wait_until(lambda: Flood.ended, 30, "it is given up in REQUEST_TIMEOUT_SEC")
        assert Flood.written < 32 << 20, "the kernel's buffers and a little"


def test_a_body_reaches_the_handler_as_it_comes(wire: Wire) -> None:
    request = post("/upload", b"x" * 300_000)
    wire.send(request[:100_000])
    time.sleep(0.05)  # so that it comes in parts; nothing is waited for
    wire.send(request[100_000:])
    assert wire.answer().body == b'{"size": 300000, "is_in_parts": true}'


def test_a_handler_is_told_that_its_client_has_gone(serving: Serving) -> None:
    Waiting.gone = []
    with Wire(serving.port) as wire:
        wire.send(get("/waiting"))
        wait_until(lambda: serving.transport.connections.open, 30)
    wait_until(lambda: Waiting.gone, 30)


def test_a_header_cannot_hold_another(wire: Wire) -> None:
    wire.send(get("/twolines") + get("/parts"))
    with contextlib.suppress(ConnectionResetError):
        assert wire.read_to_end() == b"", "the next answer would be taken for this one"


# Order and turns


def test_answers_come_in_the_order_of_requests(serving: Serving, wire: Wire) -> None:
    bodies = [b"[%d]" % number for number in range(50)]
    for body in bodies:
        wire.send(post(PREDICT, body) + get("/no"))
    for body in bodies:
        assert wire.answer().body == body
        assert wire.answer().status == 404
    assert serving.runner.seen == [[number] for number in range(50)]


def test_others_have_their_turn_behind_a_long_pipeline(serving: Serving, wire: Wire) -> None:
    serving.runner.may_go.clear()
    wire.send(post(PREDICT, b"1") * 5000)
    wait_until(lambda: serving.runner.begun, 30)
    with Wire(serving.port) as other:
        other.send(post(PREDICT, b"2"))
        wait_until(lambda: len(serving.transport.connections.open) == 2, 30)
        serving.runner.may_go.set()
        assert other.answer().body == b"2"
    for _ in range(5000):
        assert wire.answer().body == b"1"
    assert serving.runner.seen.index(2) < 4000


def test_what_waits_behind_a_request_is_left_in_the_kernel(serving: Serving, wire: Wire) -> None:
    serving.runner.may_go.clear()
    wire.send(post(PREDICT, b"1"))
    wire.socket.settimeout(0.5)
    request = post(PREDICT, b'"%s"' % (b"x" * 1000))
    sent = 0
    with pytest.raises(TimeoutError):  # noqa: PT012  one of them
        while True:
            sent += wire.socket.send(request * 100)
    (connection,) = serving.transport.connections.open
    assert connection.arrived() < sent
    assert connection.taken + len(connection._pending) < 4 << 20  # type: ignore[attr-defined]
    serving.runner.may_go.set()
    wire.socket.settimeout(10)
    assert wire.answer().body == b"1"
    assert wire.answer().status == 200, "it reads on"


# The client's ways


def test_an_upgrade_is_refused_by_serving_on(serving: Serving, wire: Wire) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEA")
    wire.send(post(PREDICT, b"[1]", *upgrade) + post(PREDICT, b"[2]"))
    assert [wire.answer().body, wire.answer().body] == [b"[1]", b"[2]"]


def test_a_client_that_has_said_all_is_still_answered(serving: Serving, wire: Wire) -> None:
    serving.runner.may_go.clear()
    wire.send(post(PREDICT, b"[1]") + post(PREDICT, b"[2]") + get("/no")[:-2])
    wire.socket.shutdown(socket.SHUT_WR)
    timer = threading.Timer(0.1, serving.runner.may_go.set)
    timer.start()
    answers = wire.answers_to_end()
    assert [answer.body for answer in answers if answer.status == 200] == [b"[1]", b"[2]"]
    assert {answer.status for answer in answers} <= {100, 200}, "half a request gets no answer"


def test_nobody_looks_after_a_client_that_was_answered(serving: Serving, wire: Wire) -> None:
    serving.runner.may_go.clear()
    wire.send(post(PREDICT, b"[1]"))
    wire.socket.shutdown(socket.SHUT_WR)
    assert wire.socket.recv(1000).startswith(b"HTTP/1.1 100 ")
    serving.runner.may_go.set()
    assert [answer.status for answer in wire.answers_to_end()] == [200]
    time.sleep(0.1)  # it would have looked by then; stop() tells of what went wrong


def test_requests_that_wait_for_their_turn_are_answered_also_after_the_last(wire: Wire) -> None:
    wire.send(post(PREDICT, b"1", "X-Request-Timeout: 0") * 500)  # answered at once, each
    wire.socket.shutdown(socket.SHUT_WR)
    assert [answer.status for answer in wire.answers_to_end()] == [400] * 500


def test_a_prediction_that_outlives_its_request_keeps_its_own_headers(
    serving: Serving, wire: Wire
) -> None:
    serving.runner.may_go.clear()
    wire.send(post(PREDICT, b"[1]", "X-Name: first", "X-Request-Timeout: 1.5"))
    wait_until(lambda: serving.runner.begun, 30)
    wire.send(post(PREDICT, b"[2]", "X-Name: second"))
    assert wire.answer().status == 504
    serving.runner.may_go.set()
    assert wire.answer().status == 200
    assert serving.runner.names == ["first", "second"]


@pytest.mark.parametrize("is_trailer", [False, True])
def test_as_large_a_head_as_may_be(is_trailer: bool) -> None:
    """Larger than what may wait behind a request."""
    field = b"X-Much: " + b"x" * 1_000_000 + b"\r\n\r\n"
    request = get("/no")[:-2] + field
    if is_trailer:
        request = get("/no", "Transfer-Encoding: chunked") + b"0\r\n" + field
    serving = Serving(replace(LIMITS, max_header_size=1_100_000))
    with Wire(serving.port) as wire:
        wire.send(request)
        assert wire.answer().status == 404
    serving.stop()


def test_a_client_that_reset_its_connection_is_forgotten(serving: Serving) -> None:
    serving.runner.may_go.clear()
    with Wire(serving.port) as wire:
        wire.send(post(PREDICT, b"[1]"))
        wait_until(lambda: serving.transport.connections.open, 30)
    wait_until(lambda: not serving.transport.connections.open, 30)


def test_empty_lines_between_requests_are_nothing(wire: Wire) -> None:
    wire.send(b"\r\n\r\n" + post(PREDICT, b"[1]") + b"\r\n" + post(PREDICT, b"[2]"))
    assert [wire.answer().body, wire.answer().body] == [b"[1]", b"[2]"]


@pytest.mark.parametrize("line", [b"\n", b"\r", b"\r\n\n", b"\n\r\n", b"\r\r\n", b"\r\n\r"])
def test_a_line_that_ends_in_half_is_no_empty_line(wire: Wire, line: bytes) -> None:
    wire.send(line + post(PREDICT, b"[1]"))
    assert [answer.status for answer in wire.answers_to_end()] == [400]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_request_that_comes_in_pieces(wire: Wire, size: int) -> None:
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = post(PREDICT, b"[1, 2]")
    for at in range(0, len(request), size):
        wire.send(request[at : at + size])
    assert wire.answer().body == b"[1,2]"


def test_a_malformed_body_in_chunks_ends_the_connection(serving: Serving, wire: Wire) -> None:
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire.send(head.encode() + b"3\r\n[1]\r\nx\r\n")
    (answer,) = wire.answers_to_end()
    assert (answer.status, answer.closes) == (400, True)
    assert serving.refused == [400]
    assert serving.runner.seen == []


def test_a_refusal_has_no_body_only_where_head_asks(wire: Wire) -> None:
    wire.send(b"HEAD /no HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/3.0\r\n\r\n")
    answers = wire.answers_to_end(("HEAD", "GET"))
    assert [(answer.status, bool(answer.body)) for answer in answers] == [(404, False), (400, True)]
