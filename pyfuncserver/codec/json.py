"""JSON: what a model may answer, as valid JSON.

NumPy scalars and arrays, pandas frames (a list of records), series and indexes (lists), dates (ISO
8601), ``NaN``, ``NaT``, ``NA`` and infinities (null, since JSON has none of them), bytes
(``{"b64": ...}``, TensorFlow Serving's form of binary values in V1), sets and tuples (lists).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import math
import sys
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import orjson
import pandas as pd

JSONDecodeError = orjson.JSONDecodeError
DEEP_CALLS = 4000
_deep = threading.Lock()
"""Held while the limit of recursion is another than usual, which is one for all threads."""


def loads(body: bytes | bytearray | memoryview) -> Any:
    """Parse a body. Raises: JSONDecodeError (a ValueError), also for ``NaN`` and invalid UTF-8."""
    return orjson.loads(body)


def dumps(value: Any) -> bytes:
    """Write a value as JSON.

    Raises: TypeError or ValueError that names what JSON cannot hold.
    """
    try:
        return orjson.dumps(value, default=simplify)
    except TypeError:
        # orjson refuses numbers beyond 64 bits, keys that are no strings, lone surrogates and deep
        # nesting, all of which JSON can hold; and it does not name what it could not write.
        return _write_slowly(value)


def _write_slowly(value: Any) -> bytes:
    try:
        return _write_plain(value)
    except RecursionError:
        return _write_deep(value)


def _write_plain(value: Any) -> bytes:
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).encode()


def _write_deep(value: Any) -> bytes:
    """Write what is nested as deeply as a request may be: orjson reads 1,024 levels."""
    with _deep:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + DEEP_CALLS)
        try:
            return _write_plain(value)
        except RecursionError:
            raise ValueError("the answer is nested too deeply, or contains itself") from None
        finally:
            sys.setrecursionlimit(limit)


def _plain(value: Any) -> Any:
    """Rebuild a value from what :mod:`json` knows."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return None if value is pd.NaT else value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")  # as orjson does
        }
    if type(value) is np.ndarray:
        return [_plain(item) for item in value] if value.ndim else _plain(value[()])
    return _plain(simplify(value))


def _key(key: Any) -> str:
    plain = key if isinstance(key, str) else _plain(key)
    if isinstance(plain, str):
        return plain
    if plain is None or isinstance(plain, bool | int | float):
        return json.dumps(plain)
    raise TypeError(f"a key of type {type(key).__name__} is not JSON serializable")


@singledispatch
def simplify(value: Any) -> Any:
    """Turn a value that orjson does not know into one that it does, by one step."""
    if value is pd.NA:
        return None
    if callable(getattr(value, "model_dump", None)):  # pydantic, which MLflow's own types are
        return value.model_dump()
    raise TypeError(f"type {type(value).__name__} is not JSON serializable")


@simplify.register
def _timedelta(value: datetime.timedelta) -> str | None:
    return None if value is pd.NaT else str(pd.Timedelta(value).isoformat())


@simplify.register
def _datetime(value: datetime.datetime) -> str | None:  # pandas.Timestamp and NaT among them
    return None if value is pd.NaT else value.isoformat()


@simplify.register(bytes)
@simplify.register(bytearray)
@simplify.register(memoryview)
def _binary(value: bytes | bytearray | memoryview) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode("ascii")}


@simplify.register
def _decimal(value: decimal.Decimal) -> float:
    return float(value)


@simplify.register(set)
@simplify.register(frozenset)
def _set(value: set[Any] | frozenset[Any]) -> list[Any]:
    return list(value)


@simplify.register
def _mapping(value: Mapping) -> dict[Any, Any]:  # type: ignore[type-arg]  # needs the bare class
    return dict(value)


@simplify.register
def _frame(value: pd.DataFrame) -> list[dict[str, Any]]:
    names = [_key(name) for name in value.columns]
    if len(set(names)) < len(names):
        raise ValueError("two columns of a frame have one name, so its records would lose one")
    return [dict(zip(names, row, strict=True)) for row in rows_of(value)]


_FEW = 64
"""Up to so many rows, making a Series of each column costs more than what is in them."""


def rows_of(value: pd.DataFrame) -> Iterable[Sequence[Any]]:
    if len(value) <= _FEW and len(value.columns):
        rows: list[list[Any]] = value.to_numpy(dtype=object).tolist()
        return rows
    return zip(*[column.tolist() for _, column in value.items()], strict=True)


@simplify.register(pd.Series)
@simplify.register(pd.Index)
@simplify.register(pd.api.extensions.ExtensionArray)
def _series(value: Any) -> list[Any]:
    return list(value.tolist())


@simplify.register(np.ndarray)
def _array(value: np.ndarray[Any, Any]) -> Any:
    """Give an array as text where orjson writes it right, else as nested lists.

    orjson would write ``NaT`` as 1970-01-01, so dates go the other way.
    """
    if type(value) is not np.ndarray:  # a matrix never has fewer than two dimensions
        return value.tolist()
    if value.ndim == 0:
        return simplify(value[()])
    if value.dtype.kind in "biuf" and value.flags.c_contiguous and value.dtype.isnative:
        try:
            return orjson.Fragment(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
        except TypeError:  # longdouble
            return value.astype(np.float64).tolist()
    if value.dtype.kind in "Mm":
        return [_array(part) if part.ndim else _date(part) for part in value]
    return value.tolist()


def _date(value: np.datetime64 | np.timedelta64) -> str | None:
    if np.isnat(value):
        return None
    if isinstance(value, np.timedelta64):
        return str(pd.Timedelta(value).isoformat())
    return str(pd.Timestamp(value).isoformat())


@simplify.register
def _scalar(value: np.generic) -> Any:
    if isinstance(value, np.datetime64 | np.timedelta64):
        return _date(value)
    plain = value.item()
    # longdouble has no Python counterpart
    return float(plain) if isinstance(plain, np.generic) else plain
