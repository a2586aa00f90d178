"""The UPI v1 dialect: ``PredictValuesRequest`` bytes to a Call, an answer to response bytes."""

from __future__ import annotations

from pyfuncserver.codec import upi
from pyfuncserver.errors import InvalidInput, ModelAborted, ServingError, TooLarge
from pyfuncserver.model.call import Answer, Call, Form, Predictions, Reply, Request
from pyfuncserver.model.failure import model_failed
from pyfuncserver.protocol.limit import Limit

NAME = "upi"


class Upi:
    """See :class:`~pyfuncserver.model.call.Dialect`. A reply's status is a gRPC code's name."""

    name = NAME

    def __init__(self, limit: Limit | None = None) -> None:
        self._limit = limit

    def decode(self, request: Request) -> Call:
        try:
            message = upi.parse_request(request.body)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        return Call(Form.UPI, message, request.headers, request.context)

    def encode(self, answer: Answer) -> Reply:
        try:
            message = answer.value
            if isinstance(answer, Predictions):
                message = upi.response_of(message, answer.call.payload)
            if not upi.is_response(message):
                raise TypeError(f"it is a {type(message).__name__}")
            body = message.SerializeToString()
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer is no PredictValuesResponse", error) from error
        if self._limit is not None and len(body) > self._limit.size:
            raise TooLarge("The answer", *self._limit)
        return Reply(body, "OK")

    def error(self, error: ServingError) -> Reply:
        cause = error.__cause__ if isinstance(error, ModelAborted) else None
        return Reply(b"", error.grpc_code, str(error), cause)
