"""The daemon's ports, opened once by the supervisor, before anything is forked or loaded."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError

ADDRESS = "0.0.0.0"
BACKLOG = 2048


@dataclass(frozen=True)
class Ports:
    """Open sockets, and the numbers they have got."""

    http: socket.socket
    """Listens; every process that serves HTTP accepts from it."""
    grpc: socket.socket | None
    """Bound and not listening: it keeps the number ours while workers come and go."""
    metrics: socket.socket | None = None
    """Listens, where the metrics have a port of their own."""

    @property
    def http_port(self) -> int:
        return int(self.http.getsockname()[1])

    @property
    def grpc_port(self) -> int | None:
        return None if self.grpc is None else int(self.grpc.getsockname()[1])

    @property
    def metrics_port(self) -> int | None:
        return None if self.metrics is None else int(self.metrics.getsockname()[1])

    def close(self) -> None:
        for opened in (self.http, self.grpc, self.metrics):
            if opened is not None:
                opened.close()


def open_ports(config: Config) -> Ports:
    """Open what the configuration asks for. Raises: StartupError that names the port."""
    with contextlib.ExitStack() as opened:
        http = opened.enter_context(_bind("CARAML_HTTP_PORT", config.http_port))
        http.listen(BACKLOG)
        metrics = None
        if config.metrics_port is not None:
            metrics = opened.enter_context(_bind("METRICS_PORT", config.metrics_port))
            metrics.listen(BACKLOG)
        ports = Ports(http, _reserve(config.grpc_port) if config.speaks_upi else None, metrics)
        opened.pop_all()
        return ports


def _reserve(number: int) -> socket.socket:
    # SO_REUSEPORT would share the port with a stranger without a word; a plain bind finds him.
    probe = _bind("CARAML_GRPC_PORT", number)
    taken = int(probe.getsockname()[1])
    probe.close()
    return _bind("CARAML_GRPC_PORT", taken, shared=True)


def _bind(name: str, number: int, shared: bool = False) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Either, never both: with SO_REUSEADDR on two sockets that do not listen, the probe of a second
    # daemon would not see the port that a first one has reserved.
    option = socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR
    bound.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        bound.bind((ADDRESS, number))
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        raise StartupError(f"port {number} ({name}) cannot be opened: {reason}") from None
    return bound
