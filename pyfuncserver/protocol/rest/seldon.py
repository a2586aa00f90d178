"""Seldon's REST: predictions and feedback as ``SeldonMessage`` JSON, also in a form.

The paths are those of Seldon Core v1, and those of its Python server for one component.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyfuncserver.codec import json, seldon
from pyfuncserver.errors import ModelStatus, ServingError
from pyfuncserver.model.call import Reply, Request
from pyfuncserver.protocol.rest import forms
from pyfuncserver.protocol.rest.shape import Shape

NAME, FEEDBACK_NAME = "seldon", "seldon_feedback"
PATHS = ("/api/v1.0/predictions", "/api/v0.1/predictions", "/predict")
FEEDBACK_PATHS = ("/api/v1.0/feedback", "/api/v0.1/feedback", "/send-feedback")
CONTENT_TYPE = "application/json"

_BAD, _FAILED = "MICROSERVICE_BAD_DATA", "MICROSERVICE_INTERNAL_ERROR"


class Json:
    """Messages as JSON; see :class:`~pyfuncserver.protocol.seldon_core.Wire`."""

    def message(self, request: Request) -> seldon.Message:
        return seldon.message_from(_body(request), request.id)

    def feedback(self, request: Request) -> seldon.Feedback:
        return seldon.feedback_from(_body(request), request.id)

    def write(self, message: seldon.Message) -> bytes:
        return json.dumps(seldon.body_of(message))

    def reply(self, body: bytes) -> Reply:
        return Reply(body, 200)

    def error(self, error: ServingError) -> Reply:
        reason = str(error) if isinstance(error, ModelStatus) else ""
        return Reply(error_body(error.http_status, str(error)), error.http_status, reason)


def _body(request: Request) -> Any:
    """Parse a body, or the ``json`` of a form, or a form of a message's fields.

    Raises: ValueError that says what is wrong.
    """
    body = request.body
    if body[:1] != b"{":  # else there is no need to look at its type
        content_type = (request.header(b"content-type") or b"").decode("latin-1")
        fields = forms.fields_of(body, content_type)
        if fields is not None:
            return _parsed(fields["json"]) if "json" in fields else _message(fields.items())
    return _parsed(body)


def _message(fields: Iterable[tuple[str, str | bytes]]) -> dict[str, Any]:
    """Put a message together; ``binData`` and ``strData`` are as they are, all else is JSON."""
    found: dict[str, Any] = {}
    for name, value in fields:
        if name == seldon.Kind.BINARY.value:
            found[name] = value if isinstance(value, str) else seldon.base64_of(value)
        elif name == seldon.Kind.STRING.value:
            found[name] = value if isinstance(value, str) else _text(value)
        else:
            found[name] = _parsed(value)
    return found


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except ValueError:
        raise ValueError("strData is not UTF-8") from None


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text.encode() if isinstance(text, str) else text)
    except json.JSONDecodeError as error:
        raise ValueError(f"Unrecognized request format: {error}") from None


def error_body(status: int, info: str) -> bytes:
    """Shape an error as Seldon's Python server does."""
    reason = _BAD if status < 500 else _FAILED
    return json.dumps({"status": {"status": 1, "info": info, "code": -1, "reason": reason}})


SHAPE = Shape(CONTENT_TYPE, error_body)
ROOTS = (
    *("/api/v1.0", "/api/v0.1", "/predict", "/send-feedback"),
    *("/health/ping", "/health/status", "/metadata"),
)
"""What the paths begin with whose errors have this shape."""
