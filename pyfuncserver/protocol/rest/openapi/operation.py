"""The parts that the operations of all dialects are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyfuncserver.model.call import Form
from pyfuncserver.protocol.rest.openapi.subject import Subject

Operation = dict[str, Any]
Content = dict[str, Any]
Paths = dict[str, dict[str, Operation]]
"""By the path and the method in lower case."""

JSON = "application/json"
TEXT = "text/plain"
EVENTS = "text/event-stream"

SHARED: Mapping[str, Any] = {
    "parameters": {
        "RequestId": {
            "name": "X-Request-Id",
            "in": "header",
            "description": "Goes into the log and back with the answer; one is made otherwise.",
            "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
        },
        "Timeout": {
            "name": "X-Request-Timeout",
            "in": "header",
            "description": "The seconds that the client waits for its answer.",
            "schema": {"type": "number", "minimum": 0.001, "maximum": 86400},
        },
    },
    "headers": {
        "RequestId": {
            "description": "The client's own id of the request, or one that was made.",
            "schema": {"type": "string"},
        },
        "RetryAfter": {
            "description": "The seconds after which it may be tried again.",
            "schema": {"type": "integer"},
        },
        "Challenge": {"description": "`Bearer`", "schema": {"type": "string"}},
    },
    "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
}
_REFERENCE = "#/components/{}/{}"

WHY: Mapping[int, str] = {
    400: "The request is wrong, or the model's signature refuses it.",
    401: "A bearer token is missing, or unknown.",
    404: "There is no such model.",
    408: "The request was not sent in time.",
    413: "The body is larger than is allowed.",
    415: "The body is of a content type, or in a coding, that is not taken here.",
    429: "As many predictions wait as may.",
    431: "The request's head is larger than is allowed.",
    500: "The model has failed, or the server; the log tells why, under the error id.",
    501: "This model cannot answer this dialect.",
    503: "The model is not ready.",
    504: "The client's deadline, or the time limit of a prediction, has passed.",
}
FRAMING = (408, 413, 431)
"""What a request is refused with before it is known what it asks for."""
PREDICTION = (400, 404, 415, 429, 500, 504)
"""What every prediction may be refused with."""


def ref(kind: str, name: str) -> Content:
    """Refer to a shared part: of ``schemas``, ``parameters``, ``headers``, ``responses``."""
    return {"$ref": _REFERENCE.format(kind, name)}


def content(schema: Any, media_type: str = JSON, **more: Any) -> Content:
    return {media_type: {"schema": schema, **more}}


def response(
    description: str, body: Content | None = None, headers: Mapping[str, Any] | None = None
) -> Operation:
    """Give a response; every one of ours carries the request's id."""
    found: Operation = {
        "description": description,
        "headers": {"X-Request-Id": ref("headers", "RequestId"), **(headers or {})},
    }
    return found if body is None else {**found, "content": body}


def errors(statuses: Iterable[int], schema: str) -> dict[str, Operation]:
    """Give the responses of failures, in a dialect's own shape."""
    extras = {
        401: {"WWW-Authenticate": ref("headers", "Challenge")},
        429: {"Retry-After": ref("headers", "RetryAfter")},
    }
    body = content(ref("schemas", schema))
    return {
        str(status): response(WHY[status], body, extras.get(status)) for status in sorted(statuses)
    }


def framing(error: str) -> dict[str, Operation]:
    """Give the refusals that come before it is known what a request asks for."""
    return {str(status): ref("responses", f"{error}{status}") for status in FRAMING}


def refusals(error: str) -> dict[str, Operation]:
    """Give what :func:`framing` refers to."""
    body = content(ref("schemas", error))
    return {
        # The connection is closed, and carries no id.
        f"{error}{status}": {"description": WHY[status], "content": body}
        for status in FRAMING
    }


def get(
    tag: str, error: str, name: str, summary: str, responses: Mapping[str, Any], **more: Any
) -> Operation:
    """Give an operation that is asked for with ``GET``; ``error`` names the schema of failures."""
    return {
        "tags": [tag],
        "operationId": name,
        "summary": summary,
        **more,
        "responses": {**errors([400], error), **responses, **framing(error)},
    }


def prediction(
    subject: Subject,
    form: Form,
    answer: Operation,
    error: str,
    also: Iterable[int] = (),
    **more: Any,
) -> Operation:
    """Give a prediction's operation.

    ``answer`` is its response where all is well; ``error`` names the schema of its failures, which
    have the usual statuses and ``also`` these.
    """
    statuses = {*PREDICTION, *also}
    responses = {"200": answer}
    if subject.needs_token:
        statuses.add(401)
        more["security"] = [{"token": []}]
    if form not in subject.forms:
        responses = {}
        statuses.add(501)
    found = {**responses, **errors(statuses, error), **framing(error)}
    if subject.chooses_status and form in subject.forms:
        body = content(ref("schemas", error))
        for wide in ("4XX", "5XX"):
            found[wide] = response("A status that the model itself has chosen.", body)
    parameters = [ref("parameters", name) for name in ("RequestId", "Timeout")]
    more["parameters"] = [*more.get("parameters", []), *parameters]
    return {**more, "responses": found}


def control(subject: Subject, responses: Mapping[str, Any], error: str, **more: Any) -> Operation:
    """Give the operation of what changes the server, or tells of it, to those who have the token.

    ``responses`` are none where the process has no model to tell of.
    """
    told = responses or errors([501], error)
    found = {**errors([400], error), **told, **framing(error)}
    if subject.needs_token:
        found |= errors([401], error)
        more["security"] = [{"token": []}]
    return {**more, "responses": found}


def path_parameter(name: str, values: Iterable[str], description: str) -> Operation:
    """Give a part of the path that names what there is."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "enum": list(values)},
    }


def placed(subject: Subject, path: str, method: str, operation: Operation) -> Paths:
    """Give an operation by its path, which names no model, and by those that have one in front."""
    found: Paths = {}
    for place, front in enumerate(subject.fronts):
        name = f"{operation['operationId']}{f'OfModel{place}' if place else ''}"
        found[f"{front}{path}"] = {method: {**operation, "operationId": name}}
    return found


def example(value: Any) -> dict[str, Any]:
    """Give the named arguments for :func:`content` that show an example, if there is one."""
    return {} if value is None else {"example": value}


def examples(bodies: Mapping[str, Any]) -> dict[str, Any]:
    """Give the named arguments for :func:`content` that show bodies by name, if there are any."""
    return {"examples": {name: {"value": it} for name, it in bodies.items()}} if bodies else {}
