"""Predictions over gRPC: calls of any method that is one, from their arrival to their answer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import grpc

from pyfuncserver.config import Config
from pyfuncserver.errors import Overloaded, ServingError, TooLarge, Unauthenticated
from pyfuncserver.model.call import Reply, Request
from pyfuncserver.model.exchange import Exchange
from pyfuncserver.model.service import FOREVER_S, InferenceService
from pyfuncserver.protocol import request_id
from pyfuncserver.protocol.rpc import arrival
from pyfuncserver.protocol.rpc.arrival import Arrival
from pyfuncserver.protocol.rpc.calls import CallPool, Receptions, Threads
from pyfuncserver.protocol.rpc.gate import Gate
from pyfuncserver.protocol.rpc.metadata import AUTHORIZATION, Authorize, value_of
from pyfuncserver.protocol.rpc.options import receive_limit
from pyfuncserver.protocol.servicer import Method

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.005
ID_KEY = request_id.HEADER.lower()
MODEL_KEY, VERSION_KEY = "model-name", "model-version"
"""By which a call of a method whose messages name no model may name one."""


class _Handlers(NamedTuple):
    """What gRPC is given for a call of one method."""

    prediction: Any
    unauthenticated: Any
    overloaded: Any


class PredictionCalls(grpc.GenericRpcHandler):
    """Answers the methods that are predictions; bytes in and out, for parsing is the dialect's.

    ``methods`` are by path: `/package.Service/Method`.
    """

    def __init__(
        self,
        service: InferenceService,
        methods: Mapping[str, Method],
        config: Config,
        gate: Gate,
        calls: CallPool,
        authorize: Authorize | None = None,
    ) -> None:
        self._service = service
        self._models = service.models
        self._methods = methods
        self._gate = gate
        self._calls = calls
        self._authorize = authorize
        self._limit = receive_limit(config)
        self._receptions = Receptions(config.request_timeout_sec)
        if not arrival.IS_KNOWN:
            log.warning("grpcio %s is not known: each call takes a thread", grpc.__version__)
        calls.take = self._take
        # A lane runs nothing on a thread that is not its own where it has a limit or one thread.
        is_free = config.grpc_concurrency > 1 and not config.predict_timeout_sec
        self._width = config.grpc_concurrency if is_free else 0
        self._threads = Threads(self._width)
        refusals = ThreadPoolExecutor(1, thread_name_prefix="grpc-refusal")

        def handlers(method: Method) -> _Handlers:
            # Where the call has a thread, gRPC lets the wait for the message be bounded only so.
            receive = partial(self._receive_and_predict, method)
            return _Handlers(
                grpc.stream_unary_rpc_method_handler(receive),
                self._refusal(method, Unauthenticated, refusals),
                self._refusal(method, lambda: Overloaded(config.max_queue), refusals),
            )

        self._handlers = {path: handlers(method) for path, method in methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handlers = self._handlers.get(handler_call_details.method)
        if handlers is None:
            return None
        self._gate.arrive()
        if self._authorize is not None:
            token = value_of(handler_call_details.invocation_metadata, AUTHORIZATION)
            if not self._authorize(token):
                return handlers.unauthenticated
        if self._calls.is_full:
            return handlers.overloaded
        return handlers.prediction

    def wait_until_idle(self, deadline: float) -> bool:
        """Wait until every call whose message has come has its answer; False if that is too late.

        ``deadline`` is by :func:`time.monotonic`.
        """
        while self._calls.open > len(self._receptions):
            if time.monotonic() >= deadline:
                return False
            time.sleep(IDLE_POLL_S)
        return True

    def _refusal(
        self, method: Method, failure: Callable[[], ServingError], pool: ThreadPoolExecutor
    ) -> Any:
        """Make a method that refuses each call, on a pool of its own.

        It takes a stream, since for a single message gRPC would wait before it calls the method.
        """

        def refuse(_: Any, context: grpc.ServicerContext) -> bytes:
            request = self._request(method, b"", context)
            reply = self._service.refuse(method.dialect, request, failure())
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
        self._deliver(call, self._predict(self._methods[call.method], body, call.context))

    def _submit(self, call: Arrival, body: bytes) -> None:
        """Let the service find a thread when it is this call's turn."""
        context, method = call.context, self._methods[call.method]
        request = self._request(method, body, context)
        if len(body) > self._limit.size:
            self._deliver(call, self._refuse_size(method, request))
            return
        is_answered = False

        def deliver(reply: Reply) -> None:
            nonlocal is_answered
            is_answered = True
            self._deliver(call, reply)

        exchange = self._service.submit(method.dialect, request, deliver)

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
        self, method: Method, messages: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        """Answer a call that has a thread."""
        body = self._receptions.receive(messages, context)
        if body is None:
            return _refuse_without_message(None, context)
        reply = self._predict(method, body, context)
        self._gate.wait()
        return _body(reply, context)

    def _predict(self, method: Method, body: bytes, context: grpc.ServicerContext) -> Reply:
        """Give the answer, on this thread or after waiting on it."""
        request = self._request(method, body, context)
        if len(body) > self._limit.size:
            return self._refuse_size(method, request)

        def abandon_with(exchange: Exchange) -> None:
            if not context.add_callback(exchange.abandon):
                exchange.abandon()

        return self._service.handle(method.dialect, request, abandon_with)

    def _refuse_size(self, method: Method, request: Request) -> Reply:
        failure = TooLarge("The message", *self._limit)
        return self._service.refuse(method.dialect, request, failure)

    def _request(self, method: Method, body: bytes, context: grpc.ServicerContext) -> Request:
        id_ = request_id.take_or_make(value_of(context.invocation_metadata(), ID_KEY))
        # The model may still replace the trailers by its own.
        context.set_trailing_metadata(((ID_KEY, id_),))
        left_s = context.time_remaining()
        deadline = math.inf if left_s > FOREVER_S else time.monotonic() + left_s
        headers = partial(self._headers, context)
        model = method.model(body) if method.model is not None else self._model_of(context)
        return Request(
            model, body, id_, headers,
            context=context, deadline=deadline, is_wanted=context.is_active,
        )  # fmt: skip

    def _model_of(self, context: grpc.ServicerContext) -> str:
        """Give the key of the model that a call's metadata names, or that of the default."""
        if not self._models.is_repository:
            return self._models.default
        metadata = context.invocation_metadata()
        name = value_of(metadata, MODEL_KEY)
        if name is None:
            return self._models.default
        return self._models.key_of(name, value_of(metadata, VERSION_KEY) or "")

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
