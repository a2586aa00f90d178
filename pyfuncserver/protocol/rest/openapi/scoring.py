"""MLflow's scoring protocol in the document."""

from __future__ import annotations

import csv
import io
from functools import partial
from typing import Any

from pyfuncserver.model.call import Form
from pyfuncserver.model.rectangle import COLUMNS, RECORDS, ROWS, SPLIT
from pyfuncserver.model.scoring import CSV, PARQUET
from pyfuncserver.protocol.rest.openapi import data, schema
from pyfuncserver.protocol.rest.openapi.operation import (
    EVENTS,
    JSON,
    TEXT,
    Operation,
    Paths,
    content,
    errors,
    example,
    examples,
    get,
    placed,
    prediction,
    ref,
    response,
)
from pyfuncserver.protocol.rest.openapi.schema import Schema
from pyfuncserver.protocol.rest.openapi.subject import Subject

TAG = "MLflow scoring"
DESCRIPTION = 'What `mlflow models serve` answers; `"stream": true` asks for an answer in parts.'
ERROR = "ScoringError"
_get = partial(get, TAG, ERROR)


def paths(subject: Subject) -> Paths:
    ready = {"200": response("A line's end.", {JSON: {}}), **errors([503], ERROR)}
    version = {"200": response("As bare text.", {JSON: {}})}
    found: Paths = {
        "/ping": {"get": _get("ping", "Whether the model is ready", ready)},
        "/health": {"get": _get("health", "Whether the model is ready", ready)},
        "/version": {"get": _get("mlflowVersion", "The version of MLflow", version)},
    }
    if subject.has_predictions:
        found |= placed(subject, "/invocations", "post", _invocations(subject))
    return found


def schemas(subject: Subject) -> dict[str, Any]:
    found = {ERROR: schema.whole({"error_code": schema.TEXT, "message": schema.TEXT})}
    if subject.has_predictions:
        found |= {"ScoringRequest": _request(subject), "ScoringResponse": _response(subject)}
    return found


def _request(subject: Subject) -> Schema:
    """Give the schema of a JSON body; a chat or another LLM's input has fields of its own."""
    interface = subject.interface
    fields = {ROWS: data.ROWS, COLUMNS: data.COLUMNS}
    if (interface.is_tabular and interface.is_named) or not interface.inputs:
        fields |= {SPLIT: _split(subject), RECORDS: data.ROWS}
    if subject.is_raw:
        del fields[ROWS]
    properties = {**fields, "stream": {"type": "boolean"}, **data.params(subject)}
    found: Schema = {"type": "object", "properties": properties}
    if not interface.inputs:
        return found
    return {**found, "oneOf": [{"required": [name]} for name in fields]}


def _split(subject: Subject) -> Schema:
    inputs = subject.interface.inputs
    found: Schema = {
        "type": "object",
        "properties": {
            "columns": schema.array(schema.TEXT),
            "index": {"type": "array"},
            "data": schema.array({"type": "array"}),
        },
        "required": ["columns", "data"],
        "additionalProperties": False,
    }
    if inputs:
        names = [it.name for it in inputs]
        cells = [it.schema if it.is_required else schema.or_null(it.schema) for it in inputs]
        found["properties"]["columns"] = {"const": names}
        row = {"type": "array", "prefixItems": cells, "items": False, "minItems": len(cells)}
        found["properties"]["data"] = {**schema.array(row), "minItems": 1}
    return found


def _response(subject: Subject) -> Schema:
    # What answers a chat stands by itself.
    return schema.whole({"predictions": data.PREDICTIONS}) if subject.interface.inputs else {}


def _invocations(subject: Subject) -> Operation:
    answer = response(
        "The predictions, or their parts as events.",
        {**content(ref("schemas", "ScoringResponse")), **content(schema.TEXT, EVENTS)},
    )
    bodies = {name: {name: it} for name, it in _examples(subject).items()}
    request = {
        **content(ref("schemas", "ScoringRequest"), JSON, **examples(bodies)),
        **content(schema.TEXT, CSV, **example(_table(subject))),
        PARQUET: {},
    }
    found = prediction(
        subject,
        Form.SCORING,
        answer,
        ERROR,
        [501],
        tags=[TAG],
        operationId="invocations",
        summary="Predict",
        requestBody={"required": True, "content": request},
    )
    found["responses"]["415"]["content"] |= content(schema.TEXT, TEXT)
    return found


def _examples(subject: Subject) -> dict[str, Any]:
    interface = subject.interface
    rows = interface.example_rows
    found = {ROWS: rows, COLUMNS: interface.example_columns}
    if interface.is_tabular and interface.is_named:
        names = [it.name for it in interface.inputs]
        cells = [[row.get(name) for name in names] for row in rows]
        found = found if interface.has_scalars else {}
        found |= {SPLIT: {"columns": names, "data": cells}, RECORDS: rows}
    if subject.is_raw:
        found.pop(ROWS, None)
    return {name: it for name, it in found.items() if it is not None}


def _table(subject: Subject) -> str | None:
    """Write the example as CSV, where its cells are scalars, and no dates, which MLflow refuses."""
    interface = subject.interface
    if not (interface.is_tabular and interface.is_named):
        return None
    if any(it.type == "datetime" for it in interface.inputs):
        return None
    names = [it.name for it in interface.inputs]
    rows = [[row.get(name) for name in names] for row in interface.example_rows]
    if any(isinstance(cell, list | dict) for row in rows for cell in row):
        return None
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([names, *rows])
    return written.getvalue()
