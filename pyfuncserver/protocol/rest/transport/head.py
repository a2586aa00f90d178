"""A request's head, parsed by httptools and checked: where the request ends, what it asks for."""

from __future__ import annotations

import re

import httptools

from pyfuncserver.protocol.rest import framing
from pyfuncserver.protocol.rest.framing import Refused

END = b"\r\n\r\n"
# A token that httptools may not know is a method that none of our paths has, like TRACE; CONNECT,
# whose target httptools wants to be a host, is another (RFC 9110, section 9.1).
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?= )")
_STAND_IN = b"TRACE"
_PLAIN_HOST = re.compile(rb"[0-9A-Za-z._-]*(:[0-9]*)?").fullmatch
_USUAL = (b"POST ", b"GET ", b"HEAD ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ")
_names: dict[bytes, str] = {}
_MOST_NAMES = 1024


class Head:
    """What a head holds. Names and values are as they were sent, without space around them."""

    __slots__ = ("body_length", "fields", "found", "method", "target", "version")

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.version = "HTTP/1.1"
        self.fields: list[tuple[bytes, bytes]] = []
        self.found: dict[bytes, bytes] = {}
        """The values by their names in lower case; of duplicates the last one."""
        self.body_length: int | None = 0
        """In bytes; None where the body comes in chunks."""

    # httptools calls these.

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    # Others ask these.

    def get(self, name: bytes) -> str | None:
        """Give a header's value by its name in lower case; of duplicates all, as Tornado does."""
        value = self.found.get(name)
        if value is not None and len(self.found) < len(self.fields):
            return ",".join(self.get_all(name.decode()))
        return None if value is None else value.strip(b" \t").decode("latin-1")

    def get_all(self, name: str) -> list[str]:
        """Give all values of a header, by its name in lower case."""
        wanted = name.encode()
        return [
            value.strip(b" \t").decode("latin-1")
            for found, value in self.fields
            if found.lower() == wanted
        ]

    def as_dict(self) -> dict[str, str]:
        """Give the headers by their names in Title-Case; of duplicates the last one."""
        return {
            _names.get(name) or _title(name): value.strip(b" \t").decode("latin-1")
            for name, value in self.fields
        }

    @property
    def is_plain_post(self) -> bool:
        """Tell whether no more has to be known of it than its path."""
        return (
            self.method == b"POST"
            and self.version == "HTTP/1.1"
            and b"content-encoding" not in self.found
            and _PLAIN_HOST(self.found[b"host"]) is not None
        )

    @property
    def is_kept_alive(self) -> bool:
        """Tell whether the client keeps its connection after this request (RFC 9112, 9.3)."""
        wishes = self.get(b"connection")
        words = [] if wishes is None else _words(wishes)
        return "close" not in words and (self.version == "HTTP/1.1" or "keep-alive" in words)


def parse(raw: bytes, max_body_size: int) -> Head:
    """Parse a head, all of it and nothing but it. Raises: Refused"""
    if not raw.startswith(_USUAL):
        raw = _with_known_method(raw)
    head = Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # it goes on as HTTP/1.1, which a server may decide (RFC 9110, section 7.8)
    except httptools.HttpParserError:
        raise _refusal(raw, max_body_size) from None
    head.method = parser.get_method()
    line = b"%b %b HTTP/1." % (head.method, head.target)
    if not raw.startswith(line) or not raw.startswith((b"1\r\n", b"0\r\n"), len(line)):
        raise Refused(400, "Malformed HTTP request: its first line is none of HTTP/1.1")
    if raw[len(line)] == 0x30:
        head.version = "HTTP/1.0"
    head.found = found = {name.lower(): value for name, value in head.fields}
    is_plain = len(found) == len(head.fields) and b"transfer-encoding" not in found
    length = found.get(b"content-length", b"0")
    if is_plain and b"host" in found and length.isdigit() and len(length) < 19:
        head.body_length = int(length)
        if head.body_length > max_body_size:
            raise framing.too_large(max_body_size)
    else:
        head.body_length = framing.body_length(head.version, head.get_all, max_body_size)
    return head


def _with_known_method(raw: bytes) -> bytes:
    method = _METHOD.match(raw)
    return raw if method is None else _STAND_IN + raw[method.end() :]


def _refusal(raw: bytes, max_body_size: int) -> Refused:
    """Say what is wrong; httptools has no word of its own for a length beyond 64 bits."""
    lengths = re.findall(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)[ \t]*(?=\r\n)", raw)
    if len(lengths) == 1 and len(lengths[0]) > 18:
        return framing.too_large(max_body_size)
    return Refused(400, "Malformed HTTP request")


def _words(value: str) -> list[str]:
    return [word.strip(" \t") for word in value.lower().split(",")]


def _title(name: bytes) -> str:
    """Give a name in Title-Case, as Tornado does, and remember it."""
    title = "-".join(word.capitalize() for word in name.decode("latin-1").split("-"))
    if len(_names) < _MOST_NAMES:  # names are the clients' to choose
        _names[name] = title
    return title
