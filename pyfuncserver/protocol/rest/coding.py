"""Content codings of a request's body (RFC 9110, section 8.4): gzip and deflate."""

from __future__ import annotations

import zlib

from pyfuncserver.errors import InvalidInput, TooLarge, UnsupportedMediaType

HEADER = "Content-Encoding"
ACCEPTED = "gzip, deflate"
MOST_CODINGS = 4
MOST_MEMBERS = 2**16
"""Of a gzip file: as block-compressed ones have of gigabytes."""
FIRST_PART = 256
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""zlib's word for each format."""


def decoded(body: bytes, codings: str, limit: int) -> bytes:
    """Undo the codings of a body, which may then have ``limit`` bytes.

    Raises: UnsupportedMediaType, InvalidInput, TooLarge
    """
    names = [name.strip().lower() for name in codings.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MOST_CODINGS:
        raise UnsupportedMediaType(f"The body's {HEADER} names more than {MOST_CODINGS} codings")
    for name in reversed(names):  # the last was applied last
        body = _inflated(body, name, limit)
    return body


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    if name not in _WINDOWS:
        raise UnsupportedMediaType(f"The body's {HEADER} is none of: {ACCEPTED}")
    found, rest = bytearray(), memoryview(body)
    members = 0
    while rest:  # a gzip file may have several members
        members += 1
        if members > MOST_MEMBERS:
            raise InvalidInput(f"The body's {name} has more than {MOST_MEMBERS} members")
        rest = _inflate(rest, name, found, limit)
    return bytes(found)


def _inflate(rest: memoryview, name: str, found: bytearray, limit: int) -> memoryview:
    """Add what a member holds to what has been found; give what follows the member.

    It is handed over in growing parts: what has not been used of one is copied.
    """
    stream = zlib.decompressobj(_WINDOWS[name])
    place, size = 0, FIRST_PART
    while place < len(rest) and not stream.eof:
        part = rest[place : place + size]
        try:
            found += stream.decompress(part, limit + 1 - len(found))
        except zlib.error:
            raise InvalidInput(f"The body is not {name}, as its {HEADER} says") from None
        if len(found) > limit:
            raise TooLarge("The body without its coding", limit, "MAX_BODY_SIZE")
        place += len(part) - len(stream.unused_data)
        size *= 2
    if not stream.eof:
        raise InvalidInput(f"The body ends before its {name} does")
    return rest[place:]
