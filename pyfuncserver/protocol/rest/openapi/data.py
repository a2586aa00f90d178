"""The model's own input and output in the document, to which the dialects refer."""

from __future__ import annotations

from typing import Any

from pyfuncserver.protocol.rest.openapi.operation import ref
from pyfuncserver.protocol.rest.openapi.schema import Schema
from pyfuncserver.protocol.rest.openapi.subject import Subject

ROWS: Schema = ref("schemas", "Rows")
COLUMNS: Schema = ref("schemas", "Columns")
PREDICTIONS: Schema = ref("schemas", "Predictions")
PARAMS: Schema = ref("schemas", "Params")


def schemas(subject: Subject) -> dict[str, Any]:
    if not subject.has_predictions:
        return {}
    interface = subject.interface
    found = {
        "Rows": {**interface.rows, "description": "The input, row by row."},
        "Columns": {
            **interface.columns,
            "description": "The input, column by column or tensor by tensor, all equally long.",
        },
        "Predictions": {
            **interface.predictions,
            "description": "As the model's signature has it, to which nothing holds the model.",
        },
    }
    if interface.params is not None:
        found["Params"] = {**interface.params, "description": "What the signature knows."}
    return found


def params(subject: Subject) -> dict[str, Schema]:
    """Give the member of a body for the model's params, where it takes any."""
    return {} if subject.interface.params is None else {"params": PARAMS}
