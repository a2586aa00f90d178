from __future__ import annotations

import pytest
from tornado.httputil import HTTPHeaders

from pyfuncserver.protocol.rest import framing
from pyfuncserver.protocol.rest.framing import Refused

LIMIT = 100


def headers(*fields: tuple[str, str]) -> HTTPHeaders:
    found = HTTPHeaders()
    for name, value in (("Host", "a"), *fields):
        found.add(name, value)
    return found


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\nGET / HTTP/1.1\r\n\r\n"]
)
def test_a_head_that_is_well_formed(head: bytes) -> None:
    framing.check_head(head)


@pytest.mark.parametrize("head", [b"GET /\n\n", b"GET /\r\r\n", b"a\rb", b"a\0b", b"\n"])
def test_a_head_that_is_not(head: bytes) -> None:
    with pytest.raises(Refused) as refused:
        framing.check_head(head)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("version", "fields", "length"),
    [
        ("HTTP/1.1", [], 0),
        ("HTTP/1.1", [("Content-Length", "100")], 100),
        ("HTTP/1.1", [("Content-Length", "000000000000000099")], 99),
        ("HTTP/1.1", [("Transfer-Encoding", "Chunked")], None),
        ("HTTP/1.0", [("Content-Length", "5")], 5),
    ],
)
def test_fields_that_are_plain(
    version: str, fields: list[tuple[str, str]], length: int | None
) -> None:
    assert length == framing.body_length(version, headers(*fields).get_list, LIMIT)


def test_http_1_0_needs_no_host() -> None:
    framing.body_length("HTTP/1.0", HTTPHeaders().get_list, LIMIT)
    with pytest.raises(Refused):
        framing.body_length("HTTP/1.1", HTTPHeaders().get_list, LIMIT)


@pytest.mark.parametrize(
    ("version", "fields", "status"),
    [
        ("HTTP/1.1", [("Host", "b")], 400),
        ("HTTP/1.1", [("Content-Length", "101")], 413),
        ("HTTP/1.1", [("Content-Length", "9" * 5000)], 413),
        ("HTTP/1.1", [("Content-Length", "1"), ("Content-Length", "1")], 400),
        ("HTTP/1.1", [("Content-Length", "1,1")], 400),
        ("HTTP/1.1", [("Content-Length", "")], 400),
        ("HTTP/1.1", [("Content-Length", "-1")], 400),
        ("HTTP/1.1", [("Content-Length", "\xb2")], 400),
        ("HTTP/1.1", [("Content-Length", "1"), ("Transfer-Encoding", "chunked")], 400),
        ("HTTP/1.1", [("Transfer-Encoding", "gzip")], 400),
        ("HTTP/1.1", [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], 400),
        ("HTTP/1.0", [("Transfer-Encoding", "chunked")], 400),
    ],
)
def test_fields_that_are_refused(version: str, fields: list[tuple[str, str]], status: int) -> None:
    with pytest.raises(Refused) as refused:
        framing.body_length(version, headers(*fields).get_list, LIMIT)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("line", "size"), [(b"0\r\n", 0), (b"1F\r\n", 31), (b"005 ;a=b;c\r\n", 5), (b"a;\r\n", 10)]
)
def test_chunk_sizes(line: bytes, size: int) -> None:
    assert framing.chunk_size(line) == size


@pytest.mark.parametrize(
    "line",
    [b"\r\n", b"-1\r\n", b"0x1\r\n", b"1 1\r\n", b" 1\r\n", b"1;\n\r\n", b"f" * 17 + b"\r\n"],
)
def test_chunk_sizes_that_are_none(line: bytes) -> None:
    with pytest.raises(Refused):
        framing.chunk_size(line)


@pytest.mark.parametrize("line", [b"no field\r\n", b" a: b\r\n", b"a : b\r\n", b"a: b\0\r\n"])
def test_trailers_that_are_none(line: bytes) -> None:
    framing.check_trailer(b"X-Sum: 1\r\n")
    with pytest.raises(Refused):
        framing.check_trailer(line)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a?b", "/a?b"),
        ("http://host:80/a?b", "/a?b"),
        ("HTTPS://host", "/"),
        ("http://host?b", "/?b"),
        ("//host/a", "//host/a"),
        ("/http://host/a", "/http://host/a"),
        ("*", "*"),
    ],
)
def test_targets(target: str, path: str) -> None:
    assert framing.origin_form(target) == path


def test_a_client_that_waits_for_leave() -> None:
    expecting = headers(("Expect", "100-Continue"))
    assert framing.expects_continue("HTTP/1.1", expecting.get_list)
    assert not framing.expects_continue("HTTP/1.0", expecting.get_list)
    assert not framing.expects_continue("HTTP/1.1", headers().get_list)
