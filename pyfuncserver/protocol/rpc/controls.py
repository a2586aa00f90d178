"""Calls over gRPC that ask for no prediction: metadata, readiness, the repository."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from pyfuncserver.errors import InternalError, ServingError, Unauthenticated
from pyfuncserver.protocol.rpc.gate import Gate
from pyfuncserver.protocol.rpc.metadata import AUTHORIZATION, Authorize, value_of
from pyfuncserver.protocol.servicer import Control, Servicer

log = logging.getLogger(__name__)


class ControlCalls(grpc.GenericRpcHandler):
    """Answers the controls of servicers, on ``pool``, whatever the predictions do."""

    def __init__(
        self,
        servicers: Iterable[Servicer],
        gate: Gate,
        pool: ThreadPoolExecutor,
        authorize: Authorize | None = None,
    ) -> None:
        self._gate = gate
        self._authorize = authorize
        self._handlers = {
            f"/{servicer.name}/{name}": self._handler(control, name in servicer.guarded, pool)
            for servicer in servicers
            for name, control in servicer.controls.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = self._handlers.get(handler_call_details.method)
        if handler is not None:
            self._gate.arrive()
        return handler

    def _handler(self, control: Control, is_guarded: bool, pool: ThreadPoolExecutor) -> Any:
        authorize = self._authorize if is_guarded else None

        def answer(body: bytes, context: grpc.ServicerContext) -> bytes:
            if authorize is None or authorize(
                value_of(context.invocation_metadata(), AUTHORIZATION)
            ):
                found = _attempt(control, body)
            else:
                found = Unauthenticated()
            self._gate.wait()
            if isinstance(found, bytes):
                return found
            return context.abort(grpc.StatusCode[found.grpc_code], str(found))

        answer.experimental_thread_pool = pool  # type: ignore[attr-defined]
        return grpc.unary_unary_rpc_method_handler(answer)


def _attempt(control: Control, body: bytes) -> bytes | ServingError:
    try:
        return control(body)
    except ServingError as refused:
        return refused
    except Exception as error:
        failure = InternalError(uuid.uuid4().hex)
        log.error("an internal error, error_id=%s", failure.error_id, exc_info=error)
        return failure
