"""A client that sends any bytes, and reads answers strictly: nothing is forgiven, nothing left."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\x20-\x7e]*")
FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x20-\x7e\x80-\xff\t]*)")


class BadAnswer(AssertionError):
    """What came is no HTTP answer."""


@dataclass(frozen=True)
class WireAnswer:
    """One answer; ``headers`` has names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def parse(received: bytes, methods: Sequence[str] = ()) -> tuple[list[WireAnswer], bytes]:
    """Give the whole answers in what was received, to requests of these methods, and the rest.

    Raises: BadAnswer
    """
    answers: list[WireAnswer] = []
    rest = received
    while rest:
        final = sum(answer.status >= 200 for answer in answers)
        method = methods[final] if final < len(methods) else "GET"
        taken = _parse_one(rest, method)
        if taken is None:
            break
        answer, rest = taken
        answers.append(answer)
    return answers, rest


def _parse_one(data: bytes, method: str) -> tuple[WireAnswer, bytes] | None:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    status_line, *lines = head.split(b"\r\n")
    matched = STATUS_LINE.fullmatch(status_line)
    if matched is None:
        raise BadAnswer(f"no status line: {status_line[:200]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        field = FIELD.fullmatch(line)
        if field is None:
            raise BadAnswer(f"no header: {line[:200]!r}")
        name = field[1].decode().lower()
        if name in headers:
            raise BadAnswer(f"a header that came twice: {name}")
        headers[name] = field[2].decode("latin-1")
    status = int(matched[1])
    if status < 200 or status in {204, 304} or method == "HEAD":
        return WireAnswer(status, headers, b""), rest
    if "content-length" not in headers:
        raise BadAnswer(f"an answer of no length: {headers}")
    length = int(headers["content-length"])
    if len(rest) < length:
        return None
    return WireAnswer(status, headers, rest[:length]), rest[length:]


class Wire:
    """A connection; a context manager."""

    def __init__(
        self, port: int, timeout_s: float = 30, context: ssl.SSLContext | None = None
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send; False where the other side has closed."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def answer(self, method: str = "GET") -> WireAnswer:
        """Read one final answer."""
        while True:
            taken = _parse_one(self.received, method)
            if taken is not None:
                answer, self.received = taken
                if answer.status >= 200:
                    return answer
                continue
            part = self.socket.recv(65536)
            if not part:
                raise BadAnswer(f"closed; what was left: {self.received[:500]!r}")
            self.received += part

    def read_to_end(self, timeout_s: float = 30) -> bytes:
        """Give all that comes until the other side closes.

        Raises: TimeoutError where it does not, ConnectionResetError where it does not do so nicely.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self.socket.recv(65536)
            if not part:
                found, self.received = self.received, b""
                return found
            self.received += part

    def answers_to_end(
        self, methods: Sequence[str] = (), timeout_s: float = 30
    ) -> list[WireAnswer]:
        """Give the answers until the other side closes; nothing else may come."""
        answers, rest = parse(self.read_to_end(timeout_s), methods)
        if rest:
            raise BadAnswer(f"the connection ends with {rest[:200]!r}")
        return answers


def post(path: str, body: bytes, *headers: str) -> bytes:
    """Write a request with a Content-Length."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers]).encode() + b"\r\n\r\n"
