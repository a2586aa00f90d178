"""Takes a chunked body apart (RFC 9112, section 7.1)."""

from __future__ import annotations

from pyfuncserver.protocol.rest import framing

MAX_LINE = 4096


class Chunks:
    """Takes the chunks out of what has come, and the trailers, which it drops."""

    def __init__(self, max_body_size: int, max_trailer_size: int) -> None:
        self.is_complete = False
        self._max_body_size = max_body_size
        self._max_trailer_size = max_trailer_size
        self._size = 0
        self._left = 0
        """What is missing of the chunk at hand."""
        self._must_end = False
        """The chunk is there, and the line's end after it is not."""
        self._in_trailers = False
        self._trailers_left = max_trailer_size

    def take(self, pending: bytes) -> tuple[list[bytes], bytes]:
        """Give the parts of the body that are there, and what is left over.

        Raises: Refused
        """
        parts: list[bytes] = []
        at = 0
        while not self.is_complete:
            if self._left:
                part = pending[at : at + self._left]
                if not part:
                    break
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                self._must_end = not self._left
            elif self._must_end:
                if len(pending) - at < 2:
                    break
                if not pending.startswith(b"\r\n", at):
                    raise framing.Refused(400, "Malformed HTTP request: a chunk has another length")
                at += 2
                self._must_end = False
            else:
                end = pending.find(b"\r\n", at)
                line = pending[at : end + 2] if end >= 0 else pending[at:]
                self._check_line(line)
                if end < 0:
                    break
                at = end + 2
                self._take_line(line)
        return parts, pending[at:]

    def _check_line(self, line: bytes) -> None:
        if self._in_trailers:
            if len(line) > self._trailers_left:
                raise framing.head_too_large(self._max_trailer_size)
        elif len(line) > MAX_LINE:
            raise framing.Refused(400, "Malformed HTTP request: a line is too long")

    def _take_line(self, line: bytes) -> None:
        if not self._in_trailers:
            self._left = framing.chunk_size(line)
            self._size += self._left
            if self._size > self._max_body_size:
                raise framing.too_large(self._max_body_size)
            self._in_trailers = not self._left
        elif line == b"\r\n":
            self.is_complete = True
        else:
            framing.check_trailer(line)
            self._trailers_left -= len(line)
