"""Stopping over HTTP, request by request: what has come is answered, what is late is told so."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from harness import Daemon, wait_until
from wire import Wire, get, post

SLEEP = b'{"do": "sleep", "seconds": 0.3}'
PATIENT = {"DRAIN_TIMEOUT_SEC": "120"}
"""Longer than a test waits: who waits for it is found."""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_pipelined_requests_are_all_answered(controlled_model: Path, workers: str) -> None:
    with Daemon(controlled_model, env={"WORKERS": workers}) as daemon:
        bodies = [
            b'{"do": "echo", "number": %d, "pad": "%s"}' % (n, b"x" * 5000) for n in range(10)
        ]
        requests = [post(daemon.predict_path, body) for body in bodies]
        slow = post(daemon.predict_path, SLEEP)
        with Wire(daemon.http_port) as wire:
            wire.send(b"".join(slow + request for request in requests))
            wait_until(lambda: daemon.metric("pyfuncserver_requests_total") >= 2, 30)
            daemon.terminate()
            answers = wire.answers_to_end()
            assert [answer.status for answer in answers] == [200] * 20
            numbers = [f'"number":{n},'.encode() for n in range(10)]
            assert all(
                n in answer.body for n, answer in zip(numbers, answers[1::2], strict=True)
            ), "in their order"
            assert [answer.closes for answer in answers] == [False] * 19 + [True]
        assert daemon.wait() == 0


def test_a_client_that_goes_on_does_not_hold_it_up(controlled_model: Path) -> None:
    with Daemon(controlled_model, env={**PATIENT, "LOG_LEVEL": "WARNING"}) as daemon:
        stopping = threading.Event()

        def flood(wire: Wire) -> None:
            while not stopping.is_set() and wire.send(get("/") * 10):
                wire.socket.recv(100_000)

        with Wire(daemon.http_port) as wire:
            thread = threading.Thread(target=flood, args=(wire,))
            thread.start()
            wait_until(lambda: daemon.http("GET", "/").status == 200, 30)
            daemon.terminate()
            assert daemon.wait() == 0
            stopping.set()
            thread.join()


def test_connections_without_a_request_do_not_hold_it_up(controlled_model: Path) -> None:
    with (
        Daemon(controlled_model, env=PATIENT) as daemon,
        Wire(daemon.http_port) as silent,
        Wire(daemon.http_port) as dripping,
        Wire(daemon.http_port) as used,
    ):
        used.send(get("/"))
        assert used.answer().status == 200
        dripping.send(b"GET / HT")
        daemon.terminate()
        assert daemon.wait() == 0
        assert [wire.read_to_end() for wire in (silent, dripping, used)] == [b""] * 3


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True


def test_a_request_that_comes_while_it_stops_is_answered(controlled_model: Path) -> None:
    with Daemon(controlled_model) as daemon, Wire(daemon.http_port) as wire:
        wire.send(get("/"))
        assert not wire.answer().closes
        with Wire(daemon.http_port) as other:
            other.send(post(daemon.predict_path, b'{"do": "sleep", "seconds": 4}'))
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
            daemon.terminate()
            wait_until(lambda: not accepts(daemon.http_port), 30)
            wire.send(get("/"))
            (answer,) = wire.answers_to_end()
            assert answer.status == 200
            assert answer.closes
            (answer,) = other.answers_to_end()
            assert b"slept" in answer.body
        assert daemon.wait() == 0


def test_a_request_that_is_cut_off_is_no_internal_error(controlled_model: Path) -> None:
    env = {"DRAIN_TIMEOUT_SEC": "0.5", "WORKERS": "2"}
    with Daemon(controlled_model, env=env) as daemon, Wire(daemon.http_port) as wire:
        wire.send(post(daemon.predict_path, b'{"do": "sleep", "seconds": 3}'))
        with Wire(daemon.http_port) as half:
            half.send(post(daemon.predict_path, SLEEP)[:-1])
            wait_until(lambda: daemon.metric("pyfuncserver_requests_in_flight") == 1, 30)
            daemon.terminate()
            assert daemon.wait() == 0
        assert "cut off" in daemon.log()
        assert "internal error" not in daemon.log()


def test_while_readiness_is_turned_already(controlled_model: Path) -> None:
    env = {"DRAIN_DELAY_SEC": "4"}
    with Daemon(controlled_model, env=env) as daemon, Wire(daemon.http_port) as wire:
        ready = get(f"/v1/models/{daemon.full_name}")
        wire.send(ready)
        assert wire.answer().status == 200
        daemon.terminate()
        wait_until(lambda: daemon.http("GET", f"/v1/models/{daemon.full_name}").status == 503, 30)
        wire.send(post(daemon.predict_path, SLEEP) + ready + get("/"))
        answers = wire.answers_to_end()
        assert [answer.status for answer in answers] == [200, 503, 200]
        assert not any(answer.closes for answer in answers)  # the delay has only begun
        assert daemon.wait() == 0
