"""Steady load from clients of both protocols, and a record of what became of every request.

>>> with Load(http_client(daemon, keep_alive=True), clients=8) as load:
...     daemon.terminate()
>>> assert load.tally.lost == []

Each client has a line: its way to the daemon, which knows the worker at the other end.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from harness import Daemon, predict_values

from pyfuncserver.codec import upi

CLIENT_TIMEOUT_S = 30
PIPELINED = 4
PID: Mapping[str, Any] = {"do": "pid"}


class Refused(Exception):
    """The connection was never accepted, so that nothing was asked."""


class Lost(Exception):
    """A request that was sent was not answered, or not with what it asked for."""


class Line(Protocol):
    """One client's way to the daemon."""

    worker: int
    """The process at the other end; 0 while it is not known."""

    def ask(self, number: int) -> dict[str, Any]:
        """Send a request that carries the number. Raises: Refused, Lost, OSError."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Exchange:
    """A request, and what became of it; times as time.monotonic() gives them."""

    client: int
    began: float
    ended: float
    worker: int
    """Who answered; of one that was lost, who had its connection, or 0 where that is not known."""
    answer: dict[str, Any] | None
    lost: str = ""

    def overlaps(self, began: float, ended: float) -> bool:
        return self.began <= ended and began <= self.ended


@dataclass
class Tally:
    """What clients saw; ``lost`` holds what should not have been."""

    answered: int = 0
    refused: int = 0
    """Attempts at a connection that was not accepted."""
    lost: list[str] = field(default_factory=list)
    by_worker: Counter[int] = field(default_factory=Counter)


class Load:
    """Closed-loop clients: each sends its next request when the last was answered.

    A client ends with the first request that is refused or lost, unless it ``persists``.
    """

    def __init__(
        self,
        client: Callable[[], Line],
        clients: int,
        *,
        persists: bool = False,
        records: bool = True,
        pause_s: float = 0,
    ) -> None:
        self.tally = Tally()
        self.exchanges: list[Exchange] = []
        """All of them, unless it does not record."""
        self.stopping = threading.Event()
        self._make_line = client
        self._persists = persists
        self._records = records
        self._pause_s = pause_s
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(client,), daemon=True)
            for client in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(CLIENT_TIMEOUT_S + 5)
            assert not thread.is_alive(), "a client still waits for its answer"

    def _run(self, client: int) -> None:
        with contextlib.closing(self._make_line()) as line:
            while not self.stopping.is_set():
                if not self._ask(client, line) and not self._persists:
                    return
                if self._pause_s:
                    self.stopping.wait(self._pause_s)

    def _ask(self, client: int, line: Line) -> bool:
        began = time.monotonic()
        number = next(self._numbers)
        try:
            answer = line.ask(number)
        except Refused:
            with self._lock:
                self.tally.refused += 1
            self.stopping.wait(0.02)
            return False
        except Exception as error:  # noqa: BLE001  whatever it is, a request was lost by it
            line.close()
            lost = Exchange(client, began, time.monotonic(), line.worker, None, repr(error))
            with self._lock:
                self.tally.lost.append(lost.lost)
                self.exchanges.append(lost)
            return False
        with self._lock:
            self.tally.answered += 1
            self.tally.by_worker[line.worker] += 1
            if self._records:
                self.exchanges.append(
                    Exchange(client, began, time.monotonic(), line.worker, answer)
                )
        return True


class HttpLine:
    """A keep-alive connection, which is made anew when the server has closed it."""

    worker = 0

    def __init__(self, daemon: Daemon, command: Mapping[str, Any]) -> None:
        self._address = ("127.0.0.1", daemon.http_port)
        self._path = daemon.predict_path
        self.command = command
        self._socket: socket.socket | None = None
        self._unread = b""

    def ask(self, number: int) -> dict[str, Any]:
        self._connect()
        self._send(self._request(number))
        return self._answer(number)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        """Make a connection, unless there is one that the server has not closed meanwhile."""
        if self._socket is not None and _is_closed_by_peer(self._socket):
            self.close()
        if self._socket is None:
            self.worker = 0
            try:
                self._socket = socket.create_connection(self._address, CLIENT_TIMEOUT_S)
            except ConnectionRefusedError:
                raise Refused from None
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._unread = b""

    def _request(self, number: int) -> bytes:
        body = json.dumps({**self.command, "number": number}).encode()
        head = f"POST {self._path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def _send(self, data: bytes) -> None:
        assert self._socket is not None
        self._socket.sendall(data)

    def _answer(self, number: int) -> dict[str, Any]:
        """Read one answer, and close where it says so."""
        head = self._read_to(lambda data: data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0)
        status, *fields = head.decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in fields if line)
        length = int(headers["content-length"])
        body = self._read_to(lambda data: length if len(data) >= length else 0)
        if status.split()[1] != "200":
            raise Lost(f"{status} {body.decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(body)
        _check_number(answer, number)
        self.worker = answer["pid"]
        if headers.get("connection") == "close":
            self.close()
        return answer

    def _read_to(self, end: Callable[[bytes], int]) -> bytes:
        assert self._socket is not None
        while not (length := end(self._unread)):
            data = self._socket.recv(65536)
            if not data:
                raise Lost(f"closed by the server after {self._unread!r}")
            self._unread += data
        whole, self._unread = self._unread[:length], self._unread[length:]
        return whole


class ConnectingLine(HttpLine):
    """A connection for each request."""

    def ask(self, number: int) -> dict[str, Any]:
        self.close()
        answer = super().ask(number)
        if self._unread:
            raise Lost(f"a second answer: {self._unread!r}")
        return answer


class PipeliningLine(HttpLine):
    """Sends some requests at once and reads their answers; each of them has to come."""

    def ask(self, number: int) -> dict[str, Any]:
        self._connect()
        self._send(self._request(number) * PIPELINED)
        answers = []
        for nth in range(PIPELINED):
            if self._socket is None:
                raise Lost(f"{nth} of {PIPELINED} pipelined requests were answered")
            answers.append(self._answer(number))
        return answers[-1]


def _check_number(answer: Mapping[str, Any], number: int) -> None:
    if answer.get("number", number) != number:  # not every model answers it
        raise Lost(f"request {number} had the answer of another: {answer}")


def _is_closed_by_peer(connection: socket.socket) -> bool:
    """Look without waiting. Raises: Lost where there is an answer to nothing that was asked."""
    connection.settimeout(0)
    try:
        surplus = connection.recv(1000, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.settimeout(CLIENT_TIMEOUT_S)
    if surplus:
        raise Lost(f"a second answer: {surplus!r}")
    return True


class UpiLine:
    """A gRPC channel, which makes its connections itself."""

    worker = 0

    def __init__(self, daemon: Daemon, request: Any, wait_for_ready: bool = False) -> None:
        self._daemon = daemon
        self._request = request
        self._wait_for_ready = wait_for_ready
        self._channel: grpc.Channel | None = None
        self._call: Callable[..., Any] | None = None

    def ask(self, number: int) -> dict[str, Any]:
        if self._call is None:
            self._channel = self._daemon.channel()
            self._call = predict_values(self._channel)
        self.worker = 0  # the channel may have made another connection
        request = type(self._request)()
        request.CopyFrom(self._request)
        request.prediction_context.add(name="number", type=2, integer_value=number)
        try:
            response = self._call(
                request, timeout=CLIENT_TIMEOUT_S, wait_for_ready=self._wait_for_ready
            )
        except grpc.RpcError as error:
            if _was_refused(error):
                raise Refused from None
            raise Lost(f"{error.code()}: {error.details()}") from None
        answer = {v.name: v.integer_value for v in response.prediction_context}
        _check_number(answer, number)
        self.worker = answer["pid"]
        return answer

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = self._call = None


def _was_refused(error: Any) -> bool:
    return error.code() is grpc.StatusCode.UNAVAILABLE and (
        "refused" in error.details() or "failed to connect" in error.details().lower()
    )


def http_client(
    daemon: Daemon, keep_alive: bool, command: Mapping[str, Any] = PID
) -> Callable[[], Line]:
    """Make clients that ask ``command``; a connection that was made has to be answered on."""
    line = HttpLine if keep_alive else ConnectingLine
    return lambda: line(daemon, command)


def pipelining_client(daemon: Daemon, command: Mapping[str, Any] = PID) -> Callable[[], Line]:
    return lambda: PipeliningLine(daemon, command)


def upi_client(daemon: Daemon, request: Any, wait_for_ready: bool = False) -> Callable[[], Line]:
    """Make clients that call with ``request``; its answer's ``prediction_context`` has the pid.

    A channel whose attempt at a connection was reset tries again after a second, and until then
    fails its calls without sending them, unless they wait for it.
    """
    return lambda: UpiLine(daemon, request, wait_for_ready)


def command(name: str, **numbers: float) -> Any:
    """Make a request for the models that do what ``target_name`` says."""
    request = upi.messages().PredictValuesRequest(target_name=name)
    for key, value in numbers.items():
        request.prediction_context.add(name=key, type=1, double_value=value)
    return request


CLIENTS: Mapping[str, Callable[..., Callable[[], Line]]] = {
    "http-keep-alive": lambda daemon, **do: http_client(daemon, True, do),
    "http-connect": lambda daemon, **do: http_client(daemon, False, do),
    "http-pipelining": lambda daemon, **do: pipelining_client(daemon, do),
    "upi": lambda daemon, do="", **numbers: upi_client(daemon, command(do, **numbers)),
    "upi-waiting": lambda daemon, do="", **numbers: upi_client(
        daemon, command(do, **numbers), wait_for_ready=True
    ),
}
"""Kinds of clients by name; each is called with the daemon and what to ask."""


BOTH: Mapping[str, str] = {"CARAML_PROTOCOL": "HTTP_JSON,UPI_V1"}


@contextlib.contextmanager
def loads(
    daemon: Daemon, clients: Mapping[str, int], do: Mapping[str, Any], **options: Any
) -> Iterator[list[Load]]:
    """Run so many clients of each kind at once."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Load(CLIENTS[kind](daemon, **do), count, **options))
            for kind, count in clients.items()
        ]


def wait_for_answers(load: Load, count: int, timeout_s: float = 60) -> None:
    """Wait until the clients have had so many answers."""
    deadline = time.monotonic() + timeout_s
    while load.tally.answered < count:
        assert not load.tally.lost, load.tally.lost
        assert time.monotonic() < deadline, f"{load.tally.answered} answers in {timeout_s} s"
        time.sleep(0.01)
