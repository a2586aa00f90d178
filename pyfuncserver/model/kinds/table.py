"""Rows of features, as clients of any server send them: by name, or plain, in the model's order.

>>> Table(["a", "b"]).array([{"b": 2, "a": 1}], np.float32)
array([[1., 2.]], dtype=float32)

What a client's rows have beside the features is left out, as MLflow does. Where a model knows no
names, those that a client gives its columns say nothing: they are taken in their order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.rectangle import columns_of

Array = np.ndarray[Any, Any]
Columns = dict[str, Any]

_MOST_NAMED = 5
"""Missing features that a refusal names."""
_NO_NUMBERS = "The rows hold what is no number, or are not all of one length"


class Table:
    """Reads rows for a model that takes these features.

    ``names`` and ``width`` are None where the model does not tell; with names the width is theirs.
    ``texts`` are the names of those whose cells stay what they are, whatever a column holds.
    All raise InvalidInput.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        width: int | None = None,
        texts: Collection[str] = (),
    ) -> None:
        self.texts = frozenset(texts)
        self.names = None if names is None else tuple(names)
        self.width = width if self.names is None else len(self.names)

    def array(self, data: Any, dtype: Any) -> Array:
        """Give rows of numbers, of shape (n, width); null is NaN."""
        found = self._found(data)
        if isinstance(found, dict):
            parts = [numbers(column, dtype, 1) for column in found.values()]
            _check_column(parts)
            return np.stack(parts, axis=1)
        return self._checked(numbers(found, dtype))

    def objects(self, data: Any) -> Array:
        """Give rows of whatever they hold, of shape (n, width): all numbers, or all objects."""
        found = self._found(data)
        if isinstance(found, dict):
            parts = [flat(natural(column)) for column in found.values()]
            _check_column(parts)
            are_numbers = all(part.dtype.kind in "biuf" for part in parts)
            dtype = np.float64 if are_numbers else object
            return np.stack([part.astype(dtype) for part in parts], axis=1)
        array = natural(found)
        if array.dtype.kind in "biuf":
            array = array.astype(np.float64, copy=False)
        return array if self.width is None else self._checked(array)

    def frame(self, data: Any) -> pd.DataFrame:
        """Give a frame with the model's names; each column is of the type that its values have."""
        if self.names is None:
            raise ValueError("a frame needs names")
        found = self._found(data)
        if not isinstance(found, dict):
            rows = self._checked(cells(found) if self.texts else natural(found))
            if rows.dtype.kind in "biuf":
                return pd.DataFrame(rows, columns=list(self.names))
            found = dict(zip(self.names, rows.T, strict=True))
        columns = {
            name: flat(cells(column) if name in self.texts else natural(column))
            for name, column in found.items()
        }
        _check_column(list(columns.values()))
        return pd.DataFrame(columns)

    def _found(self, data: Any) -> Columns | Any:
        """Give columns in the model's order, by name; or rows, as they came."""
        columns = columns_by_name(data)
        if columns is None:
            return data.to_numpy() if isinstance(data, pd.DataFrame) else data
        if self.names is None:
            if self.width is not None and len(columns) != self.width:
                raise InvalidInput(self._wrong_width(len(columns)))
            return columns
        missing = [name for name in self.names if name not in columns]
        if missing:  # LightGBM keeps no spaces in its names
            columns = {name.replace(" ", "_"): values for name, values in columns.items()}
            if not columns.keys() >= set(self.names):
                raise InvalidInput(_missing(missing))
        return {name: columns[name] for name in self.names}

    def _checked(self, rows: Array) -> Array:
        if rows.ndim == 1 and self.width == 1:
            rows = rows.reshape(-1, 1)
        if rows.ndim != 2:
            raise InvalidInput("The input is no list of rows: its shape is [rows, features]")
        if self.width is not None and rows.shape[1] != self.width:
            raise InvalidInput(self._wrong_width(rows.shape[1]))
        return rows

    def _wrong_width(self, width: int) -> str:
        return f"The model takes {self.width} features, and the rows have {width}"


def _missing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"The rows lack features of the model: {', '.join(names[:_MOST_NAMED])}{more}"


def columns_by_name(data: Any) -> Columns | None:
    """Give columns by name; None for what has no names. Raises: InvalidInput"""
    if isinstance(data, pd.DataFrame):
        if not all(isinstance(name, str) for name in data.columns):
            return None
        return {str(name): values_of(column) for name, column in data.items()}
    if isinstance(data, Mapping):
        return _by_column(data)
    if isinstance(data, list) and data and isinstance(data[0], dict):
        columns = columns_of(data)
        if columns is None:
            raise InvalidInput("The rows have not all the same names")
        return columns
    return None


def values_of(column: pd.Series[Any]) -> Array:
    """Give a column's array; null among numbers is NaN, also where pandas has a type for those."""
    is_extension = isinstance(column.dtype, pd.api.extensions.ExtensionDtype)
    are_numbers = is_extension and pd.api.types.is_numeric_dtype(column.dtype)
    array: Array = column.to_numpy(na_value=np.nan) if are_numbers else column.to_numpy()
    return array


def _by_column(data: Mapping[str, Any]) -> Columns:
    """Give columns; single values are a row."""
    are_many = [isinstance(values, list | np.ndarray) for values in data.values()]
    if not data or (any(are_many) and not all(are_many)):
        raise InvalidInput("The columns are neither all lists nor all single values")
    return dict(data) if all(are_many) else {name: [value] for name, value in data.items()}


def numbers(values: Any, dtype: Any, dimensions: int | None = None) -> Array:
    """Give an array of numbers; null is NaN. A column may be of shape (n, 1)."""
    try:
        with np.errstate(over="raise"):
            array = np.asarray(values, dtype)
    except (OverflowError, FloatingPointError):
        raise InvalidInput("The rows hold a number that is too large") from None
    except (TypeError, ValueError):
        raise InvalidInput(_NO_NUMBERS) from None
    if dimensions == 1:
        array = flat(array)
    if dimensions is not None and array.ndim != dimensions:
        raise InvalidInput("A column holds more than one value for a row")
    return array


def natural(values: Any) -> Array:
    """Give an array of the type that the values have; texts are objects, null among numbers NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
        return values
    array, kinds = _examined(values)
    if any(issubclass(kind, str | bytes) for kind in kinds):
        return array
    return _without_nulls(np.asarray(values))


def cells(values: Any) -> Array:
    """Give an array of objects, each as it is."""
    return _examined(values)[0]


def _examined(values: Any) -> tuple[Array, set[type]]:
    """Give an array of objects, and the types of those.

    Never one of NumPy's strings, which are all as long as the longest.
    """
    try:
        array = np.asarray(values, dtype=object)
    except ValueError:  # of arrays that differ only in some of their sizes
        raise InvalidInput("The rows are not all of one length") from None
    kinds = set(map(type, array.reshape(-1).tolist()))
    if any(issubclass(kind, list | np.ndarray) for kind in kinds):
        raise InvalidInput("The rows are not all of one length")
    if dict in kinds:
        raise InvalidInput("The rows hold values that are neither numbers nor texts")
    return array, kinds


def flat(array: Array) -> Array:
    """Give a column of shape (n, 1) as one of (n,)."""
    return array.reshape(-1) if array.ndim == 2 and array.shape[1] == 1 else array


def _without_nulls(array: Array) -> Array:
    """Make floats of what only nulls have made objects."""
    if array.dtype.kind != "O":
        return array
    try:
        return np.where(pd.isna(array), np.nan, array).astype(np.float64)
    except (TypeError, ValueError):
        return array


def _check_column(columns: Sequence[Array]) -> None:
    if any(column.ndim != 1 for column in columns):
        raise InvalidInput("A column holds more than one value for a row")
    if len({len(column) for column in columns}) > 1:
        raise InvalidInput("The columns have several numbers of rows")
