"""Calls over gRPC that ask for no prediction: metadata, readiness, the repository."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from pyfuncserver.errors import InternalError, ServingError, Unauthenticated
from pyfuncserver.model.service import FOREVER_S
from pyfuncserver.protocol.rpc.gate import Gate
from pyfuncserver.protocol.rpc.metadata import AUTHORIZATION, Authorize, value_of
from pyfuncserver.protocol.servicer import Control, Errand, Patience, Servicer

log = logging.getLogger(__name__)

ERRAND_THREADS = 2

_Answer = Callable[[bytes, grpc.ServicerContext], bytes]
"""Raises: ServingError"""


class ControlCalls(grpc.GenericRpcHandler):
    """Answers the controls of servicers, on ``pool``, whatever the predictions do.

    Errands, which wait, have threads of their own, so that no probe waits for them.
    """

    def __init__(
        self,
        servicers: Iterable[Servicer],
        gate: Gate,
        pool: ThreadPoolExecutor,
        authorize: Authorize | None = None,
    ) -> None:
        self._gate = gate
        self._authorize = authorize
        waiting = ThreadPoolExecutor(ERRAND_THREADS, thread_name_prefix="grpc-errand")
        self._handlers: dict[str, Any] = {}
        for servicer in servicers:
            answers = {name: (_of_control(c), pool) for name, c in servicer.controls.items()}
            answers |= {name: (_of_errand(e), waiting) for name, e in servicer.errands.items()}
            self._handlers |= {
                f"/{servicer.name}/{name}": self._handler(answer, name in servicer.guarded, threads)
                for name, (answer, threads) in answers.items()
            }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            self._gate.arrive()
        return handler

    def _handler(self, answer: _Answer, is_guarded: bool, pool: ThreadPoolExecutor) -> Any:
        authorize = self._authorize if is_guarded else None

        def handle(body: bytes, context: grpc.ServicerContext) -> bytes:
            if authorize is None or authorize(
                value_of(context.invocation_metadata(), AUTHORIZATION)
            ):
                found = _attempt(answer, body, context)
            else:
                found = Unauthenticated()
            self._gate.wait()
            if isinstance(found, bytes):
                return found
            return context.abort(grpc.StatusCode[found.grpc_code], str(found))

        handle.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(handle)


def _of_control(control: Control) -> _Answer:
    return lambda body, _: control(body)


def _of_errand(errand: Errand) -> _Answer:
    return lambda body, context: errand(body, _patience(context))


def _patience(context: grpc.ServicerContext) -> Patience:
    left_s = context.time_remaining()
    deadline = math.inf if left_s > FOREVER_S else time.monotonic() + left_s
    return Patience(deadline, context.is_active)


def _attempt(answer: _Answer, body: bytes, context: grpc.ServicerContext) -> bytes | ServingError:
    try:
        return answer(body, context)
    except ServingError as refused:
        return refused
    except Exception as error:
        failure = InternalError(uuid.uuid4().hex)
        log.error("an internal error, error_id=%s", failure.error_id, exc_info=error)
        return failure
