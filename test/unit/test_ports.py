from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from harness import free_port

from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError
from pyfuncserver.ports import Ports, open_ports


def settings(protocol: str = "UPI_V1", http_port: int = 0, grpc_port: int = 0) -> Config:
    given = {"CARAML_PROTOCOL": protocol, "CARAML_HTTP_PORT": http_port}
    return Config(**{**given, "CARAML_GRPC_PORT": grpc_port, "MODEL_DIR": "x"})


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Ports]:
    ports = open_ports(config)
    try:
        yield ports
    finally:
        ports.close()


@contextlib.contextmanager
def stranger(*, listens: bool, shares: bool) -> Iterator[int]:
    """Hold a port as another server would; give its number."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("0.0.0.0", 0))
        if listens:
            held.listen()
        yield held.getsockname()[1]


def test_free_ports_are_told() -> None:
    with opened(settings("HTTP_JSON,UPI_V1")) as ports:
        assert ports.http_port > 0
        assert ports.grpc_port is not None
        assert ports.grpc_port > 0
        assert ports.grpc_port != ports.http_port
        with socket.create_connection(("127.0.0.1", ports.http_port), timeout=5):
            pass


def test_http_alone_opens_no_grpc_port() -> None:
    with opened(settings("HTTP_JSON")) as ports:
        assert ports.grpc is None
        assert ports.grpc_port is None


def test_reserved_grpc_port_does_not_listen_itself() -> None:
    with opened(settings()) as ports, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports.grpc_port or 0), timeout=5)


def test_workers_can_share_the_reserved_grpc_port() -> None:
    with opened(settings()) as ports, contextlib.ExitStack() as workers:
        for _ in range(2):
            worker = workers.enter_context(socket.socket())
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("0.0.0.0", ports.grpc_port))
            worker.listen()


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "with SO_REUSEPORT"])
def test_taken_http_port_is_named(shares: bool) -> None:
    with stranger(listens=True, shares=shares) as number, pytest.raises(StartupError) as caught:
        open_ports(settings(http_port=number))
    assert str(number) in str(caught.value)
    assert "CARAML_HTTP_PORT" in str(caught.value)
    assert caught.value.status == 1


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "with SO_REUSEPORT"])
def test_taken_grpc_port_is_named(shares: bool) -> None:
    with stranger(listens=True, shares=shares) as number, pytest.raises(StartupError) as caught:
        open_ports(settings(grpc_port=number))
    assert str(number) in str(caught.value)
    assert "CARAML_GRPC_PORT" in str(caught.value)


def test_grpc_port_that_another_daemon_has_reserved_is_taken() -> None:
    # The other one's workers may still be loading, so nobody listens yet.
    with opened(settings()) as first, pytest.raises(StartupError, match="CARAML_GRPC_PORT"):
        open_ports(settings(grpc_port=first.grpc_port or 0)).close()


def test_http_port_is_given_back_when_the_grpc_port_is_taken() -> None:
    with stranger(listens=True, shares=False) as grpc_port:
        http_port = free_port()
        with pytest.raises(StartupError):
            open_ports(settings(http_port=http_port, grpc_port=grpc_port))
    with opened(settings(http_port=http_port)) as ports:
        assert ports.http_port == http_port


def test_port_is_free_again_after_connections_to_it_were_closed_here() -> None:
    # A connection that the server closed first lingers in TIME_WAIT; a restart must not wait.
    number = free_port()
    with (
        opened(settings("HTTP_JSON", http_port=number)) as ports,
        socket.create_connection(("127.0.0.1", number), timeout=30) as client,
    ):
        accepted, _ = ports.http.accept()
        accepted.close()
        assert client.recv(1) == b""
    with opened(settings("HTTP_JSON", http_port=number)) as ports:
        assert ports.http_port == number
