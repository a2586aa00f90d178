"""What a Seldon message holds, as a plain MLflow model takes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyfuncserver.codec.seldon import ARRAYS, Message
from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.padding import check_cells
from pyfuncserver.model.rectangle import AS_IS, COLUMNS, ROWS

Array = np.ndarray[Any, Any]
Found = tuple[str, Any, None]
"""See ``plain.Contents``; Seldon's messages have no params."""

_WHOLE = ("integer", "long")
"""MLflow's types of whole numbers."""


def reader(schema: Any) -> Callable[[Message], Found]:
    """Give what finds a message's contents for a model with this input schema, or without one.

    An array becomes a frame where the signature has named columns: of the message's own names, or,
    where it has none, of the signature's in their order. Else it stays an array.
    """
    has_columns = schema is not None and not schema.is_tensor_spec() and schema.has_input_names()
    specs = schema.inputs if has_columns else ()
    columns = tuple(spec.name for spec in specs)
    whole = {spec.name for spec in specs if getattr(spec.type, "name", "") in _WHOLE}
    are_simple = has_columns and all(hasattr(spec.type, "to_numpy") for spec in specs)

    def read(message: Message) -> Found:
        if message.kind not in ARRAYS:
            return *_named(message.value, are_simple), None
        if columns:
            return COLUMNS, _counted(_by_column(message, columns), whole), None
        if schema is None:
            return AS_IS, array_of(message.value), None
        return _for_schema(schema, _listed(message.value))

    return read


def _named(value: Any, are_simple: bool) -> tuple[str, Any]:
    """Name what is no array.

    Values by column are as V1's ``inputs``, so that MLflow makes the signature's types of them,
    where its columns hold single values. All else stays as it is.
    """
    if not are_simple or not isinstance(value, dict):
        return AS_IS, value
    if all(isinstance(column, list) for column in value.values()):
        return COLUMNS, value
    if any(isinstance(column, list | dict) for column in value.values()):
        return AS_IS, value
    return COLUMNS, {name: [cell] for name, cell in value.items()}


def _counted(columns: dict[str, list[Any]], names: set[str]) -> dict[str, list[Any]]:
    """Make whole numbers of these columns, where all are: a tensor, and gRPC, have doubles only."""
    for name in names & columns.keys():
        column = columns[name]
        if all(type(value) is float and value.is_integer() for value in column):
            columns[name] = [int(value) for value in column]
    return columns


def _by_column(message: Message, columns: tuple[str, ...]) -> dict[str, list[Any]]:
    """Turn rows into columns, whose values MLflow makes the signature's types of.

    Raises: InvalidInput where the rows have another width than the columns.
    """
    names = message.names or columns
    if len(set(names)) < len(names):
        raise InvalidInput("data.names names a column twice")
    rows = _rows(_listed(message.value), len(names))
    for number, row in enumerate(rows):
        if len(row) != len(names):
            whose = "data.names" if message.names else "the model's signature"
            raise InvalidInput(
                f"row {number} of the data has {len(row)} values, and {whose} has "
                f"{len(names)} columns"
            )
    values = zip(*rows, strict=True) if rows else ((),) * len(names)
    return {name: list(column) for name, column in zip(names, values, strict=True)}


def _rows(values: list[Any], width: int) -> list[list[Any]]:
    """Give a list of rows; one of bare values is a single row, or a single column's."""
    if all(isinstance(row, list) for row in values):
        return values
    if any(isinstance(row, list) for row in values):
        raise InvalidInput("the data has both rows and bare values")
    return [[value] for value in values] if width == 1 else [values]


def _for_schema(schema: Any, values: list[Any]) -> Found:
    """Give arrays to a schema of tensors, or of columns without names."""
    if schema.is_tensor_spec() and schema.has_input_names():
        names = schema.input_names()
        if len(names) > 1:
            raise InvalidInput(
                f"the model takes {len(names)} tensors by name, of which a Seldon array is one; "
                "send them as jsonData"
            )
        return COLUMNS, {names[0]: values}, None
    return ROWS, values, None


def _listed(values: Any) -> list[Any]:
    """Give nested lists; a tensor without a dimension is a list of its one value."""
    if isinstance(values, list):
        return values
    listed = np.atleast_1d(values).tolist()
    return [_decoded(value) for value in listed] if values.dtype == object else listed


def _decoded(value: Any) -> Any:
    """Give a string of a ``tftensor``, which travels as bytes."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def array_of(values: Any) -> Array:
    """Make an array, of the type that NumPy chooses, as Seldon's own server does.

    Raises: InvalidInput
    """
    if isinstance(values, np.ndarray):
        return values
    check_cells(values, "data.ndarray")
    try:
        return np.array(values)
    except ValueError:
        raise InvalidInput("data.ndarray has rows of several lengths") from None
