"""Rows: which inputs can be stacked into one, and how the answer is split again.

A call's rows are stacked under those of others only where nothing else about it changes by that:
its columns, their types, the shape of a row and the parameters are the same, and every row keeps
its place. What cannot be shown to be so goes to the model alone. Of an answer as much is asked: it
has to have a row for each that went in, in the same order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

_SCALARS = (type(None), bool, int, float, str, bytes, np.generic)


class Rows(NamedTuple):
    """How many rows an input has, and what it shares with those that it may be stacked with."""

    length: int
    layout: Hashable
    labels: frozenset[Any] = frozenset()
    """The names of the rows, where they have any; no two rows of one stack may share one."""


class NotByRow(ValueError):
    """An answer is not one row for each row of the input; the text says how."""


def rows_of(data: Any, params: Any = None, *, is_by_row: bool) -> Rows | None:
    """Give the rows of a model's input, or None where it has to go alone.

    ``is_by_row`` tells that the first dimension of what has only one is rows, which neither a list
    nor an array of shape ``(n,)`` shows: it may as well be one row of n features.
    """
    try:
        found = _rows(data, is_by_row)
        if found is None or found.length == 0:  # what a model does with no rows, it does alone
            return None
        layout = (found.layout, _frozen(params or None))
        hash(layout)
    except TypeError:  # a label, or the like, that cannot be compared
        return None
    return found._replace(layout=layout)


def takes_rows(input_schema: Any) -> bool:
    """Tell whether a signature lets an input have any number of rows.

    A tensor whose first dimension is a fixed one is a single thing, and not rows of something.
    """
    if input_schema is None or not input_schema.is_tensor_spec():
        return True
    return all(tensor.shape[:1] == (-1,) for tensor in input_schema.inputs)


def is_by_row(body: Any, input_schema: Any) -> bool:
    """Tell whether what a client sent is rows even where it has one dimension only.

    It says so by ``instances``, and the signature by shapes that begin with -1.
    """
    if isinstance(body, dict) and "instances" in body:
        return True
    return input_schema is not None and input_schema.is_tensor_spec() and takes_rows(input_schema)


def stacked(inputs: Sequence[Any]) -> Any:
    """Put inputs of one layout under one another."""
    first = inputs[0]
    if isinstance(first, pd.DataFrame):
        return _stacked_frames(inputs)
    if isinstance(first, np.ndarray):
        return np.concatenate(inputs)
    if isinstance(first, dict):
        return {name: np.concatenate([part[name] for part in inputs]) for name in first}
    return [row for part in inputs for row in part]


def _stacked_frames(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    index = frames[0].index
    if not _is_numbered(index):
        return pd.concat(frames)
    both = pd.concat(frames, ignore_index=True)
    both.index = _counting(index, len(both))
    return both


def split(answer: Any, counts: Sequence[int], index: pd.Index | None = None) -> list[Any]:
    """Cut an answer into one for each input, of so many rows each, as the input alone had had it.

    ``index`` is that of the stacked frame, where it was one.
    Raises: NotByRow where the answer is something else than those rows, in their order.
    """
    total = sum(counts)
    bounds = [slice(*ends) for ends in pairwise([0, *accumulate(counts)])]
    if isinstance(answer, dict):
        columns = {name: split(value, counts, index) for name, value in answer.items()}
        if not columns:
            raise NotByRow("an empty dict")
        return [{name: columns[name][place] for name in columns} for place in range(len(counts))]
    length = _length(answer)
    if length != total:
        said = "no rows" if length is None else f"{length} rows"
        raise NotByRow(f"{said} ({type(answer).__name__}) for {total}")
    if isinstance(answer, pd.DataFrame | pd.Series):
        return _split_labelled(answer, bounds, index)
    if isinstance(answer, np.ndarray):
        return [_compact(answer[part]) for part in bounds]
    return [answer[part] for part in bounds]


def _rows(data: Any, is_by_row: bool) -> Rows | None:
    # Subclasses may do anything when they are put together, so they are none of ours.
    if type(data) is pd.DataFrame:
        return _rows_of_frame(data)
    if type(data) is np.ndarray:
        return _rows_of_array(data, is_by_row)
    if type(data) is dict:
        return _rows_of_columns(data, is_by_row)
    if type(data) is list and is_by_row:
        return Rows(len(data), list)
    return None


def _rows_of_frame(frame: pd.DataFrame) -> Rows | None:
    names = frame.columns
    labels = _labels(frame.index)
    if labels is None or names.nlevels > 1 or frame.attrs:
        return None
    # The types of the names as well: 1, 1.0 and True are equal.
    columns = (tuple(names), names.dtype, names.name, tuple(frame.dtypes))
    index = (type(frame.index), frame.index.dtype, frame.index.name)
    return Rows(len(frame), (pd.DataFrame, columns, index), labels)


def _labels(index: pd.Index) -> frozenset[Any] | None:
    """Give the names of rows, none where they are only numbered; None for other indexes.

    Of other numbers none are taken for names: what a model aligns with them by position, as
    ``pd.concat([frame, pd.DataFrame(answers)], axis=1)`` does, may meet the rows of others.
    """
    if _is_numbered(index):
        return frozenset()
    if index.nlevels > 1 or not pd.api.types.is_string_dtype(index.dtype):  # or object
        return None
    labels = frozenset(index)
    return labels if len(labels) == len(index) else None


def _rows_of_array(array: np.ndarray[Any, Any], is_by_row: bool) -> Rows | None:
    if array.ndim < (1 if is_by_row else 2):
        return None
    return Rows(len(array), (array.dtype, array.shape[1:]))


def _rows_of_columns(columns: dict[Any, Any], is_by_row: bool) -> Rows | None:
    layouts = []
    counts = set()
    for name, column in columns.items():
        rows = _rows_of_array(column, is_by_row) if type(column) is np.ndarray else None
        if rows is None:
            return None
        counts.add(rows.length)
        layouts.append((name, rows.layout))
    return Rows(counts.pop(), (dict, tuple(layouts))) if len(counts) == 1 else None


def _is_numbered(index: pd.Index) -> bool:
    """Tell whether it only counts the rows, from 0.

    An index of integers does so as well as a range: ``to_json(orient="split")`` writes every frame
    with one, and so does MLflow's own client.
    """
    return bool(index.dtype == np.int64 and index.equals(pd.RangeIndex(len(index))))


def _counting(like: pd.Index, length: int) -> pd.Index:
    """Make an index of this kind and name that counts so many rows."""
    if type(like) is pd.RangeIndex:
        return pd.RangeIndex(length, name=like.name)
    return pd.Index(np.arange(length, dtype=np.int64), name=like.name)


def _frozen(value: Any) -> Hashable:
    """Give what is equal for equal values of equal types. Raises: TypeError where it cannot."""
    if isinstance(value, _SCALARS):
        return type(value), value
    if isinstance(value, dict):
        return dict, frozenset((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_frozen(item) for item in value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return np.ndarray, value.dtype, value.shape, value.tobytes()
    raise TypeError(f"a {type(value).__name__} cannot be compared")


def _length(answer: Any) -> int | None:
    if isinstance(answer, np.ndarray):
        return len(answer) if answer.ndim else None
    if isinstance(answer, pd.DataFrame | pd.Series | pd.Index | ExtensionArray | list | tuple):
        return len(answer)
    return None


def _split_labelled(
    answer: pd.DataFrame | pd.Series[Any], bounds: Iterable[slice], index: pd.Index | None
) -> list[Any]:
    """Split what has an index; where that counts the rows, each part counts its own from 0.

    An index that is neither the input's nor simply counts may say that the rows have been sorted.
    """
    is_own = index is not None and answer.index.equals(index)
    is_numbered = _is_numbered(answer.index)
    if not is_own and not (is_numbered and type(answer.index) is pd.RangeIndex):
        raise NotByRow("rows under an index that is not the input's")
    parts = [answer.iloc[part] for part in bounds]
    if is_numbered:
        for part in parts:
            part.index = _counting(answer.index, len(part))
    return parts


def _compact(part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Lay out a slice as an answer of its own would be: how numbers are written depends on it."""
    return part if part.flags.c_contiguous else part.copy(order="K")
