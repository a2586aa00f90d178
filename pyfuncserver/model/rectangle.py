"""The forms of what a request holds, and rows as columns where every row has the same names."""

from __future__ import annotations

from typing import Any

ROWS, COLUMNS, TABLE = "instances", "inputs", "prediction_table"
"""Where a request has its data: a JSON body by row or by column, or a UPI table, as a frame."""
RECORDS, SPLIT = "dataframe_records", "dataframe_split"
"""Where MLflow's scoring protocol has a data frame: by row, or labels and values apart."""
AS_IS = ""
"""Data that has no name and needs no conversion: only the signature is enforced on it."""


def columns_of(rows: Any) -> dict[str, list[Any]] | None:
    """Turn a list of dicts into a dict of lists, in the first row's order.

    None where there is no row, or where not all have the same names.
    """
    if type(rows) is not list or not rows or type(rows[0]) is not dict:
        return None
    names = rows[0].keys()
    if not all(type(row) is dict and row.keys() == names for row in rows):
        return None
    return {name: [row[name] for row in rows] for name in names}
