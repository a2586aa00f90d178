"""Shortcuts to arrays: tensor schemas, and models without a schema. See ``shortcut.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyfuncserver.model.rectangle import COLUMNS, ROWS, columns_of

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

UNTYPED_SAMPLES: list[tuple[str, Any]] = [
    (ROWS, [[1, 2.5], [3, 4.0]]),
    (ROWS, [["a", 1], ["bc", 2]]),
    (ROWS, [{"a": 1, "b": "x", "c": 0.5, "d": True}, {"a": 2, "b": "", "c": 1.5, "d": False}]),
    (COLUMNS, [1, 2]),
    (COLUMNS, {"a": [1, 2], "b": [["x"], ["y"]]}),
]


def untyped(key: str, data: Any) -> Array | Arrays | None:
    """Convert what a model without a schema takes: NumPy chooses the types."""
    if _is_list(data):
        return _array(data)
    if type(data) is dict:
        found = {name: _array(values) for name, values in data.items()} if key == COLUMNS else {}
    else:
        columns = (columns_of(data) if key == ROWS else None) or {}
        if columns.keys() == _BINARY:
            return None
        found = {name: _plain_array(values) for name, values in columns.items()}
    return None if found.keys() == _BINARY else _complete(found)


_BINARY = {"b64"}
"""What may be a binary value, and no row; see ``binary.py``."""


def _is_list(data: Any) -> bool:
    """Tell a list of values from rows by name; MLflow has a way of its own for an empty one."""
    return type(data) is list and bool(data) and type(data[0]) is not dict


def _complete(found: dict[str, Array | None]) -> Arrays | None:
    arrays = {name: array for name, array in found.items() if array is not None}
    return arrays if arrays and len(arrays) == len(found) else None


def _array(values: Any) -> Array | None:
    """Make an array; None for one of objects, which MLflow copies."""
    try:
        array = np.array(values)
    except ValueError:  # rows of several lengths, which MLflow refuses in its own words
        return None
    return None if array.dtype.kind == "O" else array


def _plain_array(values: list[Any]) -> Array | None:
    """Make an array of cells of one type: MLflow makes one of each cell before it joins them."""
    types = set(map(type, values))
    if len(types) != 1 or not types <= _DTYPE_KINDS.keys():
        return None
    array = np.array(values)
    return array if array.dtype.kind == _DTYPE_KINDS[types.pop()] else None


_DTYPE_KINDS = {bool: "b", int: "i", float: "f", str: "U"}


def are_simple(schema: Any) -> bool:
    """Tell whether the tensors of a schema hold booleans or numbers."""
    return all(np.dtype(spec.type).kind in "biuf" for spec in schema.inputs)


def tensors(schema: Any) -> Callable[[str, Any], Array | Arrays | None]:
    """Convert to the tensors of a schema: one without a name, or a dict of them."""
    specs = {spec.name: (np.dtype(spec.type), tuple(spec.shape)) for spec in schema.inputs}
    return _named(specs) if schema.has_input_names() else _unnamed(*specs[None])


def _unnamed(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Callable[[str, Any], Array | None]:
    def unnamed(_key: str, data: Any) -> Array | None:
        return _tensor(data, dtype, shape) if _is_list(data) else None

    return unnamed


def _named(specs: dict[str, Any]) -> Callable[[str, Any], Arrays | None]:
    def named(key: str, data: Any) -> Arrays | None:
        columns = columns_of(data) if key == ROWS else data
        if type(columns) is not dict or columns.keys() != specs.keys():
            return None
        return _complete({name: _tensor(columns[name], *spec) for name, spec in specs.items()})

    return named


def _tensor(values: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array | None:
    """Make a tensor; None where the values or the shape do not fit, which MLflow then says."""
    try:
        array = np.array(values, dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    fits = len(shape) == array.ndim and all(
        size in (-1, found) for size, found in zip(shape, array.shape, strict=True)
    )
    return array if fits else None


def small(schema: Any) -> Any:
    """Make a schema of the same kind, whose tensors are small enough to try at load."""
    from mlflow.types import Schema, TensorSpec

    specs = [(s.type, tuple(min(size, 2) for size in s.shape), s.name) for s in schema.inputs]
    return Schema([TensorSpec(*spec) for spec in specs])


def samples(schema: Any) -> list[tuple[str, Any]]:
    """Give bodies that fit the schema."""
    values = {
        spec.name: np.ones([2 if size < 0 else size for size in spec.shape], spec.type).tolist()
        for spec in schema.inputs
    }
    if not schema.has_input_names():
        return [(key, values[None]) for key in (ROWS, COLUMNS)]
    return [(COLUMNS, values)]
