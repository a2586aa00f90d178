"""A call as it arrives, before it has a thread.

grpcio's server (``grpc/_server.py``) takes a thread for each call, which asks for the message,
waits for it, and runs the method. Here a call asks for its message at once, on the thread that
polls, and is answered on whichever thread has the answer: the waits hold no thread, and there is
one wake-up less (measured around a bare echo: 90 us of CPU a call instead of 116).

It stands on names that grpcio does not promise, though they are the same from 1.49 to 1.85.
``IS_KNOWN`` tells whether the installed one has them; where it has not, each call has a thread.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import grpc

_server: Any = import_module("grpc._server")
_cygrpc: Any = import_module("grpc._cython.cygrpc")
_PARAMETERS = {
    "_Context": ["rpc_event", "state", "request_deserializer"],
    "_receive_message": ["state", "call", "request_deserializer"],
    "_unary_response_in_pool": [
        "rpc_event", "state", "behavior", "argument_thunk",
        "request_deserializer", "response_serializer",
    ],
}  # fmt: skip
_NO_FLAGS = 0

log = logging.getLogger(__name__)


def _is_known(server: Any) -> bool:
    """Tell whether grpcio's server has the parts that are used here, as they are used."""
    try:
        found = {
            name: list(inspect.signature(getattr(server, name)).parameters) for name in _PARAMETERS
        }
        state = server._RPCState()
        return (
            found == _PARAMETERS
            and bool(
                server._RECEIVE_MESSAGE_TOKEN and hasattr(state, "request") and state.due == set()
            )
            and callable(_cygrpc.ReceiveMessageOperation)
            and hasattr(_cygrpc.RequestCallEvent, "call_details")
        )
    except (AttributeError, TypeError):
        return False


IS_KNOWN = _is_known(_server)

Send = Callable[[Any, grpc.ServicerContext], bytes]
"""Gives the body of an answer, or raises by the context's ``abort``."""


class Arrival:
    """A call whose message has not come yet."""

    __slots__ = ("_event", "_state", "context", "method")

    def __init__(self, event: Any, state: Any) -> None:
        self._event = event
        self._state = state
        self.context: grpc.ServicerContext = _server._Context(event, state, None)
        self.method: str = event.call_details.method.decode()

    def receive(self, when_received: Callable[[bytes | None], None]) -> None:
        """Ask for the message, and return; None comes where the client sends none.

        ``when_received`` is called on the thread that polls, which must not wait, nor fail.
        """
        state, call = self._state, self._event.call
        note = _server._receive_message(state, call, None)

        def received(event: Any) -> Any:
            ended = note(event)
            message, state.request = state.request, None
            try:
                when_received(message)
            except BaseException:  # or no other call would be taken from the wire
                log.exception("a call could not be taken")
                self.context.cancel()
            return ended

        with state.condition:
            call.start_server_batch((_cygrpc.ReceiveMessageOperation(_NO_FLAGS),), received)
            state.due.add(_server._RECEIVE_MESSAGE_TOKEN)

    def answer(self, reply: object, send: Send) -> None:
        """Send what ``send`` makes of the reply, on this thread; grpcio does not wait for it.

        ``reply`` is not None, which grpcio takes for no message.
        """
        _server._unary_response_in_pool(self._event, self._state, send, lambda: reply, None, None)


def arrival_of(work: tuple[Any, ...]) -> Arrival | None:
    """Find the call in what grpcio submits to its pool, or None where it is not to be known.

    Since 1.60 or so what is submitted is run in a context of the call's own, which is empty.
    """
    if not IS_KNOWN:
        return None
    start = 0 if work[0] is _server._unary_response_in_pool else 1
    if work[start] is not _server._unary_response_in_pool:
        return None
    return Arrival(work[start + 1], work[start + 2])
