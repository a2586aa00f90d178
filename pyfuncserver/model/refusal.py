"""What a client is told of an input that MLflow refused: the column, never the client's values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any


def unreadable_column(data: Any, schema: Any) -> str:
    """Name the column whose values MLflow cannot convert, which its own message does not."""
    from mlflow.exceptions import MlflowException
    from mlflow.types import Schema
    from mlflow.utils.proto_json_utils import parse_tf_serving_input

    if schema is None or not schema.has_input_names():
        return ""
    for spec in schema.inputs:
        if isinstance(data, dict) and spec.name in data:
            values = data[spec.name]
        elif isinstance(data, list):
            rows = [row for row in data if isinstance(row, dict)]
            values = [row[spec.name] for row in rows if spec.name in row]
        else:
            continue
        try:
            parse_tf_serving_input({"inputs": {spec.name: values}}, Schema([spec]))
        except MlflowException:
            kind = getattr(spec.type, "name", None) or spec.type
            return f"Column {spec.name!r} holds what cannot be read as {kind}"
    return ""


_ENFORCERS = frozenset(
    (
        "_validate_prediction_input",
        "_enforce_schema",
        "_enforce_params_schema",
        "_validate_model_input",
    )
)


def is_refusal(traceback: TracebackType | None) -> bool:
    """Tell an input that MLflow's enforcement refused from a fault inside the model.

    Both are an MlflowException, in some versions with one error code. The way it came tells.
    """
    return any(
        name in _ENFORCERS or name.startswith("_validate_data_against_type_hint")
        for name in _mlflow_names(traceback)
    )


def is_conversion(traceback: TracebackType | None) -> bool:
    """Tell an input that MLflow's wrapper of a ``PythonModel`` cannot make its type hint's."""
    return "_convert_input" in _mlflow_names(traceback)


def _mlflow_names(traceback: TracebackType | None) -> Iterator[str]:
    """Name MLflow's functions on the way to an error."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "mlflow" in code.co_filename:
            yield code.co_name
        traceback = traceback.tb_next


_DATA = re.compile(
    r"((?:schema of|of data|convert value|convert data|for data|for value|got) )(['\"`]).*\2"
)
"""Data that MLflow quotes, to the last quotation mark: there are others within."""
_ELEMENTS = re.compile(r", invalid elements: .*")
_QUOTED = re.compile(r"(['\"`])(.*?)\1")


def public_message(error: BaseException, schema: Any, *data: Any) -> str:
    """Say what was wrong without the client's values, which MLflow puts into its own text.

    What it quotes is left out, unless it is the name of a column.
    """
    is_wrapped = "Failed to enforce schema of data" in str(error)
    cause = error.__context__ if is_wrapped and error.__context__ is not None else error
    message = " ".join(str(getattr(cause, "message", None) or cause).split())
    message = _ELEMENTS.sub("", _DATA.sub(r"\1'...'", message))
    names = set(_names(schema))
    for part in data:
        names.update(_names_in(part))
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted[2] in names else "'...'", message)


def _names(schema: Any) -> list[str]:
    if schema is None or not schema.has_input_names():
        return []
    return [str(name) for name in schema.input_names()]


def _names_in(data: Any) -> list[str]:
    """List the columns that a client has named."""
    if isinstance(data, list) and data:
        data = data[0]
    return [str(name) for name in data] if isinstance(data, dict) else []
