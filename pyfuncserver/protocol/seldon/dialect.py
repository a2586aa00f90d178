"""Seldon's dialect over gRPC: ``SeldonMessage`` or ``Feedback`` bytes to a Call, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyfuncserver.codec import seldon, seldon_proto
from pyfuncserver.errors import InvalidInput, ModelAborted, ServingError, TooLarge
from pyfuncserver.model.call import Answer, Call, Form, Reply, Request
from pyfuncserver.model.failure import model_failed
from pyfuncserver.protocol.limit import Limit

NAME, FEEDBACK_NAME = "seldon_grpc", "seldon_grpc_feedback"


class _Dialect:
    """What both have in common; ``limit`` bounds the answers."""

    def __init__(self, limit: Limit | None = None, output_names: Sequence[str] = ()) -> None:
        self._limit = limit
        self._output_names = output_names

    def _encoded(self, value: Any, request: seldon.Message) -> Reply:
        try:
            message = seldon.answer_of(value, request, self._output_names)
            body = seldon_proto.write_message(message)
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer does not fit a SeldonMessage", error) from error
        if self._limit is not None and len(body) > self._limit.size:
            raise TooLarge("The answer", *self._limit)
        return Reply(body, "OK")

    def error(self, error: ServingError) -> Reply:
        cause = error.__cause__ if isinstance(error, ModelAborted) else None
        return Reply(b"", error.grpc_code, str(error), cause)


class Seldon(_Dialect):
    """Predictions; see :class:`~pyfuncserver.model.call.Dialect`."""

    name = NAME

    def decode(self, request: Request) -> Call:
        try:
            message = seldon_proto.parse_message(request.body, request.id)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        return Call(Form.SELDON, message, request.headers, request.context)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        return self._encoded(answer.value, answer.call.payload)


class Feedback(_Dialect):
    """Feedback, which is handed on as a prediction is; ``count`` is told each reward."""

    name = FEEDBACK_NAME

    def __init__(self, count: Callable[[float], None], limit: Limit | None = None) -> None:
        super().__init__(limit)
        self._count = count

    def decode(self, request: Request) -> Call:
        try:
            feedback = seldon_proto.parse_feedback(request.body, request.id)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        return Call(Form.FEEDBACK, feedback, request.headers, request.context)

    def encode(self, answer: Answer) -> Reply:
        assert answer.call is not None
        feedback: seldon.Feedback = answer.call.payload
        reply = self._encoded(answer.value, feedback.request)
        self._count(feedback.reward)
        return reply
