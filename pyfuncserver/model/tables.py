"""Shortcuts to frames: schemas of named columns of simple types. See ``shortcut.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.codec.frames import frame_from
from pyfuncserver.model.rectangle import COLUMNS, ROWS, TABLE, columns_of

Values = list[Any]

_FLOATS = {float, int, type(None)}
_SIMPLE: dict[str | None, tuple[set[type], Values]] = {
    "boolean": ({bool}, [True, False]),
    "integer": ({int}, [1, -2]),
    "long": ({int}, [2**40, -1]),
    "float": (_FLOATS, [0.1, 2]),
    "double": (_FLOATS, [0.1, None]),
    "string": ({str}, ["a", "b\N{SNOWMAN}\0c"]),
}
"""For each simple type the types that its values have in JSON, and a sample."""


def is_simple(schema: Any) -> bool:
    """Tell whether a schema is one of named columns that :func:`table` can build."""
    if not schema.has_input_names():
        return False
    names = schema.input_names()
    types = {getattr(spec.type, "name", None) for spec in schema.inputs}
    return len(set(names)) == len(names) and types <= _SIMPLE.keys()


def samples(schema: Any) -> list[tuple[str, Any]]:
    """Give requests that fit the schema, rows first."""
    values = {spec.name: _SIMPLE[spec.type.name][1] for spec in schema.inputs}
    rows = [{name: column[place] for name, column in values.items()} for place in (0, 1)]
    found: list[tuple[str, Any]] = [
        (ROWS, rows),
        (COLUMNS, {name: column[:1] for name, column in values.items()}),
    ]
    frame = pd.DataFrame(values).astype(dict(zip(values, _frame_dtypes(schema), strict=True)))
    frame.columns = pd.Index(values, dtype=object)
    found.append((TABLE, frame.set_axis(pd.Index(["r", "s"], dtype=object))))
    found.append((TABLE, frame))
    return found


def _frame_dtypes(schema: Any) -> list[np.dtype[Any]]:
    """Give the types of a frame that needs no conversion."""
    kept = {"float": "float32", "integer": "int32", "boolean": "bool"}
    kept |= {"double": "float64", "long": "int64", "string": "object"}
    return [np.dtype(kept[spec.type.name]) for spec in schema.inputs]


def small(schema: Any) -> Any:
    """Make a schema of the first two columns of each type, of which MLflow has a frame soon."""
    from mlflow.types import Schema

    by_type: dict[str, list[Any]] = {}
    for spec in schema.inputs:
        by_type.setdefault(spec.type.name, []).append(spec)
    kept = [spec for specs in by_type.values() for spec in specs[:2]]
    return Schema([spec for spec in schema.inputs if spec in kept])


def dtypes_of(schema: Any, frame: pd.DataFrame) -> dict[str, Any]:
    """Tell as what a frame of MLflow's keeps each type of a schema."""
    return {spec.type.name: frame[spec.name].dtype for spec in schema.inputs}


@dataclass(frozen=True)
class Reading:
    """How the values of a column are read before a frame keeps them."""

    dtypes: dict[str, np.dtype[Any]]
    """By the name of the simple type, where it is another than NumPy's type for that."""
    allowed: dict[str, set[type]]
    """The types of values, where fewer than usual are read to the same end."""


BY_NUMPY = Reading({}, {})
BY_PANDAS = Reading(
    {"string": np.dtype(object)},
    {"float": {float, type(None)}},  # pandas reads integers as 64 bits, and rounds them once
)


def table(
    schema: Any, kept: dict[str, Any], reading: Reading = BY_NUMPY
) -> Callable[[str, Any], pd.DataFrame | None]:
    """Build frames of a schema, whose columns are kept as the types that ``kept`` tells.

    Optional columns have to be there.
    """
    allowed = {
        spec.name: reading.allowed.get(spec.type.name, _SIMPLE[spec.type.name][0])
        for spec in schema.inputs
    }
    names, dtypes = list(allowed), _frame_dtypes(schema)
    labels = pd.DataFrame(dict.fromkeys(names, ())).columns
    types = [
        (reading.dtypes.get(spec.type.name, spec.type.to_numpy()), kept[spec.type.name])
        for spec in schema.inputs
    ]
    build = _builder(types, labels)

    def relabelled(frame: pd.DataFrame) -> pd.DataFrame | None:
        if frame.columns.tolist() != names or frame.dtypes.tolist() != dtypes:
            return None
        frame.columns = labels.view()
        return frame

    def convert(key: str, data: Any) -> pd.DataFrame | None:
        if key == TABLE:
            return relabelled(data)
        columns = columns_of(data) if key == ROWS else data
        if type(columns) is not dict or columns.keys() != allowed.keys():
            return None
        values = [columns[name] for name in allowed]
        if not _are_lists_of(values, allowed.values()):
            return None
        try:
            return build(values)
        except (ValueError, OverflowError):  # an integer too large, which MLflow refuses
            return None

    return convert


def _are_lists_of(columns: list[Any], allowed: Iterable[set[type]]) -> bool:
    """Tell whether all columns are lists of one length, not empty, of values of their types."""
    lengths = {len(values) if type(values) is list else 0 for values in columns}
    if len(lengths) > 1 or 0 in lengths:
        return False
    pairs = zip(allowed, columns, strict=True)
    return all(types.issuperset(map(type, values)) for types, values in pairs)


def _builder(
    types: list[tuple[np.dtype[Any], Any]], labels: pd.Index[Any]
) -> Callable[[list[Values]], pd.DataFrame]:
    # An Index has a name that a model may set, so each frame gets one of its own.
    dtype = types[0][0]
    if len(set(types)) == 1 and dtype.kind not in "UO":

        def build_uniform(columns: list[Values]) -> pd.DataFrame:
            values = np.array(columns, dtype)  # a row of it is a column, as pandas keeps them
            index = pd.RangeIndex(values.shape[1])
            return pd.DataFrame(values.T, index, labels.view(), copy=False)

        return build_uniform

    converters = [_converter(*pair) for pair in types]

    def build(columns: list[Values]) -> pd.DataFrame:
        arrays = [convert(values) for convert, values in zip(converters, columns, strict=True)]
        return frame_from(arrays, labels.view(), pd.RangeIndex(len(columns[0])))

    return build


def _converter(dtype: np.dtype[Any], kept: Any) -> Callable[[Values], Any]:
    """Make the array that a frame keeps for a column: strings are kept as another type."""
    if dtype.kind not in "UO":
        return lambda values: np.array(values, dtype)
    make = _objects if dtype.kind == "O" else _texts
    if kept == np.dtype(object):
        return make
    from_sequence = kept.construct_array_type()._from_sequence
    return lambda values: from_sequence(make(values), dtype=kept)


def _texts(values: Values) -> Any:
    """Give texts as MLflow does, by way of NumPy's strings: those have no zeros at their end.

    But not by that way: it makes each as long as the longest.
    """
    return _objects([value.rstrip("\0") for value in values])


def _objects(values: Values) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array
