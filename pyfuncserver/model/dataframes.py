"""Shortcuts to frames from the data frames that MLflow's scoring protocol has in JSON.

They are built as ``tables.py`` builds them. But MLflow has pandas read them, where it has NumPy
read rows and columns, so the cells of strings stay what they are. See ``shortcut.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from pyfuncserver.model import tables
from pyfuncserver.model.rectangle import COLUMNS, RECORDS, ROWS, SPLIT

Index = list[int] | list[str] | None


def samples(schema: Any) -> list[tuple[str, Any]]:
    """Give data frames that fit the schema, as records first."""
    rows: list[dict[str, Any]] = next(data for key, data in tables.samples(schema) if key == ROWS)
    kinds = {spec.name: spec.type.name for spec in schema.inputs}
    rows = [{name: _sample(kinds[name], value) for name, value in row.items()} for row in rows]
    backwards = list(reversed(rows[0]))
    split = {"columns": backwards, "data": [[row[name] for name in backwards] for row in rows]}
    indexes: list[Index] = [None, [0, 1], [7, -1], ["r", "s"]]
    splits = [split, *({**split, "index": index} for index in indexes)]
    return [(RECORDS, rows), (RECORDS, rows[:1]), *((SPLIT, each) for each in splits)]


def _sample(kind: str, value: Any) -> Any:
    if kind == "string":
        return value + "\0"  # a zero at the end is what NumPy would lose
    return float(value) if kind == "float" else value


def frame(schema: Any, kept: dict[str, Any]) -> Callable[[str, Any], pd.DataFrame | None]:
    """Build frames of a schema; see :func:`tables.table`."""
    build = tables.table(schema, kept, tables.BY_PANDAS)

    def convert(key: str, data: Any) -> pd.DataFrame | None:
        if key == RECORDS:
            return build(ROWS, data)
        index = data.get("index") if type(data) is dict else None
        columns = _columns_of_split(data)
        if columns is None or not _is_plain(index):
            return None
        found = build(COLUMNS, columns)
        if found is None or index is None:
            return found
        if len(index) != len(found):
            return None
        found.index = pd.Index(index)
        return found

    return convert


def _columns_of_split(data: Any) -> dict[str, list[Any]] | None:
    """Turn labels and rows of values into columns; None where they do not fit each other."""
    if type(data) is not dict or not {"columns", "data"} <= data.keys() <= _SPLIT_FIELDS:
        return None
    names, rows = data["columns"], data["data"]
    if type(names) is not list or type(rows) is not list or not _are_of(str, names):
        return None
    if not all(type(row) is list and len(row) == len(names) for row in rows):
        return None
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=False))
    return columns if len(columns) == len(names) else None


_SPLIT_FIELDS = {"columns", "data", "index"}


def _is_plain(index: Any) -> bool:
    return index is None or (type(index) is list and (_are_of(int, index) or _are_of(str, index)))


def _are_of(kind: type, values: list[Any]) -> bool:
    return all(type(value) is kind for value in values)
