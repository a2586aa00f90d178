"""The gRPC front end of one worker: grpcio's synchronous server, from which no loop is met.

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
from functools import partial
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
from pyfuncserver.protocol.upi import arrival
from pyfuncserver.protocol.upi.arrival import Arrival
from pyfuncserver.protocol.upi.calls import CallPool, Receptions, Streams, Threads
from pyfuncserver.protocol.upi.dialect import Upi
from pyfuncserver.protocol.upi.options import channel_options, receive_limit, send_limit
from pyfuncserver.utils import sockets
from pyfuncserver.utils.tls import Material, ServerTls

log = logging.getLogger(__name__)

HANDSHAKE_S = 0.05
POLL_S = 0.05
IDLE_POLL_S = 0.005
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
        # More than may run and wait, for those whose messages are still to come.
        self._calls = CallPool(2 * config.grpc_concurrency + config.max_queue)
        self._server = grpc.server(self._calls, options=list(channel_options(config).items()))
        self._gate = Gate()
        self._upi = UpiService(service, config, self._gate, self._calls, authorize)
        self._server.add_generic_rpc_handlers((self._upi,))
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
        deadline = started + timeout_s
        self._leave(started + timeout_s * LEAVING_SHARE, is_last)
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
        is_idle = self._upi.wait_until_idle(deadline)
        stopped.wait(left_s + 1)
        return is_idle

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
        self._is_open = True
        self._held: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._last_arrival = time.monotonic()

    def arrive(self) -> None:
        """Note that a call has come; on the thread that takes calls from the wire."""
        self._last_arrival = time.monotonic()

    def pass_through(self, send: Callable[[], None]) -> None:
        """Let an answer go, now or when the gate opens; never waits."""
        if not self._is_open:
            with self._lock:
                if not self._is_open:
                    self._held.append(send)
                    return
        send()

    def wait(self) -> None:
        """Wait until an answer may go, for callers that have a thread of their own."""
        opened = threading.Event()
        self.pass_through(opened.set)
        opened.wait(3 * self.LONGEST_S)

    def close(self) -> None:
        """Hold answers from now on; return when no call has come for a while."""
        self._is_open = False
        now = time.monotonic()
        deadline, self._last_arrival = now + self.LONGEST_S, now
        while (quiet_at := self._last_arrival + self.QUIET_S) > now and now < deadline:
            time.sleep(min(quiet_at, deadline) - now)
            now = time.monotonic()

    def open(self) -> None:
        with self._lock:
            self._is_open = True
            held, self._held = self._held, []
        for send in held:
            send()


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
        self._receptions = Receptions(config.request_timeout_sec)
        # Where the call has a thread, gRPC lets the wait for the message be bounded only so.
        self._method: Any = grpc.stream_unary_rpc_method_handler(self._receive_and_predict)
        if not arrival.IS_KNOWN:
            log.warning("grpcio %s is not known: each call takes a thread", grpc.__version__)
        calls.take = self._take
        # A lane runs nothing on a thread that is not its own where it has a limit or one thread.
        is_free = config.grpc_concurrency > 1 and not config.predict_timeout_sec
        self._width = config.grpc_concurrency if is_free else 0
        self._threads = Threads(self._width)
        refusals = ThreadPoolExecutor(1, thread_name_prefix="grpc-refusal")
        self._unauthenticated = self._refusal(Unauthenticated, refusals)
        self._overloaded = self._refusal(lambda: Overloaded(config.max_queue), refusals)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != self._path:
            return None
        self._gate.arrive()
        if self._authorize is not None:
            token = _value(handler_call_details.invocation_metadata, AUTHORIZATION)
            if not self._authorize(token):
                return self._unauthenticated
        if self._calls.is_full:
            return self._overloaded
        return self._method

    def wait_until_idle(self, deadline: float) -> bool:
        """Wait until every call whose message has come has its answer; False if that is too late.

        ``deadline`` is by :func:`time.monotonic`.
        """
        while self._calls.open > len(self._receptions):
            if time.monotonic() >= deadline:
                return False
            time.sleep(IDLE_POLL_S)
        return True

    def _refusal(self, failure: Callable[[], ServingError], pool: ThreadPoolExecutor) -> Any:
        """Make a method that refuses each call, on a pool of its own.

        It takes a stream, since for a single message gRPC would wait before it calls the method.
        """

        def refuse(_: Any, context: grpc.ServicerContext) -> bytes:
            request = self._request(b"", context)
            reply = self._service.refuse(self._dialect, request, failure())
            self._gate.wait()
            return _body(reply, context)

        refuse.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(refuse)

    def _take(self, call: Arrival) -> None:
        """Have a call answered, without a thread until its message has come.

        On gRPC's thread that polls, as what is called when the message has come.
        """
        self._receptions.begin(call.context)
        call.receive(partial(self._receive, call))

    def _receive(self, call: Arrival, body: bytes | None) -> None:
        self._receptions.end(call.context)
        if body is None:
            call.answer(b"", _refuse_without_message)
            self._calls.end()
        elif not self._run_on_thread(partial(self._handle, call, body)):
            self._submit(call, body)

    def _run_on_thread(self, job: Callable[[], None]) -> bool:
        """Take a thread for a call that can run at once; others wait without one."""
        may_run = self._calls.open - len(self._receptions) <= self._width
        return may_run and self._threads.run(job)

    def _handle(self, call: Arrival, body: bytes) -> None:
        self._deliver(call, self._predict(body, call.context))

    def _submit(self, call: Arrival, body: bytes) -> None:
        """Let the service find a thread when it is this call's turn."""
        context = call.context
        request = self._request(body, context)
        if len(body) > self._limit.size:
            self._deliver(call, self._refuse_size(request))
            return
        is_answered = False

        def deliver(reply: Reply) -> None:
            nonlocal is_answered
            is_answered = True
            self._deliver(call, reply)

        exchange = self._service.submit(self._dialect, request, deliver)

        def abandon() -> None:
            if not is_answered:  # gRPC calls this at the end of every call
                exchange.abandon()

        if not context.add_callback(abandon):
            abandon()

    def _deliver(self, call: Arrival, reply: Reply) -> None:
        self._gate.pass_through(partial(self._answer, call, reply))

    def _answer(self, call: Arrival, reply: Reply) -> None:
        try:
            call.answer(reply, _body)
        finally:
            self._calls.end()

    def _receive_and_predict(
        self, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        """Answer a call that has a thread."""
        body = self._receptions.receive(messages, context)
        if body is None:
            return _refuse_without_message(None, context)
        reply = self._predict(body, context)
        self._gate.wait()
        return _body(reply, context)

    def _predict(self, body: bytes, context: grpc.ServicerContext) -> Reply:
        """Give the answer, on this thread or after waiting on it."""
        request = self._request(body, context)
        if len(body) > self._limit.size:
            return self._refuse_size(request)

        def abandon_with(exchange: Exchange) -> None:
            if not context.add_callback(exchange.abandon):
                exchange.abandon()

        return self._service.handle(self._dialect, request, abandon_with)

    def _refuse_size(self, request: Request) -> Reply:
        failure = TooLarge("The message", *self._limit)
        return self._service.refuse(self._dialect, request, failure)

    def _request(self, body: bytes, context: grpc.ServicerContext) -> Request:
        id_ = request_id.take_or_make(_value(context.invocation_metadata(), ID_KEY))
        # The model may still replace the trailers by its own.
        context.set_trailing_metadata(((ID_KEY, id_),))
        left_s = context.time_remaining()
        deadline = math.inf if left_s > FOREVER_S else time.monotonic() + left_s
        headers = partial(self._headers, context)
        return Request(self._model, body, id_, headers, context, deadline, context.is_active)

    def _headers(self, context: grpc.ServicerContext) -> dict[str, str]:
        """Give what the model may see of a call's metadata."""
        headers = {key: str(value) for key, value in context.invocation_metadata() or ()}
        if self._authorize is not None:
            headers.pop(AUTHORIZATION, None)
        return headers


def _body(reply: Reply, context: grpc.ServicerContext) -> bytes:
    """Give an answer's bytes to grpcio, or make it send an error; that raises."""
    if reply.status == "OK":
        return reply.body
    if reply.cause is not None:  # the model has aborted the call: gRPC has all it needs
        raise reply.cause
    return context.abort(grpc.StatusCode[str(reply.status)], reply.reason)


def _refuse_without_message(_: object, context: grpc.ServicerContext) -> bytes:
    return context.abort(grpc.StatusCode.UNIMPLEMENTED, "a call needs a message")


def _value(metadata: Any, name: str) -> str | None:
    """Give the value of a key; the last one, where it is there several times."""
    found = None
    for key, value in metadata or ():
        if key == name:
            found = str(value)
    return found
