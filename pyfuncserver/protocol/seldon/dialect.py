"""Seldon's messages over gRPC: the bytes of a ``SeldonMessage`` or a ``Feedback``."""

from __future__ import annotations

from pyfuncserver.codec import seldon, seldon_proto
from pyfuncserver.errors import ModelAborted, ServingError, TooLarge
from pyfuncserver.model.call import Reply, Request
from pyfuncserver.protocol.limit import Limit

NAME, FEEDBACK_NAME = "seldon_grpc", "seldon_grpc_feedback"


class Proto:
    """Messages as protobuf's; see :class:`~pyfuncserver.protocol.seldon_core.Wire`.

    ``limit`` bounds the answers.
    """

    def __init__(self, limit: Limit) -> None:
        self._limit = limit

    def message(self, request: Request) -> seldon.Message:
        return seldon_proto.parse_message(request.body, request.id)

    def feedback(self, request: Request) -> seldon.Feedback:
        return seldon_proto.parse_feedback(request.body, request.id)

    def write(self, message: seldon.Message) -> bytes:
        return seldon_proto.write_message(message)

    def reply(self, body: bytes) -> Reply:
        if len(body) > self._limit.size:
            raise TooLarge("The answer", *self._limit)
        return Reply(body, "OK")

    def error(self, error: ServingError) -> Reply:
        cause = error.__cause__ if isinstance(error, ModelAborted) else None
        return Reply(b"", error.grpc_code, str(error), cause)
