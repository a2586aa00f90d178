"""The gRPC front end of one worker: grpcio's thread-pool server, from which no loop is met.

Each worker binds the port with SO_REUSEPORT, and the kernel spreads connections over them. A
connection stays with its worker, so it is given an age, at which the client makes a new one.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from pyfuncserver.codec import upi
from pyfuncserver.config import Config
from pyfuncserver.errors import Overloaded, ServingError, StartupError, TooLarge, Unauthenticated
from pyfuncserver.model.call import Reply, Request
from pyfuncserver.model.exchange import Exchange
from pyfuncserver.model.service import FOREVER_S, InferenceService
from pyfuncserver.protocol import request_id
from pyfuncserver.protocol.upi.calls import CallPool, Receptions, Streams
from pyfuncserver.protocol.upi.dialect import Upi
from pyfuncserver.protocol.upi.options import channel_options, receive_limit, send_limit
from pyfuncserver.utils import sockets
from pyfuncserver.utils.tls import Material, ServerTls

log = logging.getLogger(__name__)

HANDSHAKE_S = 0.05
POLL_S = 0.05
LEAVING_SHARE = 2 / 3
CONTROL_THREADS = 2
REFLECTION_THREADS = 10
AUTHORIZATION = "authorization"

Authorize = Callable[[str | None], bool]
"""Tells whether what a client sent as ``authorization`` lets it in."""

ID_KEY = request_id.HEADER.lower()
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVICES = (upi.SERVICE, HEALTH, reflection.SERVICE_NAME)


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

    def __init__(self, streams: Streams) -> None:
        super().__init__(SERVICES, pool=_reflection_pool())
        pool = ThreadPoolExecutor(REFLECTION_THREADS, thread_name_prefix="grpc-reflection")
        Reflection.ServerReflectionInfo.experimental_thread_pool = (  # type: ignore[attr-defined]
            pool
        )
        self._streams = streams

    def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> Any:
        self._streams.add(context)
        return super().ServerReflectionInfo(request_iterator, context)


class UpiFront:
    """Serves UPI v1, health and reflection on a port that other workers bind as well."""

    def __init__(
        self,
        service: InferenceService,
        config: Config,
        port: int,
        is_ready: Callable[[], bool],
        authorize: Authorize | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        self._tls = tls
        self._streams = Streams()
        self._health = Health(
            ThreadPoolExecutor(CONTROL_THREADS, thread_name_prefix="grpc-control"),
            self._streams,
            is_ready,
        )
        # More than may run and wait: an answer is out a moment before its thread is free.
        self._calls = CallPool(2 * config.grpc_concurrency + config.max_queue)
        self._server = grpc.server(self._calls, options=list(channel_options(config).items()))
        self._gate = Gate()
        self._server.add_generic_rpc_handlers(
            (UpiService(service, config, self._gate, self._calls, authorize),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            Reflection(self._streams), self._server
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
        for name in ("", *SERVICES):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def tell_not_serving(self) -> None:
        """Answer NOT_SERVING to every health check from now on; requests are still answered."""
        self._health.enter_graceful_shutdown()

    def drain(self, timeout_s: float, is_last: Callable[[], bool]) -> bool:
        """Take no new calls, finish those at hand; False where that took too long. Blocks.

        ``is_last`` tells whether every worker drains. Then answers also wait until none of them
        listens, or a client that gets its answer here would bring its next call to one that is
        closing. Where it is not so, the connections have time to grow old and move on.
        """
        started = time.monotonic()
        self._leave(started + timeout_s * LEAVING_SHARE, is_last)
        last = is_last()
        if last:
            self.tell_not_serving()
        self._gate.close()
        left_s = max(0.0, started + timeout_s - time.monotonic())
        stopped = self._server.stop(grace=left_s)
        self._streams.end()
        if last:
            _wait_until_refused(self._port, self._gate.LONGEST_S)
        self._gate.open()
        stopped.wait(left_s + 1)
        # gRPC cancels what is open at the end of the grace, and says that all is done.
        return self._calls.wait_until_idle(HANDSHAKE_S)

    def _leave(self, deadline: float, is_last: Callable[[], bool]) -> None:
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

    def __init__(
        self,
        service: InferenceService,
        config: Config,
        gate: Gate,
        calls: CallPool,
        authorize: Authorize | None = None,
    ) -> None:
        self._service = service
        self._model = config.full_name
        self._gate = gate
        self._calls = calls
        self._authorize = authorize
        self._limit = receive_limit(config)
        self._dialect = Upi(send_limit(config))
        self._path = f"/{upi.SERVICE}/{upi.METHOD}"
        self._method: Any = grpc.unary_unary_rpc_method_handler(self._predict_values)
        self._receptions = Receptions(config.request_timeout_sec)
        # It costs a tenth more (measured), for which gRPC lets the wait for the message be bounded.
        self._watched: Any = grpc.stream_unary_rpc_method_handler(self._receive_and_predict)
        refusals = ThreadPoolExecutor(1, thread_name_prefix="grpc-refusal")
        self._unauthenticated = self._refusal(Unauthenticated, refusals)
        self._overloaded = self._refusal(lambda: Overloaded(config.max_queue), refusals)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != self._path:
            return None
        self._gate.arrive()
        if self._authorize is not None:
            headers = _headers(handler_call_details.invocation_metadata)
            if not self._authorize(headers.get(AUTHORIZATION)):
                return self._unauthenticated
        if self._calls.is_full:
            return self._overloaded
        return self._watched if self._calls.is_crowded else self._method

    def _refusal(self, failure: Callable[[], ServingError], pool: ThreadPoolExecutor) -> Any:
        """Make a method that refuses each call, on a pool of its own.

        It takes a stream, since for a single message gRPC would wait before it calls the method.
        """

        def refuse(_: Any, context: grpc.ServicerContext) -> bytes:
            request = self._request(b"", context)
            return self._send(self._service.refuse(self._dialect, request, failure()), context)

        refuse.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _receive_and_predict(
        self, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        return self._predict_values(self._receptions.receive(messages, context), context)

    def _predict_values(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        request = self._request(body, context)
        if len(body) > self._limit.size:
            failure = TooLarge("The message", *self._limit)
            return self._send(self._service.refuse(self._dialect, request, failure), context)

        def abandon_with(exchange: Exchange) -> None:
            if not context.add_callback(exchange.abandon):
                exchange.abandon()

        return self._send(self._service.handle(self._dialect, request, abandon_with), context)

    def _request(self, body: bytes, context: grpc.ServicerContext) -> Request:
        headers = _headers(context.invocation_metadata())
        if self._authorize is not None:
            headers.pop(AUTHORIZATION, None)
        id_ = request_id.take_or_make(headers.get(ID_KEY))
        # The model may still replace the trailers by its own.
        context.set_trailing_metadata(((ID_KEY, id_),))
        left_s = context.time_remaining()
        deadline = math.inf if left_s > FOREVER_S else time.monotonic() + left_s
        return Request(
            self._model, body, id_, lambda: headers, context, deadline, context.is_active
        )

    def _send(self, reply: Reply, context: grpc.ServicerContext) -> bytes:
        self._gate.pass_through()
        if reply.status == "OK":
            return reply.body
        if reply.cause is not None:  # the model has aborted the call: gRPC has all it needs
            raise reply.cause
        return context.abort(grpc.StatusCode[str(reply.status)], reply.reason)  # raises


def _headers(metadata: Any) -> dict[str, str]:
    return {key: str(value) for key, value in metadata or ()}
