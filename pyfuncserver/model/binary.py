"""Binary values in the JSON of V1: ``{"b64": "..."}``, as TensorFlow Serving has defined them.

Where a signature says what is binary, such values are taken for bytes there, and nowhere else.
Without a signature they are bytes wherever they are. MLflow knows them not: it makes text of them.
Its own arrays of bytes lose the zeros at their end (NumPy's ``S``), so bytes are kept in arrays of
objects here, as MLflow keeps them in frames.

https://www.tensorflow.org/tfx/serving/api_rest#encoding_binary_values
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import numpy as np

from pyfuncserver.errors import InvalidInput
from pyfuncserver.model.rectangle import AS_IS, COLUMNS, ROWS

KEY = "b64"
Parse = Callable[[str, Any], Any]
"""Converts what has no binary values: takes ``instances`` or ``inputs``, and its data."""
Decode = Callable[[str, Any], tuple[str, Any]]
"""Takes the name and the data of a call; gives those, or data that is converted already."""
Replace = Callable[[Any], Any]
"""Gives a value with bytes where it had binary values, or the very same one if it had none."""


def decoder_of(schema: Any, is_raw: bool, parse: Parse) -> Decode:
    """Choose how binary values are decoded for a model with this input schema, or without one.

    ``is_raw`` says that the model takes its data unconverted, since it has type hints.
    A decoder raises InvalidInput.
    """
    if schema is None:
        return _Untyped(parse)
    if schema.is_tensor_spec():
        return _of_tensors(schema)
    replace = {spec.name: _replacement(spec.type) for spec in schema.inputs}
    if not any(replace.values()):
        return no_binary
    if is_raw or not schema.has_input_names():
        return _of_values(next(iter(replace.values())), is_raw)
    return _Columns(schema, {name: each for name, each in replace.items() if each}, parse)


def no_binary(key: str, data: Any) -> tuple[str, Any]:
    """Leave all as it is."""
    return key, data


# Values


def is_binary(value: Any) -> bool:
    """Tell a binary value from an object, or a row, that has other fields."""
    return type(value) is dict and len(value) == 1 and isinstance(value.get(KEY), str)


def are_binary(values: Any) -> bool:
    """Tell a list of binary values from rows."""
    return type(values) is list and all(map(is_binary, values))


def bytes_of(value: dict[str, str]) -> bytes:
    """Decode a binary value; the padding at its end may be left out. Raises: InvalidInput"""
    text = value[KEY]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f'A binary value, {{"{KEY}": ...}}, is not base64') from error


def everywhere(value: Any) -> Any:
    """Replace binary values at any depth. Raises: InvalidInput"""
    try:
        return _everywhere(value)
    except RecursionError:
        raise InvalidInput("The data is nested too deeply") from None


def _everywhere(value: Any) -> Any:
    if is_binary(value):
        return bytes_of(value)
    if type(value) is list:
        return _same_or(value, [_everywhere(item) for item in value])
    if type(value) is dict:
        found = {name: _everywhere(item) for name, item in value.items()}
        is_same = all(found[name] is value[name] for name in value)
        return value if is_same else found
    return value


def _same_or(old: list[Any], new: list[Any]) -> list[Any]:
    return old if all(map(_is, old, new)) else new


def _is(one: Any, other: Any) -> bool:
    return one is other


def _replacement(kind: Any) -> Replace | None:
    """Give what replaces the binary values in a value of a type of MLflow's; None for none."""
    if getattr(kind, "name", None) == "binary":
        return lambda value: bytes_of(value) if is_binary(value) else value
    if hasattr(kind, "properties"):
        return _in_object(kind)
    if hasattr(kind, "dtype"):
        return _in_list(_replacement(kind.dtype))
    return _in_map(_replacement(kind.value_type)) if hasattr(kind, "value_type") else None


def _in_list(replace: Replace | None) -> Replace | None:
    if replace is None:
        return None
    return lambda value: (
        _same_or(value, list(map(replace, value))) if type(value) is list else value
    )


def _in_map(replace: Replace | None) -> Replace | None:
    if replace is None:
        return None
    return lambda value: (
        {name: replace(item) for name, item in value.items()} if type(value) is dict else value
    )


def _in_object(kind: Any) -> Replace | None:
    found = {field.name: _replacement(field.dtype) for field in kind.properties}
    fields = {name: replace for name, replace in found.items() if replace}
    return (lambda value: _in_fields(fields, value)) if fields else None


def _in_fields(fields: dict[str, Replace], value: Any) -> Any:
    if type(value) is not dict:
        return value
    return {name: fields[name](item) if name in fields else item for name, item in value.items()}


def _objects(values: Any) -> Any:
    """Make an array of objects, of whatever depth the lists are."""
    return np.array(values, dtype=object)


def _has_bytes(value: Any) -> bool:
    if type(value) is list:
        return any(map(_has_bytes, value))
    return type(value) is bytes


# Models without a signature


class _Untyped:
    """Decodes binary values wherever they are; all else is converted by MLflow."""

    def __init__(self, parse: Parse) -> None:
        self._parse = parse

    def __call__(self, key: str, data: Any) -> tuple[str, Any]:
        found = everywhere(data)
        if found is data:
            return key, data
        if type(found) is list and not any(type(item) is dict for item in found):
            return AS_IS, _objects(found)
        if type(found) is list:
            return AS_IS, self._rows(key, found)
        return AS_IS, self._columns(found) if type(found) is dict else _objects(found)

    def _rows(self, key: str, rows: list[Any]) -> Any:
        if not all(type(row) is dict for row in rows):
            return _objects(rows)
        if key == COLUMNS:  # MLflow leaves rows apart there
            return [self._columns(row) for row in rows]
        columns: dict[str, list[Any]] = {}
        for row in rows:
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        if len({len(values) for values in columns.values()}) > 1:
            raise InvalidInput("The length of values for each input/column name are not the same")
        return self._columns(columns)

    def _columns(self, columns: dict[str, Any]) -> dict[str, Any]:
        plain = {name: values for name, values in columns.items() if not _has_bytes(values)}
        converted = self._parse(COLUMNS, plain)
        return {
            name: converted[name] if name in plain else _objects(values)
            for name, values in columns.items()
        }


# Tensors


def _of_tensors(schema: Any) -> Decode:
    names = {spec.name for spec in schema.inputs if np.dtype(spec.type).kind in "SO"}
    if not names:
        return no_binary
    if not schema.has_input_names():
        return lambda key, data: (key, everywhere(data))
    only = next(iter(names)) if len(schema.inputs) == 1 else None

    def decode(key: str, data: Any) -> tuple[str, Any]:
        if only is not None and _is_list_of_binary(data) and only != KEY:
            return COLUMNS, {only: everywhere(data)}
        fields: dict[str, Replace] = dict.fromkeys(names, everywhere)
        if type(data) is list:
            return key, [_in_fields(fields, row) for row in data]
        return key, _in_fields(fields, data)

    return decode


def _is_list_of_binary(data: Any) -> bool:
    return type(data) is list and bool(data) and is_binary(data[0])


# Columns


def _of_values(replace: Replace | None, is_raw: bool) -> Decode:
    """Decode a list of values of one type, which have no name."""

    def decode(key: str, data: Any) -> tuple[str, Any]:
        found = data if replace is None else _each(replace, data)
        if found is data:
            return key, data
        return (key, found) if is_raw else (AS_IS, _objects(found))

    return decode


def _each(replace: Replace, data: Any) -> Any:
    if type(data) is not list:
        return replace(data)
    return _same_or(data, [_each(replace, item) for item in data])


class _Columns:
    """Decodes the binary values of named columns; all else is converted by MLflow."""

    def __init__(self, schema: Any, replace: dict[str, Replace], parse: Parse) -> None:
        self._parse = parse
        self._replace = replace
        specs = {spec.name: spec for spec in schema.inputs}
        self._is_required = {
            name: getattr(specs[name], "required", True)
            for name in replace
            if getattr(specs[name].type, "name", None) == "binary"
        }
        """Whether it has to have values, by the names of columns that hold bytes themselves."""
        names = list(specs)
        self._only = names[0] if len(names) == 1 and names[0] in self._is_required else None

    def __call__(self, key: str, data: Any) -> tuple[str, Any]:
        if self._only is not None and self._only != KEY:
            if _is_list_of_binary(data):
                key, data = COLUMNS, {self._only: data}
            elif is_binary(data):
                key, data = COLUMNS, {self._only: [data]}
        if type(data) is dict:
            return self._by_column(key, data)
        if type(data) is not list or not all(type(row) is dict for row in data):
            return key, data
        return self._by_row(key, data)

    def _by_column(self, key: str, columns: dict[str, Any]) -> tuple[str, Any]:
        replaced = {name: self._replaced(name, values) for name, values in columns.items()}
        binary = {name for name in self._is_required if _has_bytes(replaced.get(name))}
        if not binary:
            return key, replaced
        rest = {name: values for name, values in replaced.items() if name not in binary}
        found = dict(self._parse(COLUMNS, rest)) if rest else {}
        for name in binary:
            found[name] = self._bytes(name, replaced[name])
        return AS_IS, found

    def _by_row(self, key: str, rows: list[dict[str, Any]]) -> tuple[str, Any]:
        cells = [self._in_row(row) for row in rows]
        binary = {
            name for name in self._is_required if any(type(row.get(name)) is bytes for row in cells)
        }
        if not binary:
            return key, cells
        rest = [{name: row[name] for name in row if name not in binary} for row in cells]
        columns = {name: [row[name] for row in cells if name in row] for name in binary}
        if key == ROWS:
            found = dict(self._parse(ROWS, rest)) if any(rest) else {}
            found.update({name: self._bytes(name, values) for name, values in columns.items()})
            return AS_IS, found
        kept = self._parse(COLUMNS, rest) if any(rest) else rest
        for row, cell in zip(kept, cells, strict=True):
            row.update({name: self._byte_cell(name, cell[name]) for name in binary & cell.keys()})
        return AS_IS, kept

    def _replaced(self, name: str, values: Any) -> Any:
        replace = self._replace.get(name)
        return values if replace is None else _each(replace, values)

    def _in_row(self, row: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = _in_fields(self._replace, row)
        return found

    def _bytes(self, name: str, values: Any) -> Any:
        if type(values) is not list:
            return values
        return _objects([self._byte_cell(name, value) for value in values])

    def _byte_cell(self, name: str, value: Any) -> bytes | None:
        """Read a cell beside binary ones as MLflow reads it where there are none."""
        if type(value) is bytes:
            return value
        if type(value) is str and value.isascii():
            return value.encode()
        if value is None and not self._is_required[name]:
            return None
        raise InvalidInput(f"Column {name!r} holds what cannot be read as binary")
