"""Seldon's REST in the document."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pyfuncserver.model.call import Form
from pyfuncserver.protocol.rest.openapi import schema
from pyfuncserver.protocol.rest.openapi.operation import (
    JSON,
    TEXT,
    Operation,
    Paths,
    content,
    errors,
    example,
    get,
    placed,
    prediction,
    ref,
    response,
)
from pyfuncserver.protocol.rest.openapi.schema import Schema
from pyfuncserver.protocol.rest.openapi.subject import Subject
from pyfuncserver.protocol.rest.seldon import FEEDBACK_PATHS, PATHS

TAG = "Seldon"
DESCRIPTION = "`SeldonMessage` as JSON, also in a form; an answer has the form of its request."
ERROR = "SeldonError"
_get = partial(get, TAG, ERROR)
_OBJECT: Schema = {"type": "object"}
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


def paths(subject: Subject) -> Paths:
    status = {
        "200": response("It is.", content(ref("schemas", "SeldonResponse"))),
        **errors([503], ERROR),
    }
    metadata = {
        "200": response("In Seldon's words.", content(_metadata())),
        **errors([503], ERROR),
    }
    alive = {"200": response("It does.", content({"const": "pong"}, TEXT))}
    found: Paths = {
        "/health/ping": {"get": _get("seldonPing", "Whether the process answers", alive)}
    }
    for root, suffix in (("", ""), ("/api/v1.0", "V1")):
        summary = "Whether the model is ready"
        ready = _get(f"seldonStatus{suffix}", summary, status)
        found[f"{root}/health/status"] = {"get": ready}
        summary = "What the model takes and gives"
        model = _get(f"seldonModel{suffix}", summary, metadata)
        found |= placed(subject, f"{root}/metadata", "get", model)
    if subject.has_predictions:
        for place, path in enumerate(PATHS):
            found |= placed(subject, path, "post", _predict(subject, place))
        for place, path in enumerate(FEEDBACK_PATHS):
            found |= placed(subject, path, "post", _feedback(subject, place))
    return found


def schemas(subject: Subject) -> dict[str, Any]:  # noqa: ARG001
    status = {
        "status": {"const": 1},
        "info": schema.TEXT,
        "code": {"type": "integer"},
        "reason": {"enum": ["MICROSERVICE_BAD_DATA", "MICROSERVICE_INTERNAL_ERROR"]},
    }
    message = ref("schemas", "SeldonMessage")
    return {
        ERROR: schema.whole({"status": schema.whole(status)}),
        "SeldonMessage": {**_message(), "oneOf": [{"required": [name]} for name in _HOLDERS]},
        "SeldonResponse": _message(),
        "SeldonFeedback": {
            "type": "object",
            "properties": {
                "request": message,
                "response": message,
                "truth": message,
                "reward": {"type": "number"},
            },
        },
    }


_HOLDERS = ("data", "jsonData", "strData", "binData")


def _message() -> Schema:
    number = {"type": ["number", "string"]}  # protobuf's JSON has NaN as a string
    tensor = {
        "shape": schema.array({"type": "integer", "minimum": 0}),
        "values": schema.array(number),
    }
    data = {
        "type": "object",
        "properties": {
            "names": schema.array(schema.TEXT),
            "ndarray": {"type": "array"},
            "tensor": schema.whole(tensor),
        },
        "oneOf": [{"required": ["ndarray"]}, {"required": ["tensor"]}],
    }
    meta = {"puid": schema.TEXT, **dict.fromkeys(("tags", "routing", "requestPath"), _OBJECT)}
    return {
        "type": "object",
        "properties": {
            "data": data,
            "jsonData": {},
            "strData": schema.TEXT,
            "binData": {**schema.TEXT, "contentEncoding": "base64"},
            "meta": {"type": "object", "properties": meta},
        },
    }


def _metadata() -> Schema:
    parts = schema.array(_OBJECT)
    return schema.whole(
        {
            "name": schema.TEXT,
            "versions": schema.array(schema.TEXT),
            "platform": schema.TEXT,
            "inputs": parts,
            "outputs": parts,
            "custom": _OBJECT,
        }
    )


def _predict(subject: Subject, place: int) -> Operation:
    message: Any = {} if subject.passes_payload else ref("schemas", "SeldonMessage")
    answer: Any = {} if subject.is_open else ref("schemas", "SeldonResponse")
    return prediction(
        subject,
        subject.form(Form.SELDON),
        response("The predictions.", content(answer)),
        ERROR,
        tags=[TAG],
        operationId=f"seldonPredict{place or ''}",
        summary="Predict",
        requestBody=_body(message, _example(subject)),
    )


def _feedback(subject: Subject, place: int) -> Operation:
    answer = response("It has been heard.", content(ref("schemas", "SeldonResponse")))
    return prediction(
        subject,
        Form.FEEDBACK,
        answer,
        ERROR,
        tags=[TAG],
        operationId=f"seldonFeedback{place or ''}",
        summary="Tell what became of a prediction",
        requestBody=_body(ref("schemas", "SeldonFeedback"), {"reward": 1.0}),
    )


def _body(message: Any, shown: Any) -> Operation:
    field = {"type": "object", "properties": {"json": {"contentMediaType": JSON}}}
    body = content(message, JSON, **example(shown))
    return {"required": True, "content": {**body, **{name: {"schema": field} for name in _FORMS}}}


def _example(subject: Subject) -> Any:
    """Put the rows of the model's example into a message, without names where they have none."""
    interface = subject.interface
    rows = interface.example_rows
    if subject.is_open or rows is None or (interface.is_tabular and not interface.has_scalars):
        return None
    if interface.is_tabular and interface.is_named:
        names = [it.name for it in interface.inputs]
        return {
            "data": {"names": names, "ndarray": [[row.get(it) for it in names] for row in rows]}
        }
    return {"data": {"ndarray": rows}} if _is_array(rows) else None


def _is_array(rows: Any) -> bool:
    try:
        return np.asarray(rows).dtype.kind in "biufU"
    except ValueError:
        return False
