"""MLflow's scoring protocol: ``POST /invocations``, as ``mlflow.pyfunc.scoring_server`` has it.

An answer to LLM input (``messages``, ``prompt``, ``input``) has no ``predictions`` around it.
"""

from __future__ import annotations

from pyfuncserver.codec import json
from pyfuncserver.codec import scoring as codec
from pyfuncserver.errors import InvalidInput, ModelStatus, ServingError, UnsupportedMediaType
from pyfuncserver.model.call import Answer, Call, Form, Predictions, Reply, Request, ScoringInput
from pyfuncserver.model.failure import model_failed
from pyfuncserver.model.padding import may_take_much
from pyfuncserver.model.scoring import JSON, MEDIA_TYPES
from pyfuncserver.protocol.rest.scoring_stream import ScoringParts, takes_stream
from pyfuncserver.protocol.rest.shape import Shape

NAME = "scoring"
PATHS = ("/invocations",)
CONTENT_TYPE = "application/json"
PLAIN_TEXT = "text/plain; charset=utf-8"


class Scoring:
    """See :class:`~pyfuncserver.model.call.Dialect`."""

    name = NAME

    def decode(self, request: Request) -> Call:
        media_type = _media_type(request.header(b"content-type"))
        data = _parsed(request.body) if media_type == JSON else request.body
        parts = ScoringParts(codec.dumps, error_body) if takes_stream(data) else None
        payload = ScoringInput(media_type, data)
        call = Call(Form.SCORING, payload, request.headers, request.context, parts=parts)
        if media_type == JSON:
            call.may_be_padded = may_take_much(request.body)
        return call

    def encode(self, answer: Answer) -> Reply:
        try:
            if isinstance(answer, Predictions) and not answer.call.payload.is_unwrapped:
                return Reply(codec.predictions(answer.value), 200)
            return Reply(codec.dumps(answer.value), 200)
        except Exception as error:  # whatever the model's own objects do when they are read
            raise model_failed("The model's answer is not valid JSON", error) from error

    def error(self, error: ServingError) -> Reply:
        if isinstance(error, UnsupportedMediaType):
            return Reply(str(error).encode(), error.http_status, content_type=PLAIN_TEXT)
        reason = str(error) if isinstance(error, ModelStatus) else ""
        return Reply(error_body(error.http_status, str(error)), error.http_status, reason)


def _parsed(body: bytes) -> object:
    try:
        return codec.loads(body)
    except ValueError as error:
        raise InvalidInput(
            f"Invalid input. Ensure that input is a valid JSON formatted string. {_place(error)}"
        ) from None


def _place(error: ValueError) -> str:
    """Say what is wrong, and where, but not with the client's own bytes."""
    if isinstance(error, UnicodeDecodeError):
        return f"Error: {error.reason} at byte {error.start}"
    return f"Error: {error}"


def _media_type(header: bytes | None) -> str:
    """Find the media type, with no parameter but its charset, and that UTF-8.

    Raises: UnsupportedMediaType, in MLflow's words
    """
    given = (header or b"").decode("latin-1")
    if given in MEDIA_TYPES:
        return given
    media_type, *pairs = map(str.strip, given.split(";"))
    parameters = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
    if parameters.pop("charset", "utf-8").lower() != "utf-8":
        raise UnsupportedMediaType("The scoring server only supports UTF-8")
    if parameters:
        names = ", ".join(sorted(parameters))
        raise UnsupportedMediaType(f"Unrecognized content type parameters: {names}.")
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaType(
            "This predictor only supports the following content types: "
            f"Types: {list(MEDIA_TYPES)}. Got {given!r}."
        )
    return media_type


_ERROR_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "ENDPOINT_NOT_FOUND",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    499: "CANCELLED",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""MLflow's names (``mlflow/protos/databricks.proto``), by the status that it gives them."""


def error_body(status: int, message: str) -> bytes:
    """Shape an error as MLflow does, without its stack trace."""
    usual = "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR"
    return json.dumps({"error_code": _ERROR_CODES.get(status, usual), "message": message})


SHAPE = Shape(CONTENT_TYPE, error_body)
