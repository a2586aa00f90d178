"""NumPy's strings: an array keeps each as long as its longest, with four bytes for a character.

So one text of a megabyte among 5,000 short ones asks for 20 GB, and the kernel ends the process
that asks. What the values of a request would take is counted here, before NumPy, or MLflow with
it, makes such arrays of them; too much is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.rectangle import RECORDS, ROWS, SPLIT

MOST_PADDED_BYTES = 2**28
HARMLESS_BYTES = 2**13
"""A JSON text that is no longer cannot ask for that, whatever it holds."""
CHARACTER_SIZE = 4
NUMBER_LENGTH = 32
"""Characters that NumPy leaves for a number among texts, at most."""

_PLAIN = {str, bool, int, float}
"""Of anything else beside them NumPy makes no strings, unless it is told to."""
_MEGABYTE = 10**6

Check = Callable[[Any], None]
"""Looks at what becomes an array. Raises: InvalidInput"""


def may_take_much(text: bytes) -> bool:
    """Tell whether strings of a JSON text could take too much, without a look at each value.

    There is a comma between any two values, and each second quote ends a string.
    """
    size = len(text)
    if size <= HARMLESS_BYTES:
        return False
    count = size // 2 + 1
    if count * NUMBER_LENGTH * CHARACTER_SIZE > MOST_PADDED_BYTES:
        count = text.count(b",") + 1
    longest = MOST_PADDED_BYTES // (count * CHARACTER_SIZE)
    if longest < NUMBER_LENGTH or b"\\" in text:  # some of the quotes may be escaped
        return True
    return _is_unquoted(text, longest) and any(size > longest for size in _lengths(text))


def _is_unquoted(text: bytes, length: int) -> bool:
    """Tell whether more bytes than these follow one another without a quote."""
    start = 0
    while start + length < len(text):
        quote = text.rfind(b'"', start, start + length + 1)
        if quote < 0:
            return True
        start = quote + 1
    return False


def _lengths(text: bytes) -> Iterator[int]:
    """Give the lengths of strings."""
    start = text.find(b'"') + 1
    while start:
        end = text.find(b'"', start)
        yield (len(text) if end < 0 else end) - start
        start = 0 if end < 0 else text.find(b'"', end + 1) + 1


def check(count: int, longest: int, size: int = CHARACTER_SIZE, what: str = "The data") -> None:
    """Refuse so many strings of one length if they take too much. Raises: InvalidInput"""
    taken = count * longest * size
    if taken > MOST_PADDED_BYTES:
        raise InvalidInput(
            f"{what} is too large as strings of one length: {count} values, each as long as the "
            f"longest ({longest} characters), would take {taken // _MEGABYTE} MB of memory, and "
            f"may take {MOST_PADDED_BYTES // _MEGABYTE} MB"
        )


def check_cells(values: Any, what: str = "The data") -> None:
    """Check the array that NumPy makes of nested lists where it chooses the type."""
    cells = _cells(values)
    types = set(map(type, cells))
    if str in types and types <= _PLAIN:
        check(len(cells), _longest(cells), what=what)


def check_parts(values: Any) -> None:
    """Check the arrays that NumPy makes of parts of nested lists, and then of all."""
    cells = _cells(values)
    if str in set(map(type, cells)):
        check(len(cells), _longest(cells))


def check_texts(values: Any, size: int = CHARACTER_SIZE) -> None:
    """Check the array of strings that NumPy makes of anything if it is told to."""
    cells = _cells(values)
    check(len(cells), max(map(_text_length, cells), default=0), size)


def check_within(value: Any) -> None:
    """Check the arrays that MLflow makes of the lists in an object, a map or an array of its."""
    found = [value]
    while found:
        value = found.pop()
        if isinstance(value, dict):
            found += value.values()
        elif isinstance(value, list | np.ndarray):
            cells = _cells(value)
            check_parts([cell for cell in cells if type(cell) in _PLAIN])
            found += (cell for cell in cells if isinstance(cell, dict))


def _cells(values: Any) -> list[Any]:
    """Give what nested lists hold, or a bare value."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    found: list[Any] = []
    cells = values if isinstance(values, list) else [values]
    while list in (types := set(map(type, cells))):
        lists = cells
        if len(types) > 1:
            lists = [cell for cell in cells if type(cell) is list]
            found += (cell for cell in cells if type(cell) is not list)
        cells = list(chain.from_iterable(lists))
    return found + cells if found else cells


def _longest(cells: Iterable[Any]) -> int:
    return max(len(cell) if type(cell) is str else NUMBER_LENGTH for cell in cells)


def _text_length(cell: Any) -> int:
    return len(cell if isinstance(cell, str | bytes) else str(cell))


class Guard:
    """Checks what requests hold for a model with this input schema, or without one.

    Raises: InvalidInput
    """

    def __init__(self, schema: Any) -> None:
        specs = [] if schema is None else schema.inputs
        self._checks: dict[str | None, Check] = {spec.name: _check_of(spec.type) for spec in specs}
        self._first: Check = _check_of(specs[0].type) if specs else check_cells
        self._is_tensor = schema is not None and schema.is_tensor_spec()
        self._has_texts = check_texts in self._checks.values()
        self._has_lists = check_within in self._checks.values()

    def check_values(self, key: str, data: Any) -> None:
        """Check ``instances`` or ``inputs`` before MLflow makes arrays of them."""
        if key == ROWS and _is_rows(data):
            for name, cells in _by_name(data).items():
                look: Check = self._checks.get(name, _check_rows)
                look(cells)
        elif _is_rows(data) and all(isinstance(row, dict) for row in data):
            for row in data:
                self._check_columns(row)
        elif isinstance(data, dict):
            self._check_columns(data)
        else:
            self._first(data)

    def _check_columns(self, columns: dict[str, Any]) -> None:
        for name, values in columns.items():
            look: Check = self._checks.get(name, check_cells)
            look(values)

    def check_frame(self, key: str, data: Any) -> None:
        """Check a frame, or what will be one, before MLflow enforces a signature on it.

        Only where that is of tensors, or of lists, arrays are made.
        """
        if self._is_tensor and (key in (RECORDS, SPLIT) or isinstance(data, pd.DataFrame)):
            for column in _columns_of(key, data):
                (check_texts if self._has_texts else check_parts)(column)
        elif self._has_lists:
            for column in _columns_of(key, data):
                for cell in column:
                    check_within(cell)


def _check_of(kind: Any) -> Check:
    """Choose what checks a column or tensor of a type of NumPy's or MLflow's."""
    if not isinstance(kind, np.dtype) and not hasattr(kind, "to_numpy"):
        return check_within
    dtype = kind if isinstance(kind, np.dtype) else kind.to_numpy()
    if dtype.kind not in "SU":
        return _pass
    return check_texts if dtype.kind == "U" else partial(check_texts, size=1)


def _pass(_: Any) -> None:
    """Leave alone what becomes numbers, dates or objects, which are all of one size."""


def _is_rows(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and isinstance(data[0], dict)


def _check_rows(cells: list[Any]) -> None:
    """Check a column of no known type: MLflow makes an array of each cell, and joins those."""
    has_lists = any(type(cell) is list for cell in cells)
    (check_parts if has_lists else check_cells)(cells)


def _by_name(rows: Iterable[Any]) -> dict[Any, list[Any]]:
    """Give the columns of rows, by place those of rows that have no names."""
    columns: dict[Any, list[Any]] = {}
    for row in rows:
        cells = row if isinstance(row, list) else [row]
        for name, cell in row.items() if isinstance(row, dict) else enumerate(cells):
            columns.setdefault(name, []).append(cell)
    return columns


def _columns_of(key: str, data: Any) -> Iterable[list[Any]]:
    if isinstance(data, pd.DataFrame):
        return (column.tolist() for _, column in data.items())
    if key == SPLIT and isinstance(data, dict):
        data = data.get("data")
    if isinstance(data, dict):
        return ([values] for values in data.values())
    return _by_name(data).values() if isinstance(data, list) else ()
