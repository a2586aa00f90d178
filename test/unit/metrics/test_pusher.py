from __future__ import annotations

import http.server
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from harness import free_port, wait_until
from prometheus_client import CollectorRegistry, Gauge

from pyfuncserver.metrics.pusher import Pusher


class Gateway(http.server.ThreadingHTTPServer):
    """Notes what it is asked; answers with `status`."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.status = 200
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def methods(self) -> list[str]:
        return [method for method, *_ in self.asked]

    def stop(self) -> None:
        self.shutdown()
        self._thread.join(timeout=5)
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Gateway

    def _note(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append((self.command, unquote(self.path), body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_DELETE = do_POST = _note  # noqa: N815  http.server's names

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pyfuncserver")


def pusher(address: str, interval_s: float = 0.02) -> Pusher:
    registry = CollectorRegistry()
    Gauge("answer", "Of everything.", registry=registry).set(42)
    return Pusher(address, interval_s, "iris", "7", registry)


def failures(pushes: Pusher) -> float:
    return next(
        sample.value
        for family in pushes._failures.collect()
        for sample in family.samples
        if sample.name == "pyfuncserver_push_failures_total"
    )


def grouping(path: str) -> dict[str, str]:
    _, _, *parts = path.split("/")
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_push_and_its_group(gateway: Gateway) -> None:
    pushes = pusher(gateway.address)
    pushes.start()
    wait_until(lambda: len(gateway.asked) >= 3, 30)
    pushes.stop()
    assert set(gateway.methods()[:-1]) == {"PUT"}
    assert gateway.methods()[-1] == "DELETE"
    expected = {
        "job": "merlin_pyfunc_upi",
        "merlin_model_name": "iris",
        "merlin_model_version": "7",
        "host": socket.getfqdn(),
    }
    assert all(grouping(path) == expected for _, path, _ in gateway.asked)
    assert all("answer 42.0" in body for method, _, body in gateway.asked if method == "PUT")
    assert failures(pushes) == 0


def test_last_push_and_deletion_come_at_once(gateway: Gateway) -> None:
    pushes = pusher(gateway.address, interval_s=3600)
    pushes.start()
    wait_until(lambda: gateway.asked, 30)
    pushes.stop()
    assert gateway.methods() == ["PUT", "PUT", "DELETE"]


def test_url_with_a_scheme(gateway: Gateway) -> None:
    pushes = pusher(f"http://{gateway.address}", interval_s=3600)
    pushes.start()
    pushes.stop()
    assert gateway.methods() == ["PUT", "PUT", "DELETE"]


@pytest.mark.parametrize("status", [400, 500])
def test_refused_push_is_a_failure(gateway: Gateway, status: int) -> None:
    gateway.status = status
    pushes = pusher(gateway.address)
    pushes.start()
    wait_until(lambda: failures(pushes) >= 2, 30)
    pushes.stop()


def test_outages_are_counted_by_push_and_logged_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    pushes = pusher(f"127.0.0.1:{port}")
    pushes.start()
    wait_until(lambda: failures(pushes) >= 3, 30)

    gateway = Gateway(port)
    wait_until(lambda: len(gateway.asked) >= 3, 30)
    before = failures(pushes)
    gateway.stop()
    wait_until(lambda: failures(pushes) >= before + 3, 30)

    gateway = Gateway(port)
    wait_until(lambda: len(gateway.asked) >= 2, 30)
    pushes.stop()
    gateway.stop()
    assert gateway.methods()[-1] == "DELETE"
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO", "WARNING", "INFO"]
    assert str(port) in caplog.records[0].getMessage()


def test_stop_comes_back_when_nobody_listens() -> None:
    pushes = pusher(f"127.0.0.1:{free_port()}", interval_s=3600)
    pushes.start()
    pushes.stop()
    assert not pushes._thread.is_alive()
    assert failures(pushes) == 3, "a push, the last push, the deletion"
