"""Texts, as clients send them: bare, in a column of whatever name, or in the columns of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.kinds.table import columns_by_name, flat, natural
from pyfuncserver.model.text import TEXT_INPUT


def texts_of(data: Any) -> list[str]:
    """Give the texts of a model that takes one for each row. Raises: InvalidInput"""
    if isinstance(data, str):
        return [data]
    columns = columns_by_name(data)
    if columns is None:
        return _column(data.to_numpy() if isinstance(data, pd.DataFrame) else data)
    if len(columns) > 1:
        raise InvalidInput("This model takes one text for each row, in one column")
    return _column(next(iter(columns.values())))


def records_of(data: Any, names: Sequence[str]) -> list[dict[str, str]]:
    """Give rows of several texts, by these names; the first's may be that of the generate API.

    Raises: InvalidInput
    """
    columns = columns_by_name(data)
    if columns is None:
        raise InvalidInput(f"This model takes texts by name: {', '.join(names)}")
    if TEXT_INPUT in columns:
        columns.setdefault(names[0], columns[TEXT_INPUT])
    missing = [name for name in names if name not in columns]
    if missing:
        raise InvalidInput(f"The rows lack texts that the model takes: {', '.join(missing)}")
    found = [_column(columns[name]) for name in names]
    if len({len(column) for column in found}) > 1:
        raise InvalidInput("The columns have several numbers of rows")
    return [dict(zip(names, row, strict=True)) for row in zip(*found, strict=True)]


def _column(values: Any) -> list[str]:
    array = flat(natural(values))
    cells = array.tolist() if array.ndim == 1 else []
    if not cells or not all(isinstance(cell, str) for cell in cells):
        raise InvalidInput("The input is no list of texts")
    return cells
