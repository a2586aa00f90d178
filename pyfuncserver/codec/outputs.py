"""What a model answers, as named tensors of the Open Inference Protocol (V2).

V2 has no nulls: of numbers and booleans with nulls it is floats with NaN, as pandas makes them
itself; among BYTES they stay, as JSON can hold them and raw tensors cannot. Dates and durations
are ISO 8601, which the tensor's ``content_type`` says of dates, as MLServer's clients know it.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.codec.tensors import BYTES, Array, Tensor, datatype_of, holds_text, objects_of

PREFIX = "output-"
"""Before the number of an output without a name, as MLServer does."""
DATETIME = {"content_type": "datetime"}


def tensors_of(value: Any, names: Sequence[str] = ()) -> list[Tensor]:
    """Give predictions as tensors: one for each column or item, or one of all.

    A column of n is of shape ``(n,)``, an array keeps its own, a single value has ``(1,)``. What
    has names keeps them; else they are ``names``, the signature's, where there are as many, or
    ``output-0``, ``output-1``, ...
    Raises: ValueError or TypeError where no datatype holds the values.
    """
    if isinstance(value, pd.DataFrame):
        return _of_frame(value, names)
    if isinstance(value, Mapping):
        return _named([str(name) for name in value], [_array_of(item) for item in value.values()])
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        return _of_frame(_frame_of(value), names)
    if isinstance(value, pd.Series) and isinstance(value.name, str) and len(names) != 1:
        names = [value.name]
    array = _array_of(value)
    if array.ndim == 2 and len(names) == array.shape[1] > 1:  # a table
        return _named(names, [np.ascontiguousarray(column) for column in array.T])
    return _named(_fitting(names, 1), [array])


def _of_frame(frame: pd.DataFrame, names: Sequence[str]) -> list[Tensor]:
    own = [name for name in frame.columns if isinstance(name, str)]
    labels = own if len(own) == len(frame.columns) else _fitting(names, len(frame.columns))
    columns = [frame.iloc[:, place] for place in range(len(labels))]
    return _named(labels, [_array_of(column) for column in columns])


def _frame_of(records: Sequence[Any]) -> pd.DataFrame:
    names = dict.fromkeys(name for record in records for name in record)
    columns = {str(name): [record.get(name) for record in records] for name in names}
    return pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in columns.items()})


def _fitting(names: Sequence[str], number: int) -> Sequence[str]:
    return names if len(names) == number else [f"{PREFIX}{place}" for place in range(number)]


def _named(names: Sequence[str], arrays: Sequence[Array]) -> list[Tensor]:
    if len(set(names)) < len(names):
        raise ValueError("two outputs have one name")
    return [_tensor(name, array) for name, array in zip(names, arrays, strict=True)]


def _tensor(name: str, array: Array) -> Tensor:
    try:
        if array.dtype.kind == "O":
            return _of_objects(name, array)
        if array.dtype.kind in "mM":
            return _of_objects(name, objects_of(_dates(array), array.shape))
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # longdouble
            array = array.astype(np.float64)
        if array.dtype.kind in "SU":
            array = array.astype(object)
        return Tensor(name, datatype_of(array), array)
    except ValueError as error:
        raise ValueError(f"output {name!r}: {error}") from error


def _dates(array: Array) -> list[Any]:
    kind: Callable[[Any], Any] = pd.Timestamp if array.dtype.kind == "M" else pd.Timedelta
    return [kind(cell) for cell in array.reshape(-1)]


# Arrays of what a model answers


def _array_of(value: Any) -> Array:
    """Give an array of at least one dimension. Raises: ValueError or TypeError"""
    if isinstance(value, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        return _of_pandas(value)
    if type(value) is np.ndarray and value.ndim:
        return value
    if isinstance(value, list | tuple):
        return _of_list(value)
    if hasattr(value, "__array__") and not isinstance(value, pd.Timestamp | pd.Timedelta):
        return np.atleast_1d(np.asarray(value))
    return objects_of([value], (1,))


def _of_pandas(values: Any) -> Array:
    """Give a column's array; of numbers with nulls it is of floats."""
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        array: Array = values.to_numpy()
        return array
    is_number = pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype)
    if is_number and not isinstance(dtype, pd.SparseDtype):
        return _of_nullable(values)
    return objects_of(list(values), (len(values),))


def _of_nullable(values: Any) -> Array:
    if values.isna().any():
        return np.array([np.nan if pd.isna(cell) else float(cell) for cell in values])
    kept = getattr(values.dtype, "numpy_dtype", None)
    return np.asarray(values, dtype=kept if isinstance(kept, np.dtype) else None)


def _of_list(values: Sequence[Any]) -> Array:
    """Give an array of a list, which NumPy finds the type of where it is of numbers."""
    if any(isinstance(item, str | bytes) for item in values):  # NumPy cuts and pads them
        return objects_of(list(values), (len(values),))
    if holds_text(values):
        return np.array(values, dtype=object)
    try:
        array = np.array(values)
    except ValueError:
        raise ValueError("its rows have several lengths") from None
    return array if array.dtype.kind in "biufmM" else np.array(values, dtype=object)


# Objects


def _of_objects(name: str, array: Array) -> Tensor:
    """Find the one datatype of an array of objects."""
    cells: list[Any] = [None if _is_null(cell) else cell for cell in array.reshape(-1)]
    present = [cell for cell in cells if cell is not None]
    if any(isinstance(cell, list | tuple | np.ndarray) for cell in present):
        return _tensor(name, _joined(cells, array.shape))
    for kinds, make, parameters in _KINDS:
        if present and all(isinstance(cell, kinds) for cell in present):
            made = make(cells, len(present) == len(cells))
            return Tensor(name, datatype_of(made), made.reshape(array.shape), dict(parameters))
    if not present:
        return Tensor(name, BYTES, objects_of(cells, array.shape))
    types = sorted({type(cell).__name__ for cell in present})
    raise ValueError(f"no datatype holds {' and '.join(types)}")


def _is_null(cell: Any) -> bool:
    if isinstance(cell, float | np.floating):
        return math.isnan(cell)
    return cell is None or cell is pd.NA or cell is pd.NaT


def _joined(cells: list[Any], shape: tuple[int, ...]) -> Array:
    """Give an array of cells that are arrays of one shape themselves."""
    if any(cell is None for cell in cells):
        raise ValueError("some cells are lists, others null")
    arrays = [_array_of(cell) for cell in cells]
    if len({part.shape for part in arrays}) != 1:
        raise ValueError("its cells have several lengths")
    return np.stack(arrays).reshape(shape + arrays[0].shape)


def _booleans(cells: list[Any], is_whole: bool) -> Array:
    return np.array(cells, np.bool_) if is_whole else _floats(cells, is_whole)


def _integers(cells: list[Any], is_whole: bool) -> Array:
    if not is_whole:
        return _floats(cells, is_whole)
    plain = [int(cell) for cell in cells]
    try:
        return np.array(plain, np.uint64 if max(plain) > np.iinfo(np.int64).max else np.int64)
    except OverflowError:
        raise ValueError("an integer beyond 64 bits") from None


def _floats(cells: list[Any], _: bool) -> Array:
    return np.array([np.nan if cell is None else float(cell) for cell in cells])


def _strings(cells: list[Any], _: bool) -> Array:
    # A slice of a subclass, such as NumPy's, is a plain one.
    return objects_of([None if cell is None else cell[:] for cell in cells], (len(cells),))


def _iso_dates(cells: list[Any], _: bool) -> Array:
    return objects_of([None if c is None else c.isoformat() for c in cells], (len(cells),))


def _iso_durations(cells: list[Any], _: bool) -> Array:
    durations = [None if cell is None else pd.Timedelta(cell).isoformat() for cell in cells]
    return objects_of(durations, (len(cells),))


_KINDS: tuple[tuple[Any, Callable[[list[Any], bool], Array], Mapping[str, Any]], ...] = (
    ((bool, np.bool_), _booleans, {}),
    ((int, np.integer), _integers, {}),
    ((int, float, np.number, decimal.Decimal), _floats, {}),
    (str, _strings, {}),
    ((str, bytes), _strings, {}),
    ((datetime.datetime, datetime.date), _iso_dates, DATETIME),
    (datetime.time, _iso_dates, {}),
    (datetime.timedelta, _iso_durations, {}),
)
"""What the cells are, what makes an array of them, and what the tensor's parameters say then.

The first that fits; a boolean is an int to Python, hence the order.
"""
