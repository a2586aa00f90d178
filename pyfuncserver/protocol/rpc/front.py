"""The gRPC front end of one worker: grpcio's synchronous server, from which no loop is met.

Each worker binds the port with SO_REUSEPORT, and the kernel spreads connections over them. A
connection stays with its worker, so it is given an age, at which the client makes a new one.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from pyfuncserver.config import Config
from pyfuncserver.errors import StartupError
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol.rpc.calls import CallPool, Streams
from pyfuncserver.protocol.rpc.controls import ControlCalls
from pyfuncserver.protocol.rpc.gate import Gate
from pyfuncserver.protocol.rpc.metadata import Authorize
from pyfuncserver.protocol.rpc.options import channel_options
from pyfuncserver.protocol.rpc.predictions import PredictionCalls
from pyfuncserver.protocol.servicer import Servicer
from pyfuncserver.utils import sockets
from pyfuncserver.utils.tls import Material, ServerTls

log = logging.getLogger(__name__)

HANDSHAKE_S = 0.05
POLL_S = 0.05
LEAVING_SHARE = 2 / 3
CONTROL_THREADS = 2
REFLECTION_THREADS = 10

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health.HealthServicer):
    """Health that answers while every prediction thread is taken: it has a thread of its own.

    ``is_ready`` tells of the whole daemon: this thread would answer also while no loop turns.
    """

    def __init__(
        self, control: ThreadPoolExecutor, streams: Streams, is_ready: Callable[[], bool]
    ) -> None:
        super().__init__(experimental_thread_pool=control)
        self._is_ready = is_ready
        # grpcio runs a method on the pool that its function names, else on the server's.
        Health.Check.experimental_thread_pool = control  # type: ignore[attr-defined]
        self._streams = streams

    def Check(self, request: Any, context: Any) -> Any:
        found = super().Check(request, context)
        if self._is_ready():
            return found
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:
        self._streams.add(context)
        return super().Watch(request, context, send_response_callback)


class Reflection(reflection.ReflectionServicer):
    """Reflection on threads of its own: each stream has one for as long as its client likes."""

    def __init__(
        self, names: Iterable[str], pool: descriptor_pool.DescriptorPool, streams: Streams
    ) -> None:
        super().__init__(names, pool=pool)
        threads = ThreadPoolExecutor(REFLECTION_THREADS, thread_name_prefix="grpc-reflection")
        Reflection.ServerReflectionInfo.experimental_thread_pool = (  # type: ignore[attr-defined]
            threads
        )
        self._streams = streams

    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:
        self._streams.add(context)
        return super().ServerReflectionInfo(request_iterator, context)


class RpcFront:
    """Serves servicers, health and reflection on a port that other workers bind as well."""

    def __init__(
        self,
        service: InferenceService,
        servicers: Sequence[Servicer],
        config: Config,
        port: int,
        is_ready: Callable[[], bool],
        authorize: Authorize | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        self._tls = tls
        self._streams = Streams()
        self._names = [servicer.name for servicer in servicers] + [HEALTH, reflection.SERVICE_NAME]
        control = ThreadPoolExecutor(CONTROL_THREADS, thread_name_prefix="grpc-control")
        self._health = Health(control, self._streams, is_ready)
        # More than may run and wait, for those whose messages are still to come.
        self._calls = CallPool(2 * config.grpc_concurrency + config.max_queue)
        self._server = grpc.server(self._calls, options=list(channel_options(config).items()))
        self._gate = Gate()
        methods = {
            f"/{servicer.name}/{name}": method
            for servicer in servicers
            for name, method in servicer.predictions.items()
        }
        self._predictions = PredictionCalls(
            service, methods, config, self._gate, self._calls, authorize
        )
        controls = ControlCalls(servicers, self._gate, control, authorize)
        self._server.add_generic_rpc_handlers((self._predictions, controls))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection(self._names, _reflection_pool(servicers), self._streams), self._server
        )
        self._port = port

    def start(self) -> None:
        """Bind and serve. Raises: StartupError where the port cannot be bound."""
        address = f"0.0.0.0:{self._port}"
        try:
            if self._tls is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError as error:
            raise StartupError(f"gRPC port {self._port} cannot be bound: {error}") from None
        self._server.start()
        for name in ("", *self._names):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def tell_not_serving(self) -> None:
        """Answer NOT_SERVING to every health check from now on; requests are still answered."""
        self._health.enter_graceful_shutdown()

    def drain(
        self,
        timeout_s: float,
        is_last: Callable[[], bool],
        when_closed: Callable[[], None] = lambda: None,
    ) -> bool:
        """Take no new calls, finish those at hand; False where that took too long. Blocks.

        ``when_closed`` is called when no new connection comes any more, if others go on.
        ``is_last`` tells whether every worker drains. Then answers also wait until none of them
        listens, or a client that gets its answer here would bring its next call to one that is
        closing. Where it is not so, the connections have time to grow old and move on.
        """
        started = time.monotonic()
        deadline = started + timeout_s
        self._leave(started + timeout_s * LEAVING_SHARE, is_last, when_closed)
        last = is_last()
        if last:
            self.tell_not_serving()
        self._gate.close()
        left_s = max(0.0, deadline - time.monotonic())
        # At the end of the grace gRPC cancels what is open, and says that all is done.
        stopped = self._server.stop(grace=left_s + HANDSHAKE_S)
        self._streams.end()
        if last:
            _wait_until_refused(self._port, self._gate.LONGEST_S)
        self._gate.open()
        is_idle = self._predictions.wait_until_idle(deadline)
        stopped.wait(left_s + 1)
        return is_idle

    def _leave(
        self, deadline: float, is_last: Callable[[], bool], when_closed: Callable[[], None]
    ) -> None:
        """Take no new connection, and wait until the clients have moved to the other workers.

        Each connection is told to end when it is of age, by a way of HTTP/2 that loses no call
        (RFC 9113, section 6.8), which the end of a gRPC server does not take.
        """
        if is_last():
            return
        for listener in filter(sockets.is_listening, sockets.own_sockets(self._port)):
            sockets.ignore_new_connections(listener)
        time.sleep(HANDSHAKE_S)
        for listener in filter(sockets.is_listening, sockets.own_sockets(self._port)):
            sockets.stop_listening(listener)
        for connection in sockets.own_sockets(self._port):
            sockets.admit(connection)
        when_closed()
        while time.monotonic() < deadline and not is_last():
            if not sockets.has_connections(self._port):
                return
            time.sleep(POLL_S)


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Give credentials that each handshake asks anew for what the files hold."""
    material = tls.material()
    given = [material]

    def renewed() -> Any:
        current = tls.material()
        if current is given[0]:
            return None  # keep what was given before
        given[0] = current
        return _certificates(current)

    return grpc.dynamic_ssl_server_credentials(
        _certificates(material), renewed, tls.demands_client_certificates
    )


def _certificates(material: Material) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.cert)], material.client_ca
    )


def _wait_until_refused(port: int, timeout_s: float) -> None:
    """Return when no process of this host listens on the port any more."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=timeout_s).close()
        except OSError:
            return
        time.sleep(0.005)


def _reflection_pool(servicers: Iterable[Servicer]) -> descriptor_pool.DescriptorPool:
    """Make a pool of all that is served, apart from the default one (see codec.messages)."""
    files = {file.name: file for servicer in servicers for file in servicer.files.file}
    for module in (health_pb2, reflection_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files[file.name] = file
    pool = descriptor_pool.DescriptorPool()
    for file in files.values():
        pool.Add(file)
    return pool
