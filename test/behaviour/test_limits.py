"""What clients may send, how long they may take, and what they are told when it is too much."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Daemon, wait_until
from wire import Wire, WireAnswer, get, post

LIMITS = {
    "MAX_BODY_SIZE": "20000",
    "MAX_HEADER_SIZE": "4096",
    "KEEP_ALIVE_SEC": "2",
    "REQUEST_TIMEOUT_SEC": "2",
}
ECHO = b'{"do": "echo"}'
LATE_S = 15
"""Sooner than without the setting, and later than a busy machine makes it."""


@pytest.fixture(scope="module")
def daemon(over_transport: None, controlled_model: Path) -> Iterator[Daemon]:
    with Daemon(controlled_model, env=LIMITS) as running:
        yield running


@pytest.fixture
def wire(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.http_port) as open_wire:
        yield open_wire


def reason(answer: WireAnswer, status: int) -> str:
    """Give an error's reason, when all of the answer is as an error's is to be."""
    assert answer.status == status, answer
    body = json.loads(answer.body)
    assert body["status_code"] == status
    assert answer.headers["content-type"] == "application/json; charset=UTF-8"
    return str(body["reason"])


def only(wire: Wire, methods: tuple[str, ...] = ()) -> WireAnswer:
    """Give the one answer before the end, which said that it is the last."""
    (answer,) = wire.answers_to_end(methods)
    assert answer.closes
    return answer


def chunked(path: str, *chunks: bytes, headers: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{headers}\r\n"
    return head.encode() + b"".join(chunks)


# Sizes


@pytest.mark.parametrize("size", [20_001, 10**9, 10**40])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    daemon: Daemon, wire: Wire, size: int
) -> None:
    before = daemon.metric("pyfuncserver_http_refusals_total", code="413")
    wire.send(f"POST {daemon.predict_path} HTTP/1.1\r\nHost: a\r\n".encode())
    wire.send(f"Content-Length: {size}\r\n\r\n".encode())
    assert "20000 bytes (MAX_BODY_SIZE)" in reason(only(wire), 413)
    assert daemon.metric("pyfuncserver_http_refusals_total", code="413") == before + 1


def test_a_client_that_sends_a_body_that_is_too_large_can_read_the_answer(
    daemon: Daemon,
) -> None:
    answer = daemon.predict(b"x" * 20_000_000)
    assert answer.status == 413
    assert "MAX_BODY_SIZE" in answer.json()["reason"]
    assert answer.headers["Connection"] == "close"


def test_a_body_of_the_size_allowed_is_taken(daemon: Daemon) -> None:
    body = ECHO + b" " * (20_000 - len(ECHO))
    assert daemon.predict(body).status == 200
    assert daemon.predict(body + b" ").status == 413


@pytest.mark.parametrize(
    "chunks",
    [
        (b"1000\r\n" + b"x" * 0x1000 + b"\r\n",) * 5,
        (b"FFFFFFFF\r\n", b"x" * 100),
        (b"FFFFFFFFFFFFFFFF\r\n", b"x" * 100),
    ],
    ids=["it grows", "it will", "it overflows"],
)
def test_a_chunked_body_that_is_too_large(
    daemon: Daemon, wire: Wire, chunks: tuple[bytes, ...]
) -> None:
    wire.send(chunked(daemon.predict_path, *chunks))
    assert "MAX_BODY_SIZE" in reason(only(wire), 413)


def test_a_client_that_asks_first_is_told_at_once(daemon: Daemon, wire: Wire) -> None:
    head = f"POST {daemon.predict_path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    wire.send(head.encode() + b"Content-Length: 99999\r\n\r\n")
    assert reason(only(wire), 413)


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_a_client_that_asks_first_may_go_on(daemon: Daemon, wire: Wire, expect: str) -> None:
    head = f"POST {daemon.predict_path} HTTP/1.1\r\nHost: a\r\nExpect: {expect}\r\n"
    wire.send(head.encode() + f"Content-Length: {len(ECHO)}\r\n\r\n".encode())
    assert wire.socket.recv(1000).startswith(b"HTTP/1.1 100 ")
    wire.send(ECHO)
    assert wire.answer().status == 200


@pytest.mark.parametrize("size", [5_000, 100_000, 3_000_000])
def test_a_head_that_is_too_large(wire: Wire, size: int) -> None:
    wire.send(get("/", f"X-Much: {'x' * size}"))
    assert "4096 bytes (MAX_HEADER_SIZE)" in reason(only(wire), 431)


def test_no_body_in_an_answer_to_head(wire: Wire) -> None:
    wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n")
    assert only(wire, ("HEAD",)).status == 413


# Times


def test_a_connection_without_a_request_is_closed(wire: Wire) -> None:
    wire.send(get("/"))
    assert wire.answer().status == 200
    started = time.monotonic()
    assert wire.read_to_end() == b""
    assert 1.5 < time.monotonic() - started < LATE_S


def test_a_connection_that_says_nothing_is_closed(wire: Wire) -> None:
    started = time.monotonic()
    assert wire.read_to_end() == b""
    assert 1.5 < time.monotonic() - started < LATE_S


@pytest.mark.parametrize(
    "part",
    [b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", post("/", b"12345")[:-1]],
    ids=["byte", "head", "body"],
)
def test_a_request_that_is_not_sent_in_time(wire: Wire, part: bytes) -> None:
    started = time.monotonic()
    wire.send(part)
    assert "REQUEST_TIMEOUT_SEC" in reason(only(wire), 408)
    assert 1.5 < time.monotonic() - started < LATE_S


def test_a_request_that_drips_does_not_get_more_time(wire: Wire) -> None:
    started = time.monotonic()
    wire.socket.settimeout(0.1)
    for byte in get("/", "X-Much: " + "x" * 1000):
        wire.send(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            if part := wire.socket.recv(1000):
                wire.received = part
                break
    assert "REQUEST_TIMEOUT_SEC" in reason(only(wire), 408)
    assert time.monotonic() - started < LATE_S


def test_a_prediction_may_take_longer_than_its_sending(daemon: Daemon) -> None:
    assert daemon.predict({"do": "sleep", "seconds": 3}).status == 200


def test_a_client_that_does_not_read_is_dropped_and_fills_no_memory(daemon: Daemon) -> None:
    (worker,) = daemon.worker_pids()
    before = resident_bytes(worker)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(daemon.http_port, 1)) for _ in range(3)]
        request = post(daemon.predict_path, b'{"do": "echo", "pad": "%s"}' % (b"x" * 19_000))
        for wire in wires:
            with contextlib.suppress(TimeoutError):
                while wire.send(request * 10):
                    continue
        assert resident_bytes(worker) - before < 50_000_000
        wait_until(lambda: all(is_dropped(wire) for wire in wires), 30, "they are dropped")
    assert daemon.http("GET", "/").status == 200


def is_dropped(wire: Wire) -> bool:
    wire.socket.settimeout(0.05)
    try:
        return not wire.send(get("/"))
    except TimeoutError:
        return False


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


# Descriptors


def test_where_descriptors_run_out_idle_connections_make_room(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={"KEEP_ALIVE_SEC": "60"}) as daemon:
        (worker,) = daemon.worker_pids()
        used = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 20, used + 20))
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(Wire(daemon.http_port)) for _ in range(40)]
            assert daemon.http("GET", "/").status == 200
            idle[-1].send(get("/"))
            assert idle[-1].answer().status == 200, "those that came last are still there"
            assert idle[0].read_to_end() == b""
            wait_until(lambda: "too many open files" in daemon.log(), 30)


# What HTTP does not allow


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        post("/v1/models/model-1:predict", ECHO).replace(b"localhost", b"a b"),
        post("/v1/models/model-1:predict", ECHO).replace(b"localhost", b"a@b"),
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        chunked("/", b"0\r\n\r\n", headers="Content-Length: 5\r\n"),
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n12345",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\n12",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n12",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        chunked("/", b"5 5\r\n12345\r\n0\r\n\r\n"),
        chunked("/", b"0x5\r\n12345\r\n0\r\n\r\n"),
        chunked("/", b"-5\r\n12345\r\n0\r\n\r\n"),
        chunked("/", b"\r\n12345\r\n0\r\n\r\n"),
        chunked("/", b"5;a\nb\r\n12345\r\n0\r\n\r\n"),
        chunked("/", b"5\r\n1234567\r\n0\r\n\r\n"),
        chunked("/", b"5\r\n12345\r\n0\r\nno field\r\n\r\n"),
        chunked("/", b"5;" + b"x" * 5000 + b"\r\n12345\r\n0\r\n\r\n"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_once(wire: Wire, request_: bytes) -> None:
    wire.send(request_ + get("/"))
    assert reason(only(wire), 400)


@pytest.mark.parametrize(
    "body",
    [
        (b"e\r\n" + ECHO + b"\r\n0\r\n\r\n",),
        (b"e;name=value\r\n" + ECHO + b"\r\n0;x\r\n\r\n",),
        (b"000E\r\n" + ECHO + b"\r\n000\r\nX-Trailer: a\r\nY: b\r\n\r\n",),
        *(((b"1\r\n%c\r\n" * len(ECHO)) % tuple(ECHO), b"0\r\n\r\n"),),
    ],
    ids=["plain", "extensions", "trailers", "small"],
)
def test_chunked_bodies(daemon: Daemon, wire: Wire, body: tuple[bytes, ...]) -> None:
    wire.send(chunked(daemon.predict_path, *body) + get("/"))
    assert wire.answer().body == b'{"echo":{"do":"echo"}}'
    assert wire.answer().body == b"Alive"


def test_what_comes_twice_is_one_list(daemon: Daemon, wire: Wire) -> None:
    """Neither of the two is chosen, as somebody between client and server may choose the other."""
    wire.send(post(daemon.predict_path, ECHO, "X-Request-Id: a", "x-request-id: b"))
    assert wire.answer().headers["x-request-id"] == "a,b"
    wire.send(post(daemon.predict_path, ECHO, "X-Request-Timeout: 5", "X-Request-Timeout: 3"))
    assert "'5,3'" in reason(wire.answer(), 400)


def test_a_whole_url_for_a_target(daemon: Daemon, wire: Wire) -> None:
    wire.send(get("http://anywhere:80/v1/models") + get("HTTPS://anywhere"))
    assert b"model-1" in wire.answer().body
    assert wire.answer().body == b"Alive"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "DELETE"])
def test_methods_that_are_none_of_ours(wire: Wire, method: str) -> None:
    wire.send(f"{method} / HTTP/1.1\r\nHost: a\r\nX-Secret: b\r\n\r\n".encode())
    answer = wire.answer(method)
    assert reason(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"
    assert b"Secret" not in answer.body


def test_http_1_0(wire: Wire) -> None:
    wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n")
    assert [answer.body for answer in wire.answers_to_end()] == [b"Alive", b"Alive"]


def test_an_unknown_path_leaves_the_connection_in_use(wire: Wire) -> None:
    wire.send(post("/no", b"12345") + get("/no") + get("/"))
    assert [wire.answer().status for _ in range(3)] == [404, 404, 200]


# Memory

LONG = "x" * 1_000_000
CELLS = [LONG, *["a"] * 5000]
MANY = list(range(30_000))
ROOM = 3 * 2**30
"""Memory that a worker may ask for beside what it has; a case asks for 7 to 20 GB."""
HUGE: list[tuple[str, object, tuple[str, ...]]] = [
    ("/v1/models/model-1:predict", {"instances": CELLS}, ("reason",)),
    ("/invocations", {"inputs": {"t": CELLS}}, ("message",)),
    (
        "/invocations",
        {"dataframe_split": {"data": "a", "columns": MANY, "index": MANY}},
        ("message",),
    ),
    ("/api/v1.0/predictions", {"data": {"ndarray": CELLS}}, ("status", "info")),
]


@pytest.fixture(scope="module")
def echo(over_transport: None, echo_model: Path) -> Iterator[Daemon]:
    with Daemon(echo_model) as running:
        yield running


@pytest.mark.parametrize(("path", "body", "where"), HUGE)
def test_a_small_request_that_asks_for_gigabytes_is_refused(
    echo: Daemon, path: str, body: object, where: tuple[str, ...]
) -> None:
    """The worker goes on, which the kernel would have ended where memory is short."""
    workers = echo.worker_pids()
    for worker in workers:
        pages = int(Path(f"/proc/{worker}/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + ROOM
        resource.prlimit(worker, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    answer = echo.http("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    assert answer.status == 400
    said = answer.json()
    for name in where:
        said = said[name]
    assert "too large" in said
    assert LONG not in said
    usual = echo.http("POST", "/v1/models/model-1:predict", b'{"instances": ["a", "bc"]}')
    assert usual.json() == {"predictions": ["a", "bc"]}
    assert echo.worker_pids() == workers
