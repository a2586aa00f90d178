"""Tornado's streams as connections: how far each has come, what it may send, how it is closed.

They have limits: what Tornado reads passes through the methods that are overridden here, and so
does the answer that it gives to a request it cannot read.
"""

from __future__ import annotations

import array
import fcntl
import logging
import socket
import termios
import time
from asyncio import Future
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tornado.iostream import IOStream, SSLIOStream, StreamClosedError, UnsatisfiableReadError

from pyfuncserver.protocol.rest import framing
from pyfuncserver.protocol.rest.transport.connection import BEGINNING, Limits, Phase, refusal
from pyfuncserver.protocol.rest.transport.farewell import Farewell

log = logging.getLogger(__name__)

MAX_CHUNK_LINE = 4096
READ_AHEAD = 1 << 20
_TORNADOS_REFUSAL = b"HTTP/1.1 400 Bad Request\r\n\r\n"


class Stream(IOStream):
    """A connection without TLS."""

    def __init__(
        self,
        accepted: socket.socket,
        limits: Limits,
        farewell: Farewell,
        when_refused: Callable[[int], None],
        **options: Any,
    ) -> None:
        self.phase = Phase.WAITING
        self.since = time.monotonic()
        """When the phase began; of HEAD and BODY, when the request's first byte came."""
        self.received = 0
        self.is_last = False
        """The client has been told that no request will be answered after this one."""
        self._limits = limits
        self._farewell = farewell
        self._when_refused = when_refused
        self._written_at = self.since
        self._must_linger = False
        self._is_given_up = False
        self._has_ended = False
        self._beginning = b""
        self._body_size = 0
        self._is_after_last_chunk = False
        super().__init__(accepted, max_buffer_size=limits.max_header_size + READ_AHEAD, **options)

    # Where it stands

    @property
    def is_waiting(self) -> bool:
        return self.phase is Phase.WAITING and not self.closed()

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing has come, also nothing that a busy loop has not read yet."""
        return self.is_waiting and not self.has_more()

    @property
    def is_busy(self) -> bool:
        return self.phase in (Phase.BODY, Phase.RUNNING, Phase.ANSWERED)

    @property
    def taken(self) -> int:
        """Bytes that were received and read by Tornado."""
        return self.received - self._read_buffer_size

    def arrived(self) -> int:
        """Count the bytes that have come so far; with TLS, rather more than those."""
        waiting = array.array("i", [0])
        fcntl.ioctl(self.fileno(), termios.FIONREAD, waiting)
        return self.received + waiting[0]

    def has_more(self) -> bool:
        """Tell whether bytes of a further request have come."""
        return self._read_buffer_size > 0 or (not self.closed() and self._kernel_has_more())

    def _kernel_has_more(self) -> bool:
        try:
            # Not SSLSocket's own method, which cannot look ahead.
            return bool(socket.socket.recv(self.socket, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing there, or nobody
            return False

    def sweep(self, now: float) -> None:
        """Close it if it has taken its time."""
        limits = self._limits
        if self.closed():
            return
        if self.writing() and self.is_busy:
            if now - max(self._written_at, self.since) > limits.request_timeout_s:
                self._is_given_up = True
                self.close()
        elif self.phase in (Phase.HEAD, Phase.BODY):
            if now - self.since > limits.request_timeout_s:
                self._refuse_as_late()
        elif self.is_waiting and now - self.since > self._patience_s() and self.is_idle:
            self.close()

    def _refuse_as_late(self) -> None:
        if self.phase is Phase.HEAD and not self._read_buffer.strip(b"\r\n"):
            self.close()  # empty lines are no request
        else:
            self.refuse(framing.too_late(self._limits.request_timeout_s))

    def _patience_s(self) -> float:
        return self._limits.keep_alive_s

    # A request comes

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Read a request's head."""
        self._expect_request()
        head = b""
        while not head.strip(b"\r\n"):  # empty lines before a request are nothing (section 2.2)
            head = await super().read_until_regex(regex, max_bytes)
        self.phase = Phase.BODY
        self._beginning = head[:BEGINNING]
        with self.refusing():
            framing.check_head(head)
        return head

    def _expect_request(self) -> None:
        if self.closed():  # what it may still have in its buffer came too late
            raise StreamClosedError(real_error=self.error)
        self.since = time.monotonic()
        self.phase = Phase.HEAD if self._read_buffer_size else Phase.WAITING
        self._body_size = 0
        self._is_after_last_chunk = False

    async def read_until(self, delimiter: bytes, max_bytes: int | None = None) -> bytes:
        """Read the line before a chunk, without what Tornado does not know: its extensions."""
        del max_bytes
        line = await super().read_until(delimiter, MAX_CHUNK_LINE)
        with self.refusing():
            size = framing.chunk_size(line)
            self._body_size += size
            if self._body_size > self._limits.max_body_size:
                raise framing.too_large(self._limits.max_body_size)
        self._is_after_last_chunk = size == 0
        return b"%x\r\n" % size

    async def read_bytes(self, num_bytes: int, partial: bool = False) -> bytes:
        if self._is_after_last_chunk:
            return await self._read_trailers()
        data = await super().read_bytes(num_bytes, partial)
        if not partial and data != b"\r\n":  # it is the end of a chunk that Tornado reads so
            with self.refusing():
                raise framing.Refused(400, "Malformed HTTP request: a chunk has another length")
        return data

    async def _read_trailers(self) -> bytes:
        """Read to the end of a chunked body; give the empty line that Tornado waits for."""
        left = self._limits.max_header_size
        while (line := await super().read_until(b"\r\n", left)) != b"\r\n":
            left -= len(line)
            with self.refusing():
                framing.check_trailer(line)
                if left <= 0:
                    raise framing.head_too_large(self._limits.max_header_size)
        return line

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        count = super().read_from_fd(buf)
        if count:
            self.received += count
            if self.is_waiting:
                self.phase = Phase.HEAD
                self.since = time.monotonic()
        self._has_ended = count == 0
        return count

    # An answer goes

    def answer(self, is_last: bool) -> None:
        """Note that the answer is about to be written, and whether it is the connection's last."""
        self.is_last = is_last
        self._must_linger = is_last
        self.phase = Phase.ANSWERED
        self.since = time.monotonic()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse the request where the block raises Refused, which is raised on."""
        try:
            yield
        except framing.Refused as refused:
            self.refuse(refused)
            raise

    def refuse(self, refused: framing.Refused) -> None:
        """Answer in the application's place, and close."""
        if self.closed():
            return
        beginning = self._read_buffer[:BEGINNING] if self.phase is Phase.HEAD else self._beginning
        self.answer(is_last=True)
        super().write(refusal(refused, bytes(beginning)))
        self.close()
        self._when_refused(refused.status)

    def write(self, data: bytes | memoryview) -> Future[None]:
        if data != _TORNADOS_REFUSAL:
            return super().write(data)
        if self.phase is Phase.ANSWERED:  # a second answer; wait until the first is sent
            return super().write(b"")
        self.refuse(framing.Refused(400, "Malformed HTTP request"))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def write_to_fd(self, data: memoryview) -> int:
        count = super().write_to_fd(data)
        if count:
            self._written_at = time.monotonic()
        return count

    # It ends

    def close(self, exc_info: Any = False) -> None:
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            if self.phase is Phase.HEAD:
                self.refuse(framing.head_too_large(self._limits.max_header_size))
            else:
                self.refuse(framing.Refused(400, "Malformed HTTP request: a line is too long"))
            return
        super().close(exc_info)

    def close_fd(self) -> None:
        is_heard = not self._is_given_up and not self._has_ended and self.error is None
        if is_heard and (self._must_linger or self.has_more()):
            self._farewell.take(self._bare_socket())
            self.socket = None  # type: ignore[assignment]  # as Tornado's own method does
        else:
            super().close_fd()

    def _bare_socket(self) -> socket.socket:
        return self.socket


class TlsStream(Stream, SSLIOStream):
    """A connection with TLS; the socket is wrapped, and its handshake not yet made."""

    def _patience_s(self) -> float:
        is_shaking_hands = self.socket.version() is None
        return self._limits.request_timeout_s if is_shaking_hands else super()._patience_s()

    def close_fd(self) -> None:
        if self.socket.version() is not None:
            try:
                self.socket.unwrap()  # says that this is the end; without it, it may be an attack
            except (OSError, ValueError) as error:  # it does not wait for the client to say so too
                log.debug("TLS ends: %s", error)
        super().close_fd()

    def _bare_socket(self) -> socket.socket:
        return socket.socket(fileno=self.socket.detach())
