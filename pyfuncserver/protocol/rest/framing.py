"""What a request's head and framing must be like, beyond what parsers see to (RFC 9112).

Where two servers in a row read the same bytes as different requests, one's client speaks in the
other's name; so what could be read in two ways is refused.
"""

from __future__ import annotations

import re
from typing import Protocol

from tornado.httputil import HTTPInputError

from pyfuncserver.errors import TooLarge

_LOOSE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)|\0")
_DIGITS = re.compile(r"[0-9]{1,18}")
_HEX = re.compile(rb"[0-9a-fA-F]{1,16}")
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ ")
_ORIGIN = re.compile(r"https?://[^/?#]*", re.IGNORECASE)


class Refused(HTTPInputError):
    """A request that gets no further, and its connection neither."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def check_head(head: bytes) -> None:
    """Raise Refused for a head whose lines end in more than one way, or that holds a NUL."""
    if _LOOSE_LINE_END.search(head):
        raise Refused(400, "Malformed HTTP request: a line does not end in CR LF, or holds a NUL")
    first, *fields = head.lstrip(b"\r\n").splitlines(keepends=True)
    if not _METHOD.match(first):
        raise Refused(400, "Malformed HTTP request: it does not begin with a method")
    if not all(map(_FIELD.fullmatch, fields[:-1])):  # the last one is the empty line
        raise Refused(400, "Malformed HTTP request: a header is not a field")


class Get(Protocol):
    """Gives all values of a header, by its name in lower case."""

    def __call__(self, name: str, /) -> list[str]: ...


def body_length(version: str, get: Get, max_body_size: int) -> int | None:
    """Give the length of a request's body, in bytes; None where it comes in chunks.

    Raises: Refused where it is not plain where the request ends, or for whom it is.
    """
    if version != "HTTP/1.0" and len(get("host")) != 1:
        raise Refused(400, "Malformed HTTP request: it needs one Host header")
    lengths, codings = get("content-length"), get("transfer-encoding")
    if not codings:
        return _length(lengths, max_body_size) if lengths else 0
    if lengths or version == "HTTP/1.0":
        raise Refused(400, "Malformed HTTP request: Transfer-Encoding does not fit in")
    if [coding.lower() for coding in codings] != ["chunked"]:
        raise Refused(400, "Malformed HTTP request: the only Transfer-Encoding is chunked")
    return None


def _length(lengths: list[str], max_body_size: int) -> int:
    if len(lengths) > 1 or not lengths[0].isascii() or not lengths[0].isdigit():
        raise Refused(400, "Malformed HTTP request: Content-Length is not a number")
    if not _DIGITS.fullmatch(lengths[0]) or int(lengths[0]) > max_body_size:
        raise too_large(max_body_size)
    return int(lengths[0])


def chunk_size(line: bytes) -> int:
    """Give the size in a chunk's first line, whatever its extensions say. Raises: Refused"""
    size = line.removesuffix(b"\r\n").partition(b";")[0].rstrip(b" \t")
    if _LOOSE_LINE_END.search(line) or not _HEX.fullmatch(size):
        raise Refused(400, "Malformed HTTP request: a chunk's size is not a number")
    return int(size, 16)


def check_trailer(line: bytes) -> None:
    """Raise Refused for what is no field of a chunked body's trailer section."""
    if not _FIELD.fullmatch(line):
        raise Refused(400, "Malformed HTTP request: a trailer is not a field")


def expects_continue(version: str, get: Get) -> bool:
    return version != "HTTP/1.0" and [e.lower() for e in get("expect")] == ["100-continue"]


def origin_form(target: str) -> str:
    """Give the path of a target that is a whole URL (section 3.2.2); another target as it is."""
    origin = _ORIGIN.match(target)
    if origin is None:
        return target
    path = target[origin.end() :]
    return path if path.startswith("/") else f"/{path}"


def too_large(limit: int) -> Refused:
    error = TooLarge("The request's body", limit, "MAX_BODY_SIZE")
    return Refused(error.http_status, str(error))


def too_late(limit_s: float) -> Refused:
    return Refused(408, f"The request was not sent within {limit_s:g} s (REQUEST_TIMEOUT_SEC)")


def head_too_large(limit: int) -> Refused:
    return Refused(431, f"The request's head exceeds the limit of {limit} bytes (MAX_HEADER_SIZE)")
