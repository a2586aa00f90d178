"""KServe V1 in the document."""

from __future__ import annotations

from functools import partial
from typing import Any

from pyfuncserver.model.call import Form
from pyfuncserver.protocol.rest import cloudevents
from pyfuncserver.protocol.rest.openapi import data, schema
from pyfuncserver.protocol.rest.openapi.operation import (
    JSON,
    Paths,
    content,
    errors,
    examples,
    get,
    path_parameter,
    prediction,
    ref,
    response,
)
from pyfuncserver.protocol.rest.openapi.subject import Subject

TAG = "KServe V1"
DESCRIPTION = (
    "The whole body goes to a model of the Merlin SDK or a legacy one; any other takes `instances` "
    "(rows) or `inputs` (columns). A CloudEvent is answered by a CloudEvent."
)
ERROR = "V1Error"
_get = partial(get, TAG, ERROR)
_ATTRIBUTES = ("id", "source", "type")
_HEADER = {
    "description": "Of the answer to a CloudEvent in binary mode.",
    "schema": schema.TEXT,
}


def paths(subject: Subject) -> Paths:
    found: Paths = {
        "/v1/models": {
            "get": _get("v1Models", "The models that there are", {"200": _models(subject)})
        },
        "/v1/models/{full_name}": {"get": _readiness(subject)},
    }
    if subject.has_predictions:
        found["/v1/models/{full_name}:predict"] = {"post": _predict(subject)}
    return found


def schemas(subject: Subject) -> dict[str, Any]:
    found: dict[str, Any] = {
        ERROR: schema.whole({"status_code": {"type": "integer"}, "reason": schema.TEXT}),
    }
    if subject.has_predictions:
        found["V1Request"] = _request(subject)
        found["V1Response"] = _response(subject)
        found["CloudEvent"] = _event(ref("schemas", "V1Request"))
        found["CloudEventResponse"] = _event(ref("schemas", "V1Response"))
    return found


def _models(subject: Subject) -> Any:
    names = schema.array(
        {"const": subject.model.full_name} if subject.is_alone else {"type": "string"}
    )
    return response("Their full names.", content(schema.whole({"models": names})))


def _readiness(subject: Subject) -> Any:
    body = schema.whole({"name": {"enum": _names(subject)}, "ready": {"const": True}})
    responses = {"200": response("It is.", content(body)), **errors([404, 503], ERROR)}
    summary = "Whether a model is ready"
    return _get("v1Ready", summary, responses, parameters=[_name(subject)])


def _name(subject: Subject) -> Any:
    return path_parameter("full_name", _names(subject), "The model's full name.")


def _names(subject: Subject) -> list[str]:
    return [subject.model.full_name, *subject.also_named]


def _predict(subject: Subject) -> Any:
    answer = response(
        "The predictions.",
        {
            **content(ref("schemas", "V1Response")),
            **content(ref("schemas", "CloudEventResponse"), cloudevents.STRUCTURED),
        },
        {f"ce-{name}": _HEADER for name in ("specversion", *_ATTRIBUTES, "time")},
    )
    bodies = _examples(subject)
    events = {name: _example_event(body) for name, body in bodies.items()}
    request = {
        "required": True,
        "content": {
            **content(ref("schemas", "V1Request"), JSON, **examples(bodies)),
            **content(ref("schemas", "CloudEvent"), cloudevents.STRUCTURED, **examples(events)),
        },
    }
    return prediction(
        subject,
        subject.form(Form.JSON),
        answer,
        ERROR,
        tags=[TAG],
        operationId="v1Predict",
        summary="Predict",
        parameters=[_name(subject)],
        requestBody=request,
    )


def _example_event(body: Any) -> dict[str, Any]:
    attributes = {"specversion": "1.0", "id": "1", "source": "/docs", "type": "example"}
    return {**attributes, "data": body}


def _examples(subject: Subject) -> dict[str, Any]:
    if subject.is_open:
        return {}
    interface = subject.interface
    if interface.is_tabular and not interface.has_scalars:
        return {}
    found = {"instances": interface.example_rows, "inputs": interface.example_columns}
    return {key: {key: it} for key, it in found.items() if it is not None}


def _request(subject: Subject) -> Any:
    if subject.is_open:
        return {"description": "Whatever the model takes."}
    properties = {"instances": data.ROWS, "inputs": data.COLUMNS, **data.params(subject)}
    return {
        "type": "object",
        "properties": properties,
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    }


def _response(subject: Subject) -> Any:
    if subject.is_open:
        return {"description": "Whatever the model answers."}
    return schema.whole({"predictions": data.PREDICTIONS})


def _event(body: Any) -> Any:
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "properties": {
            "specversion": {"const": cloudevents.SPEC_VERSION},
            **dict.fromkeys(_ATTRIBUTES, text),
            "time": {"type": "string", "format": "date-time"},
            "data": body,
        },
        "required": ["specversion", *_ATTRIBUTES, "data"],
    }
