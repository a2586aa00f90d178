"""The gRPC front end of one worker: grpcio's thread-pool server, from which no loop is met.

Each worker binds the port with SO_REUSEPORT, and the kernel spreads connections over them. A
connection stays with its worker, so it is given an age, at which the client makes a new one.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from pyfuncserver.codec import upi
from pyfuncserver.errors import StartupError
from pyfuncserver.model.call import Request
from pyfuncserver.model.service import InferenceService
from pyfuncserver.protocol import request_id
from pyfuncserver.protocol.upi.dialect import Upi

log = logging.getLogger(__name__)

CONNECTION_AGE_MS = 60_000
CONTROL_THREADS = 2

ID_KEY = request_id.HEADER.lower()
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVICES = (upi.SERVICE, HEALTH, reflection.SERVICE_NAME)


class Health(health.HealthServicer):
    """Health that answers while every prediction thread is taken: it has a thread of its own."""

    def Check(self, request: Any, context: Any) -> Any:
        return super().Check(request, context)


class Reflection(reflection.ReflectionServicer):
    """Reflection on the control threads: its streams stay open as long as the client likes."""

    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:
        return super().ServerReflectionInfo(request_iterator, context)


class UpiFront:
    """Serves UPI v1, health and reflection on a port that other workers bind as well."""

    def __init__(
        self,
        service: InferenceService,
        model: str,
        port: int,
        concurrency: int,
        options: Mapping[str, int | str],
    ) -> None:
        self._control = ThreadPoolExecutor(CONTROL_THREADS, thread_name_prefix="grpc-control")
        self._health = Health(experimental_thread_pool=self._control)
        # grpcio runs a method on the pool that its function names, else on the server's.
        Health.Check.experimental_thread_pool = self._control  # type: ignore[attr-defined]
        Reflection.ServerReflectionInfo.experimental_thread_pool = (  # type: ignore[attr-defined]
            self._control
        )
        self._server = grpc.server(
            ThreadPoolExecutor(concurrency, thread_name_prefix="predict"),
            options=list(_options(options).items()),
        )
        self._gate = Gate()
        self._server.add_generic_rpc_handlers((UpiService(service, model, self._gate),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection(SERVICES, pool=_reflection_pool()), self._server
        )
        self._port = port

    def start(self) -> None:
        """Bind and serve. Raises: StartupError where the port cannot be bound."""
        try:
            self._server.add_insecure_port(f"0.0.0.0:{self._port}")
        except RuntimeError as error:
            raise StartupError(f"gRPC port {self._port} cannot be bound: {error}") from None
        self._server.start()
        for name in ("", *SERVICES):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def tell_not_serving(self) -> None:
        """Answer NOT_SERVING to every health check from now on; requests are still answered."""
        self._health.enter_graceful_shutdown()

    def drain(self, timeout_s: float, last: bool) -> bool:
        """Take no new calls, finish those at hand; False where that took too long. Blocks.

        ``last`` says that every worker drains: then answers also wait until none of them listens,
        or a client that gets its answer here would bring its next call to one that is closing.
        """
        self.tell_not_serving()
        self._gate.close()
        started = time.monotonic()
        stopped = self._server.stop(grace=timeout_s)
        if last:
            _wait_until_refused(self._port, self._gate.LONGEST_S)
        self._gate.open()
        stopped.wait(timeout_s + 1)
        # gRPC cancels what is open at the end of the grace, and says that all is done.
        return time.monotonic() - started < timeout_s


def _wait_until_refused(port: int, timeout_s: float) -> None:
    """Return when no process of this host listens on the port any more."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=timeout_s).close()
        except OSError:
            return
        time.sleep(0.005)


def _options(given: Mapping[str, int | str]) -> dict[str, int | str]:
    options: dict[str, int | str] = {"grpc.max_connection_age_ms": CONNECTION_AGE_MS, **given}
    if not options.get("grpc.so_reuseport", 1):
        log.warning("GRPC_OPTIONS: grpc.so_reuseport stays on, the workers share the port by it")
    options["grpc.so_reuseport"] = 1
    return options


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Make a pool of all that is served, apart from the default one (see codec.upi)."""
    pool = upi.private_pool()
    for module in (health_pb2, reflection_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        pool.Add(file)
    return pool


class Gate:
    """Holds answers back for the moment in which the server begins to shut down.

    gRPC cancels calls that arrive after its shutdown began and before the client has seen GOAWAY.
    A client that waits for an answer sends no such call, so answers wait at the gate until nothing
    has arrived for a while; they go out after GOAWAY, and the clients' next calls go elsewhere.
    """

    QUIET_S = 0.05
    LONGEST_S = 1.0

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self._is_open.set()
        self._last_arrival = time.monotonic()

    def arrive(self) -> None:
        """Note that a call has come; on the thread that takes calls from the wire."""
        self._last_arrival = time.monotonic()

    def pass_through(self) -> None:
        """Let an answer go, or wait for the gate to open."""
        self._is_open.wait(3 * self.LONGEST_S)

    def close(self) -> None:
        """Hold answers from now on; return when no call has come for a while."""
        self._is_open.clear()
        now = time.monotonic()
        deadline, self._last_arrival = now + self.LONGEST_S, now
        while (quiet_at := self._last_arrival + self.QUIET_S) > now and now < deadline:
            time.sleep(min(quiet_at, deadline) - now)
            now = time.monotonic()

    def open(self) -> None:
        self._is_open.set()


class UpiService(grpc.GenericRpcHandler):
    """``UniversalPredictionService``; bytes in and out, for parsing them is the dialect's."""

    def __init__(self, service: InferenceService, model: str, gate: Gate) -> None:
        self._service = service
        self._model = model
        self._gate = gate
        self._dialect = Upi()
        self._path = f"/{upi.SERVICE}/{upi.METHOD}"
        self._method: Any = grpc.unary_unary_rpc_method_handler(self._predict_values)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != self._path:
            return None
        self._gate.arrive()
        return self._method

    def _predict_values(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        id_ = request_id.take_or_make(headers.get(ID_KEY))
        # The model may still replace the trailers by its own.
        context.set_trailing_metadata(((ID_KEY, id_),))
        reply = self._service.handle(
            self._dialect, Request(self._model, body, id_, headers, context)
        )
        self._gate.pass_through()
        if reply.status == "OK":
            return reply.body
        if reply.cause is not None:  # the model has aborted the call: gRPC has all it needs
            raise reply.cause
        return context.abort(grpc.StatusCode[str(reply.status)], reply.reason)  # raises
