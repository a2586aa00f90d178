"""UPI v1 messages, and UPI tables as data frames.

Our copy of the messages lives in a descriptor pool of its own, so that it cannot collide with the
public package ``caraml-upi-protos``, whatever imports that and when. Where the package can be
imported, its classes are used, since the model may check for them.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from pyfuncserver.codec import messages as descriptors
from pyfuncserver.codec.frames import frame_from

PACKAGE = "caraml.upi.v1"
SERVICE = f"{PACKAGE}.UniversalPredictionService"
METHOD = "PredictValues"
MODULES = ("upi", "table", "type", "variable", "header", "prediction_log")
DOUBLE, INTEGER, STRING = 1, 2, 3  # caraml.upi.v1.Type

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

log = logging.getLogger(__name__)


def file_set() -> FileDescriptorSet:
    """Give the compiled ``protos/caraml``, with all that they import."""
    return descriptors.file_set("upi.binpb")


@lru_cache(maxsize=1)
def messages() -> Any:
    """Give the message classes by name; the public package's where it is there.

    Decided at the first call, so first call it when the model, which may bring the package on a
    path of its own, has been loaded.
    """
    public = _public_messages()
    if public is not None:
        return public
    return descriptors.classes_of(file_set(), PACKAGE)


def _public_messages() -> Any | None:
    try:
        if importlib.util.find_spec(f"{PACKAGE}.upi_pb2") is None:
            return None
        modules = [importlib.import_module(f"{PACKAGE}.{name}_pb2") for name in MODULES]
    except ImportError:
        return None
    except Exception as error:  # noqa: BLE001  somebody else's generated code, of any age
        log.warning("caraml-upi-protos is installed but cannot be used: %s", error)
        return None
    found: dict[str, Any] = {}
    for module in modules:
        found.update(
            (name, value)
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Message)
        )
    return SimpleNamespace(**found)


def parse_request(data: bytes) -> Message:
    """Parse a ``PredictValuesRequest``. Raises: ValueError where the bytes are none."""
    try:
        request: Message = messages().PredictValuesRequest.FromString(data)
    except DecodeError as error:
        raise ValueError(f"not a PredictValuesRequest: {error}") from None
    return request


def is_response(value: object) -> bool:
    """Tell whether a value is a ``PredictValuesResponse``, of whichever copy of the messages."""
    descriptor = getattr(value, "DESCRIPTOR", None)
    return getattr(descriptor, "full_name", "") == f"{PACKAGE}.PredictValuesResponse"


_FIELD = {DOUBLE: "double_value", INTEGER: "integer_value", STRING: "string_value"}


def frame_of(table: Any) -> pd.DataFrame:
    """Give a table as a frame: doubles float64, integers int64 (Int64 with nulls), strings object.

    Row ids become the index where there are any.
    Raises: ValueError for a row of another length than the columns, or a column without a type.
    """
    rows = list(table.rows)
    width = len(table.columns)
    for number, row in enumerate(rows):
        if len(row.values) != width:
            raise ValueError(f"row {number} has {len(row.values)} values for {width} columns")
    columns = [
        _column(column.name, column.type, [row.values[place] for row in rows])
        for place, column in enumerate(table.columns)
    ]
    ids = [row.row_id for row in rows]
    index = pd.Index(ids, dtype=object) if any(ids) else pd.RangeIndex(len(rows))
    labels = pd.Index([column.name for column in table.columns], dtype=object)
    return frame_from(columns, labels, index)


def _column(name: str, kind: int, values: list[Any]) -> Any:
    if kind == DOUBLE:
        doubles = [np.nan if value.is_null else value.double_value for value in values]
        return np.array(doubles, dtype="float64")
    if kind == INTEGER:
        if any(value.is_null for value in values):
            integers = [pd.NA if value.is_null else value.integer_value for value in values]
            return pd.array(integers, dtype="Int64")
        return np.array([value.integer_value for value in values], dtype="int64")
    if kind == STRING:
        strings = [None if value.is_null else value.string_value for value in values]
        return np.array(strings, dtype=object)
    raise ValueError(f"column {name!r} has no type")


def response_of(values: Any, request: Any) -> Any:
    """Make the response of a model that answers with values: rows, columns, arrays, series.

    Columns keep their names, or are called ``output_0``, ...; row ids are the request's where the
    number of rows is the same.
    Raises: ValueError or TypeError where a table cannot hold the values.
    """
    frame = _frame(values)
    ids = [row.row_id for row in request.prediction_table.rows]
    if len(ids) != len(frame):
        ids = [str(label) for label in frame.index]
    response = messages().PredictValuesResponse(target_name=request.target_name)
    response.metadata.prediction_id = request.metadata.prediction_id
    table = response.prediction_result_table
    table.name = request.prediction_table.name
    cells = []
    for place, name in enumerate(frame.columns):
        kind, column = _typed(str(name), frame.iloc[:, place])
        table.columns.add(name=str(name), type=kind)
        cells.append((_FIELD[kind], column))
    for number, row_id in enumerate(ids):
        row = table.rows.add(row_id=row_id)
        for field, column in cells:
            value = column[number]
            row.values.add(**({"is_null": True} if value is None else {field: value}))
    return response


def _frame(values: Any) -> pd.DataFrame:
    if isinstance(values, pd.DataFrame):
        return values
    if isinstance(values, pd.Series):
        return values.to_frame(name="output_0" if values.name is None else values.name)
    if isinstance(values, dict):
        return pd.DataFrame(values)
    if isinstance(values, np.ndarray) and values.ndim > 2:
        raise ValueError(f"an answer of {values.ndim} dimensions does not fit into a table")
    if isinstance(values, np.ndarray) and values.ndim:
        frame = pd.DataFrame(values)
    else:
        # Not through an array, which would make one type of what has several.
        rows = list(values) if isinstance(values, list | tuple) else [values]
        frame = _frame_of_rows(rows)
    if all(isinstance(name, int) for name in frame.columns):
        frame.columns = pd.Index([f"output_{number}" for number in frame.columns], dtype=object)
    return frame


def _frame_of_rows(rows: list[Any]) -> pd.DataFrame:
    if not rows:
        return pd.DataFrame({0: pd.Series(dtype="float64")})
    if isinstance(rows[0], dict):
        return pd.DataFrame(rows)
    cells = [_cells(row) for row in rows]
    if len({len(row) for row in cells}) > 1:
        raise ValueError("the rows of the answer have several lengths")
    columns = zip(*cells, strict=True)
    return pd.DataFrame(
        {place: pd.Series(column, dtype=object) for place, column in enumerate(columns)}
    )


def _cells(row: Any) -> list[Any]:
    if isinstance(row, np.ndarray):
        return list(row.reshape(-1).tolist())
    return list(row) if isinstance(row, list | tuple) else [row]


def _typed(name: str, column: pd.Series[Any]) -> tuple[int, list[Any]]:
    """Choose a column's type; give its values as plain Python, nulls as None."""
    values = [
        None if null else value
        for value, null in zip(column.tolist(), column.isna().tolist(), strict=True)
    ]
    present = [value for value in values if value is not None]
    if _is_integer(column, present):
        if not all(INT64_MIN <= value <= INT64_MAX for value in present):
            raise ValueError(f"column {name!r} holds an integer beyond 64 bits")
        return INTEGER, [None if value is None else int(value) for value in values]
    if _is_number(column, present):
        return DOUBLE, [None if value is None else float(value) for value in values]
    return STRING, [None if value is None else _text(name, value) for value in values]


def _is_integer(column: pd.Series[Any], present: list[Any]) -> bool:
    kind = column.dtype
    if pd.api.types.is_integer_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        return True
    whole = bool | int | np.integer | np.bool_
    return bool(present) and all(isinstance(value, whole) for value in present)


def _is_number(column: pd.Series[Any], present: list[Any]) -> bool:
    if pd.api.types.is_float_dtype(column.dtype):
        return True
    return bool(present) and all(isinstance(value, int | float | np.number) for value in present)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"column {name!r} holds a {type(value).__name__}, which no UPI type holds")
