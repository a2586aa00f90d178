"""Seldon's messages: what one holds, and their JSON.

A ``SeldonMessage`` holds ``data`` (an array, as ``ndarray`` or ``tensor`` or ``tftensor``, and the
``names`` of its columns), or ``jsonData``, ``strData`` or ``binData``; and ``meta``. An answer has
the form of its request, where it can have that.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd

from pyfuncserver.codec.tensors import holds_text, shaped

Array = np.ndarray[Any, Any]


class Kind(Enum):
    """What a message holds, by the name that it has in JSON."""

    NDARRAY = "ndarray"
    """Nested lists, or an array, or a frame."""
    TENSOR = "tensor"
    """An array of numbers."""
    TFTENSOR = "tftensor"
    """An array, which travels as a ``tensorflow.TensorProto``; over gRPC only."""
    JSON = "jsonData"
    STRING = "strData"
    BINARY = "binData"
    NONE = ""


ARRAYS = (Kind.NDARRAY, Kind.TENSOR, Kind.TFTENSOR)


@dataclass(frozen=True, slots=True)
class Meta:
    """What is said of a message."""

    puid: str = ""
    """The prediction's id."""
    tags: Mapping[str, Any] = field(default_factory=dict)
    routing: Mapping[str, int] = field(default_factory=dict)
    """Which branch each router of a graph has taken."""
    request_path: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A ``SeldonMessage``, whichever way it came or goes."""

    kind: Kind
    value: Any = None
    names: tuple[str, ...] = ()
    """Of the columns, where they have names."""
    meta: Meta = field(default_factory=Meta)


NOTHING = Message(Kind.NONE)


@dataclass(frozen=True, slots=True)
class Feedback:
    """What became of a prediction."""

    request: Message
    response: Message
    truth: Message
    reward: float = 0.0


# From JSON


def message_from(body: Any, puid: str = "") -> Message:
    """Read a request. ``puid`` is for one that brings none.

    Raises: ValueError that says what is wrong with it.
    """
    message = _message(body, puid)
    if message.kind is Kind.NONE:
        raise ValueError(_EXACTLY_ONE.format("holds none"))
    return message


def feedback_from(body: Any, puid: str = "") -> Feedback:
    """Read a feedback, whose messages may hold nothing. Raises: ValueError"""
    _check(isinstance(body, dict), "a Feedback is a JSON object")
    reward = body.get("reward") or 0.0
    _check(_is_number(reward) and math.isfinite(reward), "reward is a number")
    response = _message(body.get("response") or {}, "")
    request = _message(body.get("request") or {}, response.meta.puid or puid)
    return Feedback(request, response, _message(body.get("truth") or {}, ""), float(reward))


def _message(body: Any, puid: str) -> Message:
    """Read a message, which may hold nothing."""
    _check(isinstance(body, dict), "a SeldonMessage is a JSON object")
    meta = _meta(body.get("meta"), puid)
    # A null is as good as nothing, as in all JSON of protobuf's; that of jsonData is a value.
    present = [name for name in _HOLDERS if name in body and (body[name] is not None)]
    if not present and _JSON in body:
        present = [_JSON]
    if not present:
        return Message(Kind.NONE, meta=meta)
    _check(len(present) == 1, _EXACTLY_ONE.format(f"holds {len(present)}"))
    name = present[0]
    if name == "data":
        return _array_message(body[name], meta)
    _check(name != "customData", "customData is not taken: its type is not known here")
    kind = Kind(name)
    return Message(kind, _PLAIN[kind](body[name]), (), meta)


def _array_message(data: Any, meta: Meta) -> Message:
    _check(isinstance(data, dict), "data is an object")
    names = data.get("names") or []
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _check(are_names, "data.names is a list of strings")
    present = [kind for kind in ARRAYS if data.get(kind.value) is not None]
    _check(len(present) == 1, "data holds exactly one of ndarray and tensor")
    kind = present[0]
    _check(kind is not Kind.TFTENSOR, "data.tftensor is taken over gRPC only; send a tensor")
    value = data[kind.value]
    if kind is Kind.NDARRAY:
        _check(isinstance(value, list), "data.ndarray is a list")
    else:
        value = _tensor(value)
    return Message(kind, value, tuple(names), meta)


def _tensor(tensor: Any) -> Array:
    _check(isinstance(tensor, dict), "data.tensor is an object of shape and values")
    shape, values = tensor.get("shape") or [], tensor.get("values") or []
    is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    _check(is_shape, "data.tensor.shape is a list of whole numbers, none below 0")
    _check(isinstance(values, list), "data.tensor.values is a list of numbers")
    return tensor_of(shape, values)


def tensor_of(shape: Sequence[int], values: Any) -> Array:
    """Make a tensor's array: float64, or whole numbers where all values are. Raises: ValueError"""
    array = values if isinstance(values, np.ndarray) else _numbers(values)
    try:
        return shaped(array, shape) if shape else array
    except ValueError as error:
        raise ValueError(f"data.tensor: {error}") from None


def _numbers(values: list[Any]) -> Array:
    try:
        if not set(map(type, values)) <= {int, float}:
            # Protobuf's JSON has NaN and the infinities as strings. NumPy is given none: it would
            # make every cell as long as the longest.
            values = [math.nan if value is None else float(value) for value in values]
        array = np.asarray(values)
        return array if array.dtype.kind in "iuf" else np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("data.tensor.values is a list of numbers") from None


def _text(value: Any) -> str:
    _check(isinstance(value, str), "strData is a string")
    text: str = value
    return text


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError("binData is a string of base64") from None


def _as_it_is(value: Any) -> Any:
    return value


_PLAIN = {Kind.JSON: _as_it_is, Kind.STRING: _text, Kind.BINARY: _bytes}
_JSON = Kind.JSON.value
_HOLDERS = ("data", *(kind.value for kind in _PLAIN), "customData")
_EXACTLY_ONE = f"a SeldonMessage holds exactly one of {', '.join(_HOLDERS[:-1])}; this one {{}}"


def _meta(meta: Any, puid: str) -> Meta:
    meta = meta or {}
    _check(isinstance(meta, dict), "meta is an object")
    own = meta.get("puid") or puid
    _check(isinstance(own, str), "meta.puid is a string")
    parts = [meta.get(name) or {} for name in ("tags", "routing", "requestPath")]
    _check(
        all(isinstance(part, dict) for part in parts), "meta.tags, routing, requestPath are objects"
    )
    return Meta(own, *parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check(is_right: bool, message: str) -> None:
    if not is_right:
        raise ValueError(message)


# What a model answers


def answer_of(value: Any, request: Message, output_names: Sequence[str] = ()) -> Message:
    """Frame what a model answers, in the form of its request.

    A dict is ``jsonData``, a string ``strData``, bytes are ``binData``. All else is an array: as
    the request's, or ``tensor`` where the request was none; what holds no numbers is ``ndarray``.
    The columns' names are the frame's own, the signature's, or ``t:0``, ``t:1``, ...
    """
    meta = request.meta
    if isinstance(value, Mapping):
        return Message(Kind.JSON, value, (), meta)
    if isinstance(value, str):
        return Message(Kind.STRING, value, (), meta)
    if isinstance(value, bytes | bytearray | memoryview):
        return Message(Kind.BINARY, bytes(value), (), meta)
    kind = request.kind if request.kind in ARRAYS else Kind.TENSOR
    if isinstance(value, pd.DataFrame):
        names = tuple(str(name) for name in value.columns)
        return Message(*_framed(value, kind), names, meta)
    if isinstance(value, pd.Series):
        name = () if value.name is None else (str(value.name),)
        return Message(*_listed(value, kind), name, meta)
    kind, value = _arrayed(value, kind)
    return Message(kind, value, _names(value, output_names), meta)


def _framed(frame: pd.DataFrame, kind: Kind) -> tuple[Kind, Any]:
    dtypes = frame.dtypes.tolist()
    if kind is not Kind.NDARRAY and all(map(_is_numeric, dtypes)):
        if len(set(dtypes)) == 1 and isinstance(dtypes[0], np.dtype):
            return kind, frame.to_numpy()
        return kind, frame.to_numpy(np.float64, na_value=np.nan)
    columns = [column.tolist() for _, column in frame.items()]
    return Kind.NDARRAY, [list(row) for row in zip(*columns, strict=True)]


def _listed(series: pd.Series[Any], kind: Kind) -> tuple[Kind, Any]:
    if kind is not Kind.NDARRAY and _is_numeric(series.dtype):
        is_plain = isinstance(series.dtype, np.dtype)
        return kind, series.to_numpy() if is_plain else series.to_numpy(np.float64, na_value=np.nan)
    return Kind.NDARRAY, series.tolist()


def _is_numeric(dtype: Any) -> bool:
    return bool(
        pd.api.types.is_numeric_dtype(dtype)
        and not pd.api.types.is_bool_dtype(dtype)
        and not pd.api.types.is_complex_dtype(dtype)
    )


def _arrayed(value: Any, kind: Kind) -> tuple[Kind, Any]:
    if isinstance(value, list | tuple) and holds_text(value):
        return Kind.NDARRAY, list(value)
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        return Kind.NDARRAY, value
    if array.ndim == 0:
        array, value = array.reshape(1), [value]
    if array.dtype.kind in "iuf":
        return kind, array
    return Kind.NDARRAY, array if isinstance(value, np.ndarray) else list(value)


def _names(value: Any, output_names: Sequence[str]) -> tuple[str, ...]:
    shape = value.shape if isinstance(value, np.ndarray) else _shape(value)
    width = shape[1] if len(shape) > 1 else 1
    if len(output_names) == width:
        return tuple(output_names)
    return tuple(f"t:{place}" for place in range(width)) if len(shape) > 1 else ()


def _shape(rows: list[Any]) -> tuple[int, ...]:
    try:
        return np.asarray(rows, dtype=object).shape
    except ValueError:
        return (len(rows),)


# To JSON


def body_of(message: Message) -> dict[str, Any]:
    """Give a message for JSON; arrays are left to the encoder."""
    body: dict[str, Any] = {}
    if message.kind in ARRAYS:
        body["data"] = {"names": list(message.names), **_data(message)}
    elif message.kind is Kind.BINARY:
        body[Kind.BINARY.value] = base64_of(message.value)
    elif message.kind is not Kind.NONE:
        body[message.kind.value] = message.value
    body["meta"] = _meta_body(message.meta)
    return body


def base64_of(value: bytes) -> str:
    """Give bytes as JSON has them."""
    return base64.b64encode(value).decode("ascii")


def _data(message: Message) -> dict[str, Any]:
    if message.kind is Kind.NDARRAY:
        return {"ndarray": message.value}
    array: Array = message.value
    values: Any = array.reshape(-1)
    if array.dtype.kind == "f" and not np.isfinite(values).all():
        values = [_number(value) for value in values.tolist()]
    return {"tensor": {"shape": list(array.shape), "values": values}}


def _number(value: float) -> float | str:
    """Give a number as protobuf's JSON has it, in which a tensor's values are never null."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _meta_body(meta: Meta) -> dict[str, Any]:
    parts = {
        "puid": meta.puid,
        "tags": meta.tags,
        "routing": meta.routing,
        "requestPath": meta.request_path,
    }
    return {name: part for name, part in parts.items() if part}
