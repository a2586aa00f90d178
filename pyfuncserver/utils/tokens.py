"""Bearer tokens (RFC 6750) that a file lists."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from pyfuncserver.errors import StartupError
from pyfuncserver.utils.renewal import Renewed


class Tokens:
    """The tokens of a file, one a line; a renewed file is taken up. Thread-safe.

    Only their hashes are kept.

    Raises: StartupError where the file cannot be read or holds no token.
    """

    def __init__(self, path: str) -> None:
        self._digests = Renewed([path], lambda: _read(path))

    def accepts(self, authorization: str | None) -> bool:
        """Tell whether an ``Authorization`` header brings one of the tokens.

        How long this takes does not tell how much of a token was right.
        """
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip().encode("latin-1", "replace"))  # as it was on the wire
        found = False
        for digest in self._digests.get():
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == "bearer"


def check(path: str) -> None:
    """Raise StartupError where the file, if there is to be one, would not do."""
    if path:
        _read(path)


def _read(path: str) -> list[bytes]:
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise StartupError(f"TOKEN_FILE={path!r} cannot be read: {error.strerror}") from None
    digests = [_digest(line.strip()) for line in lines if line.strip()]
    if not digests:
        raise StartupError(f"TOKEN_FILE={path!r} holds no token")
    return digests


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
