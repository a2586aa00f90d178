from __future__ import annotations

import pytest

from pyfuncserver.protocol.rest.framing import Refused
from pyfuncserver.protocol.rest.transport.head import Head, parse

LIMIT = 100


def head(first: bytes, *fields: bytes) -> Head:
    return parse(b"\r\n".join((first, b"Host: a", *fields, b"", b"")), LIMIT)


def test_what_a_head_holds() -> None:
    found = head(b"POST /a?b HTTP/1.1", b"Content-Length: 7", b"x-ID: \t1 \t", b"X-Empty:")
    assert (found.method, found.target, found.version) == (b"POST", b"/a?b", "HTTP/1.1")
    assert found.body_length == 7
    assert found.is_plain_post
    assert found.get(b"x-id") == "1"
    assert found.get(b"x-empty") == ""
    assert found.get(b"x-none") is None


def test_headers_by_their_names_in_title_case() -> None:
    found = head(b"GET / HTTP/1.1", b"x-REQUEST-id: a", b"FOO: 1", b"foo: 2 ", b"X-Name: \xe9")
    expected = {"Host": "a", "X-Request-Id": "a", "Foo": "2", "X-Name": "\xe9"}
    assert found.as_dict() == expected
    assert found.as_dict() == expected, "names are remembered"
    assert found.get(b"foo") == "1,2"
    assert found.get_all("foo") == ["1", "2"]


def test_names_are_remembered_within_bounds() -> None:
    for start in range(0, 5000, 50):
        names = [f"x-name-{number}" for number in range(start, start + 50)]
        found = head(b"GET / HTTP/1.1", *(f"{name}: 1".encode() for name in names))
        assert found.as_dict() == {"Host": "a", **{name.title(): "1" for name in names}}


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "X", "M-SEARCH"])
def test_methods_that_nothing_has(method: str) -> None:
    found = head(f"{method} / HTTP/1.1".encode())
    assert (found.method, found.target) == (b"TRACE", b"/")


@pytest.mark.parametrize(
    ("version", "fields", "is_kept"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: keep-alive"], True),
        ("1.1", ["Connection: Close"], False),
        ("1.1", ["Connection: TE, close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: Keep-Alive"], True),
        ("1.1", ["Connection: close", "Connection: keep-alive"], False),
        ("1.0", ["Connection: keep-alive", "connection: close"], False),
    ],
)
def test_whether_the_connection_is_kept(version: str, fields: list[str], is_kept: bool) -> None:
    found = head(f"GET / HTTP/{version}".encode(), *(field.encode() for field in fields))
    assert found.is_kept_alive is is_kept


@pytest.mark.parametrize(
    ("host", "is_plain"),
    [(b"", True), (b"a-1.b_c:80", True), (b"a b", False), (b"a@b", False), (b"\xe9", False)],
)
def test_only_a_plain_host_needs_no_further_look(host: bytes, is_plain: bool) -> None:
    found = parse(b"POST / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", LIMIT)
    assert found.is_plain_post is is_plain


def test_an_upgrade_is_not_taken_up() -> None:
    """Java's own client asks for HTTP/2 so, also with a body."""
    found = head(
        b"POST / HTTP/1.1",
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAAB",
        b"Content-Length: 5",
    )
    assert (found.method, found.body_length, found.is_kept_alive) == (b"POST", 5, True)


@pytest.mark.parametrize(
    ("fields", "length"),
    [([], 0), ([b"Content-Length: 100"], 100), ([b"Transfer-Encoding: Chunked"], None)],
)
def test_where_the_body_ends(fields: list[bytes], length: int | None) -> None:
    assert head(b"POST / HTTP/1.1", *fields).body_length == length


@pytest.mark.parametrize(
    ("first", "field", "status"),
    [
        (b"GET  / HTTP/1.1", b"A: b", 400),
        (b"GET / HTTP/1.1 ", b"A: b", 400),
        (b"GET / HTTP/2.0", b"A: b", 400),
        (b"GET / HTTP/0.9", b"A: b", 400),
        (b"GET / RTSP/1.0", b"A: b", 400),
        (b"GET /", b"A: b", 400),
        (b"G@T / HTTP/1.1", b"A: b", 400),
        (b"POST / HTTP/1.1", b"Host: b", 400),
        (b"POST / HTTP/1.1", b"A : b", 400),
        (b"POST / HTTP/1.1", b"A: b\x00", 400),
        (b"POST / HTTP/1.1", b"A: b\nB: c", 400),
        (b"POST / HTTP/1.1", b"A: b\rB: c", 400),
        (b"POST / HTTP/1.1", b"A: b\r\n c", 400),
        (b"POST / HTTP/1.1", b"Content-Length: 101", 413),
        (b"POST / HTTP/1.1", b"Content-Length: " + b"9" * 50, 413),
        (b"POST / HTTP/1.1", b"Content-Length: 1\r\nContent-Length: 1", 400),
        (b"POST / HTTP/1.1", b"Content-Length: 1, 1", 400),
        (b"POST / HTTP/1.1", b"Content-Length: +1", 400),
        (b"POST / HTTP/1.1", b"Content-Length: 1\r\nTransfer-Encoding: chunked", 400),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked", 400),
        (b"POST / HTTP/1.0", b"Transfer-Encoding: chunked", 400),
    ],
)
def test_what_is_refused(first: bytes, field: bytes, status: int) -> None:
    with pytest.raises(Refused) as refused:
        head(first, field)
    assert refused.value.status == status


def test_a_host_is_needed() -> None:
    with pytest.raises(Refused):
        parse(b"GET / HTTP/1.1\r\n\r\n", LIMIT)
    assert parse(b"GET / HTTP/1.0\r\n\r\n", LIMIT).version == "HTTP/1.0"
