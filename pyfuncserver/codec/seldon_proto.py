"""Seldon's messages as protobuf's, from a descriptor pool of our own (see ``messages.py``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError

from pyfuncserver.codec import json, tftensor
from pyfuncserver.codec import messages as descriptors
from pyfuncserver.codec.seldon import (
    ARRAYS,
    NOTHING,
    Feedback,
    Kind,
    Message,
    Meta,
    tensor_of,
)

PACKAGE = "seldon.protos"
_DEEPEST = 100
"""Messages within one another: protobuf's own parsers read no more."""
_IN_MESSAGE, _IN_DATA = 1, 3
"""How deep a ``Value`` is that ``jsonData`` holds; or a ``ListValue``, or an entry, of a member."""


@lru_cache(maxsize=1)
def file_set() -> FileDescriptorSet:
    """Give the compiled ``protos/seldon``, with all that they import."""
    return descriptors.file_set("seldon.binpb")


@lru_cache(maxsize=1)
def classes() -> Any:
    """Give the message classes by name."""
    return descriptors.classes_of(file_set(), PACKAGE)


def parse_message(data: bytes, puid: str = "") -> Message:
    """Read a ``SeldonMessage``; ``puid`` is for one that brings none. Raises: ValueError"""
    message = _message(_parsed("SeldonMessage", data), puid)
    if message.kind is Kind.NONE:
        raise ValueError("a SeldonMessage holds data, binData, strData or jsonData; this one none")
    return message


def parse_feedback(data: bytes, puid: str = "") -> Feedback:
    """Read a ``Feedback``, whose messages may hold nothing. Raises: ValueError"""
    found = _parsed("Feedback", data)
    if not math.isfinite(found.reward):
        raise ValueError("reward is a number")
    puid = found.response.meta.puid or puid
    truth = _message(found.truth, "") if found.HasField("truth") else NOTHING
    return Feedback(
        _message(found.request, puid), _message(found.response, ""), truth, found.reward
    )


def _parsed(name: str, data: bytes) -> Any:
    try:
        return getattr(classes(), name).FromString(data)
    except DecodeError:
        raise ValueError(f"the message is not a {name}") from None


def _message(message: Any, puid: str) -> Message:
    meta = _meta(message.meta, puid)
    holder = message.WhichOneof("data_oneof")
    if holder is None:
        return Message(Kind.NONE, meta=meta)
    if holder == "customData":
        raise ValueError("customData is not taken: its type is not known here")
    if holder == "data":
        return _array_message(message.data, meta)
    value = getattr(message, holder)
    return Message(Kind(holder), _plain(value) if holder == "jsonData" else value, (), meta)


def _array_message(data: Any, meta: Meta) -> Message:
    holder = data.WhichOneof("data_oneof")
    names = tuple(data.names)
    if holder is None:
        raise ValueError("data holds one of ndarray, tensor and tftensor; this one none")
    if holder == "tensor":
        values = np.array(data.tensor.values, np.float64)
        value: Any = tensor_of(list(data.tensor.shape), values)
    elif holder == "ndarray":
        value = [_plain(item) for item in data.ndarray.values]
    else:
        value = tftensor.array_of(data.tftensor)
    return Message(Kind(holder), value, names, meta)


def _meta(meta: Any, puid: str) -> Meta:
    return Meta(
        meta.puid or puid,
        {name: _plain(value) for name, value in meta.tags.items()},
        dict(meta.routing),
        dict(meta.requestPath),
    )


def _plain(value: Any) -> Any:
    """Give what a ``google.protobuf.Value`` holds."""
    held = value.WhichOneof("kind")
    if held == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if held == "struct_value":
        return {name: _plain(item) for name, item in value.struct_value.fields.items()}
    return None if held in (None, "null_value") else getattr(value, held)


def write_message(message: Message) -> bytes:
    """Write a ``SeldonMessage``.

    Raises: TypeError or ValueError where it cannot hold the values.
    """
    found = classes().SeldonMessage()
    _write_meta(found.meta, message.meta)
    kind = message.kind
    if kind in ARRAYS:
        _write_data(found.data, message)
    elif kind is Kind.JSON:
        _write(found.jsonData, _as_json(message.value), _IN_MESSAGE)
    elif kind is not Kind.NONE:
        setattr(found, kind.value, message.value)
    data: bytes = found.SerializeToString()
    return data


def _write_data(data: Any, message: Message) -> None:
    data.names.extend(message.names)
    if message.kind is Kind.TENSOR:
        data.tensor.shape.extend(message.value.shape)
        data.tensor.values.extend(message.value.reshape(-1).astype(np.float64).tolist())
        data.tensor.SetInParent()
    elif message.kind is Kind.TFTENSOR:
        tftensor.fill(data.tftensor, message.value)
    else:
        data.ndarray.SetInParent()
        for item in _as_json(message.value):
            _write(data.ndarray.values.add(), item, _IN_DATA)


def _write_meta(found: Any, meta: Meta) -> None:
    found.SetInParent()
    found.puid = meta.puid
    for name, value in meta.tags.items():
        _write(found.tags[name], value, _IN_DATA)
    found.routing.update(meta.routing)
    found.requestPath.update(meta.request_path)


def _as_json(value: Any) -> Any:
    """Give a value as JSON has it: what the model's own objects are there, they are here."""
    return json.loads(json.dumps(value))


def _write(found: Any, value: Any, depth: int) -> None:
    """Write a value into an empty ``google.protobuf.Value``, which is so many messages deep.

    Raises: ValueError where the value is nested too deeply.
    """
    if value is None:
        found.null_value = 0
    elif isinstance(value, bool):
        found.bool_value = value
    elif isinstance(value, int | float):
        found.number_value = value
    elif isinstance(value, str):
        found.string_value = value
    elif isinstance(value, Mapping):
        found.struct_value.SetInParent()
        depth = _deeper(depth, 3)  # in a Struct, and in an entry of it
        for name, item in value.items():
            _write(found.struct_value.fields[name], item, depth)
    else:
        found.list_value.SetInParent()
        depth = _deeper(depth, 2)  # in a ListValue
        for item in value:
            _write(found.list_value.values.add(), item, depth)


def _deeper(depth: int, levels: int) -> int:
    if depth + levels > _DEEPEST:
        raise ValueError("the answer is nested too deeply for a protobuf Value")
    return depth + levels


def write_metadata(body: Mapping[str, Any]) -> bytes:
    """Write a ``SeldonModelMetadata`` from what ``/metadata`` answers."""
    found = classes().SeldonModelMetadata(
        name=body["name"], versions=body["versions"], platform=body["platform"]
    )
    for name in ("inputs", "outputs"):
        for entry in body[name]:
            part = getattr(found, name).add(
                messagetype=entry.get("messagetype", ""),
                name=entry.get("name", ""),
                datatype=entry.get("datatype", ""),
                shape=entry.get("shape", ()),
            )
            if "schema" in entry:
                _write(part.schema, entry["schema"], _IN_DATA)
    data: bytes = found.SerializeToString()
    return data
