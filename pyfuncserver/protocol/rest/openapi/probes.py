"""What is answered beside the dialects."""

from __future__ import annotations

from functools import partial
from typing import Any

from pyfuncserver.protocol.rest.openapi.operation import (
    TEXT,
    Paths,
    content,
    errors,
    get,
    path_parameter,
    response,
)
from pyfuncserver.protocol.rest.openapi.subject import Subject

TAG = "Server"
ERROR = "V1Error"
_get = partial(get, TAG, ERROR)
DESCRIPTION = "Whether it lives, its metrics, and this document."

_TEXT = {"type": "string"}
_FILES = ("text/javascript", "text/css", "image/png")
ASSETS = ("docs.js", "favicon-32x32.png", "swagger-ui-bundle.js", "swagger-ui.css")
_FORMATS = (
    "text/plain",
    "application/openmetrics-text",
    "application/vnd.google.protobuf",
)


def paths(subject: Subject) -> Paths:
    alive = response("It lives.", content({"const": "Alive"}, TEXT))
    exposition = {name: {"schema": _TEXT} for name in _FORMATS}
    metrics = {"200": response("Of all workers.", exposition), **errors([500], ERROR)}
    document = {
        "200": response("OpenAPI 3.1", content({"type": "object"})),
        **errors([404], ERROR),
    }
    page = {"200": response("Swagger UI", content(_TEXT, "text/html"))}
    asset = {
        "200": response("The file.", {name: {} for name in _FILES}),
        **errors([404], ERROR),
    }
    files = path_parameter("asset", ASSETS, "Its name.")
    found: Paths = {
        "/docs/{asset}": {"get": _get("asset", "What the page needs", asset, parameters=[files])},
        "/": {"get": _get("alive", "Whether the process answers", {"200": alive})},
        "/openapi.json": {
            "get": _get("openapi", "This document", document, parameters=_model(subject))
        },
        "/docs": {"get": _get("docs", "This document, to be read and tried out", page)},
    }
    if subject.metrics_path is not None:
        summary = "Metrics, in Prometheus' formats"
        found[subject.metrics_path] = {"get": _get("metrics", summary, metrics)}
    return found


def _model(subject: Subject) -> list[Any]:
    """Give the parameters that name the model that the document is to be about."""
    values = {"model": list(subject.model.names), "version": [subject.model.version]}
    return [
        {
            "name": name,
            "in": "query",
            "description": f"The {name} that it is about; the default one's without.",
            "schema": {"type": "string", "enum": known},
        }
        for name, known in values.items()
    ]


def schemas(subject: Subject) -> dict[str, Any]:  # noqa: ARG001
    return {}
