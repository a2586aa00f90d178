"""The KServe V1 dialect with Merlin's error body: ``POST /v1/models/{full_name}:predict``."""

from __future__ import annotations

from typing import Any

from pyfuncserver.codec import json
from pyfuncserver.errors import InvalidInput, ModelStatus, ServingError
from pyfuncserver.model.call import Answer, Call, Form, Predictions, Reply, Request
from pyfuncserver.model.failure import model_failed
from pyfuncserver.model.padding import may_take_much
from pyfuncserver.protocol.rest import cloudevents
from pyfuncserver.protocol.rest.cloudevents import NO_ORIGIN, Origin, is_structured
from pyfuncserver.protocol.rest.shape import Shape

NAME = "v1"
PATHS = ("/v1/models/{full_name}:predict",)
CONTENT_TYPE = "application/json; charset=UTF-8"
_USUAL = (b"application/json", b"application/json; charset=UTF-8")


class V1:
    """See :class:`~pyfuncserver.model.call.Dialect`. Any content type is taken for JSON.

    But for those of CloudEvents; what came as an event is answered by one, unless by an error.
    """

    name = NAME

    def __init__(self, origin: Origin = NO_ORIGIN) -> None:
        self._origin = origin

    def decode(self, request: Request) -> Call:
        header = request.header
        media_type = header(b"content-type")
        if header(b"ce-specversion") is not None or (
            media_type is not None and media_type not in _USUAL and is_structured(media_type)
        ):
            event = cloudevents.decode(request)
            return Call(Form.JSON, event.data, request.headers, request.context, event)
        text = request.body
        try:
            body = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"Unrecognized request format: {error}") from None
        return Call(
            Form.JSON, body, request.headers, request.context, may_be_padded=may_take_much(text)
        )

    def encode(self, answer: Answer) -> Reply:
        value = answer.value
        if isinstance(answer, Predictions):
            value = {"predictions": value}
        call = answer.call
        try:
            if call is not None and call.origin is not None:
                reply: Reply = call.origin.reply(value, self._origin)
                return reply
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
