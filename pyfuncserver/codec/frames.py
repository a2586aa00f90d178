"""Data frames from columns whose types are right already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd


def frame_from(arrays: Sequence[Any], labels: pd.Index[Any], index: pd.Index[Any]) -> pd.DataFrame:
    """Make a frame of one-dimensional arrays of one length, each of which keeps its type.

    pandas' public constructor takes four times as long, and infers types: it makes a ``str`` column
    of an array of objects.
    """
    build = getattr(pd.DataFrame, "_from_arrays", None)
    if build is None:
        return _frame_by_series(arrays, labels, index)
    frame: pd.DataFrame = build(list(arrays), labels, index, verify_integrity=False)
    return frame


def _frame_by_series(
    arrays: Sequence[Any], labels: pd.Index[Any], index: pd.Index[Any]
) -> pd.DataFrame:
    columns = {place: pd.Series(array, index, array.dtype) for place, array in enumerate(arrays)}
    return pd.DataFrame(columns, index).set_axis(labels, axis=1)
