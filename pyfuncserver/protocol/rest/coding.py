"""Content codings of a request's body (RFC 9110, section 8.4): gzip and deflate."""

from __future__ import annotations

import zlib

from pyfuncserver.errors import InvalidInput, TooLarge, UnsupportedMediaType

HEADER = "Content-Encoding"
ACCEPTED = "gzip, deflate"
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""zlib's word for each format."""


def decoded(body: bytes, codings: str, limit: int) -> bytes:
    """Undo the codings of a body, which may then have ``limit`` bytes.

    Raises: UnsupportedMediaType, InvalidInput, TooLarge
    """
    names = [name.strip().lower() for name in codings.split(",")]
    for name in reversed(names):  # the last was applied last
        if name not in ("", "identity"):
            body = _inflated(body, name, limit)
    return body


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    if name not in _WINDOWS:
        raise UnsupportedMediaType(f"The body's {HEADER} is none of: {ACCEPTED}")
    found = bytearray()
    rest = body
    while rest:  # a gzip file may have several members
        stream = zlib.decompressobj(_WINDOWS[name])
        try:
            found += stream.decompress(rest, limit + 1 - len(found))
        except zlib.error:
            raise InvalidInput(f"The body is not {name}, as its {HEADER} says") from None
        if len(found) > limit:
            raise TooLarge("The body without its coding", limit, "MAX_BODY_SIZE")
        if not stream.eof:
            raise InvalidInput(f"The body ends before its {name} does")
        rest = stream.unused_data
    return bytes(found)
