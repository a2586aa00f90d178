"""JSON as MLflow's scoring protocol has it: what a model answers, and what a client sends.

What is written is what ``predictions_to_json`` of ``mlflow.pyfunc.scoring_server`` writes, but for
``NaN`` and infinities, which become null: a frame and a series are lists of records, arrays nested
lists, bytes base64 (in lines, as ``base64.encodebytes`` breaks them), dates ISO 8601. Dates in an
array are what ``ndarray.tolist`` makes of them: nanoseconds are integers. What MLflow cannot write
is written as :mod:`pyfuncserver.codec.json` does.
"""

from __future__ import annotations

import base64
import json as standard
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pandas as pd

from pyfuncserver.codec import json

_IS_DIGIT = bytes(0x31 if chr(byte).isdigit() and byte < 128 else 0x20 for byte in range(256))
_LONG_NUMBER = b"1" * 19


def loads(body: bytes) -> Any:
    """Parse a body as :func:`json.loads` of the standard library does, which MLflow uses.

    That takes ``NaN`` and infinities, which MLflow's own client sends, UTF-16, and integers of any
    size.
    Raises: ValueError
    """
    if _LONG_NUMBER not in body.translate(_IS_DIGIT):  # orjson makes floats of such integers
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass  # the other parser may read it
    try:
        return standard.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dumps(value: Any) -> bytes:
    """Write a value.

    Raises: TypeError or ValueError that names what JSON cannot hold.
    """
    value = _jsonable(value)
    try:
        return orjson.dumps(value, default=_simplify)
    except TypeError:
        # Numbers beyond 64 bits, keys that are no strings, lone surrogates, deep nesting.
        return json.dumps(_rebuilt(value))


def predictions(value: Any) -> bytes:
    """Write a model's predictions as an answer."""
    return b'{"predictions":%b}' % dumps(value)


def _jsonable(value: Any) -> Any:
    """Turn what MLflow turns only where it is the whole answer."""
    if isinstance(value, pd.Series):
        value = pd.DataFrame(value)
    return _records(value) if isinstance(value, pd.DataFrame) else value


def _records(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """Give a frame by row.

    Of two columns of one name the last one stays, as in pandas, also of 1 and True.
    """
    if not len(frame.columns):  # none for each row, or none at all before pandas 3
        return list(frame.to_dict(orient="records"))
    labels = frame.columns.tolist()
    first = {label: label for label in reversed(labels)}
    names = [label if isinstance(label, str) else _key(first[label]) for label in labels]
    return [dict(zip(names, row, strict=True)) for row in json.rows_of(frame)]


def _key(name: Any) -> str:
    if name is None or isinstance(name, bool | int | float):
        return standard.dumps(name)
    raise TypeError(f"a key of type {type(name).__name__} is not JSON serializable")


def _simplify(value: Any) -> Any:
    """Turn a value that orjson does not know into one that it does, by one step."""
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, bytes | bytearray):
        return base64.encodebytes(value).decode("ascii")
    if value is pd.NaT:
        return "NaT"
    if isinstance(value, np.generic):
        plain = value.item()
        return float(plain) if isinstance(plain, np.generic) else plain  # longdouble
    if isinstance(value, pd.DataFrame):
        return _records(value)
    return json.simplify(value)


def _array(value: np.ndarray[Any, Any]) -> Any:
    """Give an array as text where orjson writes it right, else as nested lists."""
    kind = value.dtype.kind
    if kind == "f" and value.dtype.itemsize < 8:
        value = value.astype(np.float64)  # orjson would write the shortest text of 32 bits
    if kind in "biuf" and value.ndim and value.dtype.isnative and type(value) is np.ndarray:
        packed = np.ascontiguousarray(value)
        try:
            return orjson.Fragment(orjson.dumps(packed, option=orjson.OPT_SERIALIZE_NUMPY))
        except TypeError:  # longdouble
            return value.astype(np.float64).tolist()
    return value.tolist()


def _rebuilt(value: Any) -> Any:
    """Rebuild a value of what :mod:`pyfuncserver.codec.json` writes as we do."""
    if isinstance(value, Mapping):
        return {key: _rebuilt(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rebuilt(item) for item in value]
    if isinstance(value, np.ndarray):
        return _rebuilt(value.tolist())
    if value is pd.NaT or isinstance(value, bytes | bytearray | pd.DataFrame):
        return _rebuilt(_simplify(value))
    return value
