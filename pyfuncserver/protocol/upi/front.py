"""The gRPC front end of one worker: grpcio's thread-pool server, from which no loop is met.

Each worker binds the port with SO_REUSEPORT, and the kernel spreads connections over them. A
connection stays with its worker, so it is given an age, at which the client makes a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
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
        self._server.add_generic_rpc_handlers((_handlers(service, model),))
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

    def drain(self, timeout_s: float) -> bool:
        """Take no new calls, finish those at hand; False where that took too long. Blocks."""
        self.tell_not_serving()
        return bool(self._server.stop(grace=timeout_s).wait(timeout_s + 1))


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
        pool.Add(file)  # type: ignore[no-untyped-call]
    return pool


def _handlers(service: InferenceService, model: str) -> grpc.GenericRpcHandler:
    method = grpc.unary_unary_rpc_method_handler(_predict_values(service, model))
    return grpc.method_handlers_generic_handler(upi.SERVICE, {upi.METHOD: method})


def _predict_values(
    service: InferenceService, model: str
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """Make the method: bytes in and out, since parsing and its errors are the dialect's."""
    dialect = Upi()
    header = request_id.HEADER.lower()

    def predict_values(body: bytes, context: grpc.ServicerContext) -> bytes:
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        id_ = request_id.take_or_make(headers.get(header))
        # The model may still replace the trailers by its own.
        context.set_trailing_metadata(((header, id_),))
        reply = service.handle(dialect, Request(model, body, id_, headers, context))
        if reply.status == "OK":
            return reply.body
        if context.code() is not None and reply.cause is not None:
            raise reply.cause  # the model has aborted the call: gRPC has all it needs
        context.abort(grpc.StatusCode[str(reply.status)], reply.reason)
        raise AssertionError("abort always raises")

    return predict_values
