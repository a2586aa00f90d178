"""The Open Inference Protocol (V2) in the document, with its generate extension."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from pyfuncserver.model.call import Form
from pyfuncserver.model.description import TensorMetadata
from pyfuncserver.protocol.rest.openapi import schema
from pyfuncserver.protocol.rest.openapi.operation import (
    EVENTS,
    JSON,
    Operation,
    Paths,
    content,
    control,
    errors,
    example,
    get,
    path_parameter,
    prediction,
    ref,
    response,
)
from pyfuncserver.protocol.rest.openapi.schema import Schema
from pyfuncserver.protocol.rest.openapi.subject import Subject
from pyfuncserver.protocol.rest.v2 import BINARY_CONTENT_TYPE, JSON_LENGTH

TAG = "Open Inference Protocol (V2)"
DESCRIPTION = (
    "Tensors by name; with the binary extension, their raw values behind the JSON. Text goes to "
    "`generate`."
)
ERROR = "V2Error"
_get = partial(get, TAG, ERROR)
_MODEL = "/v2/models/{model}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_REPOSITORY = "/v2/repository"

_NUMBERS = (*(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),)
_DATATYPES = ("BOOL", *_NUMBERS, "FP16", "FP32", "FP64", "BYTES")
_TEXT = schema.TEXT
_object = schema.whole
_SHAPE: Schema = schema.array({"type": "integer", "minimum": 0})
_PARAMETERS: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_BYTES: Schema = {"description": "The JSON, and behind it the raw values of the tensors."}


def paths(subject: Subject) -> Paths:
    found: Paths = {
        "/v2": {"get": _get("v2Server", "What this server is", _answer("V2Server"))},
        "/v2/health/live": {"get": _get("v2Live", "Whether it lives", _is("live"))},
        "/v2/health/ready": {
            "get": _get("v2Ready", "Whether it is ready", {**_is("ready"), **_not_ready()})
        },
        "/v2/models": {"get": _get("v2Models", "The models that there are", _models(subject))},
        f"{_REPOSITORY}/index": {"post": _index(subject)},
        f"{_REPOSITORY}/models/{{model}}/load": {"post": _load(subject)},
        f"{_REPOSITORY}/models/{{model}}/unload": {"post": _unload(subject)},
    }
    for path, suffix in ((_MODEL, ""), (_VERSION, "Version")):
        found[path] = {"get": _metadata(subject, suffix)}
        found[f"{path}/ready"] = {"get": _model_ready(subject, suffix)}
        if subject.has_predictions:
            found[f"{path}/infer"] = {"post": _infer(subject, suffix)}
            found[f"{path}/generate"] = {"post": _generate(subject, suffix)}
            found[f"{path}/generate_stream"] = {"post": _generate_stream(subject, suffix)}
    return found


def schemas(subject: Subject) -> dict[str, Any]:
    name, version = subject.model.name, subject.model.version
    return {
        ERROR: _object({"error": _TEXT}),
        "V2Server": _object({"name": _TEXT, "version": _TEXT, "extensions": schema.array(_TEXT)}),
        "V2Model": _object(
            {
                "name": {"const": name},
                "versions": schema.array(_TEXT),
                "platform": _TEXT,
                "inputs": schema.array(ref("schemas", "V2Metadata")),
                "outputs": schema.array(ref("schemas", "V2Metadata")),
            }
        ),
        "V2Metadata": _object(
            {
                "name": _TEXT,
                "datatype": {"enum": list(_DATATYPES)},
                "shape": schema.array({"type": "integer"}),
            }
        ),
        "V2State": _object(
            {
                "name": {"const": name} if subject.is_alone else _TEXT,
                "version": {"const": version} if subject.is_alone else _TEXT,
                "state": {"enum": ["READY", "UNAVAILABLE"]},
                "reason": _TEXT,
            }
        ),
        **(_predictions(subject) if subject.has_predictions else {}),
    }


def _predictions(subject: Subject) -> dict[str, Any]:
    name, version = subject.model.name, subject.model.version
    identity = {"model_name": {"const": name}, "model_version": {"const": version}}
    tensor = {"name": _TEXT, "shape": _SHAPE, "datatype": {"enum": list(_DATATYPES)}}
    output = _object({**tensor, "parameters": _PARAMETERS, "data": {"type": "array"}})
    return {
        "V2Request": _request(subject),
        "V2Response": _object(
            {**identity, "id": _TEXT, "outputs": schema.array(_required(output, *tensor))}
        ),
        "V2Text": _required(
            _object({"text_input": _TEXT, "parameters": _PARAMETERS, "id": _TEXT}), "text_input"
        ),
        "V2TextResponse": _required(
            _object({**identity, "id": _TEXT, "text_output": _TEXT}), *identity
        ),
    }


def _required(found: Schema, *names: str) -> Schema:
    return {**found, "required": list(names)}


def _request(subject: Subject) -> Schema:
    known = [_input(it) for it in subject.inputs]
    inputs = schema.array(_one_of(known) if known else _any_input())
    wish = _required(_object({"name": _TEXT, "parameters": _PARAMETERS}), "name")
    whole = {
        "id": _TEXT,
        "parameters": _PARAMETERS,
        "inputs": {**inputs, "minItems": 1},
        "outputs": schema.array(wish),
    }
    return _required(_object(whole), "inputs")


def _one_of(known: list[Schema]) -> Schema:
    return known[0] if len(known) == 1 else {"oneOf": known}


def _input(it: TensorMetadata) -> Schema:
    sizes = [
        {"type": "integer", "minimum": 1} if size < 0 else {"const": size} for size in it.shape
    ]
    shape = {
        "type": "array",
        "prefixItems": sizes,
        "minItems": len(sizes),
        # A column may be of shape [n, 1], too.
        "maxItems": len(sizes),
        "items": False,
    }
    return _required(
        _object(
            {
                "name": {"const": it.name},
                "datatype": {"const": it.datatype},
                "shape": shape if sizes else {"const": []},
                "parameters": _PARAMETERS,
                "data": _data(it.datatype),
            }
        ),
        "name", "datatype", "shape", "data",
    )  # fmt: skip


def _any_input() -> Schema:
    return _required(
        _object(
            {
                "name": _TEXT,
                "datatype": {"enum": list(_DATATYPES)},
                "shape": _SHAPE,
                "parameters": _PARAMETERS,
                "data": {"type": "array"},
            }
        ),
        "name", "datatype", "shape",
    )  # fmt: skip


def _data(datatype: str) -> Schema:
    """Give the schema of flat values; nested ones, row by row, are taken as well."""
    dtype = {"BYTES": "str", "BOOL": "bool"}.get(datatype)
    return schema.array(schema.tensor(dtype or datatype.lower().replace("fp", "float"), ()))


# Examples


def _example(subject: Subject) -> Any:
    """Make a request of the model's own example; None where tensors do not hold it."""
    tensors = [_tensor(it, values) for it, values in zip(*_sources(subject), strict=True)]
    if not tensors or None in tensors:
        return None
    return {"id": "1", "inputs": tensors}


def _sources(subject: Subject) -> tuple[list[TensorMetadata], list[Any]]:
    """Give the inputs that the example has, and the values of each."""
    interface, inputs = subject.interface, list(subject.inputs)
    rows = interface.example_rows
    if not inputs:
        only = TensorMetadata("input-0", "", ())
        return ([only], [rows]) if rows else ([], [])
    if interface.is_named:
        columns = interface.example_columns or {}
        given = [it for it in inputs if it.name in columns]
        return given, [columns[it.name] for it in given]
    if len(inputs) == 1:
        return inputs, [rows]
    return inputs, [[row[place] for row in rows or []] for place in range(len(inputs))]


_KINDS = {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64", "U": "BYTES"}


def _tensor(it: TensorMetadata, values: Any) -> dict[str, Any] | None:
    try:
        array = np.asarray(values)
    except ValueError:
        return None  # rows of several lengths
    kind = _KINDS.get(array.dtype.kind)
    datatype = it.datatype or kind
    if kind is None or not array.size or (datatype == "BYTES") != (kind == "BYTES"):
        return None
    head = {"name": it.name, "datatype": datatype, "shape": list(array.shape)}
    return {**head, "data": array.reshape(-1).tolist()}


def _text_example(subject: Subject) -> Any:
    """Make a request of a text where an input of the model's is that; the others go beside it."""
    interface = subject.interface
    if not interface.inputs:
        return _TEXTS if interface.example is None else None
    if not interface.is_named:
        return _TEXTS if [it.type for it in interface.inputs] in (["string"], ["str"]) else None
    texts = [it.name for it in interface.inputs if it.type == "string" and it.is_required]
    if not texts or not interface.has_scalars:
        return None
    others = dict(interface.example_rows[0])
    return {"text_input": others.pop("text_input" if "text_input" in texts else texts[0]), **others}


_TEXTS = {"id": "1", "text_input": "text"}


# Operations


def _answer(name: str) -> dict[str, Operation]:
    return {"200": response("It is this.", content(ref("schemas", name)))}


def _is(what: str) -> dict[str, Operation]:
    return {"200": response("It does.", content(_object({what: {"const": True}})))}


def _not_ready() -> dict[str, Operation]:
    body = _required(_object({"name": _TEXT, "ready": {"const": False}}), "ready")
    return {"503": response("It is not.", content(body))}


def _models(subject: Subject) -> dict[str, Operation]:
    names = schema.array({"const": subject.model.name} if subject.is_alone else _TEXT)
    return {"200": response("Their names.", content(_object({"models": names})))}


def _named(subject: Subject, suffix: str = "") -> list[Operation]:
    names = subject.model.names if suffix else subject.names
    model = path_parameter("model", names, "The model's name, or its full one.")
    version = path_parameter("version", [subject.model.version], "The model's version.")
    return [model, version] if suffix else [model]


def _metadata(subject: Subject, suffix: str) -> Operation:
    found = _answer("V2Model") if subject.has_predictions else errors([501], ERROR)
    responses = {**found, **errors([404, 503], ERROR)}
    summary = "What the model takes and gives"
    return _get(f"v2Model{suffix}", summary, responses, parameters=_named(subject, suffix))


def _model_ready(subject: Subject, suffix: str) -> Operation:
    names = list(subject.model.names if suffix else subject.names)
    body = _object({"name": {"enum": names}, "ready": {"const": True}})
    responses = {
        "200": response("It is.", content(body)), **_not_ready(), **errors([404], ERROR)
    }  # fmt: skip
    summary = "Whether the model is ready"
    return _get(f"v2ModelReady{suffix}", summary, responses, parameters=_named(subject, suffix))


def _infer(subject: Subject, suffix: str) -> Operation:
    length = {"schema": {"type": "integer", "minimum": 1}, "description": "Of the JSON, in bytes."}
    answer = response(
        "The outputs; with raw values where they are asked for.",
        {**content(ref("schemas", "V2Response")), **content(_BYTES, BINARY_CONTENT_TYPE)},
        {JSON_LENGTH: length},
    )
    request = {
        **content(ref("schemas", "V2Request"), JSON, **example(_example(subject))),
        **content(_BYTES, BINARY_CONTENT_TYPE),
    }
    return prediction(
        subject,
        Form.TENSORS,
        answer,
        ERROR,
        tags=[TAG],
        operationId=f"v2Infer{suffix}",
        summary="Predict",
        parameters=[*_named(subject, suffix), {"name": JSON_LENGTH, "in": "header", **length}],
        requestBody={"required": True, "content": request},
    )


def _generate(subject: Subject, suffix: str) -> Operation:
    answer = response("The text, whole.", content(ref("schemas", "V2TextResponse")))
    return _text(subject, answer, f"v2Generate{suffix}", "Answer a text")


def _generate_stream(subject: Subject, suffix: str) -> Operation:
    answer = response(
        "The text in parts, each an event; an error that comes late is one as well.",
        content(_TEXT, EVENTS),
    )
    summary = "Answer a text in parts"
    return _text(subject, answer, f"v2GenerateStream{suffix}", summary, [501])


def _text(
    subject: Subject, answer: Operation, name: str, summary: str, also: list[int] | None = None
) -> Operation:
    suffix = "Version" if name.endswith("Version") else ""
    return prediction(
        subject,
        Form.TEXT,
        answer,
        ERROR,
        also or (),
        tags=[TAG],
        operationId=name,
        summary=summary,
        parameters=_named(subject, suffix),
        requestBody={
            "required": True,
            "content": content(ref("schemas", "V2Text"), JSON, **example(_text_example(subject))),
        },
    )


# The repository


def _index(subject: Subject) -> Operation:
    states = response("Their states.", content(schema.array(ref("schemas", "V2State"))))
    body = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    return control(
        subject,
        {"200": states, **errors([400], ERROR)} if subject.has_predictions else {},
        ERROR,
        tags=[TAG],
        operationId="v2Index",
        summary="The models that there are, and their states",
        requestBody={"content": content(body, JSON, **example({"ready": True}))},
    )


def _load(subject: Subject) -> Operation:
    return _change(subject, "v2Load", "Load the model, again or anew", "All workers serve it.")


def _unload(subject: Subject) -> Operation:
    return _change(subject, "v2Unload", "Unload the model", "No worker has it any more.")


def _change(subject: Subject, name: str, summary: str, what: str) -> Operation:
    done = response(what, content({"type": "object", "maxProperties": 0}))
    failures = errors([400, 404, 500, 503, 504], ERROR)
    return control(
        subject,
        {"200": done, **failures} if subject.has_predictions else errors([404, 501], ERROR),
        ERROR,
        tags=[TAG],
        operationId=name,
        summary=summary,
        parameters=[*_named(subject), ref("parameters", "Timeout")],
        requestBody={"content": content({"type": "object"})},
    )
