"""Mangled gRPC: calls and frames that no client sends, and a server that goes on as if nothing was.

Two kinds, half each. *Calls*: sound HTTP/2 around broken gRPC (lengths that lie, flags, metadata,
messages that are none); each has to get one status, and a fitting one. *Frames*: a sound call's
bytes with something broken in them; whatever they get, it is at most one status a stream.
"""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError
from harness import PREDICT_VALUES, Daemon

from pyfuncserver.codec import upi

SEED = 20261121
CALLS_A_CONNECTION = 20
CONNECTIONS_AT_A_TIME = 50
PATIENCE_S = 10.0
ANSWER_S = 0.3
CONFIG = H2Configuration(
    client_side=True,
    header_encoding="latin-1",  # which takes whatever comes
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)
OK, INVALID_ARGUMENT, UNIMPLEMENTED = "0", "3", "12"

Figures = Callable[[str], None]
Headers = list[tuple[str, str]]
Mangler = Callable[[random.Random, Headers, bytes], tuple[Headers, bytes]]


def message(rng: random.Random) -> bytes:
    """Give a valid message, whose table the model echoes."""
    request = upi.messages().PredictValuesRequest(target_name="echo")
    table = request.prediction_table
    table.columns.add(name="x", type=1)
    for number in range(rng.randrange(1, 5)):
        table.rows.add(row_id=str(number)).values.add(double_value=rng.random())
    return bytes(request.SerializeToString())


def framed(body: bytes, length: int | None = None, flag: int = 0) -> bytes:
    """Prefix a message as gRPC does; by default truthfully."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body


def sound_headers() -> Headers:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PREDICT_VALUES),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


# Calls: what is done to one, and the statuses that fit; none means that a reset fits as well.


def replaced(name: str, values: list[str]) -> Mangler:
    def mangle(rng: random.Random, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        value = rng.choice(values)
        return [(k, value if k == name else v) for k, v in headers], framed(body)

    return mangle


def added(values: list[tuple[str, str]]) -> Mangler:
    def mangle(rng: random.Random, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        return [*headers, rng.choice(values)], framed(body)

    return mangle


def without(names: list[str]) -> Mangler:
    def mangle(rng: random.Random, headers: Headers, body: bytes) -> tuple[Headers, bytes]:
        name = rng.choice(names)
        return [(k, v) for k, v in headers if k != name], framed(body)

    return mangle


def flipped(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body or b"\0")
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


CALLS: dict[str, Mangler] = {
    "message flipped": lambda rng, headers, body: (headers, framed(flipped(rng, body))),
    "message truncated": lambda rng, headers, body: (
        headers, framed(body[: rng.randrange(len(body))]),
    ),
    "message of noise": lambda rng, headers, body: (
        headers, framed(rng.randbytes(rng.randrange(1, 200))),
    ),
    "invalid UTF-8": lambda rng, headers, body: (headers, framed(b"\x12\x02\xff\xfe")),
    "number beyond 64 bits": lambda rng, headers, body: (headers, framed(b"\x08" + b"\xff" * 11)),
    "nested 1,000 deep": lambda rng, headers, body: (headers, framed(nested(1_000))),
    "length too long": lambda rng, headers, body: (
        headers, framed(body, len(body) + rng.choice([1, 5, 10_000])),
    ),
    "length too short": lambda rng, headers, body: (
        headers, framed(body, rng.randrange(len(body))),
    ),
    "length of 4 GiB": lambda rng, headers, body: (headers, framed(body, 2**32 - 1)),
    "flag of compression": lambda rng, headers, body: (
        headers, framed(body, flag=rng.choice([1, 2, 255])),
    ),
    "two messages": lambda rng, headers, body: (headers, framed(body) * 2),
    "no message": lambda rng, headers, body: (headers, b""),
    "half a prefix": lambda rng, headers, body: (headers, framed(body)[: rng.randrange(1, 5)]),
    "path": replaced(":path", ["/", "/x", PREDICT_VALUES + "x", "/a/b/c", PREDICT_VALUES[1:], "*"]),
    "method": replaced(":method", ["GET", "PUT", "HEAD", "BREW"]),
    "content type": replaced("content-type", ["text/plain", "application/json", "", "grpc"]),
    "timeout": added([("grpc-timeout", text) for text in ("abc", "-1S", "99999999999S", "1", "")]),
    "encoding": added([("grpc-encoding", text) for text in ("zip", "gzip", "snappy", "")]),
    "metadata": added([("x-long", "y" * 100_000), ("bad-bin", "%%%"), ("x", "\x01"), ("", "y")]),
    "head without": without([":path", ":method", ":scheme", "te", "content-type", ":authority"]),
}  # fmt: skip


def nested(depth: int) -> bytes:
    """Give groups within groups, which a parser follows as deep as it is let."""
    return b"\x0b" * depth + b"\x0c" * depth


class Conversation:
    """One connection, and what came back on each of its streams."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.grpc_port is not None
        self.h2 = H2Connection(CONFIG)
        self.h2.initiate_connection()
        self.socket = socket.create_connection(("127.0.0.1", daemon.grpc_port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.statuses: dict[int, list[str]] = {}
        self.resets: set[int] = set()
        self.texts: list[str] = []
        self.is_over = False

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError:
            self.is_over = True

    def call(self, headers: Headers, body: bytes) -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers)
        self.send(self.h2.data_to_send())
        try:
            self.h2.send_data(stream, body, end_stream=True)
            self.send(self.h2.data_to_send())
        except ProtocolError:  # the server has ended it, or the connection, by the head alone
            self.is_over = self.is_over or stream not in self.resets
        return stream

    def send_raw(self, data: bytes) -> None:
        """Send bytes of another's making, which hold a call on stream 1."""
        self.h2.send_headers(1, sound_headers())
        self.h2.end_stream(1)
        self.h2.data_to_send()
        self.send(data)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def read(self) -> bool:
        """Take in what has come; False where nothing more will."""
        try:
            data = self.socket.recv(65536)
        except (TimeoutError, OSError):
            data = b""
        if not data:
            self.is_over = True
            return False
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:  # an answer to frames that h2 does not know it has sent
            return True
        for event in events:
            self._note(event)
        self.send(self.h2.data_to_send())
        return True

    def _note(self, event: object) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            assert event.stream_id is not None
            headers = dict(event.headers or ())
            if "grpc-status" in headers:
                self.statuses.setdefault(event.stream_id, []).append(str(headers["grpc-status"]))
                self.texts.append(str(headers.get("grpc-message", "")))
            elif headers.get(":status", "200") != "200":
                self.statuses.setdefault(event.stream_id, []).append(f"HTTP {headers[':status']}")
        elif isinstance(event, StreamReset):
            assert event.stream_id is not None
            self.resets.add(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self.is_over = True

    def wait_for(self, streams: set[int]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_over and streams - self.statuses.keys() - self.resets:
            assert time.monotonic() < deadline, "a stream was never answered"
            self.read()


@pytest.fixture(scope="module")
def daemon(echo_model: Path) -> Iterator[Daemon]:
    env = {"CARAML_PROTOCOL": "UPI_V1", "WORKERS": "2", "LOG_LEVEL": "WARNING"}
    with Daemon(echo_model, env=env) as running:
        workers = running.worker_pids()
        yield running
        assert running.worker_pids() == workers, "a worker was replaced"
        for kind in ("internal", "model_failed"):
            assert running.metric("pyfuncserver_request_errors_total", kind=kind) == 0
        assert "Traceback" not in running.log()


def still_serves(daemon: Daemon) -> bool:
    request = upi.messages().PredictValuesRequest.FromString(message(random.Random(SEED)))
    return bool(daemon.upi(request).prediction_result_table.rows)


@pytest.mark.timeout(600)
def test_mangled_calls_get_one_status_each(daemon: Daemon, is_full: bool, figures: Figures) -> None:
    rng = random.Random(SEED)
    count, seen = 10_000 if is_full else 1_000, Counter[str]()
    names = sorted(CALLS)
    done = 0
    while done < count:
        with Conversation(daemon) as conversation:
            asked: dict[int, str] = {}
            for _ in range(CALLS_A_CONNECTION):
                name = rng.choice(names)
                headers, body = CALLS[name](rng, sound_headers(), message(rng))
                asked[conversation.call(headers, body)] = name
                done += 1
                if conversation.is_over:
                    break
            conversation.wait_for(set(asked))
            for stream, name in asked.items():
                statuses = conversation.statuses.get(stream, [])
                assert len(statuses) <= 1, f"{name}: {statuses}"
                seen[f"{name}: {statuses[0] if statuses else 'closed'}"] += 1
            assert not any("error id" in text for text in conversation.texts), conversation.texts
    assert still_serves(daemon)
    figures(f"{done} mangled calls\n" + "\n".join(f"{n:6d} {k}" for k, n in sorted(seen.items())))


def mangled_frames(rng: random.Random) -> bytes:
    """Give the bytes of a sound connection with one call, and something broken in them."""
    h2 = H2Connection(CONFIG)
    h2.initiate_connection()
    h2.send_headers(1, sound_headers())
    h2.send_data(1, framed(message(rng)), end_stream=True)
    data = bytearray(h2.data_to_send())
    at = rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind == 0:
        data = bytearray(flipped(rng, bytes(data)))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randrange(1, 64))
    elif kind == 3:
        del data[at : at + rng.randrange(1, 16)]
    else:
        data += b"".join(stray_frame(rng) for _ in range(rng.randrange(1, 50)))
    return bytes(data)


def stray_frame(rng: random.Random) -> bytes:
    """Give a frame of any type, with a length, flags and a stream that need not fit."""
    payload = rng.randbytes(rng.choice([0, 1, 4, 5, 6, 8, 9, 100]))
    length = len(payload) if rng.random() < 0.8 else rng.randrange(2**24)
    head = struct.pack(">I", length)[1:] + bytes([rng.randrange(12), rng.randrange(256)])
    return head + struct.pack(">I", rng.choice([0, 1, 2, 3, 5, 2**31 - 1])) + payload


@pytest.mark.timeout(600)
def test_mangled_frames_get_at_most_one_answer(
    daemon: Daemon, is_full: bool, figures: Figures
) -> None:
    rng = random.Random(SEED + 1)
    count, seen = 10_000 if is_full else 1_000, Counter[str]()
    for _ in range(count // CONNECTIONS_AT_A_TIME):
        with contextlib.ExitStack() as stack:
            conversations = [
                stack.enter_context(Conversation(daemon)) for _ in range(CONNECTIONS_AT_A_TIME)
            ]
            for conversation in conversations:
                conversation.send_raw(mangled_frames(rng))
            listen(conversations)
            for conversation in conversations:
                for stream, statuses in conversation.statuses.items():
                    assert len(statuses) <= 1, f"stream {stream}: {statuses}"
                assert not any("error id" in text for text in conversation.texts)
                seen[str(conversation.statuses.get(1, ["closed"])[0])] += 1
        assert still_serves(daemon)
    figures(f"{count} connections with mangled frames; stream 1 ended with {dict(seen)}")


def listen(conversations: list[Conversation]) -> None:
    """Read what comes for a moment, then say that nothing more will be sent, and read to the end.

    To many a broken connection there is no answer: the server waits for the rest of a frame.
    """
    until = time.monotonic() + ANSWER_S
    with selectors.DefaultSelector() as selector:
        for conversation in conversations:
            selector.register(conversation.socket, selectors.EVENT_READ, conversation)
        while selector.get_map() and (left_s := until - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                if not key.data.read():
                    selector.unregister(key.fileobj)
    for conversation in conversations:
        if not conversation.is_over:
            conversation.end()
        while conversation.read():
            continue
