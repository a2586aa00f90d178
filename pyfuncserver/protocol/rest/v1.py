"""The KServe V1 dialect with Merlin's error body: ``POST /v1/models/{full_name}:predict``."""

from __future__ import annotations

from typing import Any

from pyfuncserver.codec import json
from pyfuncserver.errors import InvalidInput, ModelStatus, ServingError
from pyfuncserver.model.call import Answer, Call, Form, Predictions, Reply, Request
from pyfuncserver.model.failure import model_failed
from pyfuncserver.protocol.rest.shape import Shape

NAME = "v1"
PATHS = ("/v1/models/{full_name}:predict",)
CONTENT_TYPE = "application/json; charset=UTF-8"


class V1:
    """See :class:`~pyfuncserver.model.call.Dialect`. Any content type is taken for JSON."""

    name = NAME

    def decode(self, request: Request) -> Call:
        try:
            body = json.loads(request.body)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"Unrecognized request format: {error}") from None
        return Call(Form.JSON, body, request.headers, request.context)

    def encode(self, answer: Answer) -> Reply:
        value = answer.value
        if isinstance(answer, Predictions):
            value = {"predictions": value}
        try:
            return Reply(json.dumps(value), 200)
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer is not valid JSON", error) from error

    def error(self, error: ServingError) -> Reply:
        reason = str(error) if isinstance(error, ModelStatus) else ""
        return Reply(error_body(error.http_status, str(error)), error.http_status, reason)


def error_body(status: int, reason: str) -> bytes:
    """Shape an error as Merlin does."""
    body: dict[str, Any] = {"status_code": status, "reason": reason}
    return json.dumps(body)


SHAPE = Shape(CONTENT_TYPE, error_body)
