"""Steady load from clients of both protocols, and a count of what became of every request."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from harness import Daemon, predict_values

CLIENT_TIMEOUT_S = 30


@dataclass
class Tally:
    """What clients saw; ``lost`` holds what should not have been."""

    answered: int = 0
    refused: int = 0
    """Clients whose connection was never accepted, and who therefore stopped."""
    lost: list[str] = field(default_factory=list)
    by_worker: Counter[int] = field(default_factory=Counter)


class Load:
    """Closed-loop clients: each sends its next request when the last was answered."""

    def __init__(self, client: Callable[[Load], None], clients: int) -> None:
        self.tally = Tally()
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(client,), daemon=True) for _ in range(clients)
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

    def _run(self, client: Callable[[Load], None]) -> None:
        try:
            client(self)
        except Exception as error:  # noqa: BLE001  whatever it is, a request was lost by it
            self.lose(repr(error))

    def answer(self, worker: int) -> None:
        with self._lock:
            self.tally.answered += 1
            self.tally.by_worker[worker] += 1

    def refuse(self) -> None:
        with self._lock:
            self.tally.refused += 1

    def lose(self, how: str) -> None:
        with self._lock:
            self.tally.lost.append(how)


def http_client(daemon: Daemon, keep_alive: bool) -> Callable[[Load], None]:
    """Ask ``pid`` of the Controlled model; a connection that was made has to be answered on."""

    def client(load: Load) -> None:
        while not load.stopping.is_set():
            connection = daemon.connection(CLIENT_TIMEOUT_S)
            with contextlib.closing(connection):
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    load.refuse()
                    return
                for _ in _requests(load, keep_alive):
                    answer = daemon.predict({"do": "pid"}, connection=connection)
                    if answer.status != http.client.OK:
                        load.lose(f"{answer.status} {answer.text}")
                        return
                    load.answer(answer.json()["pid"])
                    if answer.headers.get("Connection", "").lower() == "close":
                        break

    return client


def _requests(load: Load, keep_alive: bool) -> Iterator[None]:
    yield
    while keep_alive and not load.stopping.is_set():
        yield


def upi_client(daemon: Daemon, request: Any) -> Callable[[Load], None]:
    """Call with ``request``, whose answer's ``prediction_context`` holds the pid."""

    def client(load: Load) -> None:
        with daemon.channel() as channel:
            call = predict_values(channel)
            while not load.stopping.is_set():
                try:
                    response = call(request, timeout=CLIENT_TIMEOUT_S)
                except grpc.RpcError as error:
                    if _was_refused(error):
                        load.refuse()
                    else:
                        load.lose(f"{error.code()}: {error.details()}")
                    return
                load.answer(response.prediction_context[0].integer_value)

    return client


def _was_refused(error: Any) -> bool:
    return error.code() is grpc.StatusCode.UNAVAILABLE and (
        "refused" in error.details() or "failed to connect" in error.details().lower()
    )


def wait_for_answers(load: Load, count: int, timeout_s: float = 20) -> None:
    """Wait until the clients have had so many answers."""
    deadline = time.monotonic() + timeout_s
    while load.tally.answered < count:
        assert not load.tally.lost, load.tally.lost
        assert time.monotonic() < deadline, f"{load.tally.answered} answers in {timeout_s} s"
        time.sleep(0.01)
